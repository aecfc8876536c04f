// SPDX-License-Identifier: MIT OR Apache-2.0
//! A `kfd-load` under the test's control, and what it says that it did.

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus};

use anyhow::Context;
use nix::sys::signal::Signal;

use crate::json_child::JsonChild;
use crate::record::Record;

/// A running load.
pub(crate) struct Load {
    child: JsonChild,
    commands: usize,
}

impl Load {
    /// Starts `kfd-load` with `args` and control by commands, and waits until its queues exist on `gpus` GPUs.
    pub(crate) fn start_on(gpus: usize, args: &[&str]) -> anyhow::Result<Self> {
        Self::spawn(gpus, Command::new("kfd-load"), args)
    }

    /// Same on one GPU, as another user, who must be able to open the devices.
    pub(crate) fn start_as(uid: u32, args: &[&str]) -> anyhow::Result<Self> {
        let mut command = Command::new("kfd-load");
        command.uid(uid).gid(uid);
        Self::spawn(1, command, args)
    }

    /// Same by a command that ends in the name of a program like `kfd-load`, which its arguments follow.
    pub(crate) fn start_by(words: &[&str], args: &[&str]) -> anyhow::Result<Self> {
        let mut command = Command::new(words[0]);
        command.args(&words[1..]);
        Self::start_command(command, args)
    }

    /// Likewise.
    pub(crate) fn start_command(command: Command, args: &[&str]) -> anyhow::Result<Self> {
        Self::spawn(1, command, args)
    }

    /// Same on one GPU, in a slice of systemd, as another user, who must be able to open the devices.
    /// `words` end in the name of a program like `kfd-load`.
    pub(crate) fn start_in(
        slice: &str,
        user: &str,
        words: &[&str],
        args: &[&str],
    ) -> anyhow::Result<Self> {
        let mut command = Command::new("systemd-run");
        command.args(["--scope", "--quiet", "--slice", slice, "--uid", user]);
        command.args(words);
        Self::spawn(1, command, args)
    }

    fn spawn(gpus: usize, mut command: Command, args: &[&str]) -> anyhow::Result<Self> {
        command.arg("--control").args(args);
        let load = Self {
            child: JsonChild::start(command)?,
            commands: 0,
        };
        load.child.wait_for("the created queues", |records| {
            (records
                .iter()
                .filter(|record| record.kind == "created")
                .count()
                == gpus)
                .then_some(())
        })?;
        Ok(load)
    }

    /// Same on one GPU.
    pub(crate) fn start(args: &[&str]) -> anyhow::Result<Self> {
        Self::start_on(1, args)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// The queues that it created when it started: `created` lines, one for each GPU.
    pub(crate) fn created(&self) -> Vec<Record> {
        self.child
            .records()
            .into_iter()
            .filter(|record| record.kind == "created")
            .collect()
    }

    /// gpu_id of its first GPU.
    pub(crate) fn gpu_id(&self) -> anyhow::Result<u64> {
        self.created()
            .first()
            .context("no created line")?
            .number("gpu_id")
    }

    /// Ids of the queues that it created when it started.
    pub(crate) fn queue_ids(&self) -> anyhow::Result<Vec<u64>> {
        let mut ids = Vec::new();
        for line in self.created() {
            for queue in line.list("queues")? {
                ids.push(queue.number("queue_id")?);
            }
        }
        Ok(ids)
    }

    /// Sends a command and waits for its answer, good or bad.
    pub(crate) fn try_command(&mut self, line: &str) -> anyhow::Result<Record> {
        self.child.send(line)?;
        let index = self.commands;
        self.commands += 1;
        self.child
            .wait_for(&format!("the answer to {line:?}"), |records| {
                records
                    .iter()
                    .filter(|record| record.kind == "ack")
                    .nth(index)
                    .cloned()
            })
    }

    /// Sends a command that must succeed.
    pub(crate) fn command(&mut self, line: &str) -> anyhow::Result<Record> {
        let ack = self.try_command(line)?;
        anyhow::ensure!(
            ack.data["ok"] == true,
            "{line:?} failed: {}",
            ack.data["error"]
        );
        Ok(ack)
    }

    /// Sends a command that ends the process without an answer.
    pub(crate) fn send(&mut self, line: &str) -> anyhow::Result<()> {
        self.child.send(line)
    }

    /// A fresh report: what is so after this call began.
    pub(crate) fn report(&mut self) -> anyhow::Result<Record> {
        self.command("report")?;
        let reports = self.child.records();
        reports
            .into_iter()
            .rev()
            .find(|record| record.kind == "report")
            .context("no report line")
    }

    /// `report` lines of all GPUs: what is so after this call began.
    pub(crate) fn reports(&mut self) -> anyhow::Result<Vec<Record>> {
        let before = self.child.records().len();
        self.command("report")?;
        let mut latest = BTreeMap::new();
        for record in self.child.records().drain(before..) {
            if record.kind == "report" {
                latest.insert(record.number("gpu_id")?, record);
            }
        }
        Ok(latest.into_values().collect())
    }

    /// How far the GPUs have read each queue now.
    pub(crate) fn read_indices(&mut self) -> anyhow::Result<BTreeMap<u64, u64>> {
        let mut indices = BTreeMap::new();
        for report in self.reports()? {
            for queue in report.list("queues")? {
                indices.insert(queue.number("queue_id")?, queue.number("read_index")?);
            }
        }
        Ok(indices)
    }

    /// Requests completed since the start.
    pub(crate) fn requests(&mut self) -> anyhow::Result<u64> {
        let mut requests = 0;
        for report in self.reports()? {
            requests += report.number("requests")?;
        }
        Ok(requests)
    }

    /// Every line so far.
    pub(crate) fn lines(&self) -> Vec<Record> {
        self.child.records()
    }

    /// Ends it cleanly. Returns its `done` line.
    pub(crate) fn stop(mut self) -> anyhow::Result<Record> {
        self.command("stop")?;
        self.done()
    }

    /// Waits for its end by itself. Returns its `done` line.
    pub(crate) fn done(&mut self) -> anyhow::Result<Record> {
        let status = self.child.wait_exit()?;
        anyhow::ensure!(
            status.success(),
            "kfd-load: {status}; stderr: {:?}",
            self.child.errors()
        );
        self.child
            .records()
            .pop()
            .filter(|record| record.kind == "done")
            .context("no done line")
    }

    pub(crate) fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        self.child.signal(signal)
    }

    /// Waits for an end that need not be clean.
    pub(crate) fn wait_exit(&mut self) -> anyhow::Result<ExitStatus> {
        self.child.wait_exit()
    }
}

/// Runs a `kfd-load` verb to its end. Returns its lines.
pub(crate) fn run(args: &[&str]) -> anyhow::Result<Vec<Record>> {
    let mut command = Command::new("kfd-load");
    command.args(args);
    let mut child = JsonChild::start(command)?;
    let status = child.wait_exit()?;
    anyhow::ensure!(
        status.success(),
        "kfd-load {args:?}: {status}; stderr: {:?}",
        child.errors()
    );
    Ok(child.records())
}

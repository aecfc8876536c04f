// SPDX-License-Identifier: MIT OR Apache-2.0
//! A `gpreempt watch --format json` and what it saw.

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};

use anyhow::Context;
use nix::sys::signal::Signal;

use crate::json_child::JsonChild;
use crate::record::Record;

/// Exit code after SIGINT: what a shell reports for a program that the signal ended.
const INTERRUPTED: i32 = 128 + 2;

/// A running watch whose probes are attached.
pub(crate) struct Watch {
    child: JsonChild,
}

/// What a watch printed, from `startup` to `summary`.
pub(crate) struct Seen {
    pub(crate) records: Vec<Record>,
    pub(crate) summary: Record,
}

impl Watch {
    /// Starts `gpreempt watch --format json` with more `args` and waits until it is ready.
    pub(crate) fn start(args: &[&str]) -> anyhow::Result<Self> {
        let watch = Self::start_unready(args)?;
        watch.wait_for("the startup record", |record| record.kind == "startup")?;
        Ok(watch)
    }

    /// Starts it without waiting.
    pub(crate) fn start_unready(args: &[&str]) -> anyhow::Result<Self> {
        let mut command = Command::new("gpreempt");
        command.args(["watch", "--format", "json"]).args(args);
        Ok(Self {
            child: JsonChild::start(command)?,
        })
    }

    /// What it wrote to standard error so far.
    pub(crate) fn errors(&self) -> String {
        self.child.errors()
    }

    /// Everything seen so far.
    pub(crate) fn records(&self) -> Vec<Record> {
        self.child.records()
    }

    /// Waits for the first record that fits.
    pub(crate) fn wait_for(
        &self,
        what: &str,
        mut fits: impl FnMut(&Record) -> bool,
    ) -> anyhow::Result<Record> {
        self.child.wait_for(what, |records| {
            records.iter().find(|record| fits(record)).cloned()
        })
    }

    /// Waits until `count` records fit; returns those.
    pub(crate) fn wait_for_count(
        &self,
        what: &str,
        count: usize,
        mut fits: impl FnMut(&Record) -> bool,
    ) -> anyhow::Result<Vec<Record>> {
        self.child
            .wait_for(&format!("{count} x {what}"), |records| {
                let found: Vec<Record> = records
                    .iter()
                    .filter(|record| fits(record))
                    .cloned()
                    .collect();
                (found.len() >= count).then_some(found)
            })
    }

    /// Waits until this process has gone.
    pub(crate) fn wait_for_exit_of(&self, pid: u32) -> anyhow::Result<Record> {
        self.wait_for("process_exited", |record| {
            record.kind == "process_exited" && record.is_of(pid)
        })
    }

    pub(crate) fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        self.child.signal(signal)
    }

    /// Ends it by SIGINT as a user would.
    pub(crate) fn stop(self) -> anyhow::Result<Seen> {
        self.child.signal(Signal::SIGINT)?;
        self.finish(INTERRUPTED)
    }

    /// Ends it by SIGINT and demands that no record was lost.
    pub(crate) fn stop_lossless(self) -> anyhow::Result<Seen> {
        let seen = self.stop()?;
        let lost = seen.summary.number("lost")?;
        anyhow::ensure!(lost == 0, "{lost} records were lost");
        Ok(seen)
    }

    /// Waits for its end with this exit code and takes its summary.
    pub(crate) fn finish(mut self, code: i32) -> anyhow::Result<Seen> {
        let status = self.child.wait_exit()?;
        anyhow::ensure!(
            shell_code(status) == code,
            "gpreempt watch ended with {status}, not exit code {code}; stderr: {:?}",
            self.child.errors()
        );
        let records = self.child.records();
        let summary = records
            .last()
            .context("gpreempt watch printed nothing")?
            .clone();
        anyhow::ensure!(
            summary.kind == "summary",
            "the last record is {}, not summary",
            summary.kind
        );
        Ok(Seen { records, summary })
    }

    /// Waits for its end whatever the code. Returns the code and its standard error.
    pub(crate) fn outcome(mut self) -> anyhow::Result<(i32, String)> {
        let status = self.child.wait_exit()?;
        Ok((shell_code(status), self.child.errors()))
    }
}

/// The code as a shell sees it: 128 + n for death by signal n.
pub(crate) fn shell_code(status: ExitStatus) -> i32 {
    status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
}

impl Seen {
    /// The records of one kind about one process, in the order in which they were printed.
    pub(crate) fn of(&self, kind: &str, pid: u32) -> Vec<&Record> {
        self.records
            .iter()
            .filter(|record| record.kind == kind && record.is_of(pid))
            .collect()
    }

    /// The records of one kind.
    pub(crate) fn kind(&self, kind: &str) -> Vec<&Record> {
        self.records
            .iter()
            .filter(|record| record.kind == kind)
            .collect()
    }
}

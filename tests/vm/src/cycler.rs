// SPDX-License-Identifier: MIT OR Apache-2.0
//! A process that stops and restarts other processes' queues through `gpreempt`'s library: `vm-tests` itself, started
//! again and steered by lines on its standard input. A process of its own, because who has `/dev/kfd` open is a KFD process
//! until it ends.

use std::io::{BufRead, Write};
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use clap::ValueEnum;
use gpreempt::control::select::{self, Only, Selector};
use gpreempt::control::{choose, Backend, BackendKind, HoldOptions, Outcome, Target};
use gpreempt::event::Pid;
use gpreempt::kfd::Root;
use nix::sys::signal::Signal;
use serde_json::json;

use crate::json_child::JsonChild;
use crate::record::Record;

/// First argument that makes `vm-tests` a cycler: `cycle BACKEND PID...`.
pub(crate) const VERB: &str = "cycle";

/// What the backend is asked to bear without a sign of life.
const LEASE: Duration = Duration::from_secs(300);

/// A running one.
pub(crate) struct Cycler {
    child: JsonChild,
    answers: usize,
}

impl Cycler {
    /// Starts one for these processes.
    pub(crate) fn start(kind: BackendKind, pids: &[u32]) -> anyhow::Result<Self> {
        let mut program = Command::new("/proc/self/exe");
        program.args([VERB, kind.name()]);
        program.args(pids.iter().map(u32::to_string));
        Ok(Self {
            child: JsonChild::start(program)?,
            answers: 0,
        })
    }

    fn ask(&mut self, line: &str) -> anyhow::Result<Record> {
        self.child.send(line)?;
        let index = self.answers;
        self.answers += 1;
        self.child
            .wait_for(&format!("the answer to {line:?}"), |records| {
                records.get(index).cloned()
            })
    }

    /// So many times stopped and restarted. Returns how many queues were stopped altogether.
    pub(crate) fn cycle(&mut self, count: u64) -> anyhow::Result<u64> {
        self.ask(&format!("cycle {count}"))?.number("changed")
    }

    /// Stops them.
    pub(crate) fn hold(&mut self) -> anyhow::Result<u64> {
        self.ask("hold")?.number("changed")
    }

    /// Restarts them.
    pub(crate) fn release(&mut self) -> anyhow::Result<u64> {
        self.ask("release")?.number("changed")
    }

    /// Kills it. Waits until it is gone.
    pub(crate) fn kill(mut self) -> anyhow::Result<()> {
        self.child.signal(Signal::SIGKILL)?;
        self.child.wait_exit().map(drop)
    }

    /// Ends it in good order; what it holds is restarted.
    pub(crate) fn stop(mut self) -> anyhow::Result<()> {
        self.ask("stop")?;
        let status = self.child.wait_exit()?;
        anyhow::ensure!(
            status.success(),
            "cycler: {status}; stderr: {:?}",
            self.child.errors()
        );
        Ok(())
    }
}

/// The cycler's side.
pub(crate) fn serve() -> anyhow::Result<()> {
    let mut words = std::env::args().skip(2);
    let name = words.next().context("no backend")?;
    let kind = BackendKind::from_str(&name, false).map_err(|error| anyhow::anyhow!(error))?;
    let pids: Vec<Selector> = words
        .map(|word| Ok(Selector::Pid(Pid(word.parse().context("pid")?))))
        .collect::<anyhow::Result<_>>()?;
    let root = Root::real();
    let targets = select::resolve(&root, &pids, Only::default())?;
    let mut backend = choose::open(&root, kind)?;
    for line in std::io::stdin().lock().lines() {
        let line = line.context("read a command")?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let changed = match words[..] {
            ["cycle", count] => {
                let mut changed = 0;
                for _ in 0..count.parse::<u64>().context("count")? {
                    let held = hold(backend.as_mut(), &targets)?;
                    let released = done(backend.resume(&targets)?)?;
                    anyhow::ensure!(held == released, "{held} stopped, {released} restarted");
                    changed += held;
                }
                changed
            }
            ["hold"] => hold(backend.as_mut(), &targets)?,
            ["release"] => done(backend.resume_all()?)?,
            ["stop"] => break,
            _ => anyhow::bail!("unknown command {line:?}"),
        };
        say(changed)?;
    }
    drop(backend);
    say(0)
}

fn hold(backend: &mut dyn Backend, targets: &[Target]) -> anyhow::Result<u64> {
    let options = HoldOptions {
        gpu: None,
        no_sdma: false,
        lease: LEASE,
    };
    done(backend.preempt(targets, &options)?)
}

/// How many queues changed; that anything was refused is an error.
fn done(outcome: Outcome) -> anyhow::Result<u64> {
    anyhow::ensure!(outcome.complete(), "refused: {:?}", outcome.targets);
    Ok(outcome
        .targets
        .iter()
        .map(|target| u64::from(target.changed))
        .sum())
}

fn say(changed: u64) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", json!({ "type": "answer", "changed": changed }))
        .and_then(|()| out.flush())
        .context("answer")
}

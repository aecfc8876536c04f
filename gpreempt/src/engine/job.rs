// SPDX-License-Identifier: MIT OR Apache-2.0
//! Commands that are watched while they run: ordinary children with our standard streams. Those of one stage run together; the
//! next stage begins when all of them have ended.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd as _;
use std::process::ExitStatus;

use nix::sys::signal::{kill, Signal};
use nix::unistd;
use tokio::process::{Child, Command};

use super::Error;
use crate::event::{Escaped, Pid};
use crate::sink::record::End;

/// A program and its arguments.
pub type Words = Vec<OsString>;

/// The commands, if there are any.
#[derive(Debug, Default)]
pub(super) struct Jobs {
    stages: VecDeque<Vec<Words>>,
    to_stderr: bool,
    running: Vec<(Child, Option<ExitStatus>)>,
    /// Of all stages: the first that failed, or the last.
    status: Option<ExitStatus>,
}

impl Jobs {
    pub(super) fn new(stages: &[Vec<Words>], to_stderr: bool) -> Self {
        Self {
            stages: stages.iter().cloned().collect(),
            to_stderr,
            ..Self::default()
        }
    }

    /// Starts the next stage: the processes of its commands, or `None` if there is none.
    pub(super) fn start(&mut self) -> Result<Option<Vec<Pid>>, Error> {
        let Some(stage) = self.stages.pop_front() else {
            return Ok(None);
        };
        let mut pids = Vec::new();
        for words in &stage {
            let Some((program, arguments)) = words.split_first() else {
                continue;
            };
            let mut command = Command::new(program);
            if let (true, Ok(stderr)) = (self.to_stderr, io::stderr().as_fd().try_clone_to_owned())
            {
                command.stdout(stderr);
            }
            match command.args(arguments).spawn() {
                Ok(child) => {
                    pids.extend(child.id().map(Pid));
                    self.running.push((child, None));
                }
                Err(error) => {
                    // Those of the same stage would be waited for.
                    self.pass_on(Signal::SIGTERM);
                    self.stages.clear();
                    let name = Escaped(program.as_encoded_bytes()).to_string();
                    return Err(Error::Command { name, error });
                }
            }
        }
        Ok(Some(pids))
    }

    /// Whether there are stages that have not begun.
    pub(super) fn more(&self) -> bool {
        !self.stages.is_empty()
    }

    /// Waits until all of the stage have ended, for ever if none runs. Cancel-safe.
    pub(super) async fn ended(&mut self) -> anyhow::Result<Vec<ExitStatus>> {
        if self.running.is_empty() {
            return std::future::pending().await;
        }
        for (child, status) in &mut self.running {
            if status.is_none() {
                *status = Some(child.wait().await?);
            }
        }
        let ended = self.running.drain(..).filter_map(|(_, status)| status);
        let ended: Vec<ExitStatus> = ended.collect();
        for status in &ended {
            if self.status.is_none_or(|first| first.success()) {
                self.status = Some(*status);
            }
        }
        Ok(ended)
    }

    /// Passes a signal on, and starts nothing more. False if no command runs: then it is ours.
    ///
    /// SIGINT came from the terminal, which sent it to the commands, too.
    pub(super) fn signal(&mut self, end: End) -> bool {
        self.stages.clear();
        if self.running.is_empty() {
            return false;
        }
        match end {
            End::Sigterm => self.pass_on(Signal::SIGTERM),
            End::Sighup => self.pass_on(Signal::SIGHUP),
            _ => {}
        }
        true
    }

    fn pass_on(&self, signal: Signal) {
        for (child, _) in &self.running {
            if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
                let _ = kill(unistd::Pid::from_raw(pid), signal);
            }
        }
    }

    /// How they ended: the first that failed, or the last. Waits for those that run, as whoever started us expects them to have
    /// ended when we do.
    pub(super) async fn wait(&mut self) -> Option<ExitStatus> {
        if !self.running.is_empty() {
            let _ = self.ended().await;
        }
        self.status
    }
}

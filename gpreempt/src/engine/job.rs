// SPDX-License-Identifier: MIT OR Apache-2.0
//! A command that is watched while it runs: an ordinary child with our standard streams.

use std::ffi::OsString;
use std::process::ExitStatus;

use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;
use tokio::process::{Child, Command};

use super::Error;
use crate::event::Escaped;
use crate::sink::record::End;

/// The command, if there is one.
#[derive(Debug, Default)]
pub(super) struct Job {
    child: Option<Child>,
    status: Option<ExitStatus>,
}

impl Job {
    /// Starts it; no words are no command.
    pub(super) fn start(&mut self, words: &[OsString]) -> Result<(), Error> {
        let Some((program, arguments)) = words.split_first() else {
            return Ok(());
        };
        let child = Command::new(program).args(arguments).spawn();
        self.child = Some(child.map_err(|error| Error::Command {
            name: Escaped(program.as_encoded_bytes()).to_string(),
            error,
        })?);
        Ok(())
    }

    /// Waits for its end, for ever if there is none. Cancel-safe.
    pub(super) async fn ended(&mut self) -> anyhow::Result<End> {
        match &mut self.child {
            Some(child) => {
                self.status = Some(child.wait().await?);
                self.child = None;
                Ok(End::Command)
            }
            None => std::future::pending().await,
        }
    }

    /// Passes a signal on. False if there is no command: then it is ours.
    ///
    /// SIGINT came from the terminal, which sent it to the command, too.
    pub(super) fn signal(&self, end: End) -> bool {
        let Some(pid) = self.child.as_ref().and_then(Child::id) else {
            return false;
        };
        let signal = match end {
            End::Sigterm => Signal::SIGTERM,
            End::Sighup => Signal::SIGHUP,
            _ => return true,
        };
        if let Ok(pid) = i32::try_from(pid) {
            let _ = kill(Pid::from_raw(pid), signal);
        }
        true
    }

    /// How it ended; waits for that, as whoever started us expects it to have ended when we do.
    pub(super) async fn wait(&mut self) -> Option<ExitStatus> {
        if let Some(mut child) = self.child.take() {
            self.status = child.wait().await.ok();
        }
        self.status
    }
}

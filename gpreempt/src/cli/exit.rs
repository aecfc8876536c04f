// SPDX-License-Identifier: MIT OR Apache-2.0
//! Exit codes, all of them.

use std::io;
use std::process::ExitCode;

use crate::control::command;
use crate::engine;
use crate::recording;
use crate::sink::record::End;
use crate::source::LiveError;

/// How the program ends. The numbers above 2 are those of sysexits.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done, also if the reader of the output went away.
    Ok,
    /// Something failed.
    Failed,
    /// The arguments are wrong.
    Usage,
    /// There is no GPU, no driver, or this kernel lacks a feature.
    Unavailable,
    /// A permission is missing.
    NoPermission,
    /// Ended by this signal.
    Signal(u8),
    /// As the command that was run ended.
    Command(u8),
}

impl Exit {
    /// The number.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Unavailable => 69,
            Self::NoPermission => 77,
            Self::Signal(signal) => 128 + signal,
            Self::Command(code) => code,
        }
    }

    pub(super) fn signal(signal: nix::sys::signal::Signal) -> Self {
        Self::Signal(u8::try_from(signal as i32).unwrap_or(0))
    }

    fn of_code(code: u8) -> Self {
        match code {
            0 => Self::Ok,
            2 => Self::Usage,
            69 => Self::Unavailable,
            77 => Self::NoPermission,
            _ => Self::Failed,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        exit.code().into()
    }
}

impl From<End> for Exit {
    fn from(end: End) -> Self {
        match end {
            End::Duration | End::Count | End::Command | End::Recording | End::Reader => Self::Ok,
            End::Sigint => Self::Signal(2),
            End::Sigterm => Self::Signal(15),
            End::Sighup => Self::Signal(1),
            End::Error => Self::Failed,
        }
    }
}

/// An error on its way to stderr, and the exit code that it causes.
#[derive(Debug)]
pub struct Failure {
    /// Exit code.
    pub exit: Exit,
    error: anyhow::Error,
}

impl Failure {
    pub(super) fn new(exit: Exit, error: impl Into<anyhow::Error>) -> Self {
        Self {
            exit,
            error: error.into(),
        }
    }

    /// What to tell the user; nothing if nobody reads.
    pub(super) fn message(&self) -> Option<String> {
        (self.exit != Exit::Ok).then(|| format!("{:#}", self.error))
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::new(Exit::Failed, error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        let exit = if error.kind() == io::ErrorKind::BrokenPipe {
            Exit::Ok
        } else {
            Exit::Failed
        };
        Self::new(exit, error)
    }
}

impl From<LiveError> for Failure {
    fn from(error: LiveError) -> Self {
        Self::new(Exit::of_code(error.exit_code()), error)
    }
}

impl From<recording::Error> for Failure {
    fn from(error: recording::Error) -> Self {
        Self::new(Exit::Failed, error)
    }
}

impl From<engine::Error> for Failure {
    fn from(error: engine::Error) -> Self {
        match error {
            engine::Error::NoDriver(_) => Self::new(Exit::Unavailable, error),
            engine::Error::Live(live) => live.into(),
            engine::Error::Sink(_) => Self::new(Exit::Failed, error),
            engine::Error::Command {
                error: ref cause, ..
            } => {
                let code = command::start_failure_code(cause);
                Self::new(Exit::Command(code), error)
            }
            engine::Error::Other(error) => error.into(),
        }
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! `serve`: the daemon.

use std::path::PathBuf;

use super::{Exit, Failure, Global};
use crate::policy::PolicyName;
use crate::serve::{self, Error, Finish, Options};

/// Keep online work fast: a daemon that stops offline queues while online ones need the GPU
///
/// A policy decides who is held; guards limit for how long and how often, whatever the policy wants. Everything that is held runs
/// again when the daemon ends, however it ends. `gpreempt ctl` talks to it, over a Unix socket that curl can use too.
/// SIGHUP has it read its configuration again.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Serve {
    /// Configuration, or a directory of *.toml; may be given again, the later counts
    #[arg(long, value_name = "FILE")]
    config: Vec<PathBuf>,
    /// Who decides, whatever the configuration says
    #[arg(long, value_enum, value_name = "NAME")]
    policy: Option<PolicyName>,
    /// Where to listen, whatever the configuration says
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Decide and log, and stop nothing
    #[arg(long)]
    dry_run: bool,
}

const EXAMPLES: &str = "\
Examples:
  gpreempt serve --config /etc/gpreempt/gpreempt.toml
  gpreempt serve --config my.toml --dry-run --socket /tmp/gpreempt.sock
  curl --unix-socket /run/gpreempt/gpreempt.sock http://gpreempt/v1/status";

impl Serve {
    pub(super) fn run(self, global: &Global) -> Result<Exit, Failure> {
        let options = Options {
            config: self.config,
            policy: self.policy,
            socket: self.socket,
            dry_run: self.dry_run,
        };
        match serve::run(&global.root(), &options) {
            Ok(Finish::Signal(number)) => Ok(Exit::Signal(u8::try_from(number).unwrap_or(u8::MAX))),
            Err(error @ Error::Config(_)) => Err(Failure::new(Exit::Usage, error)),
            Err(Error::Other(error)) => Err(error.into()),
        }
    }
}

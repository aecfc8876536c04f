// SPDX-License-Identifier: MIT OR Apache-2.0
//! `serve`: the daemon.

use std::path::PathBuf;
use std::time::Duration;

use super::watch::duration;
use super::{output, Exit, Failure, Global};
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
    /// Show what it is good for: an online service and an offline job on this machine's GPU, without and with the daemon
    #[arg(long, conflicts_with_all = ["config", "policy", "socket", "dry_run"])]
    demo: bool,
    /// How long each part of the demo takes
    #[arg(long, value_parser = duration, default_value = "10s", requires = "demo", value_name = "DURATION")]
    each: Duration,
}

const EXAMPLES: &str = "\
Examples:
  gpreempt serve --config /etc/gpreempt/gpreempt.toml
  gpreempt serve --config my.toml --dry-run --socket /tmp/gpreempt.sock
  curl --unix-socket /run/gpreempt/gpreempt.sock http://gpreempt/v1/status";

impl Serve {
    pub(super) fn run(self, global: &Global) -> Result<Exit, Failure> {
        if self.demo {
            serve::demo::run(self.each, output::layout(global.color.on_stdout()))?;
            return Ok(Exit::Ok);
        }
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

// SPDX-License-Identifier: MIT OR Apache-2.0
//! `run`: starts a job that obeys the daemon.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{anyhow, Context as _};
use gpreempt_common::agent::{REGISTER_VARIABLE, SOCKET_VARIABLE};

use super::ctl::ms;
use super::watch::duration;
use super::{Exit, Failure};
use crate::control::command;
use crate::control::preload::{self, Unable};
use crate::policy::Class;
use crate::serve::api::{Register, Registered, SOCKET};
use crate::serve::client::Client;

/// Start a job that stops its own queues when the daemon says so
///
/// For stock drivers, where nobody else may stop them: a small library in each process of the job stops and restarts its queues by
/// the process's own AMDKFD_IOC_UPDATE_QUEUE. It needs no privilege, is in the children too, and does nothing in processes without
/// queues. Everything runs again when the daemon ends or falls silent. The command replaces this program.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Run {
    /// What the job is
    #[arg(long, value_enum, default_value_t = Class::Offline, value_name = "CLASS")]
    class: Class,
    /// Its processes, and those of others who name the same group, are stopped together or not at all [default: one of its own]
    #[arg(long, value_name = "NAME")]
    group: Option<String>,
    /// Its part in the policy `share`
    #[arg(long, value_name = "N")]
    weight: Option<u32>,
    /// Never stop it for longer
    #[arg(long, value_parser = duration, value_name = "DURATION")]
    max_pause: Option<Duration>,
    /// Let it run at least so long between two stops
    #[arg(long, value_parser = duration, value_name = "DURATION")]
    min_run: Option<Duration>,
    /// Where the daemon listens
    #[arg(long, value_name = "PATH", default_value = SOCKET, env = "GPREEMPT_SOCKET")]
    socket: PathBuf,
    /// The library, if it is not where it was installed
    #[arg(long, value_name = "FILE", env = "GPREEMPT_AGENT")]
    agent: Option<PathBuf>,
    /// The job
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

const EXAMPLES: &str = "\
Examples:
  gpreempt run --class offline -- python3 train.py
  gpreempt run --group night --max-pause 2s -- torchrun --nproc-per-node 8 train.py

Exit codes: the command's; 69 no daemon, no agent, or a command that cannot carry it; 77 this user may not do that;
126 and 127 as in shells.";

impl Run {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        let unavailable = |error: anyhow::Error| Failure::new(Exit::Unavailable, error);
        let library = match self.agent {
            Some(file) => file
                .canonicalize()
                .with_context(|| format!("the agent {}", file.display())),
            None => preload::library().map_err(Into::into),
        };
        let library = library.map_err(unavailable)?;
        let (name, arguments) = self.command.split_first().context("no command")?;
        let program = preload::check(name).map_err(|unable| match unable {
            Unable::Start { ref error, .. } => {
                let code = command::start_failure_code(error);
                Failure::new(Exit::Command(code), unable)
            }
            Unable::Refused { .. } => Failure::new(Exit::Unavailable, unable),
        })?;
        let preloaded = preload::variable(&library, std::env::var_os("LD_PRELOAD").as_deref())
            .map_err(|why| unavailable(anyhow!("{}: {why}", library.display())))?;
        let socket = std::path::absolute(&self.socket)?;
        let register = Register {
            pid: None,
            class: self.class,
            // The processes of a job belong together: ranks wait for each other.
            group: Some(
                self.group
                    .unwrap_or_else(|| format!("run-{}", std::process::id())),
            ),
            weight: self.weight,
            max_pause_ms: self.max_pause.map(ms),
            min_run_ms: self.min_run.map(ms),
        };
        // Now, as the job's processes could only complain.
        let _: Registered = Client::new(&socket)?.post("/v1/jobs", &register)?;
        let register = serde_json::to_string(&register).context("the registration")?;
        let error = Command::new(&program)
            .arg0(name)
            .args(arguments)
            .env("LD_PRELOAD", preloaded)
            .env(SOCKET_VARIABLE, socket)
            .env(REGISTER_VARIABLE, register)
            .exec();
        let code = command::start_failure_code(&error);
        let error = anyhow!(error).context(program.display().to_string());
        Err(Failure::new(Exit::Command(code), error))
    }
}

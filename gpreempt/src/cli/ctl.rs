// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ctl`: a client of the daemon.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::anyhow;
use clap::Subcommand;

use super::ctl_out::Show;
use super::output::{self, Format};
use super::watch::duration;
use super::{Exit, Failure, Global};
use crate::control::command::{self, Running};
use crate::control::select::pid_arg;
use crate::control::wait::Signals;
use crate::event::Pid;
use crate::policy::{JobId, PolicyName};
use crate::serve::api::{Asked, HintBegin, HintBegun, HintEnded, SetPolicy, Whom, SOCKET};
use crate::serve::client::{Client, ClientError};
use crate::sink::units::Nanos;

/// Talk to the daemon (`gpreempt serve`)
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Ctl {
    /// Where the daemon listens
    #[arg(long, value_name = "PATH", default_value = SOCKET, env = "GPREEMPT_SOCKET", global = true)]
    socket: PathBuf,
    /// For people, or one object a line for programs
    #[arg(long, value_enum, default_value_t = Format::Table, global = true)]
    format: Format,
    #[command(subcommand)]
    what: What,
}

const EXAMPLES: &str = "\
Examples:
  gpreempt ctl status
  gpreempt ctl explain 1234
  gpreempt ctl hint -- ./one-request
  gpreempt ctl hold --pid 1234 --for 5s
  gpreempt ctl audit --follow";

#[derive(Debug, Subcommand)]
enum What {
    /// How the daemon is
    Status,
    /// Jobs: who is online, who is offline, who is held and why
    Jobs,
    /// Queues, with the jobs that they belong to
    Queues,
    /// Which rule says what a process is, and why
    Explain {
        /// It
        #[arg(value_parser = pid_arg)]
        pid: Pid,
    },
    /// Every value of the configuration that is in force, and where it comes from
    Config,
    /// Say that online work is there while COMMAND runs, or for a time
    Hint(Hint),
    /// Have jobs held, within the guards, whatever the policy wants
    Hold(Ask),
    /// Have jobs run, whatever the policy wants
    Resume(Ask),
    /// Leave jobs to the policy again
    Free(Ask),
    /// Have another policy decide, until the configuration is read again
    Policy {
        /// Which
        #[arg(value_enum)]
        name: PolicyName,
    },
    /// Have the daemon read its configuration again
    Reload,
    /// Have jobs held again after a GPU had not answered
    GoOn,
    /// The last lines of the audit log
    Audit {
        /// So many of them
        #[arg(long, default_value_t = 100)]
        last: usize,
        /// Go on with lines as they are written
        #[arg(long)]
        follow: bool,
    },
}

#[derive(Debug, clap::Args)]
struct Hint {
    /// When the work begins, from now: offline queues are stopped so much before that as a stop takes
    #[arg(long, value_parser = duration, value_name = "DURATION")]
    lead: Option<Duration>,
    /// End it after that long
    #[arg(long = "for", value_parser = duration, value_name = "DURATION", required_unless_present = "command")]
    lasts: Option<Duration>,
    /// Go on only when offline queues have been stopped, or will not be
    #[arg(long)]
    wait: bool,
    /// End it when this command ends, and exit with its code
    #[arg(last = true, value_name = "COMMAND", conflicts_with = "lasts")]
    command: Vec<OsString>,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = true)]
struct Whose {
    /// Jobs, by name
    #[arg(value_name = "JOB")]
    jobs: Vec<String>,
    /// Jobs, by a process of theirs
    #[arg(long = "pid", value_parser = pid_arg, value_name = "PID")]
    pids: Vec<Pid>,
}

#[derive(Debug, clap::Args)]
struct Ask {
    #[command(flatten)]
    whose: Whose,
    /// For so long; else until it is taken back by `free`, or a guard ends it
    #[arg(long = "for", value_parser = duration, value_name = "DURATION")]
    lasts: Option<Duration>,
}

/// Body of calls that say nothing more.
const NOTHING: [(); 0] = [];

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let exit = match &error {
            ClientError::NoDaemon { .. } => Exit::Unavailable,
            ClientError::Denied(_) => Exit::NoPermission,
            ClientError::NotFound(_) | ClientError::Refused(_) | ClientError::Failed(_) => {
                Exit::Failed
            }
        };
        Self::new(exit, error)
    }
}

impl Ctl {
    pub(super) fn run(self, global: &Global) -> Result<Exit, Failure> {
        let show = Show {
            format: self.format,
            layout: output::layout(global.color.on_stdout()),
        };
        let mut client = Client::new(&self.socket)?;
        match self.what {
            What::Status => show.status(&client.get("/v1/status")?)?,
            What::Jobs => show.jobs(&client.get::<Vec<_>>("/v1/jobs")?)?,
            What::Queues => show.queues(&client.get::<Vec<_>>("/v1/queues")?)?,
            What::Explain { pid } => {
                show.explanation(pid, &client.get(&format!("/v1/explain/{pid}"))?)?;
            }
            What::Config => show.config(&client.get::<Vec<_>>("/v1/config")?)?,
            What::Hint(hint) => return hint.run(&mut client, show),
            What::Hold(ask) => return ask.run(&mut client, "/v1/hold", show),
            What::Resume(ask) => return ask.run(&mut client, "/v1/resume", show),
            What::Free(ask) => return ask.run(&mut client, "/v1/free", show),
            What::Policy { name } => {
                let asked = SetPolicy { name };
                show.done(&client.put("/v1/policy", &asked)?)?;
            }
            What::Reload => {
                show.done(&client.post("/v1/reload", &NOTHING)?)?;
            }
            What::GoOn => show.done(&client.post("/v1/go-on", &NOTHING)?)?,
            What::Audit { last, follow } => {
                let mut failed = Ok(());
                let path = format!("/v1/audit?last={last}&follow={follow}");
                client.follow(&path, &mut |bytes| {
                    let mut out = io::stdout().lock();
                    failed = out.write_all(bytes).and_then(|()| out.flush());
                    failed.is_ok()
                })?;
                failed?;
            }
        }
        Ok(Exit::Ok)
    }
}

impl Ask {
    fn run(self, client: &mut Client, path: &str, show: Show) -> Result<Exit, Failure> {
        let whom = Whom {
            jobs: self
                .whose
                .jobs
                .iter()
                .map(|job| JobId::from(job.as_str()))
                .collect(),
            pids: self.whose.pids,
            for_ms: self.lasts.map(ms),
        };
        let asked: Asked = client.post(path, &whom)?;
        show.asked(&asked)?;
        Ok(match asked.jobs.iter().all(|job| job.done) {
            true => Exit::Ok,
            false => Exit::Failed,
        })
    }
}

impl Hint {
    fn run(self, client: &mut Client, show: Show) -> Result<Exit, Failure> {
        // Before anything is said: a signal must not end this between begin and end.
        let signals = Signals::block()?;
        let asked = HintBegin {
            lead_ms: self.lead.map_or(0, ms),
            expires_ms: self.lasts.map(ms),
            // A command that outlives this program would leave its hint without anybody to end it.
            pid: (!self.command.is_empty()).then(|| Pid(std::process::id())),
            wait: self.wait,
        };
        let begun: HintBegun = client.post("/v1/hints", &asked)?;
        if self.command.is_empty() {
            show.json(&begun)?;
            return Ok(Exit::Ok);
        }
        let end = |client: &mut Client| -> Result<HintEnded, ClientError> {
            client.delete(&format!("/v1/hints/{}", begun.id))
        };
        let mut running = match Running::start(&self.command) {
            Ok(running) => running,
            Err(error) => {
                let _ = end(client);
                let code = command::start_failure_code(&error);
                return Err(Failure::new(Exit::Command(code), anyhow!(error)));
            }
        };
        let status = crate::control::wait::wait_for_command(&signals, &mut running)?;
        match end(client) {
            Ok(ended) => output::say(&format!("online for {}", Nanos(ended.latency_ns))),
            Err(error) => output::say(&format!("the hint could not be ended: {error}")),
        }
        Ok(Exit::Command(command::exit_code(status)))
    }
}

pub(super) fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

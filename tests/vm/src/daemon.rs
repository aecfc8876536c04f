// SPDX-License-Identifier: MIT OR Apache-2.0
//! `gpreempt serve` under a test's control.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use anyhow::Context;
use gpreempt::control::BackendKind;
use gpreempt::serve::api::{Asked, HintBegin, HintBegun, HintEnded, JobInfo, Status, Whom};
use gpreempt::serve::client::Client;
use gpreempt::serve::{AuditRecord, Held, Line, Released};
use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;

use crate::guest;

/// Where it listens.
pub(crate) const SOCKET: &str = "/tmp/gpreempt.sock";
const CONFIG: &str = "/tmp/gpreempt.toml";
pub(crate) const AUDIT: &str = "/tmp/gpreempt.audit";

/// Who is what in most tests: by name, as `kfd-load --name-hex` gives it.
pub(crate) const RULES: &str = r#"
[[rule]]
comm = "offline*"
class = "offline"
[[rule]]
comm = "gang*"
class = "offline"
group = "gang"
[[rule]]
comm = "online*"
class = "online"
"#;

/// Guards that are in nobody's way.
pub(crate) const NO_GUARDS: &str = r#"
[guards]
max_pause = "10m"
min_run = "0ms"
pause_share = 1.0
preemptions = 1000
collective_timeout = "1h"
"#;

/// A running daemon. Its end is the end of the test, too.
pub(crate) struct Daemon {
    child: Child,
    client: Client,
}

impl Daemon {
    /// Starts it, and waits until it sees events.
    pub(crate) fn start(kind: BackendKind, config: &str) -> anyhow::Result<Self> {
        Self::start_with(kind, config, &[])
    }

    /// Same with more arguments.
    pub(crate) fn start_with(
        kind: BackendKind,
        config: &str,
        args: &[&str],
    ) -> anyhow::Result<Self> {
        configure(kind, config)?;
        Self::start_configured(args)
    }

    /// With a configuration that names backend and audit log itself.
    pub(crate) fn start_as_written(config: &str) -> anyhow::Result<Self> {
        fs::write(CONFIG, config).context(CONFIG)?;
        Self::start_configured(&[])
    }

    fn start_configured(args: &[&str]) -> anyhow::Result<Self> {
        let _ = fs::remove_file(AUDIT);
        let mut command = Command::new("gpreempt");
        command
            .args(["serve", "--config", CONFIG, "--socket", SOCKET])
            .args(args)
            .stdin(Stdio::null());
        let child = workload::stop::die_with_parent(&mut command)
            .spawn()
            .context("start gpreempt serve")?;
        let mut daemon = Self {
            child,
            client: Client::new(Path::new(SOCKET)).context("client")?,
        };
        guest::eventually("the daemon to see events", || {
            if let Some(status) = daemon.child.try_wait().context("wait")? {
                anyhow::bail!("the daemon ended: {status}");
            }
            Ok(daemon
                .status()
                .is_ok_and(|status| status.events)
                .then_some(()))
        })?;
        Ok(daemon)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn client(&mut self) -> &mut Client {
        &mut self.client
    }

    pub(crate) fn status(&mut self) -> anyhow::Result<Status> {
        Ok(self.client.get("/v1/status")?)
    }

    pub(crate) fn jobs(&mut self) -> anyhow::Result<Vec<JobInfo>> {
        Ok(self.client.get("/v1/jobs")?)
    }

    /// The job that this process belongs to.
    pub(crate) fn job_of(&mut self, pid: u32) -> anyhow::Result<JobInfo> {
        let jobs = self.jobs()?;
        let of_it = |job: &JobInfo| job.pids.iter().any(|member| member.0 == pid);
        jobs.into_iter()
            .find(of_it)
            .with_context(|| format!("no job of process {pid}"))
    }

    /// Begins a hint that outlives what the test does, and waits until what it asks for is done.
    pub(crate) fn hint(&mut self) -> anyhow::Result<u64> {
        let asked = HintBegin {
            expires_ms: Some(600_000),
            wait: true,
            ..HintBegin::default()
        };
        let begun: HintBegun = self.client.post("/v1/hints", &asked)?;
        Ok(begun.id)
    }

    pub(crate) fn end_hint(&mut self, id: u64) -> anyhow::Result<HintEnded> {
        Ok(self.client.delete(&format!("/v1/hints/{id}"))?)
    }

    /// `hold`, `resume` or `free` of the jobs of these processes.
    pub(crate) fn ask(&mut self, what: &str, pids: &[u32]) -> anyhow::Result<Asked> {
        let whom = Whom {
            pids: pids.iter().copied().map(gpreempt::event::Pid).collect(),
            ..Whom::default()
        };
        Ok(self.client.post(&format!("/v1/{what}"), &whom)?)
    }

    /// Everything in the audit log.
    pub(crate) fn audit(&self) -> anyhow::Result<Vec<AuditRecord>> {
        let text = fs::read_to_string(AUDIT).context(AUDIT)?;
        text.lines()
            .map(|line| {
                let line: Line =
                    serde_json::from_str(line).with_context(|| format!("audit line {line}"))?;
                Ok(line.record)
            })
            .collect()
    }

    /// What came to the audit log after so many lines.
    pub(crate) fn audit_since(&self, lines: usize) -> anyhow::Result<Vec<AuditRecord>> {
        let mut audit = self.audit()?;
        anyhow::ensure!(lines <= audit.len(), "the log has become shorter");
        Ok(audit.split_off(lines))
    }

    /// Writes another configuration and has it read.
    pub(crate) fn reconfigure(&mut self, kind: BackendKind, config: &str) -> anyhow::Result<()> {
        configure(kind, config)?;
        self.signal(Signal::SIGHUP)
    }

    pub(crate) fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = i32::try_from(self.pid()).context("pid")?;
        kill(Pid::from_raw(pid), signal).with_context(|| format!("send {signal}"))
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self) -> anyhow::Result<ExitStatus> {
        let mut status = None;
        guest::eventually("the daemon to end", || {
            status = self.child.try_wait().context("wait")?;
            Ok(status)
        })
    }

    /// Ends it as a service manager does.
    pub(crate) fn stop(mut self) -> anyhow::Result<()> {
        self.signal(Signal::SIGTERM)?;
        let status = self.wait()?;
        anyhow::ensure!(status.code() == Some(128 + 15), "the daemon: {status}");
        anyhow::ensure!(!Path::new(SOCKET).exists(), "its socket is left");
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn configure(kind: BackendKind, config: &str) -> anyhow::Result<PathBuf> {
    let serve = format!(
        "[serve]\nbackend = \"{}\"\naudit = \"{AUDIT}\"\n",
        kind.name()
    );
    fs::write(CONFIG, format!("{serve}{config}")).context(CONFIG)?;
    Ok(CONFIG.into())
}

/// Its lines of stops.
pub(crate) fn helds(audit: &[AuditRecord]) -> Vec<&Held> {
    let held = audit.iter().filter_map(|record| match record {
        AuditRecord::Held(held) => Some(held),
        _ => None,
    });
    held.collect()
}

/// And of restarts.
pub(crate) fn releaseds(audit: &[AuditRecord]) -> Vec<&Released> {
    let released = audit.iter().filter_map(|record| match record {
        AuditRecord::Released(released) => Some(released),
        _ => None,
    });
    released.collect()
}

/// Resident memory of a process.
pub(crate) fn resident_kib(pid: u32) -> anyhow::Result<u64> {
    memory_kib(pid, "VmRSS:")
}

/// That of it which is no file: the kernel cannot drop it when memory is short.
pub(crate) fn anonymous_kib(pid: u32) -> anyhow::Result<u64> {
    memory_kib(pid, "RssAnon:")
}

fn memory_kib(pid: u32, name: &str) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    let kib = kib.with_context(|| format!("no {name}"))?;
    kib.trim().parse().with_context(|| name.to_owned())
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! `gpreempt serve` by every backend: whom it holds, when, for how long; that everything comes back, whatever happens to it.

use std::fs;
use std::time::{Duration, Instant};

use gpreempt::control::BackendKind;
use gpreempt::policy::{GuardName, Trigger};
use gpreempt::serve::AuditRecord;
use nix::sys::signal::Signal;

use super::List;
use crate::check::ensure_eq;
use crate::daemon::{helds, releaseds, Daemon, NO_GUARDS, RULES, SOCKET};
use crate::gpu::Job;
use crate::guest;
use crate::load::Load;
use crate::preemption::for_each_backend;
use crate::scene;

pub(super) const EACH: List = for_each_backend! {
    "the_daemon_holds_for_a_hint": hint,
    "the_daemon_holds_for_waiting_packets": pending,
    "a_gang_is_held_as_a_whole": gang,
    "a_guard_ends_a_hold": max_pause,
    "new_queues_of_what_the_daemon_holds": creates,
    "a_killed_daemon_strands_nobody": killed,
    "a_hung_daemon_strands_nobody": hung,
    "a_daemon_that_is_told_to_end": told_to_end,
    "jobs_that_end_while_the_daemon_holds_them": job_ends,
};

pub(super) const TESTS: List = &[
    (
        &["patched", "control"],
        "a_dry_run_of_the_daemon_stops_nobody",
        dry_run,
    ),
    (
        &["patched", "control"],
        "the_daemon_forgets_processes_that_end",
        forgets,
    ),
    (&["patched"], "the_configuration_is_read_again", reload),
    (&["patched"], "policies_change_while_jobs_run", policies),
];

/// Everything is looked at every 30 s in any case.
const FORGOTTEN_WITHIN: Duration = Duration::from_secs(10);

const PRIORITY: &str = "[policy]\nname = \"priority\"\n";
const MANUAL: &str = "[policy]\nname = \"manual\"\n";

fn config(policy: &str) -> String {
    format!("{policy}{NO_GUARDS}{RULES}")
}

fn hex(name: &str) -> String {
    name.bytes().map(|byte| format!("{byte:02x}")).collect()
}

/// A busy job of this name.
pub(crate) fn job(name: &str, queues: u32) -> anyhow::Result<Job> {
    let queues = queues.to_string();
    Job::busy(&[
        "--profile",
        "simple",
        "--queues",
        &queues,
        "--name-hex",
        &hex(name),
    ])
}

/// A service of this name.
pub(super) fn service(name: &str) -> anyhow::Result<Job> {
    let args = ["--profile", "inference", "--queues", "1", "--rate", "5"];
    let rest = ["--dispatch-us", "2000", "--name-hex", &hex(name)];
    Job::new(Load::start(&[&args[..], &rest[..]].concat())?)
}

/// Held while a hint is in force, whoever else runs is left alone, and the log says what happened.
fn hint(kind: BackendKind) -> anyhow::Result<()> {
    scene::clean(|| {
        let (mut offline, mut other) = (job("offline", 2)?, job("other", 1)?);
        let mut daemon = Daemon::start(kind, &config(PRIORITY))?;
        offline.goes_on()?;
        let id = daemon.hint()?;
        offline.expect_held("while a hint is in force")?;
        other.expect_running("what no rule names")?;
        let before = offline.load.read_indices()?;
        other.goes_on()?;
        ensure_eq!(
            offline.load.read_indices()?,
            before,
            "read indices of held queues"
        );
        let info = daemon.job_of(offline.pid())?;
        anyhow::ensure!(info.held && info.why.is_some(), "not told: {info:?}");
        let status = daemon.status()?;
        ensure_eq!(
            (status.hints, status.jobs_held, status.holds_total),
            (1, 1, 1),
            "hints, held, holds"
        );
        ensure_eq!(status.backend, Some(kind), "backend");
        let ended = daemon.end_hint(id)?;
        anyhow::ensure!(ended.latency_ns > 0, "no latency");
        offline.wait_running("after the hint")?;
        offline.goes_on()?;
        let audit = daemon.audit()?;
        let held = helds(&audit);
        ensure_eq!(held.len(), 1, "lines of holds");
        ensure_eq!(held[0].trigger, Trigger::Hint, "trigger");
        ensure_eq!(held[0].queues, 2, "queues");
        ensure_eq!(held[0].rule, Some(1), "rule");
        ensure_eq!(held[0].backend, Some(kind), "backend");
        anyhow::ensure!(
            held[0].observed.is_some(),
            "a hold that nobody saw: {:?}",
            held[0]
        );
        let released = guest::eventually("the log to tell the release", || {
            let audit = daemon.audit()?;
            Ok(releaseds(&audit).first().map(|one| (*one).clone()))
        })?;
        anyhow::ensure!(released.guard.is_none(), "by a guard: {released:?}");
        anyhow::ensure!(released.held_ns > 0, "no time: {released:?}");
        daemon.stop()
    })
}

/// A process is still listed when the kernel tells of its end. It is not thought alive until everything is looked at by and by.
fn forgets() -> anyhow::Result<()> {
    scene::clean(|| {
        let mut daemon = Daemon::start_as_written(&config(MANUAL))?;
        for number in 0..20 {
            let job = job(&format!("offline-{number}"), 1)?;
            let pid = job.pid();
            guest::eventually("the daemon to know the job", || {
                Ok(daemon.job_of(pid).is_ok().then_some(()))
            })?;
            drop(job);
            let ended = Instant::now();
            guest::eventually("the daemon to forget the job", || {
                Ok(daemon.job_of(pid).is_err().then_some(()))
            })?;
            let took = ended.elapsed();
            anyhow::ensure!(took < FORGOTTEN_WITHIN, "forgotten after {took:?}");
        }
        daemon.stop()
    })
}

/// Nobody says anything: packets wait in the queue of a service.
fn pending(kind: BackendKind) -> anyhow::Result<()> {
    scene::clean(|| {
        let mut offline = job("offline", 2)?;
        let daemon = Daemon::start(kind, &config(PRIORITY))?;
        offline.goes_on()?;
        let mut online = service("online")?;
        online.serves(5)?;
        guest::eventually("the daemon to hold for packets", || {
            let audit = daemon.audit()?;
            let found = helds(&audit)
                .iter()
                .any(|held| held.trigger == Trigger::Pending);
            Ok(found.then_some(()))
        })?;
        drop(online);
        offline.wait_running("when the service is gone")?;
        offline.goes_on()?;
        daemon.stop()
    })
}

/// Both ranks or none, in one line of the log.
fn gang(kind: BackendKind) -> anyhow::Result<()> {
    scene::clean(|| {
        let (mut one, mut two) = (job("gang-0", 1)?, job("gang-1", 2)?);
        let mut daemon = Daemon::start(kind, &config(MANUAL))?;
        let asked = daemon.ask("hold", &[one.pid()])?;
        ensure_eq!(asked.jobs.len(), 1, "jobs");
        anyhow::ensure!(asked.jobs[0].done && asked.jobs[0].held, "{asked:?}");
        one.expect_held("the rank that was named")?;
        two.expect_held("the other rank")?;
        let audit = daemon.audit()?;
        let held = helds(&audit);
        ensure_eq!(held.len(), 1, "lines of holds");
        ensure_eq!(held[0].pids.len(), 2, "processes");
        let asked = daemon.ask("free", &[two.pid()])?;
        anyhow::ensure!(asked.jobs[0].done && !asked.jobs[0].held, "{asked:?}");
        one.wait_running("after the hold")?;
        two.wait_running("after the hold")?;
        one.goes_on()?;
        two.goes_on()?;
        daemon.stop()
    })
}

/// A hint that never ends does not stop a job for ever.
fn max_pause(kind: BackendKind) -> anyhow::Result<()> {
    scene::clean(|| {
        let mut offline = job("offline", 1)?;
        let guards = "[guards]\nmax_pause = \"1s\"\nmin_run = \"10m\"\n";
        let mut daemon = Daemon::start(kind, &format!("{PRIORITY}{guards}{RULES}"))?;
        daemon.hint()?;
        offline.expect_held("at the beginning")?;
        offline.wait_running("after the longest pause")?;
        offline.goes_on()?;
        let audit = daemon.audit()?;
        let released = releaseds(&audit);
        ensure_eq!(released[0].guard, Some(GuardName::MaxPause), "guard");
        // The guard releases before it is due; that the release itself takes long is the host's fault.
        anyhow::ensure!(released[0].held_ns > 500_000_000, "{:?}", released[0]);
        let denied = |record: &AuditRecord| matches!(record, AuditRecord::Denied(denied) if denied.guard == GuardName::MinRun);
        guest::eventually("the next hold to be denied", || {
            Ok(daemon.audit()?.iter().any(denied).then_some(()))
        })?;
        offline.expect_running("while another hold is denied")?;
        daemon.stop()
    })
}

fn creates(kind: BackendKind) -> anyhow::Result<()> {
    scene::clean(|| {
        let mut offline = job("offline", 1)?;
        let mut daemon = Daemon::start(kind, &config(PRIORITY))?;
        let id = daemon.hint()?;
        offline.expect_held("before")?;
        // CRIU's pause keeps the process's ioctls waiting.
        if kind != BackendKind::Criu {
            offline.load.command("create compute")?;
            guest::eventually("the new queue to be held", || {
                Ok(offline.mapped()?.is_empty().then_some(()))
            })?;
        }
        daemon.end_hint(id)?;
        offline.wait_running("with its new queue")?;
        offline.goes_on()?;
        daemon.stop()
    })
}

/// Killed while it holds; the next one takes its place. Its end is what restarts the job: the lease is far too long for that.
fn killed(kind: BackendKind) -> anyhow::Result<()> {
    scene::clean(|| {
        let mut offline = job("offline", 2)?;
        for _ in 0..3 {
            let config = format!("lease = \"1h\"\n{}", config(PRIORITY));
            let mut daemon = Daemon::start(kind, &config)?;
            daemon.hint()?;
            offline.expect_held("before the daemon dies")?;
            let killed = Instant::now();
            daemon.signal(Signal::SIGKILL)?;
            offline.wait_running("after the daemon's death")?;
            eprintln!("{kind}: ran again {:?} after the kill", killed.elapsed());
            daemon.wait()?;
            offline.goes_on()?;
        }
        Ok(())
    })
}

/// Stopped by a signal that it cannot handle: its lease ends.
fn hung(kind: BackendKind) -> anyhow::Result<()> {
    scene::clean(|| {
        let mut offline = job("offline", 2)?;
        let mut daemon = Daemon::start(kind, &config(PRIORITY))?;
        daemon.hint()?;
        offline.expect_held("before the daemon hangs")?;
        daemon.signal(Signal::SIGSTOP)?;
        offline.wait_running("after the lease")?;
        offline.goes_on()?;
        // The supervisor has killed it where the kernel keeps no lease; else it goes on, and finds out.
        if kind == BackendKind::Patched {
            daemon.signal(Signal::SIGCONT)?;
            guest::eventually(
                "the daemon to hold again, or to tell that it lost a hold",
                || {
                    let audit = daemon.audit()?;
                    let lost = audit
                        .iter()
                        .any(|record| matches!(record, AuditRecord::Lost(_)));
                    Ok((lost || offline.mapped()?.is_empty()).then_some(()))
                },
            )?;
            return daemon.stop();
        }
        daemon.wait().map(drop)
    })
}

fn told_to_end(kind: BackendKind) -> anyhow::Result<()> {
    scene::clean(|| {
        let mut offline = job("offline", 2)?;
        let mut daemon = Daemon::start(kind, &config(PRIORITY))?;
        daemon.hint()?;
        offline.expect_held("before the end")?;
        daemon.signal(Signal::SIGTERM)?;
        ensure_eq!(daemon.wait()?.code(), Some(143), "exit code");
        offline.expect_running("after the end")?;
        offline.goes_on()?;
        let audit = daemon.audit()?;
        anyhow::ensure!(
            matches!(audit.last(), Some(AuditRecord::Ended(ended)) if ended.released == 1),
            "{:?}",
            audit.last()
        );
        Ok(())
    })
}

/// Killed, or ended by itself, while held; the others stay held.
fn job_ends(kind: BackendKind) -> anyhow::Result<()> {
    scene::clean(|| {
        let (mut one, mut two) = (job("offline-1", 1)?, job("offline-2", 1)?);
        let mut daemon = Daemon::start(kind, &config(PRIORITY))?;
        let id = daemon.hint()?;
        one.load.signal(Signal::SIGKILL)?;
        one.load.wait_exit()?;
        let pid = one.pid();
        guest::eventually("the daemon to forget the job", || {
            Ok(daemon.job_of(pid).is_err().then_some(()))
        })?;
        two.expect_held("the other one")?;
        ensure_eq!(daemon.status()?.jobs_held, 1, "jobs held");
        daemon.end_hint(id)?;
        two.wait_running("after the hint")?;
        two.goes_on()?;
        daemon.stop()
    })
}

fn dry_run() -> anyhow::Result<()> {
    scene::clean(|| {
        let mut offline = job("offline", 2)?;
        let mut daemon =
            Daemon::start_with(BackendKind::DebugTrap, &config(PRIORITY), &["--dry-run"])?;
        daemon.hint()?;
        offline.expect_running("while a dry run would hold it")?;
        offline.goes_on()?;
        let audit = daemon.audit()?;
        let held = helds(&audit);
        ensure_eq!(held.len(), 1, "lines of holds");
        ensure_eq!(held[0].backend, Some(BackendKind::DryRun), "backend");
        anyhow::ensure!(daemon.status()?.dry_run, "not told");
        daemon.stop()
    })
}

/// Other rules count at once; a file that is no configuration changes nothing.
fn reload() -> anyhow::Result<()> {
    const KIND: BackendKind = BackendKind::Patched;
    scene::clean(|| {
        let mut offline = job("offline", 1)?;
        let mut daemon = Daemon::start(KIND, &config(PRIORITY))?;
        daemon.hint()?;
        offline.expect_held("at first")?;
        daemon.reconfigure(KIND, "[guards]\nmax_pose = \"1s\"\n")?;
        let failed = |record: &AuditRecord| matches!(record, AuditRecord::Reloaded(read) if read.error.is_some());
        guest::eventually("the daemon to refuse the file", || {
            Ok(daemon.audit()?.iter().any(failed).then_some(()))
        })?;
        offline.expect_held("with what cannot be read")?;
        daemon.reconfigure(KIND, PRIORITY)?;
        offline.wait_running("when no rule names it any more")?;
        daemon.reconfigure(KIND, &config(PRIORITY))?;
        guest::eventually("the rules to count again", || {
            Ok(offline.mapped()?.is_empty().then_some(()))
        })?;
        daemon.stop()?;
        offline.goes_on()
    })
}

/// Each policy on two offline jobs and a service: it holds as it says, and what it held goes on.
fn policies() -> anyhow::Result<()> {
    scene::clean(|| {
        let (mut one, mut two) = (job("offline-1", 1)?, job("offline-2", 1)?);
        let mut online = service("online")?;
        let policies = "[policy]\nname = \"manual\"\n[policy.timeslice]\nperiod = \"400ms\"\n\
                        [policy.share]\nturn = \"200ms\"\n[policy.slo]\ntarget = \"1ms\"\nmin_requests = 2\n";
        let mut daemon = Daemon::start(BackendKind::Patched, &config(policies))?;
        for (name, trigger) in [
            ("timeslice", Trigger::Slice),
            ("share", Trigger::Turn),
            ("priority", Trigger::Pending),
            ("slo", Trigger::Target),
        ] {
            let body = serde_json::json!({ "name": name });
            let _: serde_json::Value = daemon.client().put("/v1/policy", &body)?;
            let since = Instant::now();
            guest::eventually(&format!("policy {name} to hold somebody"), || {
                // Requests whose latency slo goes by.
                let id = (name == "slo").then(|| daemon.hint()).transpose()?;
                if let Some(id) = id {
                    std::thread::sleep(Duration::from_millis(20));
                    daemon.end_hint(id)?;
                }
                let audit = daemon.audit()?;
                let found = helds(&audit).iter().any(|held| held.trigger == trigger);
                Ok(found.then_some(()))
            })?;
            online.serves(2)?;
            println!("policy {name}: first hold after {:?}", since.elapsed());
        }
        let body = serde_json::json!({ "name": "manual" });
        let _: serde_json::Value = daemon.client().put("/v1/policy", &body)?;
        for job in [&mut one, &mut two] {
            job.wait_running("by policy manual")?;
            job.goes_on()?;
        }
        anyhow::ensure!(fs::exists(SOCKET)?, "no socket");
        daemon.stop()
    })
}

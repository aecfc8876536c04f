// SPDX-License-Identifier: MIT OR Apache-2.0
//! `gpreempt serve` in trouble: a GPU that hangs while it holds something or because it does, and its own death again and again.

use gpreempt::control::BackendKind;
use gpreempt::policy::{GuardName, Trigger};
use gpreempt::serve::AuditRecord;
use nix::sys::signal::Signal;

use super::serve::{job, service};
use super::List;
use crate::check::ensure_eq;
use crate::daemon::{Daemon, NO_GUARDS, RULES};
use crate::gpu::Job;
use crate::guest::{self, Parameter};
use crate::preemption::for_each_backend;
use crate::scene;

/// The guests of these groups give up on a GPU after half a second, or two. Not by CRIU: the unmodified driver itself complains when it
/// restores a process that was paused before a reset (`restore_process_queues_cpsch`, Linux 6.12).
pub(super) const TESTS: List = &[
    (
        &["patched-reset"],
        "a_reset_frees_what_the_daemon_holds_by_patched",
        || reset_while_held(BackendKind::Patched),
    ),
    (
        &["reset"],
        "a_reset_frees_what_the_daemon_holds_by_debug_trap",
        || reset_while_held(BackendKind::DebugTrap),
    ),
    (
        &["patched-reset"],
        "a_hang_ends_the_daemons_hold_by_patched",
        || hang_on_hold(BackendKind::Patched),
    ),
    (
        &["reset"],
        "a_hang_ends_the_daemons_hold_by_debug_trap",
        || hang_on_hold(BackendKind::DebugTrap),
    ),
];

pub(super) const EACH: List = for_each_backend! {
    "a_daemon_that_dies_again_and_again": dies_again_and_again,
};

fn config() -> String {
    format!("[policy]\nname = \"priority\"\n{NO_GUARDS}{RULES}")
}

fn wait_for_reset(before: u64) -> anyhow::Result<()> {
    guest::eventually("the reset", || {
        Ok((guest::stat(0, "resets")? > before).then_some(()))
    })
}

/// A process after a reset: those before it have lost their queues.
fn new_job() -> anyhow::Result<Job> {
    // open(2) fails while the GPU is reset.
    let mut new = guest::eventually("a new process", || Ok(job("offline-new", 2).ok()))?;
    new.goes_on()?;
    Ok(new)
}

/// It lives, says what happened, holds nothing, and holds nobody until it is told to.
fn is_out_of_action(daemon: &mut Daemon) -> anyhow::Result<()> {
    let pid = daemon.pid();
    guest::eventually("the daemon to tell of the hang", || {
        let audit = daemon.audit()?;
        Ok(audit
            .iter()
            .any(|record| matches!(record, AuditRecord::Hung(_)))
            .then_some(()))
    })?;
    let status = daemon.status()?;
    anyhow::ensure!(status.hung, "the status does not tell of the hang");
    ensure_eq!(status.pid.0, pid, "the daemon's process");
    ensure_eq!(status.jobs_held, 0, "jobs held");

    let mut new = new_job()?;
    let hint = daemon.hint()?;
    let denied = |record: &AuditRecord| matches!(record, AuditRecord::Denied(denied) if denied.guard == GuardName::Hang);
    guest::eventually("a hold to be denied", || {
        Ok(daemon.audit()?.iter().any(denied).then_some(()))
    })?;
    new.expect_running("before anybody said that the daemon may go on")?;
    ensure_eq!(daemon.status()?.jobs_held, 0, "jobs held after the hang");
    guest::run(std::process::Command::new("gpreempt").args([
        "ctl",
        "--socket",
        crate::daemon::SOCKET,
        "go-on",
    ]))?;
    guest::eventually("the new job to be held", || {
        Ok(new.mapped()?.is_empty().then_some(()))
    })?;
    daemon.end_hint(hint)?;
    new.wait_running("after the hint")?;
    new.goes_on()?;
    let audit = daemon.audit()?;
    anyhow::ensure!(
        audit
            .iter()
            .any(|record| matches!(record, AuditRecord::WentOn(_))),
        "no line says that it went on"
    );
    anyhow::ensure!(!daemon.status()?.hung, "it still says that it hangs");
    Ok(())
}

/// Somebody else's call makes the GPU hang while the daemon holds a job.
fn reset_while_held(kind: BackendKind) -> anyhow::Result<()> {
    scene::clean(|| {
        let (held, mut trigger) = (job("offline", 2)?, job("other", 1)?);
        let mut daemon = Daemon::start(kind, &config())?;
        let hint = daemon.hint()?;
        held.expect_held("before the reset")?;
        let resets = guest::stat(0, "resets")?;
        {
            let _hang = Parameter::set("sim_hang", "1")?;
            trigger.load.send("update 0 0")?;
            wait_for_reset(resets)?;
        }
        guest::eventually("nothing to be held", || {
            Ok((daemon.status()?.jobs_held == 0).then_some(()))
        })?;
        // The hold may have ended with the GPU before the daemon heard of that.
        let told = |record: &AuditRecord| match record {
            AuditRecord::Released(released) => released.pids.iter().any(|pid| pid.0 == held.pid()),
            record => matches!(record, AuditRecord::Lost(_)),
        };
        let audit = daemon.audit()?;
        anyhow::ensure!(audit.iter().any(told), "no end of the hold: {audit:?}");
        drop((held, trigger));
        daemon.end_hint(hint)?;
        is_out_of_action(&mut daemon)?;
        daemon.stop()
    })
}

/// The daemon's own call is the one that the GPU does not answer.
fn hang_on_hold(kind: BackendKind) -> anyhow::Result<()> {
    scene::clean(|| {
        let (first, second) = (job("offline-1", 1)?, job("offline-2", 1)?);
        let mut daemon = Daemon::start(kind, &config())?;
        let resets = guest::stat(0, "resets")?;
        let hint = {
            let _hang = Parameter::set("sim_hang", "1")?;
            let hint = daemon.hint()?;
            wait_for_reset(resets)?;
            hint
        };
        drop((first, second));
        daemon.end_hint(hint)?;
        is_out_of_action(&mut daemon)?;
        daemon.stop()
    })
}

/// Killed and started anew while jobs run, are held, and a service works: every time everybody runs again, and the next daemon
/// goes on with the policy.
fn dies_again_and_again(kind: BackendKind) -> anyhow::Result<()> {
    // Every life begins with attaching all probes: where nothing else differs, a few are enough.
    let deaths = if kind == BackendKind::Patched { 10 } else { 4 };
    scene::clean(|| {
        let (mut one, mut two) = (job("offline-1", 2)?, job("offline-2", 1)?);
        let mut online = service("online")?;
        for death in 0..deaths {
            let mut daemon = Daemon::start(kind, &config())?;
            // In every second life it dies where its policy happens to be; else while it holds both for certain.
            if death % 2 == 0 {
                daemon.hint()?;
                one.expect_held("before the daemon dies")?;
                two.expect_held("before the daemon dies")?;
            } else {
                guest::eventually("the policy to hold for packets", || {
                    let audit = daemon.audit()?;
                    let pending = |record: &AuditRecord| matches!(record, AuditRecord::Held(held) if held.trigger == Trigger::Pending);
                    Ok(audit.iter().any(pending).then_some(()))
                })?;
            }
            daemon.signal(Signal::SIGKILL)?;
            daemon.wait()?;
            for job in [&mut one, &mut two] {
                job.wait_running("after the daemon's death")?;
                job.goes_on()?;
            }
            online.serves(1)?;
        }
        let mut last = Daemon::start(kind, &config())?;
        let hint = last.hint()?;
        one.expect_held("by the last daemon")?;
        last.end_hint(hint)?;
        drop(online);
        for job in [&mut one, &mut two] {
            job.wait_running("by the last daemon")?;
            job.goes_on()?;
        }
        last.stop()
    })
}

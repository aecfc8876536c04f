// SPDX-License-Identifier: MIT OR Apache-2.0
//! Jobs that do not keep still while they are held: they end in every way, become other programs, create and destroy queues,
//! get signals.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use anyhow::Context;
use gpreempt::control::BackendKind;
use nix::sys::signal::Signal;

use super::List;
use crate::check::ensure_eq;
use crate::gpu::Job;
use crate::guest;
use crate::preemption::{for_each_backend, status_of, Preemption};
use crate::scene;

pub(super) const EACH: List = for_each_backend! {
    "a_held_job_exits": exits,
    "a_held_job_is_killed": killed,
    "a_held_job_dies_of_its_own_signal": aborts,
    "a_held_job_becomes_another_program": execs,
    "one_of_two_held_jobs_ends": one_of_two,
    "new_queues_of_a_held_job_are_held": creates,
    "a_held_job_destroys_queues": destroys,
    "a_held_job_changes_its_queues": updates,
    "a_held_job_is_stopped_and_continued": stopped,
    "a_held_job_is_told_to_end": told_to_end,
    "a_job_is_held_while_it_creates_queues": held_while_creating,
};

/// For what must not happen to have time to happen.
const A_WHILE: Duration = Duration::from_millis(300);

/// The hold ends with its last target, without failure, and says what became of it.
fn ends_with_its_job(preemption: Preemption, pid: u32) -> anyhow::Result<()> {
    let ended = preemption.finish()?.expect(0)?;
    let resumed = ended.one("resumed")?;
    ensure_eq!(resumed.text("cause")?, "lost", "cause");
    ensure_eq!(
        status_of(resumed, pid)?,
        "gone",
        "status of a job that ended"
    );
    Ok(())
}

fn exits(kind: BackendKind) -> anyhow::Result<()> {
    scene::clean(|| {
        let mut job = Job::busy(&["--profile", "model"])?;
        let preemption = Preemption::hold(kind, &[job.pid()])?;
        job.load.send("exit")?;
        let status = job.load.wait_exit()?;
        ensure_eq!(status.code(), Some(0), "exit code of the job");
        ends_with_its_job(preemption, job.pid())
    })
}

fn killed(kind: BackendKind) -> anyhow::Result<()> {
    scene::clean(|| {
        let mut job = Job::busy(&["--profile", "model"])?;
        let preemption = Preemption::hold(kind, &[job.pid()])?;
        job.load.signal(Signal::SIGKILL)?;
        job.load.wait_exit()?;
        ends_with_its_job(preemption, job.pid())
    })
}

/// Who holds it by tracing it must not change how it dies.
fn aborts(kind: BackendKind) -> anyhow::Result<()> {
    scene::clean(|| {
        let mut job = Job::offline(2)?;
        let preemption = Preemption::hold(kind, &[job.pid()])?;
        job.load.send("abort")?;
        let status = job.load.wait_exit()?;
        ensure_eq!(
            status.signal(),
            Some(Signal::SIGABRT as i32),
            "signal that ended the job ({status})"
        );
        ends_with_its_job(preemption, job.pid())
    })
}

/// The process stays, its queues go: there is nothing left to hold, and nothing to fail.
fn execs(kind: BackendKind) -> anyhow::Result<()> {
    scene::clean(|| {
        let mut other = Job::offline(1)?;
        let job = Job::offline(2)?;
        let pid = job.pid();
        let mut job = job;
        let preemption = Preemption::hold(kind, &[pid, other.pid()])?;
        job.load.send("exec")?;
        guest::eventually("the queues to go with the program", || {
            let path = format!("/sys/class/kfd/kfd/proc/{pid}");
            Ok((!fs::exists(path)?).then_some(()))
        })?;
        let comm = fs::read_to_string(format!("/proc/{pid}/comm")).context("comm")?;
        ensure_eq!(comm.trim(), "sleep", "the program that runs now");
        std::thread::sleep(A_WHILE);
        other.expect_held("beside a job that became another program")?;
        preemption.signal(Signal::SIGINT)?;
        preemption.finish()?.expect(128 + Signal::SIGINT as i32)?;
        other.expect_running("after the hold")?;
        other.goes_on()?;
        // Nobody traces it any more, and it still runs.
        let status = fs::read_to_string(format!("/proc/{pid}/status")).context("status")?;
        anyhow::ensure!(
            status.contains("TracerPid:\t0\n") && status.contains("State:\tS"),
            "not as it was: {status}"
        );
        job.load.signal(Signal::SIGKILL)?;
        job.load.wait_exit()?;
        Ok(())
    })
}

fn one_of_two(kind: BackendKind) -> anyhow::Result<()> {
    scene::clean(|| {
        let (mut first, mut second) = (Job::offline(2)?, Job::offline(2)?);
        let preemption = Preemption::hold(kind, &[first.pid(), second.pid()])?;
        first.load.signal(Signal::SIGKILL)?;
        first.load.wait_exit()?;
        std::thread::sleep(A_WHILE);
        second.expect_held("after the other ended")?;
        preemption.signal(Signal::SIGTERM)?;
        let ended = preemption.finish()?.expect(128 + Signal::SIGTERM as i32)?;
        let resumed = ended.one("resumed")?;
        ensure_eq!(
            status_of(resumed, first.pid())?,
            "gone",
            "the one that ended"
        );
        ensure_eq!(status_of(resumed, second.pid())?, "released", "the other");
        second.expect_running("after the hold")?;
        second.goes_on()
    })
}

/// Whatever it creates while it is held stands still, and runs with the rest afterwards.
fn creates(kind: BackendKind) -> anyhow::Result<()> {
    scene::clean(|| {
        let (mut job, mut online) = (Job::busy(&["--profile", "model"])?, Job::online()?);
        let preemption = Preemption::hold(kind, &[job.pid()])?;
        for engine in ["compute", "sdma", "compute"] {
            job.load.command(&format!("create {engine}"))?;
            // A debugger learns of new queues when they already run.
            guest::eventually("a new queue to be held", || {
                Ok(job.mapped()?.is_empty().then_some(()))
            })?;
        }
        let ids = job.ids()?;
        ensure_eq!(ids.len(), 6, "queues");
        job.stands_still(&ids, &mut online, 30)?;
        job.expect_held("with new queues")?;
        preemption.release()?;
        job.expect_running("after the hold")?;
        job.goes_on()
    })
}

/// As a debugger's, a suspended queue is not destroyed before it is resumed: the job waits. Else it does not.
fn destroys(kind: BackendKind) -> anyhow::Result<()> {
    scene::clean(|| {
        let mut job = Job::offline(4)?;
        let preemption = Preemption::hold(kind, &[job.pid()])?;
        if kind == BackendKind::DebugTrap {
            job.load.send("destroy 1")?;
            std::thread::sleep(A_WHILE);
            let queue = format!("/sys/class/kfd/kfd/proc/{}/queues/1", job.pid());
            anyhow::ensure!(
                fs::exists(&queue)?,
                "a suspended queue was destroyed; the driver's documentation of it is out of date"
            );
            preemption.release()?;
            guest::eventually("the queue to be destroyed", || {
                Ok((!fs::exists(&queue)?).then_some(()))
            })?;
            // Another way than Load::command(): that counts answers to what it sent itself.
            guest::eventually("the job to go on", || {
                let acks = job.load.lines();
                let ack = acks.iter().find(|line| line.kind == "ack");
                Ok(ack.filter(|ack| ack.data["ok"] == true).map(drop))
            })?;
            let ids = [0, 2, 3];
            guest::eventually("the other queues in the runlist", || {
                Ok((job.mapped()? == BTreeSet::from(ids)).then_some(()))
            })?;
            job.load.signal(Signal::SIGTERM)?;
            job.load.done()?;
            return Ok(());
        }
        for id in [1, 3] {
            job.load.command(&format!("destroy {id}"))?;
        }
        for _ in 0..10 {
            let ack = job.load.command("create compute")?;
            let id = ack.data["queue"]["queue_id"].as_u64().context("queue_id")?;
            job.load.command(&format!("destroy {id}"))?;
        }
        job.expect_held("after queues came and went")?;
        preemption.release()?;
        job.expect_mapped([0, 2], "after the hold")?;
        job.goes_on()
    })
}

/// It may change what it likes; nothing of it runs before it is let go.
fn updates(kind: BackendKind) -> anyhow::Result<()> {
    scene::clean(|| {
        let mut job = Job::offline(3)?;
        // The runlist alone cannot tell a queue that is off from one that was not let go.
        let events = ["--observe", "events"];
        let preemption = Preemption::hold_with(kind, &[job.pid()], &events)?;
        for command in [
            "update 0 0",
            "update 0 100",
            "update 1 100 15",
            "update 2 0",
        ] {
            job.load.command(command)?;
            job.expect_held(command)?;
        }
        preemption.release()?;
        job.expect_mapped([0, 1], "after the hold, with one at 0 %")?;
        job.load.command("update 2 100")?;
        job.expect_running("after all are at 100 %")?;
        job.goes_on()
    })
}

/// State letter of a process.
fn state(pid: u32) -> anyhow::Result<char> {
    let path = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&path).with_context(|| path.clone())?;
    let (_, rest) = text.rsplit_once(')').context("stat")?;
    rest.trim().chars().next().context("stat")
}

/// SIGSTOP stops it though it is traced, SIGCONT continues it, and a hold may begin and end while it is stopped.
fn stopped(kind: BackendKind) -> anyhow::Result<()> {
    let stands = |pid: u32| {
        guest::eventually("the job to stop", || {
            Ok(matches!(state(pid)?, 'T' | 't').then_some(()))
        })
    };
    let runs = |pid: u32| {
        guest::eventually("the job to continue", || {
            Ok((!matches!(state(pid)?, 'T' | 't')).then_some(()))
        })
    };
    scene::clean(|| {
        let mut job = Job::offline(2)?;
        let pid = job.pid();
        let preemption = Preemption::hold(kind, &[pid])?;
        job.load.signal(Signal::SIGSTOP)?;
        stands(pid)?;
        std::thread::sleep(A_WHILE);
        stands(pid).context("it went on by itself")?;
        job.load.signal(Signal::SIGCONT)?;
        runs(pid)?;
        job.load.command("report").context("after SIGCONT")?;
        job.expect_held("after SIGSTOP and SIGCONT")?;
        // Ends while it is stopped: it stays stopped, and its queues run.
        job.load.signal(Signal::SIGSTOP)?;
        stands(pid)?;
        preemption.release()?;
        job.expect_running("after a hold that ended while the job was stopped")?;
        std::thread::sleep(A_WHILE);
        ensure_eq!(state(pid)?, 'T', "state of the job");
        // Begins while it is stopped.
        let preemption = Preemption::hold(kind, &[pid])?;
        job.expect_held("while the job is stopped")?;
        stands(pid).context("a hold let it go on")?;
        preemption.release()?;
        std::thread::sleep(A_WHILE);
        ensure_eq!(state(pid)?, 'T', "state of the job after another hold");
        job.load.signal(Signal::SIGCONT)?;
        runs(pid)?;
        job.goes_on()
    })
}

/// SIGTERM reaches it. It destroys its queues, for which a debugger makes it wait, and ends in good order.
fn told_to_end(kind: BackendKind) -> anyhow::Result<()> {
    scene::clean(|| {
        let mut job = Job::offline(2)?;
        let preemption = Preemption::hold(kind, &[job.pid()])?;
        job.load.signal(Signal::SIGTERM)?;
        if kind == BackendKind::DebugTrap {
            std::thread::sleep(A_WHILE);
            preemption.signal(Signal::SIGINT)?;
            preemption.finish()?.expect(128 + Signal::SIGINT as i32)?;
            job.load.done()?;
            return Ok(());
        }
        job.load.done()?;
        ends_with_its_job(preemption, job.pid())
    })
}

/// Queues that come into being while the hold is being taken are either part of it or held as new ones.
fn held_while_creating(kind: BackendKind) -> anyhow::Result<()> {
    const QUEUES: usize = 12;
    scene::clean(|| {
        let mut job = Job::offline(1)?;
        let pid = job.pid().to_string();
        let args = ["--pid", &pid, "--for", "600", "--observe", "driver"];
        let preemption = Preemption::start(kind, &args)?;
        for _ in 0..QUEUES {
            job.load.command("create compute")?;
        }
        preemption.preempted()?;
        guest::eventually("every queue to be held", || {
            Ok(job.mapped()?.is_empty().then_some(()))
        })?;
        std::thread::sleep(A_WHILE);
        job.expect_held("after the race")?;
        preemption.release()?;
        ensure_eq!(job.ids()?.len(), QUEUES + 1, "queues");
        job.expect_running("after the hold")?;
        job.goes_on()
    })
}

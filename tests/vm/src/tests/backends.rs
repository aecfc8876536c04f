// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which backend is taken, and how holds compose: with eviction, with other backends, with other controllers; what `resume`
//! restarts.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Context;
use gpreempt::control::BackendKind;
use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;

use super::List;
use crate::check::ensure_eq;
use crate::cycler::Cycler;
use crate::gpu::{Job, Unmaps};
use crate::guest;
use crate::preemption::{
    self, for_each_backend, supervisors, target_of, Ended, Preemption, UNTIL_TOLD,
};
use crate::scene;

pub(super) const EACH: List = for_each_backend! {
    "eviction_while_held": evicted_while_held,
    "held_while_evicted": held_while_evicted,
    "memory_taken_away_while_held": disturbed,
    "a_second_controller_is_refused": second_controller,
    "controllers_of_different_jobs": two_controllers,
};

pub(super) const TESTS: List = &[
    (&["patched"], "auto_takes_patched", || {
        auto(BackendKind::Patched)
    }),
    (&["control"], "auto_takes_debug_trap", || {
        auto(BackendKind::DebugTrap)
    }),
    (
        &["control"],
        "auto_takes_criu_where_no_debugger_can_be",
        undebuggable,
    ),
    (
        &["patched"],
        "backends_compose_on_a_patched_driver",
        compose,
    ),
    (&["control"], "one_tracer_at_a_time", one_tracer),
    (
        &["control"],
        "a_job_under_a_debugger_does_not_keep_others_from_being_held",
        partly,
    ),
    (&["patched"], "resume_breaks_holds", resume_breaks),
    (
        &["patched"],
        "resume_breaks_only_what_it_names",
        resume_selector,
    ),
    (
        &["control"],
        "resume_leaves_living_controllers_alone",
        resume_traced,
    ),
    (&["control"], "strays_are_healed", strays),
    (
        &["control", "patched"],
        "without_strays_nothing_is_healed",
        no_strays,
    ),
    (&["multi"], "one_of_two_gpus_is_held", one_gpu),
];

/// The driver restores after 100 ms (`PROCESS_RESTORE_TIME_MS`); longer, with retries.
const RESTORED: Duration = Duration::from_millis(400);

const MODEL: [&str; 2] = ["--profile", "model"];

fn auto(expected: BackendKind) -> anyhow::Result<()> {
    scene::clean(|| {
        let mut job = Job::offline(2)?;
        let pid = job.pid().to_string();
        let args = ["--pid", &pid, "--for", "200ms"];
        let ended = preemption::run("preempt", &args)?.expect(0)?;
        let preempted = ended.one("preempted")?;
        ensure_eq!(preempted.text("backend")?, expected.name(), "backend");
        let reason = preempted.text("reason")?;
        let why_not = reason.contains("not patched:");
        ensure_eq!(
            why_not,
            expected != BackendKind::Patched,
            "it says why not patched: {reason}"
        );
        ensure_eq!(
            ended.one("resumed")?.text("reason")?,
            reason,
            "reason of both records"
        );
        job.goes_on()
    })
}

/// A job whose runtime does not let debuggers in is paused, and the reason says so.
fn undebuggable() -> anyhow::Result<()> {
    scene::clean(|| {
        let mut job = Job::busy(&["--queues", "2", "--undebuggable"])?;
        job.goes_on()?;
        let pid = job.pid().to_string();
        let args = ["--pid", &pid, "--for", "300ms"];
        let ended = preemption::preempt(BackendKind::DebugTrap, &args)?.expect(69)?;
        refused(&ended, job.pid(), "EPERM")?;
        let target = target_of(ended.one("preempted")?, job.pid())?;
        for (part, word) in [
            ("message", "AMDKFD_IOC_RUNTIME_ENABLE"),
            ("fix", "--backend criu"),
        ] {
            anyhow::ensure!(
                target.text(part)?.contains(word),
                "{part} does not say {word}: {}",
                target.data
            );
        }
        job.expect_running("after the refusal")?;
        let ended = preemption::run("preempt", &args)?.expect(0)?;
        let preempted = ended.one("preempted")?;
        ensure_eq!(preempted.text("backend")?, "criu", "backend");
        ensure_eq!(preempted.number("queues")?, 2, "queues");
        let reason = preempted.text("reason")?;
        anyhow::ensure!(reason.contains("not debug-trap:"), "reason: {reason}");
        job.goes_on()
    })
}

/// The memory manager stops a job that is held, and restores it: it stays held.
fn evicted_while_held(kind: BackendKind) -> anyhow::Result<()> {
    scene::clean(|| {
        let mut job = Job::busy(&MODEL)?;
        let preemption = Preemption::hold(kind, &[job.pid()])?;
        guest::evict(job.pid())?;
        std::thread::sleep(RESTORED);
        job.expect_held("after eviction and restore")?;
        preemption.release()?;
        job.wait_running("to run after the hold")?;
        job.goes_on()?;
        // Let go while it is evicted: the memory manager restores it.
        let preemption = Preemption::hold(kind, &[job.pid()])?;
        guest::evict(job.pid())?;
        preemption.signal(Signal::SIGINT)?;
        preemption.finish()?.expect(128 + Signal::SIGINT as i32)?;
        job.wait_running("to run after hold and eviction")?;
        job.goes_on()
    })
}

/// A job that does not run anyway is held nevertheless, and stays so when it is restored.
fn held_while_evicted(kind: BackendKind) -> anyhow::Result<()> {
    scene::clean(|| {
        let mut job = Job::busy(&MODEL)?;
        for round in 0..3 {
            guest::evict(job.pid())?;
            let preemption = Preemption::hold(kind, &[job.pid()])?;
            std::thread::sleep(RESTORED);
            job.expect_held(&format!("round {round}, after the restore"))?;
            preemption.release()?;
            job.wait_running("to run after the hold")?;
        }
        job.goes_on()
    })
}

/// Pages that queues use go while it is held. The driver evicts for that, and restores.
fn disturbed(kind: BackendKind) -> anyhow::Result<()> {
    scene::clean(|| {
        let mut job = Job::busy(&MODEL)?;
        let preemption = Preemption::hold(kind, &[job.pid()])?;
        for _ in 0..3 {
            job.load.command("disturb")?;
        }
        std::thread::sleep(RESTORED);
        job.expect_held("after pages were taken away")?;
        preemption.release()?;
        job.wait_running("to run after the hold")?;
        job.goes_on()
    })
}

/// What is refused, with call and advice, while everything stays as it was.
fn refused(ended: &Ended, pid: u32, errno: &str) -> anyhow::Result<()> {
    let target = target_of(ended.one("preempted")?, pid)?;
    ensure_eq!(target.text("status")?, "refused", "status");
    ensure_eq!(target.text("errno")?, errno, "errno");
    for part in ["call", "message", "fix"] {
        anyhow::ensure!(!target.text(part)?.is_empty(), "no {part}");
    }
    Ok(())
}

/// Refused, because this process traces it already.
fn refused_for_tracer(ended: &Ended, pid: u32, tracer: u32) -> anyhow::Result<()> {
    refused(ended, pid, "EPERM")?;
    let target = target_of(ended.one("preempted")?, pid)?;
    let message = target.text("message")?;
    anyhow::ensure!(
        message.contains(&format!("traced by process {tracer} (gpreempt)")),
        "the tracer is not named: {message}"
    );
    Ok(())
}

fn second_controller(kind: BackendKind) -> anyhow::Result<()> {
    scene::clean(|| {
        let mut job = Job::offline(2)?;
        let pid = job.pid().to_string();
        let first = Preemption::hold(kind, &[job.pid()])?;
        let unmaps = Unmaps::from_here(0)?;
        let second = preemption::preempt(kind, &["--pid", &pid, "--for", "200ms"])?;
        anyhow::ensure!(
            second.code != 0,
            "the second controller succeeded: {second:?}"
        );
        if kind == BackendKind::Patched {
            refused(&second, job.pid(), "EBUSY")?;
        } else {
            refused_for_tracer(&second, job.pid(), first.pid())?;
        }
        ensure_eq!(
            unmaps.count()?,
            0,
            "UNMAP_QUEUES packets for the second one"
        );
        job.expect_held("after the second controller")?;
        first.release()?;
        preemption::preempt(kind, &["--pid", &pid, "--for", "200ms"])?.expect(0)?;
        job.expect_running("after both")?;
        job.goes_on()
    })
}

fn two_controllers(kind: BackendKind) -> anyhow::Result<()> {
    scene::clean(|| {
        let mut jobs = [Job::offline(2)?, Job::offline(2)?];
        let first = Preemption::hold(kind, &[jobs[0].pid()])?;
        let second = Preemption::hold(kind, &[jobs[1].pid()])?;
        jobs.iter()
            .try_for_each(|job| job.expect_held("while both hold"))?;
        first.kill()?;
        jobs[0].wait_running("to run after its controller was killed")?;
        jobs[1].expect_held("after the other controller was killed")?;
        second.release()?;
        jobs.iter_mut().try_for_each(Job::goes_on)
    })
}

/// Holds of different backends on one job: it runs when nobody holds it any more, in whatever order they came and go.
fn compose() -> anyhow::Result<()> {
    use BackendKind::{Criu, DebugTrap, Patched};
    scene::clean(|| {
        let mut job = Job::busy(&MODEL)?;
        for other in [DebugTrap, Criu] {
            for (first, second) in [(Patched, other), (other, Patched)] {
                for first_goes_first in [true, false] {
                    let what = format!("{first}, then {second}");
                    let holds = (
                        Preemption::hold(first, &[job.pid()])?,
                        Preemption::hold(second, &[job.pid()])?,
                    );
                    job.expect_held(&format!("{what}: both"))?;
                    let (goes, stays) = if first_goes_first {
                        holds
                    } else {
                        (holds.1, holds.0)
                    };
                    // It says that the queues were not seen to run again, which is true.
                    goes.signal(Signal::SIGINT)?;
                    goes.finish()?.expect(128 + Signal::SIGINT as i32)?;
                    job.expect_held(&format!("{what}: one is left"))?;
                    stays.release()?;
                    job.wait_running(&format!("{what}: none is left"))?;
                }
            }
        }
        job.goes_on()
    })
}

/// Two backends that trace exclude each other, and the first one is not disturbed by the attempt.
fn one_tracer() -> anyhow::Result<()> {
    use BackendKind::{Criu, DebugTrap};
    scene::clean(|| {
        let mut job = Job::offline(2)?;
        let pid = job.pid().to_string();
        for (first, second) in [(DebugTrap, Criu), (Criu, DebugTrap)] {
            let holder = Preemption::hold(first, &[job.pid()])?;
            let ended = preemption::preempt(second, &["--pid", &pid, "--for", "200ms"])?;
            anyhow::ensure!(ended.code != 0, "{second} on top of {first} succeeded");
            refused_for_tracer(&ended, job.pid(), holder.pid())?;
            job.expect_held(&format!("{second} on top of {first}"))?;
            holder.release()?;
            job.expect_running(&format!("after {first}"))?;
        }
        job.goes_on()
    })
}

/// Partial success: what can be held is held, the rest is listed, the exit code is 1.
fn partly() -> anyhow::Result<()> {
    scene::clean(|| {
        let mut jobs = [Job::offline(2)?, Job::offline(2)?];
        let debugger = Preemption::hold(BackendKind::DebugTrap, &[jobs[0].pid()])?;
        let pids = [jobs[0].pid().to_string(), jobs[1].pid().to_string()];
        for kind in [BackendKind::DebugTrap, BackendKind::Criu] {
            let args = ["--pid", &pids[0], "--pid", &pids[1], "--for", "300ms"];
            let ended = preemption::preempt(kind, &args)?.expect(1)?;
            refused(&ended, jobs[0].pid(), "EPERM")?;
            let held = target_of(ended.one("preempted")?, jobs[1].pid())?;
            ensure_eq!(held.text("status")?, "held", "status of the other job");
            let resumed = ended.one("resumed")?;
            ensure_eq!(resumed.number("processes")?, 1, "processes that run again");
            jobs[1].expect_running("after the hold")?;
        }
        jobs[0].expect_held("by the debugger")?;
        debugger.release()?;
        jobs.iter_mut().try_for_each(Job::goes_on)
    })
}

/// `resume --all` is stronger than a controller that lives; that notices and ends.
fn resume_breaks() -> anyhow::Result<()> {
    scene::clean(|| {
        let mut job = Job::offline(3)?;
        let holder = Preemption::hold_with(BackendKind::Patched, &[job.pid()], &["--lease", "1s"])?;
        let ended = preemption::run("resume", &["--all"])?.expect(0)?;
        let resumed = ended.one("resumed")?;
        ensure_eq!(resumed.text("backend")?, "patched", "backend");
        ensure_eq!(resumed.number("queues")?, 3, "queues");
        let target = target_of(resumed, job.pid())?;
        ensure_eq!(target.text("status")?, "released", "status");
        let ended = holder.finish()?.expect(1)?;
        ensure_eq!(ended.one("resumed")?.text("cause")?, "lost", "cause");
        job.expect_running("after resume")?;
        job.goes_on()
    })
}

fn resume_selector() -> anyhow::Result<()> {
    scene::clean(|| {
        let mut jobs = [Job::offline(2)?, Job::offline(2)?];
        let pids = [jobs[0].pid(), jobs[1].pid()];
        // A library user that renews nothing, so that only what is broken is let go.
        let mut holder = Cycler::start(BackendKind::Patched, &pids)?;
        holder.hold()?;
        let pid = pids[0].to_string();
        let ended = preemption::run("resume", &["--pid", &pid])?.expect(0)?;
        ensure_eq!(ended.one("resumed")?.number("processes")?, 1, "processes");
        jobs[0].expect_running("after resume")?;
        jobs[1].expect_held("which nobody named")?;
        ensure_eq!(holder.release()?, 2, "queues that were still held");
        jobs[1].expect_running("after the release")?;
        holder.stop()?;
        jobs.iter_mut().try_for_each(Job::goes_on)
    })
}

/// What a living controller traces is not touched, and it says so.
fn resume_traced() -> anyhow::Result<()> {
    scene::clean(|| {
        let mut job = Job::offline(2)?;
        for kind in [BackendKind::DebugTrap, BackendKind::Criu] {
            let holder = Preemption::hold(kind, &[job.pid()])?;
            let ended = preemption::run("resume", &["--all"])?.expect(1)?;
            let target = target_of(ended.one("resumed")?, job.pid())?;
            ensure_eq!(target.text("status")?, "refused", "status");
            anyhow::ensure!(
                target.text("message")?.contains(&holder.pid().to_string()),
                "the tracer is not named: {}",
                target.data
            );
            job.expect_held("after resume")?;
            holder.release()?;
        }
        job.goes_on()
    })
}

/// Controller and supervisor are killed, the one so that it cannot do anything about the other. What they leave is found.
fn strays() -> anyhow::Result<()> {
    scene::clean(|| {
        let (mut job, mut healthy) = (Job::busy(&MODEL)?, Job::offline(1)?);
        for way in [&["--strays"][..], &["--all"]] {
            let preemption = Preemption::hold(BackendKind::Criu, &[job.pid()])?;
            preemption.signal(Signal::SIGSTOP)?;
            for supervisor in supervisors()? {
                kill(Pid::from_raw(supervisor.cast_signed()), Signal::SIGKILL)
                    .context("kill the supervisor")?;
            }
            preemption.kill()?;
            guest::eventually("the supervisor to be gone", || {
                Ok(supervisors()?.is_empty().then_some(()))
            })?;
            std::thread::sleep(RESTORED);
            job.expect_held("left by a controller without supervisor")?;
            let ended = preemption::run("resume", way)?.expect(0)?;
            let resumed = ended.one("resumed")?;
            let target = target_of(resumed, job.pid())?;
            ensure_eq!(target.text("status")?, "released", "status");
            anyhow::ensure!(
                resumed.text("reason")?.contains("paused"),
                "it does not say what was found: {}",
                resumed.data
            );
            job.expect_running("after it was healed")?;
            job.goes_on()?;
        }
        healthy.goes_on()
    })
}

/// Nor is a process that only looked whether there is a device.
fn no_strays() -> anyhow::Result<()> {
    scene::clean(|| {
        let mut job = Job::offline(2)?;
        let mut other = Command::new("sh");
        other.args(["-c", "exec 3<> /dev/kfd; exec 3>&-; read line"]);
        let mut other = workload::stop::die_with_parent(&mut other)
            .stdin(Stdio::piped())
            .spawn()
            .context("open /dev/kfd")?;
        let other_pid = other.id();
        guest::eventually("a process without open device", || {
            let known = fs::exists(format!("/sys/class/kfd/kfd/proc/{other_pid}"))?;
            let open = fs::exists(format!("/proc/{other_pid}/fd/3"))?;
            Ok((known && !open).then_some(()))
        })?;
        job.goes_on()?;
        let unmaps = Unmaps::from_here(0)?;
        for way in [&["--strays"][..], &["--all"]] {
            let ended = preemption::run("resume", way)?
                .expect(0)?
                .says(&["nothing was stopped"])?;
            for record in &ended.records {
                ensure_eq!(record.number("processes")?, 0, "processes");
            }
        }
        other.kill().context("end the other process")?;
        other.wait().context("end the other process")?;
        // The end of each program that had the device open updates the runlist (process_termination_cpsch, Linux 6.12).
        let packets = unmaps.count()?;
        anyhow::ensure!(packets <= 3, "{packets} UNMAP_QUEUES packets");
        job.goes_on()
    })
}

/// `--gpu` leaves the other GPU alone where the backend can do that.
fn one_gpu() -> anyhow::Result<()> {
    scene::clean(|| {
        let args = ["--profile", "simple", "--queues", "2", "--gpus", "2"];
        let load = crate::load::Load::start_on(2, &crate::gpu::busy(&args))?;
        let mut job = Job::new(load)?;
        let gpus: Vec<u64> = job
            .load
            .created()
            .iter()
            .map(|line| line.number("gpu_id"))
            .collect::<anyhow::Result<_>>()?;
        let of = |gpu: u64| -> anyhow::Result<Vec<u64>> {
            let places = job.places()?.into_iter();
            Ok(places
                .filter(|(_, (id, _))| *id == gpu)
                .map(|(id, _)| id)
                .collect())
        };
        let (first, second) = (of(gpus[0])?, of(gpus[1])?);
        ensure_eq!((first.len(), second.len()), (2, 2), "queues of the GPUs");
        let name = format!("{:x}", gpus[0]);
        let only = ["--gpu", name.as_str()];
        let preemption = Preemption::hold_with(BackendKind::DebugTrap, &[job.pid()], &only)?;
        ensure_eq!(preemption.preempted()?.number("queues")?, 2, "queues");
        job.expect_mapped(second, "with the first GPU's held")?;
        preemption.release()?;
        let preemption = Preemption::hold(BackendKind::Criu, &[job.pid()])?;
        job.expect_held("on both GPUs")?;
        preemption.release()?;
        job.expect_running("after both holds")?;
        let pid = job.pid().to_string();
        let args = [&["--pid", &pid], &UNTIL_TOLD[..], &only].concat();
        preemption::preempt(BackendKind::Criu, &args)?.expect(69)?;
        job.expect_running("after a refusal")?;
        job.goes_on()
    })
}

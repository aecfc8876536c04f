// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is stopped runs again whatever happens to who stopped it: killed at any moment, hanging, told to end, without its
//! supervisor.

use std::time::{Duration, Instant};

use anyhow::Context;
use gpreempt::control::BackendKind;
use nix::sys::signal::{kill, killpg, Signal};
use nix::unistd::Pid;
use workload::pace::Random;

use super::List;
use crate::check::ensure_eq;
use crate::cycler::Cycler;
use crate::gpu::Job;
use crate::guest;
use crate::preemption::{self, for_each_backend, supervisors, Preemption};
use crate::scene;

pub(super) const EACH: List = for_each_backend! {
    "fifty_kills_at_random": fifty_kills,
    "a_controller_that_is_killed_while_it_holds": killed_holding,
    "a_controller_that_hangs": hangs,
    "a_controller_that_hangs_and_wakes_up": wakes_up,
    "a_controller_that_is_told_to_end": told_to_end,
    "a_controller_whose_reader_goes_away": broken_pipe,
    "a_library_user_that_is_killed": library_user,
};

pub(super) const TESTS: List = &[
    (
        &["control"],
        "a_supervisor_that_is_killed_by_debug_trap",
        || supervisor_killed(BackendKind::DebugTrap),
    ),
    (&["control"], "a_supervisor_that_is_killed_by_criu", || {
        supervisor_killed(BackendKind::Criu)
    }),
    (
        &["control"],
        "a_process_group_that_is_killed_by_debug_trap",
        || group_killed(BackendKind::DebugTrap),
    ),
    (
        &["control"],
        "a_process_group_that_is_killed_by_criu",
        || group_killed(BackendKind::Criu),
    ),
    (
        &["patched"],
        "the_patched_driver_needs_no_supervisor",
        no_supervisor,
    ),
    (&["patched-reset"], "a_hang_is_told_by_patched", || {
        hang(BackendKind::Patched)
    }),
    (&["reset"], "a_hang_is_told_by_debug_trap", || {
        hang(BackendKind::DebugTrap)
    }),
    (&["reset"], "a_hang_is_told_by_criu", || {
        hang(BackendKind::Criu)
    }),
];

const MODEL: [&str; 2] = ["--profile", "model"];

/// How soon queues run again after the death of the controller. Milliseconds on a real machine.
const SOON: Duration = Duration::from_secs(10);

/// Waits until every queue of it is in the runlist, and fails if that takes longer than `within`.
fn runs_again(job: &Job, within: Duration, when: &str) -> anyhow::Result<Duration> {
    let started = Instant::now();
    job.wait_running(when)?;
    let took = started.elapsed();
    anyhow::ensure!(
        took <= within,
        "{when}: it took {took:?}, longer than {within:?}"
    );
    Ok(took)
}

/// Kills it at moments spread over its whole life, every other time over what it does after it stopped the job: holding and
/// restarting.
fn fifty_kills(kind: BackendKind) -> anyhow::Result<()> {
    const KILLS: u64 = 50;
    const SEED: u64 = 50;
    const HOLD: Duration = Duration::from_millis(200);
    scene::clean(|| {
        let mut job = Job::busy(&MODEL)?;
        job.goes_on()?;
        let pid = job.pid().to_string();
        // Without probes, which only would make starting longer.
        let args = ["--pid", &pid, "--for", "200ms", "--observe", "driver"];
        let started = Instant::now();
        preemption::preempt(kind, &args)?.expect(0)?;
        let life = started.elapsed();
        let mut random = Random::new(SEED);
        let mut below =
            |time: Duration| Duration::from_micros(random.below(time.as_micros() as u64));
        let (mut stopped, mut longest) = (0, Duration::ZERO);
        for round in 0..KILLS {
            let preemption = Preemption::start(kind, &args)?;
            if round % 2 == 0 {
                std::thread::sleep(below(life));
            } else {
                preemption.preempted()?;
                std::thread::sleep(below(HOLD + HOLD / 4));
            }
            let is_stopped = job.mapped()?.is_empty();
            preemption.kill()?;
            stopped += u64::from(is_stopped);
            let took = runs_again(&job, SOON, &format!("after kill {round}"))?;
            longest = longest.max(took);
            // A queue in the runlist that does not run would be seen here.
            if round % 5 == 4 {
                job.goes_on()?;
            }
        }
        // Else the moments were not spread, and nothing was tested.
        anyhow::ensure!(
            (KILLS / 10..=KILLS - 3).contains(&stopped),
            "{stopped} of {KILLS} kills came while queues were stopped"
        );
        eprintln!(
            "{kind}: {stopped} of {KILLS} kills while stopped; ran again after {longest:?} at most"
        );
        guest::eventually("supervisors to end", || {
            Ok(supervisors()?.is_empty().then_some(()))
        })
    })
}

fn killed_holding(kind: BackendKind) -> anyhow::Result<()> {
    scene::clean(|| {
        let mut jobs = [Job::busy(&MODEL)?, Job::offline(2)?];
        let pids = [jobs[0].pid(), jobs[1].pid()];
        // With its probes attached.
        let preemption = Preemption::hold_with(kind, &pids, &["--observe", "events"])?;
        let ended = preemption.kill()?;
        anyhow::ensure!(
            !ended.records.iter().any(|record| record.kind == "resumed"),
            "it ended by itself"
        );
        for job in &mut jobs {
            runs_again(job, SOON, "after the kill")?;
            job.goes_on()?;
        }
        // It left nothing that is in the way of the next one.
        let preemption = Preemption::hold(kind, &pids)?;
        jobs.iter()
            .try_for_each(|job| job.expect_held("held again"))?;
        preemption.release()?;
        jobs.iter_mut().try_for_each(Job::goes_on)
    })
}

/// SIGSTOP: it lives and does nothing. Queues run again when the lease is over, though it still is there.
fn hangs(kind: BackendKind) -> anyhow::Result<()> {
    const LEASE: Duration = Duration::from_secs(2);
    scene::clean(|| {
        let mut job = Job::busy(&MODEL)?;
        let preemption = Preemption::hold_with(kind, &[job.pid()], &["--lease", "2s"])?;
        ensure_eq!(
            preemption.preempted()?.number("lease_ms")?,
            2000,
            "lease_ms"
        );
        // The lease is renewed as long as it lives.
        std::thread::sleep(LEASE + LEASE / 2);
        job.expect_held("longer than a lease, by a controller that lives")?;
        preemption.signal(Signal::SIGSTOP)?;
        runs_again(
            &job,
            LEASE + SOON,
            "after the lease of a hanging controller",
        )?;
        job.goes_on()?;
        preemption.kill()?;
        job.expect_running("after its end")?;
        job.goes_on()
    })
}

/// One that went on after its lease was over notices, says so, and stops nothing.
fn wakes_up(kind: BackendKind) -> anyhow::Result<()> {
    scene::clean(|| {
        let mut job = Job::offline(2)?;
        let preemption = Preemption::hold_with(kind, &[job.pid()], &["--lease", "1s"])?;
        preemption.signal(Signal::SIGSTOP)?;
        runs_again(&job, SOON, "after the lease of a hanging controller")?;
        preemption.signal(Signal::SIGCONT)?;
        let ended = preemption.finish()?;
        // A supervisor kills who hangs; a patched driver only takes the hold away.
        let code = match kind {
            BackendKind::Patched => 1,
            _ => 128 + Signal::SIGKILL as i32,
        };
        let ended = ended.expect(code)?;
        if kind == BackendKind::Patched {
            ensure_eq!(ended.one("resumed")?.text("cause")?, "lost", "cause");
            ended.says(&["lost"])?;
        }
        job.expect_running("after its end")?;
        job.goes_on()
    })
}

fn told_to_end(kind: BackendKind) -> anyhow::Result<()> {
    scene::clean(|| {
        let mut job = Job::offline(2)?;
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            let preemption = Preemption::hold(kind, &[job.pid()])?;
            preemption.signal(signal)?;
            let ended = preemption.finish()?.expect(128 + signal as i32)?;
            let resumed = ended.one("resumed")?;
            ensure_eq!(resumed.text("cause")?, "signal", "cause after {signal}");
            // It ends after the release, not before.
            job.expect_running(&format!("after {signal}"))?;
        }
        job.goes_on()
    })
}

/// Nobody reads the records any more. That is no reason to leave anything stopped.
fn broken_pipe(kind: BackendKind) -> anyhow::Result<()> {
    scene::clean(|| {
        let mut job = Job::offline(2)?;
        let script = format!(
            "gpreempt preempt --backend {kind} --observe runlist --pid {} --for 300ms --format json | true",
            job.pid()
        );
        guest::run(std::process::Command::new("sh").args(["-c", &script]))?;
        // The shell waits for all of a pipeline.
        runs_again(&job, SOON, "after a reader that went away")?;
        job.goes_on()
    })
}

/// A program that uses the library without a supervisor: the kernel alone resumes what a patched driver or the debugger
/// interface stopped. What CRIU's interface paused stays so, which is why `preempt` never does it without a supervisor.
fn library_user(kind: BackendKind) -> anyhow::Result<()> {
    scene::clean(|| {
        let mut job = Job::busy(&MODEL)?;
        let mut cycler = Cycler::start(kind, &[job.pid()])?;
        cycler.hold()?;
        job.expect_held("by the library")?;
        cycler.kill()?;
        if kind == BackendKind::Criu {
            job.expect_held("after the death of who paused it")?;
            let pid = job.pid().to_string();
            let ended = preemption::run("resume", &["--pid", &pid])?.expect(0)?;
            ensure_eq!(ended.one("resumed")?.number("processes")?, 1, "processes");
        }
        runs_again(&job, SOON, "after the death of a library user")?;
        job.goes_on()
    })
}

/// Without its supervisor a controller lets go, because nobody would heal what it leaves.
fn supervisor_killed(kind: BackendKind) -> anyhow::Result<()> {
    scene::clean(|| {
        let mut job = Job::offline(2)?;
        let preemption = Preemption::hold_with(kind, &[job.pid()], &["--lease", "2s"])?;
        let supervisors = supervisors()?;
        ensure_eq!(supervisors.len(), 1, "supervisors");
        let supervisor = Pid::from_raw(supervisors[0].cast_signed());
        kill(supervisor, Signal::SIGKILL).context("kill the supervisor")?;
        let ended = preemption.finish()?.expect(1)?.says(&["supervisor"])?;
        ensure_eq!(ended.one("resumed")?.text("cause")?, "lost", "cause");
        runs_again(&job, SOON, "without a supervisor")?;
        job.goes_on()
    })
}

/// Killing a job of a shell or a service kills a process group. The supervisor is not in it.
fn group_killed(kind: BackendKind) -> anyhow::Result<()> {
    scene::clean(|| {
        let mut job = Job::busy(&MODEL)?;
        let pid = job.pid().to_string();
        let args = ["--pid", &pid, "--for", "600", "--observe", "runlist"];
        let preemption = Preemption::in_own_group(kind, &args)?;
        preemption.preempted()?;
        job.expect_held("before the group is killed")?;
        for signal in [Signal::SIGHUP, Signal::SIGKILL] {
            let group = Pid::from_raw(preemption.pid().cast_signed());
            match killpg(group, signal) {
                // The first one may have ended it already.
                Ok(()) | Err(nix::errno::Errno::ESRCH) => {}
                Err(errno) => return Err(errno).context("kill the group"),
            }
        }
        preemption.finish()?;
        runs_again(&job, SOON, "after its group was killed")?;
        guest::eventually("the supervisor to end", || {
            Ok(supervisors()?.is_empty().then_some(()))
        })?;
        job.goes_on()
    })
}

/// A GPU that does not answer loses all its processes. That is said loudly, nothing more is stopped, and new jobs can be
/// held after the reset. The guest sets `queue_preemption_timeout_ms=2000`.
fn hang(kind: BackendKind) -> anyhow::Result<()> {
    scene::clean(|| {
        let mut jobs = [Job::offline(2)?, Job::offline(1)?];
        let resets = guest::stat(0, "resets")?;
        let pid = jobs[0].pid().to_string();
        {
            let _hang = guest::Parameter::set("sim_hang", "1")?;
            let ended = preemption::preempt(kind, &["--pid", &pid, "--for", "600"])?;
            ended
                .expect(1)?
                .says(&["DID NOT ANSWER", "every GPU process of this host is lost"])?;
        }
        guest::eventually("the reset", || {
            Ok((guest::stat(0, "resets")? > resets).then_some(()))
        })?;
        for job in &mut jobs {
            job.load.signal(Signal::SIGKILL)?;
            job.load.wait_exit()?;
        }
        guest::wait_for_no_process()?;
        let mut job = guest::eventually("a new job", || {
            // open(2) fails while the GPU is reset.
            Ok(Job::offline(2).ok())
        })?;
        let preemption = Preemption::hold(kind, &[job.pid()])?;
        job.expect_held("after the reset")?;
        preemption.release()?;
        job.goes_on()
    })
}

fn no_supervisor() -> anyhow::Result<()> {
    scene::clean(|| {
        let job = Job::offline(1)?;
        let preemption = Preemption::hold(BackendKind::Patched, &[job.pid()])?;
        ensure_eq!(supervisors()?.len(), 0, "supervisors");
        preemption.release()?;
        Ok(())
    })
}

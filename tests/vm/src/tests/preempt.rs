// SPDX-License-Identifier: MIT OR Apache-2.0
//! `gpreempt preempt` by every backend: queues stop, are seen to have stopped, go on; whom the selectors mean; a command
//! that runs meanwhile.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::Context;
use gpreempt::control::BackendKind;
use nix::sys::signal::Signal;

use super::List;
use crate::check::ensure_eq;
use crate::cycler::Cycler;
use crate::gpu::{self, Job, Unmaps};
use crate::guest;
use crate::load::Load;
use crate::preemption::{self, for_each_backend, target_of, Preemption, UNTIL_TOLD};
use crate::record::Record;
use crate::scene;

pub(super) const EACH: List = for_each_backend! {
    "a_job_is_held_and_goes_on": held,
    "a_hold_for_a_time": for_a_time,
    "two_jobs_are_held_at_once": two_jobs,
    "online_requests_are_faster_meanwhile": latency,
    "selectors_mean_whom_they_say": selectors,
    "copy_queues_can_be_left_alone": no_sdma,
    "a_command_runs_meanwhile": command,
    "signals_reach_the_command": command_signals,
    "a_thousand_preemptions": thousand,
};

/// Two compute queues and a copy queue, always busy.
const MODEL: [&str; 2] = ["--profile", "model"];

/// What every record of a hold must have, whoever reads it.
fn check_preempted(
    record: &Record,
    kind: BackendKind,
    preemption: &Preemption,
) -> anyhow::Result<()> {
    ensure_eq!(record.text("backend")?, kind.name(), "backend");
    ensure_eq!(record.text("reason")?, "asked for", "reason");
    ensure_eq!(
        record.number("owner_pid")?,
        u64::from(preemption.pid()),
        "owner_pid"
    );
    // The guest's root may attach probes.
    ensure_eq!(record.text("observed")?, "events", "observed");
    times(record)?;
    anyhow::ensure!(record.number("hw_ns")? > 0, "hw_ns is 0: {}", record.data);
    anyhow::ensure!(record.number("lease_ms")? > 0, "no lease: {}", record.data);
    Ok(())
}

/// The parts of a time do not exceed the whole.
fn times(record: &Record) -> anyhow::Result<()> {
    let total_ns = record.number("total_ns")?;
    anyhow::ensure!(total_ns > 0, "total_ns is 0: {}", record.data);
    for part in ["lock_wait_ns", "hw_ns"] {
        let part_ns = record.number(part)?;
        anyhow::ensure!(
            part_ns <= total_ns,
            "{part} {part_ns} exceeds total_ns {total_ns}"
        );
    }
    Ok(())
}

/// The records agree with runlist, slots and read indices, before, meanwhile and after.
fn held(kind: BackendKind) -> anyhow::Result<()> {
    scene::clean(|| {
        let (mut job, mut online) = (Job::busy(&MODEL)?, Job::online()?);
        job.goes_on()?;
        let started = Instant::now();
        let preemption = Preemption::hold_with(kind, &[job.pid()], &["--observe", "auto"])?;
        let preempted = preemption.preempted()?;
        let seen = Instant::now();
        check_preempted(&preempted, kind, &preemption)?;
        ensure_eq!(preempted.number("processes")?, 1, "processes");
        ensure_eq!(preempted.number("queues")?, 3, "queues");
        let target = target_of(&preempted, job.pid())?;
        ensure_eq!(target.text("comm")?, "kfd-load", "comm");
        ensure_eq!(
            (target.number("queues")?, target.number("changed")?),
            (3, 3),
            "queues, changed"
        );
        for absent in ["gpu_id", "queue_id", "call", "errno", "message", "fix"] {
            anyhow::ensure!(
                target.data[absent].is_null(),
                "{absent} of a process that is held: {}",
                target.data
            );
        }
        job.expect_held("while it is held")?;
        leaves_the_slots(&job)?;
        job.stands_still(&job.ids()?, &mut online, 30)?;
        anyhow::ensure!(!preemption.has_resumed(), "it ended by itself");
        let least = seen.elapsed();
        let ended = preemption.release()?;
        let resumed = ended.one("resumed")?;
        ensure_eq!(resumed.text("backend")?, kind.name(), "backend");
        ensure_eq!(resumed.number("queues")?, 3, "queues that run again");
        ensure_eq!(
            resumed.number("owner_pid")?,
            preempted.number("owner_pid")?,
            "owner_pid"
        );
        let target = target_of(resumed, job.pid())?;
        ensure_eq!(target.number("changed")?, 3, "changed queues");
        times(resumed)?;
        // From the kernel's answer to the call that releases.
        let held_ns = u128::from(resumed.number("held_ns")?);
        anyhow::ensure!(
            (least.as_nanos()..=started.elapsed().as_nanos()).contains(&held_ns),
            "held for {held_ns} ns: at least {least:?} were seen"
        );
        job.expect_running("after the hold")?;
        job.goes_on()
    })
}

/// Waits until the simulated scheduler has none of its queues in a slot.
fn leaves_the_slots(job: &Job) -> anyhow::Result<()> {
    let places: BTreeSet<gpu::Place> = job
        .places()?
        .into_values()
        .map(|(_, place)| place)
        .collect();
    guest::eventually("the slots to be left", || {
        Ok(gpu::slots(0)?.is_disjoint(&places).then_some(()))
    })
}

/// It ends by itself, not too soon.
fn for_a_time(kind: BackendKind) -> anyhow::Result<()> {
    scene::clean(|| {
        let mut job = Job::offline(2)?;
        let name = ["--comm", "kfd-lo*", "--for", "500ms", "--observe", "events"];
        let ended = preemption::preempt(kind, &name)?.expect(0)?;
        let preempted = ended.one("preempted")?;
        target_of(preempted, job.pid())?;
        let resumed = ended.one("resumed")?;
        ensure_eq!(resumed.text("cause")?, "duration", "cause");
        let held_ns = resumed.number("held_ns")?;
        anyhow::ensure!(held_ns >= 500_000_000, "held for only {held_ns} ns");
        job.expect_running("after the hold")?;
        job.goes_on()
    })
}

fn two_jobs(kind: BackendKind) -> anyhow::Result<()> {
    scene::clean(|| {
        let mut jobs = [Job::offline(3)?, Job::offline(2)?];
        let mut online = Job::online()?;
        let pids = [jobs[0].pid(), jobs[1].pid()];
        let preemption = Preemption::hold(kind, &pids)?;
        let preempted = preemption.preempted()?;
        ensure_eq!(
            (preempted.number("processes")?, preempted.number("queues")?),
            (2, 5),
            "processes, queues"
        );
        for job in &mut jobs {
            job.expect_held("while both are held")?;
            job.stands_still(&job.ids()?, &mut online, 10)?;
        }
        online.expect_running("the online job")?;
        preemption.release()?;
        for job in &mut jobs {
            job.expect_running("after the hold")?;
            job.goes_on()?;
        }
        Ok(())
    })
}

/// The online process shares the GPU with eight busy queues, then has it alone, then shares it again.
fn latency(kind: BackendKind) -> anyhow::Result<()> {
    scene::clean(|| {
        let mut job = Job::offline(8)?;
        let mut online = Job::new(Load::start(&[
            "--profile",
            "inference",
            "--queues",
            "1",
            "--rate",
            "20",
            "--dispatch-us",
            "500",
            "--report-ms",
            "3600000",
        ])?)?;
        job.goes_on()?;
        let before_us = online.latency_us(30)?;
        let preemption = Preemption::hold(kind, &[job.pid()])?;
        let alone_us = online.latency_us(30)?;
        preemption.release()?;
        let after_us = online.latency_us(30)?;
        // Nine share the GPU, so that nine times is to be expected; that leaves room for a slow host.
        let shared_us = before_us.min(after_us);
        anyhow::ensure!(
            alone_us < shared_us / 1.5,
            "median latency {alone_us} us while the other is held, {before_us} us before and {after_us} us after"
        );
        job.goes_on()
    })
}

/// A cgroup that goes with the value.
struct Cgroup {
    path: String,
}

impl Cgroup {
    fn new(name: &str) -> anyhow::Result<Self> {
        let path = format!("/sys/fs/cgroup/{name}");
        fs::create_dir_all(&path).with_context(|| path.clone())?;
        Ok(Self { path })
    }

    fn take(&self, pid: u32) -> anyhow::Result<()> {
        let path = format!("{}/cgroup.procs", self.path);
        fs::write(&path, pid.to_string()).with_context(|| path.clone())
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Busy for a moment after its last process ended; the test does not depend on it.
        let _ = fs::remove_dir(&self.path);
    }
}

/// Each selector, alone and together, holds whom it names and nobody else.
fn selectors(kind: BackendKind) -> anyhow::Result<()> {
    scene::clean(|| {
        let cgroup = Cgroup::new("batch.slice/train")?;
        let named = |name: &str| {
            let hex: String = name.bytes().map(|byte| format!("{byte:02x}")).collect();
            Job::busy(&["--queues", "2", "--name-hex", &hex])
        };
        let jobs = [named("train-a")?, named("train-b")?, named("serve")?];
        cgroup.take(jobs[1].pid())?;
        let pids: Vec<String> = jobs.iter().map(|job| job.pid().to_string()).collect();
        let queue = format!("{}:{:x}:1", pids[2], jobs[2].load.gpu_id()?);
        // CRIU stops processes, not queues: what it is asked for it must not silently exceed.
        let cases: [(&[&str], [&[u64]; 3]); 7] = [
            (&["--comm", "train-*"], [&[], &[], &[0, 1]]),
            (&["--comm", "train-a"], [&[], &[0, 1], &[0, 1]]),
            (&["--pid", &pids[1]], [&[0, 1], &[], &[0, 1]]),
            (&["--cgroup", "/batch.slice"], [&[0, 1], &[], &[0, 1]]),
            (&["--cgroup", "*/train"], [&[0, 1], &[], &[0, 1]]),
            (&["--comm", "serve", "--pid", &pids[0]], [&[], &[0, 1], &[]]),
            (
                &["--queue", &queue, "--pid", &pids[0]],
                [&[], &[0, 1], &[0]],
            ),
        ];
        for (selector, mapped) in cases {
            let single = selector.contains(&"--queue");
            if single && kind == BackendKind::Criu {
                continue;
            }
            let preemption = Preemption::start(kind, &[selector, &UNTIL_TOLD].concat())?;
            preemption.preempted()?;
            for (job, ids) in jobs.iter().zip(mapped) {
                job.expect_mapped(ids.iter().copied(), &format!("{selector:?}"))?;
            }
            preemption.release()?;
            for job in &jobs {
                job.expect_running(&format!("after {selector:?}"))?;
            }
        }
        if kind == BackendKind::Criu {
            whole_processes_only(&["--queue", &queue], &jobs[2])?;
        }
        Ok(())
    })
}

/// CRIU refuses to stop a part of a process, and says what can be done.
fn whole_processes_only(args: &[&str], job: &Job) -> anyhow::Result<()> {
    let args = [args, &["--for", "500ms"]].concat();
    let ended = preemption::preempt(BackendKind::Criu, &args)?.expect(69)?;
    let target = target_of(ended.one("preempted")?, job.pid())?;
    ensure_eq!(target.text("status")?, "refused", "status");
    anyhow::ensure!(
        target.text("fix")?.contains("--backend"),
        "no way out is named: {}",
        target.data
    );
    job.expect_running("after the refusal")
}

fn no_sdma(kind: BackendKind) -> anyhow::Result<()> {
    scene::clean(|| {
        let mut job = Job::busy(&MODEL)?;
        job.goes_on()?;
        if kind == BackendKind::Criu {
            let pid = job.pid().to_string();
            return whole_processes_only(&["--pid", &pid, "--no-sdma"], &job);
        }
        let preemption = Preemption::hold_with(kind, &[job.pid()], &["--no-sdma"])?;
        ensure_eq!(
            preemption.preempted()?.number("queues")?,
            2,
            "queues: the compute queues"
        );
        job.expect_mapped([2], "without copy queues")?;
        preemption.release()?;
        job.goes_on()
    })
}

/// Held while it runs; its exit code is passed on, and so is death by a signal.
fn command(kind: BackendKind) -> anyhow::Result<()> {
    const GO: &str = "/tmp/go";
    const SCRIPT: &str = "while [ ! -e /tmp/go ]; do sleep 0.02; done; exit 7";
    scene::clean(|| {
        let mut job = Job::offline(2)?;
        let pid = job.pid().to_string();
        let run = |words: &[&str]| {
            let args = ["--pid", &pid, "--"];
            Preemption::start(kind, &[&args, words].concat())
        };
        let _ = fs::remove_file(GO);
        let preemption = run(&["sh", "-c", SCRIPT])?;
        preemption.preempted()?;
        job.expect_held("while the command runs")?;
        anyhow::ensure!(!preemption.has_resumed(), "it did not wait for the command");
        fs::write(GO, "").context("let the command end")?;
        let ended = preemption.finish()?.expect(7)?;
        ensure_eq!(ended.one("resumed")?.text("cause")?, "command", "cause");
        job.expect_running("after the command")?;
        run(&["true"])?.finish()?.expect(0)?;
        run(&["sh", "-c", "kill -SEGV $$"])?
            .finish()?
            .expect(128 + Signal::SIGSEGV as i32)?;
        run(&["/no/such/program"])?
            .finish()?
            .expect(127)?
            .says(&["/no/such/program"])?;
        job.expect_running("after commands that failed")?;
        job.goes_on()
    })
}

/// SIGTERM ends the hold at once and is passed on; SIGINT is the command's to handle.
fn command_signals(kind: BackendKind) -> anyhow::Result<()> {
    const SAW: &str = "/tmp/saw";
    // Two steps: what comes first must not end it.
    const SCRIPT: &str =
        "trap 'echo -n int >> /tmp/saw' INT; trap 'echo -n term >> /tmp/saw; exit 9' TERM; \
        echo -n up > /tmp/saw; while true; do sleep 0.02; done";
    let saw = |text: &str| {
        guest::eventually(&format!("the command to see {text}"), || {
            Ok((fs::read_to_string(SAW).unwrap_or_default() == text).then_some(()))
        })
    };
    scene::clean(|| {
        let mut job = Job::offline(2)?;
        let pid = job.pid().to_string();
        let _ = fs::remove_file(SAW);
        let preemption = Preemption::start(kind, &["--pid", &pid, "--", "sh", "-c", SCRIPT])?;
        preemption.preempted()?;
        saw("up")?;
        preemption.signal(Signal::SIGINT)?;
        saw("upint")?;
        job.expect_held("after SIGINT, which is the command's")?;
        preemption.signal(Signal::SIGTERM)?;
        saw("upintterm")?;
        let ended = preemption.finish()?.expect(9)?;
        ensure_eq!(ended.one("resumed")?.text("cause")?, "signal", "cause");
        job.expect_running("after SIGTERM")?;
        job.goes_on()
    })
}

/// One long-lived controller stops and restarts the job a thousand times.
fn thousand(kind: BackendKind) -> anyhow::Result<()> {
    const ROUNDS: u64 = 10;
    const CYCLES: u64 = 100;
    scene::clean(|| {
        let (mut job, mut online) = (Job::busy(&MODEL)?, Job::online()?);
        job.goes_on()?;
        let mut cycler = Cycler::start(kind, &[job.pid()])?;
        // What a first use allocates stays.
        cycler.cycle(1)?;
        let (before, unmaps) = (guest::live_objects()?, Unmaps::from_here(0)?);
        let started = Instant::now();
        for round in 0..ROUNDS {
            let changed = cycler.cycle(CYCLES)?;
            ensure_eq!(changed, 3 * CYCLES, "round {round}: queues stopped");
            job.expect_running(&format!("after round {round}"))?;
            job.goes_on()?;
        }
        let spent = started.elapsed();
        // Each of them took the queues off and put them back: the online queue had to leave for both.
        let packets = unmaps.count()?;
        anyhow::ensure!(
            packets >= 2 * ROUNDS * CYCLES,
            "only {packets} UNMAP_QUEUES packets"
        );
        anyhow::ensure!(spent < Duration::from_secs(240), "it took {spent:?}");
        ensure_eq!(guest::live_objects()?, before, "live objects of the driver");
        online.goes_on()?;
        // Held at last, so that the end of the cycler has something to restart.
        cycler.hold()?;
        job.expect_held("held by the cycler")?;
        cycler.stop()?;
        job.expect_running("after the cycler ended")?;
        job.goes_on()
    })
}

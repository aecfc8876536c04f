// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who changed the runlist, and why.

use anyhow::Context;
use nix::sys::signal::Signal;

use super::List;
use crate::check::ensure_eq;
use crate::guest;
use crate::load::{self, Load};
use crate::record::Record;
use crate::watch::{Seen, Watch};

pub(super) const TESTS: List = &[
    (&["basic"], "ioctls_are_causes", ioctls),
    (&["basic"], "exit_is_a_cause", exit),
    (
        &["basic"],
        "exit_takes_own_memory_first",
        exit_with_own_memory,
    ),
    (&["basic"], "eviction_and_restore", eviction),
    (&["basic"], "debugger_suspends_and_resumes", debugger),
    (&["basic"], "checkpoint_pauses_and_goes_on", checkpoint),
    (&["basic"], "mapped_counts_what_is_mapped", mapped_counts),
];

/// The runlist records of one cause on behalf of a process.
fn with_cause<'a>(seen: &'a Seen, cause: &str, pid: u32) -> Vec<&'a Record> {
    seen.records
        .iter()
        .filter(|record| record.kind.starts_with("runlist_"))
        .filter(|record| {
            record.data["cause"] == cause && record.try_number("cause_pid") == Some(u64::from(pid))
        })
        .collect()
}

fn ioctls() -> anyhow::Result<()> {
    let watch = Watch::start(&[])?;
    let mut load = Load::start(&["--profile", "simple"])?;
    let pid = load.pid();
    load.command("update 0 0")?;
    load.command("destroy 1")?;
    load.stop()?;
    watch.wait_for_exit_of(pid)?;
    let seen = watch.stop_lossless()?;
    for cause in ["create_queue", "update_queue", "destroy_queue"] {
        anyhow::ensure!(
            !with_cause(&seen, cause, pid).is_empty(),
            "no runlist record with cause {cause}"
        );
    }
    for record in seen
        .records
        .iter()
        .filter(|record| record.kind.starts_with("runlist_"))
    {
        anyhow::ensure!(
            record.data["cause"] != "other",
            "a runlist change without a cause: {}",
            record.data
        );
    }
    Ok(())
}

/// Queues in memory of the driver, whose end is the end of the KFD process. With memory of their own the loss of that
/// memory evicts them first.
fn exit() -> anyhow::Result<()> {
    let watch = Watch::start(&[])?;
    let mut load = Load::start(&["--profile", "model", "--gtt"])?;
    let pid = load.pid();
    let queues = load.queue_ids()?.len();
    load.signal(Signal::SIGKILL)?;
    load.wait_exit()?;
    let gone = watch.wait_for_count("queue_destroyed", queues, |record| {
        record.kind == "queue_destroyed" && record.is_of(pid)
    })?;
    let seen = watch.stop_lossless()?;
    for record in &gone {
        ensure_eq!(
            record.text("cause")?,
            "process_exit",
            "cause of queue_destroyed"
        );
    }
    anyhow::ensure!(
        !with_cause(&seen, "process_exit", pid).is_empty(),
        "no runlist record with cause process_exit"
    );
    Ok(())
}

/// A dying process loses its own pages before its queues: `exit_mmap()` tells the driver through the MMU notifier.
fn exit_with_own_memory() -> anyhow::Result<()> {
    let watch = Watch::start(&[])?;
    let mut load = Load::start(&["--profile", "model"])?;
    let pid = load.pid();
    let queues = load.queue_ids()?.len();
    load.signal(Signal::SIGKILL)?;
    load.wait_exit()?;
    watch.wait_for_count("queue_destroyed", queues, |record| {
        record.kind == "queue_destroyed" && record.is_of(pid)
    })?;
    let seen = watch.stop_lossless()?;
    let evicted = *seen
        .of("process_evicted", pid)
        .first()
        .context("no process_evicted")?;
    ensure_eq!(evicted.text("reason")?, "userptr", "reason");
    anyhow::ensure!(
        !with_cause(&seen, "evict", pid).is_empty(),
        "no runlist record with cause evict"
    );
    Ok(())
}

fn eviction() -> anyhow::Result<()> {
    let watch = Watch::start(&[])?;
    let load = Load::start(&["--profile", "simple"])?;
    let (pid, gpu_id) = (load.pid(), load.gpu_id()?);
    guest::evict(pid)?;
    let restored = watch.wait_for("process_restored", |record| {
        record.kind == "process_restored" && record.is_of(pid)
    })?;
    load.stop()?;
    watch.wait_for_exit_of(pid)?;
    let seen = watch.stop_lossless()?;
    let evicted = *seen
        .of("process_evicted", pid)
        .first()
        .context("no process_evicted")?;
    ensure_eq!(evicted.text("reason")?, "ttm", "reason");
    ensure_eq!(evicted.number("gpu_id")?, gpu_id, "gpu_id");
    anyhow::ensure!(evicted.number("total_ns")? > 0, "total_ns is 0");
    // The driver restores after 100 ms (PROCESS_RESTORE_TIME_MS), never sooner.
    let evicted_ns = restored.number("evicted_ns")?;
    let between_ns = restored.number("ts_ns")? - evicted.number("ts_ns")?;
    anyhow::ensure!(evicted_ns >= 50_000_000, "evicted for only {evicted_ns} ns");
    anyhow::ensure!(
        evicted_ns <= between_ns + evicted.number("total_ns")?,
        "evicted_ns {evicted_ns} exceeds the time between the records"
    );
    anyhow::ensure!(
        !with_cause(&seen, "evict", pid).is_empty(),
        "no runlist record with cause evict"
    );
    anyhow::ensure!(
        !with_cause(&seen, "restore", pid).is_empty(),
        "no runlist record with cause restore"
    );
    Ok(())
}

fn debugger() -> anyhow::Result<()> {
    let watch = Watch::start(&[])?;
    let load = Load::start(&["--profile", "simple", "--queues", "3"])?;
    let pid = load.pid();
    let lines = load::run(&["suspend", "--pid", &pid.to_string(), "--ms", "50"])?;
    let count = |kind: &str| -> anyhow::Result<u64> {
        lines
            .iter()
            .find(|line| line.kind == kind)
            .with_context(|| format!("no {kind} line"))?
            .number("count")
    };
    let (suspended, resumed) = (count("suspended")?, count("resumed")?);
    ensure_eq!(suspended, 3, "queues that the driver suspended");
    load.stop()?;
    watch.wait_for_exit_of(pid)?;
    let seen = watch.stop_lossless()?;
    let suspends = seen.of("queues_suspended", pid);
    ensure_eq!(suspends.len(), 1, "queues_suspended records");
    ensure_eq!(suspends[0].number("count")?, suspended, "count");
    anyhow::ensure!(suspends[0].number("total_ns")? > 0, "total_ns is 0");
    // Detaching resumes once more what is suspended, which is nothing by then.
    let resumes = seen.of("queues_resumed", pid);
    let first = resumes.first().context("no queues_resumed")?;
    ensure_eq!(first.number("count")?, resumed, "count");
    anyhow::ensure!(
        !with_cause(&seen, "suspend", pid).is_empty(),
        "no runlist record with cause suspend"
    );
    anyhow::ensure!(
        !with_cause(&seen, "resume", pid).is_empty(),
        "no runlist record with cause resume"
    );
    anyhow::ensure!(
        !with_cause(&seen, "debug_trap", pid).is_empty(),
        "no runlist record with cause debug_trap"
    );
    Ok(())
}

fn checkpoint() -> anyhow::Result<()> {
    let watch = Watch::start(&[])?;
    let load = Load::start(&["--profile", "simple"])?;
    let pid = load.pid();
    let lines = load::run(&["criu-pause", "--pid", &pid.to_string(), "--ms", "50"])?;
    anyhow::ensure!(
        lines.iter().any(|line| line.kind == "unpaused"),
        "the process was not unpaused"
    );
    load.stop()?;
    watch.wait_for_exit_of(pid)?;
    let seen = watch.stop_lossless()?;
    let evicted = *seen
        .of("process_evicted", pid)
        .first()
        .context("no process_evicted")?;
    ensure_eq!(evicted.text("reason")?, "criu_checkpoint", "reason");
    ensure_eq!(evicted.text("actor_comm")?, "kfd-load", "who did it");
    anyhow::ensure!(
        evicted.number("actor_pid")? != u64::from(pid),
        "the process paused itself: {}",
        evicted.data
    );
    let restored = *seen
        .of("process_restored", pid)
        .first()
        .context("no process_restored")?;
    anyhow::ensure!(
        restored.number("evicted_ns")? >= 50_000_000,
        "paused for 50 ms, not {}",
        restored.data
    );
    // The runlist changed because of the eviction; that the eviction is a checkpoint is its reason.
    for cause in ["evict", "restore"] {
        anyhow::ensure!(
            !with_cause(&seen, cause, pid).is_empty(),
            "no runlist record with cause {cause}"
        );
    }
    Ok(())
}

fn mapped_counts() -> anyhow::Result<()> {
    let watch = Watch::start(&[])?;
    let mut first = Load::start(&["--profile", "simple", "--queues", "3"])?;
    let second = Load::start(&["--profile", "model"])?;
    let pid = first.pid();
    first.command("update 0 0")?;
    first.command("update 0 100")?;
    first.stop()?;
    second.stop()?;
    watch.wait_for_exit_of(pid)?;
    let seen = watch.stop_lossless()?;
    // 3 + 3 queues of two processes: five of them, then all.
    let counts: Vec<(u64, u64)> = with_cause(&seen, "update_queue", pid)
        .iter()
        .filter(|record| record.kind == "runlist_mapped")
        .map(|record| Ok((record.number("queues")?, record.number("processes")?)))
        .collect::<anyhow::Result<_>>()?;
    ensure_eq!(
        counts,
        [(5, 2), (6, 2)],
        "(queues, processes) of the runlists"
    );
    Ok(())
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! Processes that end in every way, and many at once.

use std::collections::BTreeSet;

use nix::sys::signal::Signal;

use super::List;
use crate::check::{self, ensure_eq};
use crate::guest;
use crate::load::{self, Load};
use crate::watch::Watch;

pub(super) const TESTS: List = &[
    (&["basic"], "kill_9_ends_every_queue", kill_9),
    (&["basic"], "abort_ends_every_queue", abort),
    (
        &["basic"],
        "exit_without_destroying",
        exit_without_destroying,
    ),
    (&["basic"], "exec_ends_every_queue", exec),
    (&["basic"], "eight_processes_at_once", eight_processes),
    (&["basic"], "oversubscription_is_told", oversubscription),
];

/// Lets a load end by `end` and demands that the stream ends every queue, after the process.
fn ends(end: impl FnOnce(&mut Load) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let watch = Watch::start(&[])?;
    let mut load = Load::start(&["--profile", "llm-worker"])?;
    let pid = load.pid();
    let queues = load.queue_ids()?;
    end(&mut load)?;
    load.wait_exit()?;
    watch.wait_for_count("queue_destroyed", queues.len(), |record| {
        record.kind == "queue_destroyed" && record.is_of(pid)
    })?;
    watch.wait_for_exit_of(pid)?;
    let seen = watch.stop_lossless()?;
    check::every_queue_is_destroyed(&seen, pid)?;
    let exited_ns = seen.of("process_exited", pid)[0].number("ts_ns")?;
    for record in seen.of("queue_destroyed", pid) {
        ensure_eq!(record.text("cause")?, "process_exit", "cause");
        anyhow::ensure!(
            record.number("ts_ns")? >= exited_ns,
            "a queue went before its process: {}",
            record.data
        );
    }
    guest::wait_for_no_process()
}

fn kill_9() -> anyhow::Result<()> {
    ends(|load| load.signal(Signal::SIGKILL))
}

fn abort() -> anyhow::Result<()> {
    ends(|load| load.send("abort"))
}

fn exit_without_destroying() -> anyhow::Result<()> {
    ends(|load| load.send("exit"))
}

fn exec() -> anyhow::Result<()> {
    let watch = Watch::start(&[])?;
    let lines = load::run(&["exec", "--profile", "model", "--", "true"])?;
    let pid = u32::try_from(lines[0].number("pid")?)?;
    let queues = lines[0].list("queues")?.len();
    watch.wait_for_count("queue_destroyed", queues, |record| {
        record.kind == "queue_destroyed" && record.is_of(pid)
    })?;
    watch.wait_for_exit_of(pid)?;
    let seen = watch.stop_lossless()?;
    check::every_queue_is_destroyed(&seen, pid)?;
    ensure_eq!(
        seen.of("process_exited", pid).len(),
        1,
        "process_exited records"
    );
    Ok(())
}

fn eight_processes() -> anyhow::Result<()> {
    let watch = Watch::start(&[])?;
    let lines = load::run(&["--processes", "8", "--profile", "simple", "--seconds", "2"])?;
    let created: Vec<_> = lines.iter().filter(|line| line.kind == "created").collect();
    let mut pids = BTreeSet::new();
    for line in &created {
        pids.insert(u32::try_from(line.number("pid")?)?);
    }
    ensure_eq!(pids.len(), 8, "processes");
    for pid in &pids {
        watch.wait_for_exit_of(*pid)?;
    }
    let seen = watch.stop_lossless()?;
    for pid in pids {
        ensure_eq!(
            seen.of("queue_created", pid).len(),
            2,
            "queue_created records of {pid}"
        );
        check::every_queue_is_destroyed(&seen, pid)?;
    }
    Ok(())
}

/// 30 queues on 24 slots.
fn oversubscription() -> anyhow::Result<()> {
    let watch = Watch::start(&[])?;
    let load = Load::start(&["--profile", "simple", "--queues", "30", "--rate", "50"])?;
    let pid = load.pid();
    load.stop()?;
    watch.wait_for_exit_of(pid)?;
    let seen = watch.stop_lossless()?;
    for record in seen.kind("runlist_mapped") {
        let over = record.number("cp_queues")? > 24;
        ensure_eq!(
            record.data["oversubscribed"].as_bool(),
            Some(over),
            "oversubscribed in {}",
            record.data
        );
    }
    let most = seen
        .kind("runlist_mapped")
        .iter()
        .filter_map(|record| record.try_number("queues"))
        .max();
    ensure_eq!(most, Some(30), "queues of the longest runlist");
    Ok(())
}

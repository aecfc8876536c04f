// SPDX-License-Identifier: MIT OR Apache-2.0
//! That the simulated GPU is one where preemption matters: the ground that later tests of control stand on.

use anyhow::Context;

use super::List;
use crate::check::ensure_eq;
use crate::guest;
use crate::load::{self, Load};
use crate::record::Record;

pub(super) const TESTS: List = &[
    (
        &["basic"],
        "an_unmapped_queue_stands_still_and_goes_on",
        stands_still,
    ),
    (&["basic"], "an_offline_job_slows_an_online_one", slows),
];

/// How far the GPU has read a queue.
fn read_index(report: &Record, queue: u64) -> anyhow::Result<u64> {
    let queues = report.list("queues")?;
    let found = queues
        .iter()
        .find(|entry| entry.try_number("queue_id") == Some(queue));
    found
        .with_context(|| format!("no queue {queue} in {}", report.data))?
        .number("read_index")
}

/// Waits until a queue was read 20 packets further.
fn wait_for_progress(load: &mut Load, queue: u64) -> anyhow::Result<Record> {
    let start = read_index(&load.report()?, queue)?;
    guest::eventually(&format!("progress of queue {queue}"), || {
        let report = load.report()?;
        Ok((read_index(&report, queue)? >= start + 20).then_some(report))
    })
}

fn stands_still() -> anyhow::Result<()> {
    let mut load = Load::start(&[
        "--profile",
        "simple",
        "--rate",
        "0",
        "--dispatch-us",
        "1000",
    ])?;
    let queues = load.queue_ids()?;
    let (held, free) = (queues[0], queues[1]);
    wait_for_progress(&mut load, held)?;
    load.command(&format!("update {held} 0"))?;
    // The unmap is complete when the ioctl returns; what was read by then is read.
    let before = read_index(&load.report()?, held)?;
    let after = wait_for_progress(&mut load, free)?;
    ensure_eq!(
        read_index(&after, held)?,
        before,
        "read index of the queue that is off"
    );
    load.command(&format!("update {held} 100"))?;
    wait_for_progress(&mut load, held)?;
    load.stop()?;
    Ok(())
}

/// Median latency of an online service for two seconds, in microseconds.
fn median_latency() -> anyhow::Result<f64> {
    let lines = load::run(&[
        "--profile",
        "inference",
        "--rate",
        "40",
        "--dispatch-us",
        "1000",
        "--seconds",
        "2",
    ])?;
    let done = lines.last().context("no output")?;
    done.data["latency_us"]["p50"]
        .as_f64()
        .with_context(|| format!("no requests: {}", done.data))
}

fn slows() -> anyhow::Result<()> {
    let alone = median_latency()?;
    let mut offline = Load::start(&[
        "--profile",
        "model",
        "--queues",
        "4",
        "--rate",
        "0",
        "--dispatch-us",
        "10000",
    ])?;
    let slowed = median_latency()?;
    for queue in offline.queue_ids()? {
        offline.command(&format!("update {queue} 0"))?;
    }
    let relieved = median_latency()?;
    offline.stop()?;
    anyhow::ensure!(
        slowed > 1.5 * alone && slowed > 1.5 * relieved,
        "median latency: {alone} us alone, {slowed} us beside the offline job, {relieved} us with its queues off"
    );
    Ok(())
}

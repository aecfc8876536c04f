// SPDX-License-Identifier: MIT OR Apache-2.0
//! Assertions that several tests share.

use anyhow::Context;

use crate::record::Record;
use crate::watch::Seen;

/// That two values are equal, with a name for the failure.
macro_rules! ensure_eq {
    ($left:expr, $right:expr, $($what:tt)+) => {{
        let (left, right) = (&$left, &$right);
        anyhow::ensure!(left == right, "{}: {left:?} instead of {right:?}", format_args!($($what)+));
    }};
}
pub(crate) use ensure_eq;

/// That records are in order of time.
pub(crate) fn in_order_of_time(records: &[&Record]) -> anyhow::Result<()> {
    for pair in records.windows(2) {
        let (before, after) = (pair[0].number("ts_ns")?, pair[1].number("ts_ns")?);
        anyhow::ensure!(
            before <= after,
            "{} at {before} printed before {} at {after}",
            pair[0].kind,
            pair[1].kind
        );
    }
    Ok(())
}

/// `queue_id`s of records.
pub(crate) fn queue_ids(records: &[&Record]) -> anyhow::Result<Vec<u64>> {
    records
        .iter()
        .map(|record| record.number("queue_id"))
        .collect()
}

/// That a kernel duration is positive and no longer than what user space measured around the same call.
pub(crate) fn within(kernel: &Record, user_ns: u64) -> anyhow::Result<()> {
    let total_ns = kernel.number("total_ns")?;
    anyhow::ensure!(
        total_ns > 0,
        "{}: total_ns is 0: {}",
        kernel.kind,
        kernel.data
    );
    anyhow::ensure!(
        total_ns <= user_ns,
        "{}: total_ns {total_ns} exceeds the {user_ns} ns of user space",
        kernel.kind
    );
    Ok(())
}

/// The runlist records (unmaps and maps) that an operation of process `pid` caused, that is those inside its time.
pub(crate) fn runlists_inside<'a>(
    seen: &'a Seen,
    operation: &Record,
) -> anyhow::Result<Vec<&'a Record>> {
    let end = operation.number("ts_ns")?;
    let start = end - operation.number("total_ns")?;
    let pid = operation.number("pid")?;
    let mut inside = Vec::new();
    for record in &seen.records {
        if !matches!(record.kind.as_str(), "runlist_unmapped" | "runlist_mapped") {
            continue;
        }
        let at = record.number("ts_ns")?;
        if (start..=end).contains(&at) && record.try_number("cause_pid") == Some(pid) {
            inside.push(record);
        }
    }
    Ok(inside)
}

/// That every queue that process `pid` created in this stream was destroyed in it, later, once.
pub(crate) fn every_queue_is_destroyed(seen: &Seen, pid: u32) -> anyhow::Result<()> {
    let created = seen.of("queue_created", pid);
    let mut destroyed = seen.of("queue_destroyed", pid);
    for queue in &created {
        let key = (
            queue.number("gpu_id")?,
            queue.number("queue_id")?,
            queue.number("ts_ns")?,
        );
        let position = destroyed
            .iter()
            .position(|gone| {
                gone.try_number("gpu_id") == Some(key.0)
                    && gone.try_number("queue_id") == Some(key.1)
                    && gone.try_number("ts_ns").is_some_and(|at| at >= key.2)
            })
            .with_context(|| format!("queue {} of process {pid} has no queue_destroyed", key.1))?;
        destroyed.remove(position);
    }
    anyhow::ensure!(
        destroyed.is_empty(),
        "process {pid}: {} queue_destroyed without queue_created",
        destroyed.len()
    );
    Ok(())
}

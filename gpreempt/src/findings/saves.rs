// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the firmware noted in a queue's descriptor of its last wave save and restore (dwords 98 to 105 of `struct v9_mqd`).

use std::collections::BTreeMap;

use super::{Evidence, Finding, Kind, Rate, Severity};
use crate::event::{GpuId, Pid};
use crate::kfd::snapshot::Queue;
use crate::sink::units::{plural, Nanos};

#[derive(Default)]
struct Times {
    queues: u64,
    save: Option<u64>,
    restore: Option<u64>,
    /// From the first save's start to the last restore's end.
    off: Option<u64>,
}

pub(super) fn find(evidence: &Evidence<'_>) -> Vec<Finding> {
    let Some((now, _)) = evidence.now else {
        return Vec::new();
    };
    let mut processes: BTreeMap<(GpuId, Pid), Times> = BTreeMap::new();
    for queue in now.queues.iter().filter(|queue| is_fresh(evidence, queue)) {
        let times = processes.entry((queue.gpu_id, queue.pid)).or_default();
        let (save, restore) = (longest(&queue.saves), longest(&queue.restores));
        if save.is_none() && restore.is_none() {
            continue;
        }
        times.queues += 1;
        times.save = times.save.max(save);
        times.restore = times.restore.max(restore);
        times.off = times.off.max(off(queue));
    }
    processes
        .into_iter()
        .filter(|(_, times)| times.queues > 0)
        .map(|((gpu_id, pid), times)| Finding {
            kind: Kind::SaveRestore,
            severity: Severity::Info,
            gpu_id: Some(gpu_id),
            pid: Some(pid),
            comm: evidence.comm(pid),
            queue_id: None,
            evidence: text(rate(evidence, gpu_id), &times),
            advice: match rate(evidence, gpu_id) {
                Some(rate) => format!(
                    "firmware's own times, longest of all queues and XCCs, by the GPU's counter: {rate} as measured by saves and events"
                ),
                None => "firmware's own times, longest of all queues and XCCs, in ticks of the GPU's counter: how long one is could not be measured"
                    .to_owned(),
            },
        })
        .collect()
}

/// Without an earlier picture every save is one; with it, only those since then.
fn is_fresh(evidence: &Evidence<'_>, queue: &Queue) -> bool {
    let earlier = evidence
        .before
        .and_then(|(before, _)| before.queue(queue.pid, queue.gpu_id, queue.queue_id));
    earlier.is_none_or(|earlier| {
        (&earlier.saves, &earlier.restores) != (&queue.saves, &queue.restores)
    })
}

/// A queue that never was saved has zeros.
fn valid(times: &[(u64, u64)]) -> impl Iterator<Item = (u64, u64)> + '_ {
    let valid = |(start, end): &(u64, u64)| *start > 0 && end >= start;
    times.iter().copied().filter(valid)
}

fn longest(times: &[(u64, u64)]) -> Option<u64> {
    valid(times).map(|(start, end)| end - start).max()
}

fn off(queue: &Queue) -> Option<u64> {
    let start = valid(&queue.saves).map(|(start, _)| start).min()?;
    let end = valid(&queue.restores).map(|(_, end)| end).max()?;
    end.checked_sub(start)
}

fn rate(evidence: &Evidence<'_>, gpu_id: GpuId) -> Option<Rate> {
    evidence.history?.rate(gpu_id)
}

fn text(rate: Option<Rate>, times: &Times) -> String {
    let ticks = |ticks: u64| match rate {
        Some(rate) => Nanos(rate.ns(ticks)).to_string(),
        None => plural(ticks, "tick"),
    };
    let parts = [
        times
            .save
            .map(|t| format!("saving waves took {}", ticks(t))),
        times
            .restore
            .map(|t| format!("restoring them {}", ticks(t))),
        times.off.map(|t| {
            format!(
                "{} from the start of the save to the end of the restore",
                ticks(t)
            )
        }),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    format!("{} of {}", parts.join(", "), plural(times.queues, "queue"))
}

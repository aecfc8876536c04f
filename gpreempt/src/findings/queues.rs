// SPDX-License-Identifier: MIT OR Apache-2.0
//! Queues that do nothing, and processes none of whose queues can run.

use std::collections::BTreeMap;

use super::{Evidence, Finding, Kind, Severity};
use crate::event::{GpuId, Pid};
use crate::kfd::snapshot::{Queue, State};
use crate::model::{Model, QueueKey};
use crate::sink::units::{plural, Nanos};

pub(super) fn find(evidence: &Evidence<'_>) -> Vec<Finding> {
    let mut findings: Vec<Finding> = Vec::new();
    if let Some((now, _)) = evidence.now {
        for queue in &now.queues {
            findings.extend(unused(evidence, queue).or_else(|| idle(evidence, queue)));
        }
    }
    findings.extend(places(evidence));
    findings
}

fn of(evidence: &Evidence<'_>, kind: Kind, queue: &Queue, evidence_text: String) -> Finding {
    let crowded = oversubscribed(evidence, queue.gpu_id);
    Finding {
        kind,
        severity: if crowded { Severity::Warn } else { Severity::Info },
        gpu_id: Some(queue.gpu_id),
        pid: Some(queue.pid),
        comm: evidence.comm(queue.pid),
        queue_id: Some(queue.queue_id),
        evidence: evidence_text,
        advice: match crowded {
            true => "it takes a slot of an oversubscribed GPU: hold its process, or have it destroy the queue",
            false => "it takes a slot and makes every runlist longer; harmless while there are free slots",
        }
        .to_owned(),
    }
}

fn oversubscribed(evidence: &Evidence<'_>, gpu_id: GpuId) -> bool {
    let by_events = evidence
        .model
        .and_then(|model| model.gpu(gpu_id))
        .is_some_and(|gpu| gpu.oversubscribed);
    let by_runlist = evidence.now.is_some_and(|(now, _)| {
        now.gpus.iter().any(|gpu| {
            gpu.node.gpu_id == gpu_id && gpu.runlist.is_some_and(|runlist| runlist.oversubscribed)
        })
    });
    by_events || by_runlist
}

/// Nothing was ever written into it.
fn unused(evidence: &Evidence<'_>, queue: &Queue) -> Option<Finding> {
    if queue.write_index? != 0 {
        return None;
    }
    // A queue that has just been created is not unused, and none is older than its process.
    let is_young = |age_ns: Option<u64>| age_ns.is_some_and(|ns| ns < evidence.idle_after_ns);
    let age_ns = age_ns(evidence, queue);
    if is_young(age_ns) || is_young(process_age_ns(evidence, queue.pid)) {
        return None;
    }
    let since = match (age_ns, watched_ns(evidence, queue)) {
        (Some(ns), _) => format!(" in the {} that it exists", Nanos(ns)),
        (None, Some(ns)) => format!(" in the {} that it was seen", Nanos(ns)),
        (None, None) => String::new(),
    };
    Some(of(
        evidence,
        Kind::UnusedQueue,
        queue,
        format!("no packet was ever written into it{since}"),
    ))
}

fn age_ns(evidence: &Evidence<'_>, queue: &Queue) -> Option<u64> {
    let key = QueueKey {
        pid: queue.pid,
        gpu_id: queue.gpu_id,
        queue_id: queue.queue_id,
    };
    let created = evidence.model?.queue(&key)?.created_ns?;
    Some(evidence.now_ns.saturating_sub(created))
}

/// Its start is in ticks of USER_HZ, 100 on every machine that has these GPUs.
fn process_age_ns(evidence: &Evidence<'_>, pid: Pid) -> Option<u64> {
    let start_ticks = evidence.now?.0.process(pid)?.start_ticks?;
    evidence
        .now_ns
        .checked_sub(start_ticks.saturating_mul(10_000_000))
}

/// How long it was in every picture, if that is long.
fn watched_ns(evidence: &Evidence<'_>, queue: &Queue) -> Option<u64> {
    let since_ns = evidence.history?.seen_since(queue)?;
    let ns = evidence.now?.1.saturating_sub(since_ns);
    (ns >= evidence.idle_after_ns).then_some(ns)
}

/// Mapped in every picture of a while, everything read, nothing written in between.
fn idle(evidence: &Evidence<'_>, queue: &Queue) -> Option<Finding> {
    let quiet_ns = match evidence.history {
        Some(history) => evidence.now?.1.saturating_sub(history.quiet_since(queue)?),
        None => between_two(evidence, queue)?,
    };
    if quiet_ns < evidence.idle_after_ns || queue.state != State::Mapped || queue.depth()? > 0 {
        return None;
    }
    Some(of(
        evidence,
        Kind::IdleQueue,
        queue,
        format!(
            "mapped, and no packet for {}; {} before",
            Nanos(quiet_ns),
            plural(queue.write_index?, "packet")
        ),
    ))
}

/// The same from two pictures alone.
fn between_two(evidence: &Evidence<'_>, queue: &Queue) -> Option<u64> {
    let ((_, now_ns), (before, before_ns)) = (evidence.now?, evidence.before?);
    let earlier = before.queue(queue.pid, queue.gpu_id, queue.queue_id)?;
    let still = earlier.state == State::Mapped && earlier.write_index? == queue.write_index?;
    still.then(|| now_ns.saturating_sub(before_ns))
}

/// Processes that are registered on a node without a queue that can run.
fn places(evidence: &Evidence<'_>) -> Vec<Finding> {
    // (queues, queues that can run)
    let mut shares: BTreeMap<(GpuId, Pid), (u64, u64)> = BTreeMap::new();
    match (evidence.now, evidence.model) {
        (Some((now, _)), _) => {
            for queue in &now.queues {
                let share = shares.entry((queue.gpu_id, queue.pid)).or_default();
                share.0 += 1;
                share.1 += u64::from(matches!(queue.state, State::Mapped | State::Unknown));
            }
        }
        (None, Some(model)) => {
            for (key, _) in model.queues() {
                let share = shares.entry((key.gpu_id, key.pid)).or_default();
                share.0 += 1;
                share.1 += u64::from(runs(model, key));
            }
        }
        (None, None) => {}
    }
    shares
        .into_iter()
        .filter(|(_, (_, running))| *running == 0)
        .map(|((gpu_id, pid), (queues, _))| Finding {
            kind: Kind::PlaceOnly,
            severity: match oversubscribed(evidence, gpu_id) {
                true => Severity::Warn,
                false => Severity::Info,
            },
            gpu_id: Some(gpu_id),
            pid: Some(pid),
            comm: evidence.comm(pid),
            queue_id: None,
            evidence: format!("{}, none of which can run", plural(queues, "queue")),
            advice:
                "the scheduler still counts it as a process; it goes when its queues are destroyed"
                    .to_owned(),
        })
        .collect()
}

/// As far as events tell: not off by itself while the node's runlist is on.
fn runs(model: &Model, key: &QueueKey) -> bool {
    let mapped = model.gpu(key.gpu_id).is_some_and(|gpu| gpu.mapped);
    !mapped
        || model
            .usage(key)
            .is_none_or(|usage| usage.off_since_ns.is_none())
}

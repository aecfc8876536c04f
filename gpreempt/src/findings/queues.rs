// SPDX-License-Identifier: MIT OR Apache-2.0
//! Queues that do nothing, and processes none of whose queues can run.

use std::collections::BTreeMap;

use super::{plural, Evidence, Finding, Kind, Severity};
use crate::event::{GpuId, Pid};
use crate::kfd::snapshot::{Queue, State};
use crate::model::{Model, QueueKey};
use crate::sink::units::Nanos;

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
    let age = age_ns(evidence, queue);
    // A queue that has just been created is not unused.
    if age.is_some_and(|age_ns| age_ns < evidence.idle_after_ns) {
        return None;
    }
    let age = age.map_or_else(String::new, |ns| {
        format!(" in the {} that it exists", Nanos(ns))
    });
    Some(of(
        evidence,
        Kind::UnusedQueue,
        queue,
        format!("no packet was ever written into it{age}"),
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

/// Mapped in two pictures, everything read, nothing written in between.
fn idle(evidence: &Evidence<'_>, queue: &Queue) -> Option<Finding> {
    let ((_, now_ns), (before, before_ns)) = (evidence.now?, evidence.before?);
    let quiet_ns = now_ns.saturating_sub(before_ns);
    let earlier = before.queue(queue.pid, queue.gpu_id, queue.queue_id)?;
    let mapped = queue.state == State::Mapped && earlier.state == State::Mapped;
    let written = queue.write_index?;
    if !mapped
        || quiet_ns < evidence.idle_after_ns
        || earlier.write_index? != written
        || queue.depth()? > 0
    {
        return None;
    }
    Some(of(
        evidence,
        Kind::IdleQueue,
        queue,
        format!(
            "mapped, and no packet for {}; {} before",
            Nanos(quiet_ns),
            plural(written, "packet")
        ),
    ))
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

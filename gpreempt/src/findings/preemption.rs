// SPDX-License-Identifier: MIT OR Apache-2.0
//! How often a node's queues were taken off the GPU for which cause, by whom most, and what it cost.

use std::collections::BTreeMap;

use super::{Evidence, Finding, Kind, Named, Severity};
use crate::event::{Cause, GpuId, Pid};
use crate::model::{Model, Taken};
use crate::sink::units::{plural, Nanos};

/// More than one part in so many of the time off is a warning.
const WARN_SHARE: u64 = 20;

#[derive(Default)]
struct OfCause {
    sum: Taken,
    most: Option<(u64, Pid)>,
    processes: u64,
}

pub(super) fn find(evidence: &Evidence<'_>) -> Vec<Finding> {
    let Some(model) = evidence.model else {
        return Vec::new();
    };
    let mut gpu_ids: Vec<GpuId> = model.gpus().map(|(gpu_id, _)| gpu_id).collect();
    gpu_ids.sort_unstable();
    gpu_ids
        .into_iter()
        .flat_map(|gpu_id| on(evidence, model, gpu_id))
        .collect()
}

fn on<'a>(
    evidence: &'a Evidence<'_>,
    model: &Model,
    gpu_id: GpuId,
) -> impl Iterator<Item = Finding> + 'a {
    let mut causes: BTreeMap<Cause, OfCause> = BTreeMap::new();
    for (cause, by, taken) in model.taken(gpu_id) {
        let of = causes.entry(cause).or_default();
        of.sum.stops += taken.stops;
        of.sum.queues += taken.queues;
        of.sum.off_ns = of.sum.off_ns.saturating_add(taken.off_ns);
        of.sum.unmap_ns = of.sum.unmap_ns.saturating_add(taken.unmap_ns);
        if let Some(pid) = by {
            of.processes += 1;
            of.most = of.most.max(Some((taken.stops, pid)));
        }
    }
    let watched_ns = evidence
        .now_ns
        .saturating_sub(model.since_ns().unwrap_or(evidence.now_ns));
    causes
        .into_iter()
        .map(move |(cause, of)| finding(evidence, gpu_id, cause, &of, watched_ns))
}

fn finding(
    evidence: &Evidence<'_>,
    gpu_id: GpuId,
    cause: Cause,
    of: &OfCause,
    watched_ns: u64,
) -> Finding {
    let Taken {
        stops,
        queues,
        off_ns,
        unmap_ns,
    } = of.sum;
    let cost_ns = off_ns.saturating_add(unmap_ns);
    let who = match of.most {
        Some((_, pid)) if of.processes == 1 => {
            format!(" for {}", Named(evidence.comm(pid), pid))
        }
        Some((most, pid)) => format!(
            " for {} processes, most ({most}) for {}",
            of.processes,
            Named(evidence.comm(pid), pid)
        ),
        None => String::new(),
    };
    let again = match off_ns {
        0 => String::new(),
        ns => format!(" and {} until they were submitted again", Nanos(ns)),
    };
    Finding {
        kind: Kind::Preempted,
        severity: match cost_ns > watched_ns / WARN_SHARE && watched_ns > 0 {
            true => Severity::Warn,
            false => Severity::Info,
        },
        gpu_id: Some(gpu_id),
        pid: of.most.map(|(_, pid)| pid),
        comm: of.most.and_then(|(_, pid)| evidence.comm(pid)),
        queue_id: None,
        evidence: format!(
            "{} by {}{who}: {} on average, {} in taking them off{again}, of {}",
            plural(stops, "time"),
            cause.name(),
            plural(queues.checked_div(stops).unwrap_or(0), "queue"),
            Nanos(unmap_ns),
            Nanos(watched_ns),
        ),
        advice: advice(cause).to_owned(),
    }
}

fn advice(cause: Cause) -> &'static str {
    match cause {
        Cause::CreateQueue | Cause::DestroyQueue | Cause::ProcessExit => {
            "every queue that comes or goes takes all queues of its GPU off: keep processes and queues"
        }
        Cause::UpdateQueue => "every update takes all queues of the GPU off: change priorities and CU masks rarely",
        Cause::Evict | Cause::Restore => {
            "memory is moved: see the reasons with `gpreempt stat --by cause`; leave VRAM free, pin less host memory"
        }
        Cause::Suspend | Cause::Resume | Cause::DebugTrap => "a debugger, or a controller that uses its interface",
        Cause::Hold | Cause::Release | Cause::Reserve => "asked for: a hold or a reservation",
        Cause::Criu => "a checkpoint, or a controller that uses its interface",
        Cause::Reset | Cause::Scheduler => "see the kernel log",
        Cause::Other => "nothing on the calling thread named a cause",
    }
}

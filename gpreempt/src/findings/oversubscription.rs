// SPDX-License-Identifier: MIT OR Apache-2.0
//! Nodes whose runlist holds more than the hardware does.

use super::{Evidence, Finding, Kind, Named, Severity};
use crate::event::GpuId;
use crate::kfd::snapshot;
use crate::model::{Gpu, Limits, Oversubscription, Rule};
use crate::sink::units::{plural, Nanos};

pub(super) fn find(evidence: &Evidence<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut known = Vec::new();
    if let Some(model) = evidence.model {
        // Of a node whose runlist no event told of, a picture knows more.
        for (gpu_id, gpu) in model.gpus().filter(|(_, gpu)| gpu.maps > 0) {
            known.push(gpu_id);
            findings.extend(by_events(evidence, gpu_id, gpu, model.limits(gpu_id)));
        }
    }
    let pictures = evidence
        .now
        .into_iter()
        .flat_map(|(snapshot, _)| &snapshot.gpus);
    let unknown = pictures.filter(|gpu| !known.contains(&gpu.node.gpu_id));
    findings.extend(unknown.filter_map(by_runlist));
    findings
}

fn by_events(evidence: &Evidence<'_>, gpu_id: GpuId, gpu: &Gpu, limits: Limits) -> Option<Finding> {
    // A runlist that was taken off and did not come back holds nothing.
    let now = gpu.oversubscription.filter(|_| gpu.mapped);
    let over = now.or(gpu.oversubscription).or(gpu.last_oversubscription)?;
    let current = gpu
        .oversubscription
        .map_or(0, |over| evidence.now_ns.saturating_sub(over.since_ns));
    let total_ns = gpu.oversubscribed_ns.saturating_add(current);
    let why = counts(over.rule, over.cp_queues, over.processes, limits);
    let since = match now {
        Some(over) => format!(
            "for {}",
            Nanos(evidence.now_ns.saturating_sub(over.since_ns))
        ),
        None => format!(
            "no longer, but for {} while it was watched",
            Nanos(total_ns)
        ),
    };
    let times = match gpu.oversubscriptions {
        0 | 1 => String::new(),
        n => format!(" ({n} times, {} in all)", Nanos(total_ns)),
    };
    Some(Finding {
        kind: Kind::Oversubscribed,
        severity: Severity::Warn,
        gpu_id: Some(gpu_id),
        pid: over.by,
        comm: over.by.and_then(|pid| evidence.comm(pid)),
        queue_id: None,
        evidence: format!("{since}{times}: {why}; {}", culprit(evidence, &over)),
        advice: advice(over.rule).to_owned(),
    })
}

fn counts(rule: Option<Rule>, cp_queues: u32, processes: u32, limits: Limits) -> String {
    let queues = plural(u64::from(cp_queues), "compute queue");
    let slots = limits
        .slots
        .map_or_else(String::new, |slots| format!(" for {slots} slots"));
    match rule {
        Some(Rule::Queues) => format!("{queues}{slots}"),
        Some(Rule::Processes) => match limits.max_processes {
            Some(max) => format!("{processes} processes, the scheduler takes no more than {max} at once"),
            None => format!("{processes} processes, more than the scheduler takes at once"),
        },
        Some(Rule::Gws) => format!(
            "{queues}{slots} and {processes} processes fit: more than one queue uses global wave sync"
        ),
        None => format!(
            "{queues}{slots}, {} (which rule it broke cannot be told: how many processes fit is in no file)",
            match processes {
                1 => "1 process".to_owned(),
                n => format!("{n} processes"),
            }
        ),
    }
}

fn culprit(evidence: &Evidence<'_>, over: &Oversubscription) -> String {
    match over.by {
        Some(pid) => format!(
            "{} crossed the line ({})",
            Named(evidence.comm(pid), pid),
            over.cause.name()
        ),
        None => "it was so when watching began".to_owned(),
    }
}

fn advice(rule: Option<Rule>) -> &'static str {
    match rule {
        Some(Rule::Queues) => {
            "queues take turns for milliseconds: end or hold processes with idle queues, or give processes fewer queues"
        }
        Some(Rule::Processes) => {
            "processes take turns for milliseconds, also those with idle queues: end what is not needed"
        }
        Some(Rule::Gws) => "run one job with cooperative launches at a time",
        None => "queues take turns for milliseconds: end or hold what is not needed",
    }
}

/// Without events: what debugfs shows of the runlist.
fn by_runlist(gpu: &snapshot::Gpu) -> Option<Finding> {
    let runlist = gpu.runlist.filter(|runlist| runlist.oversubscribed)?;
    let limits = Limits {
        slots: (gpu.slots_total > 0).then_some(gpu.slots_total),
        max_processes: None,
    };
    let too_many = limits
        .slots
        .is_some_and(|slots| runlist.compute_queues > slots);
    let rule = too_many.then_some(Rule::Queues);
    let why = counts(rule, runlist.compute_queues, runlist.processes, limits);
    Some(Finding {
        kind: Kind::Oversubscribed,
        severity: Severity::Warn,
        gpu_id: Some(gpu.node.gpu_id),
        pid: None,
        comm: None,
        queue_id: None,
        evidence: format!("now: {why}"),
        advice: advice(rule).to_owned(),
    })
}

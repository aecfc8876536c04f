// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is worth knowing of a machine's queues: a fact with its evidence in numbers, and what to do about it. Pure: judges a model of
//! events and pictures of the queues, as far as the caller has them.

mod clock;
mod history;
mod oversubscription;
mod preemption;
mod queues;
mod saves;
#[cfg(test)]
mod tests;

use crate::event::{Comm, Pid};
use crate::kfd::snapshot::Snapshot;
use crate::model::Model;
use crate::sink::finding::Named;
pub use crate::sink::finding::{Finding, Kind, Severity};
pub use clock::Rate;
pub use history::History;

/// A mapped queue is idle after so long without a packet, unless the user says otherwise.
pub const IDLE_AFTER_NS: u64 = 10_000_000_000;

/// What there is to judge by. Everything is optional: what is not there is not judged.
#[derive(Clone, Copy, Debug, Default)]
pub struct Evidence<'a> {
    /// Events of a while.
    pub model: Option<&'a Model>,
    /// A picture, and when it was taken.
    pub now: Option<(&'a Snapshot, u64)>,
    /// An earlier one, to see what moved since.
    pub before: Option<(&'a Snapshot, u64)>,
    /// All pictures of a while: how long nothing moved, and how fast the GPUs' counters run. Without it, ticks are told as ticks.
    pub history: Option<&'a History>,
    /// A mapped queue is idle after so long without a packet.
    pub idle_after_ns: u64,
    /// The end of what is judged.
    pub now_ns: u64,
}

impl Evidence<'_> {
    fn comm(&self, pid: Pid) -> Option<Comm> {
        let of_model = self.model.and_then(|model| model.comm(pid));
        of_model.or_else(|| self.now?.0.process(pid)?.comm)
    }
}

/// Judges. What matters most comes first.
#[must_use]
pub fn find(evidence: &Evidence<'_>) -> Vec<Finding> {
    let mut findings = oversubscription::find(evidence);
    findings.extend(queues::find(evidence));
    findings.extend(preemption::find(evidence));
    findings.extend(saves::find(evidence));
    findings.sort_by_key(|finding| {
        (
            finding.severity,
            finding.kind,
            finding.gpu_id,
            finding.pid,
            finding.queue_id,
        )
    });
    findings
}

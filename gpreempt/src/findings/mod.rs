// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is worth knowing of a machine's queues: a fact with its evidence in numbers, and what to do about it. Pure: judges a model of
//! events and pictures of the queues, as far as the caller has them.

mod oversubscription;
mod preemption;
mod queues;
mod saves;
#[cfg(test)]
mod tests;

use std::fmt;

use schemars::JsonSchema;
use serde::Serialize;

use crate::event::{Comm, GpuId, Pid, QueueId};
use crate::kfd::snapshot::Snapshot;
use crate::model::Model;

/// What a finding is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A runlist holds more than the hardware does, or did: its queues take turns.
    Oversubscribed,
    /// A queue is mapped and its owner wrote no packet for a while.
    IdleQueue,
    /// A queue into which no packet was ever written.
    UnusedQueue,
    /// A process has queues on a node, and none of them can run: it still counts for oversubscription.
    PlaceOnly,
    /// The queues of a node were taken off the GPU.
    Preempted,
    /// What the firmware noted of the last wave save and restore of a queue.
    SaveRestore,
}

/// How much it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// It costs time.
    Warn,
    /// Good to know.
    Info,
}

/// A fact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Finding {
    /// What it is about.
    pub kind: Kind,
    /// How much it matters.
    pub severity: Severity,
    /// Node; null if it is about none.
    pub gpu_id: Option<GpuId>,
    /// Process; null if it is about none.
    pub pid: Option<Pid>,
    /// Its name, escaped.
    #[schemars(with = "Option<String>")]
    pub comm: Option<Comm>,
    /// Queue; null if it is about none.
    pub queue_id: Option<QueueId>,
    /// What was seen.
    pub evidence: String,
    /// What to do about it.
    pub advice: String,
}

/// `WARN oversubscribed GPU 52a1: 25 compute queues for 24 slots ...`, then the advice in a line of its own.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Warn => "WARN",
            Severity::Info => "info",
        };
        write!(f, "{severity} {}", self.kind.name())?;
        if let Some(gpu_id) = self.gpu_id {
            write!(f, " GPU {gpu_id}")?;
        }
        if let Some(pid) = self.pid {
            write!(f, " {}", Named(self.comm, pid))?;
        }
        if let Some(queue_id) = self.queue_id {
            write!(f, " queue {queue_id}")?;
        }
        write!(f, ": {}\n     {}", self.evidence, self.advice)
    }
}

impl Kind {
    /// Its name for people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Oversubscribed => "oversubscribed",
            Self::IdleQueue => "idle",
            Self::UnusedQueue => "unused",
            Self::PlaceOnly => "place only",
            Self::Preempted => "preempted",
            Self::SaveRestore => "save/restore",
        }
    }
}

/// A process by name, as far as it is known.
struct Named(Option<Comm>, Pid);

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(comm) => write!(f, "{comm}[{}]", self.1),
            None => write!(f, "[{}]", self.1),
        }
    }
}

/// What there is to judge by. Everything is optional: what is not there is not judged.
#[derive(Clone, Copy, Debug, Default)]
pub struct Evidence<'a> {
    /// Events of a while.
    pub model: Option<&'a Model>,
    /// A picture, and when it was taken.
    pub now: Option<(&'a Snapshot, u64)>,
    /// An earlier one, to see what moved since.
    pub before: Option<(&'a Snapshot, u64)>,
    /// A mapped queue is idle after so long without a packet.
    pub idle_after_ns: u64,
    /// Ticks per second of the counter that firmware notes saves and restores by. The driver tells it by an ioctl on /dev/kfd alone,
    /// which nothing that only looks opens: without it, ticks are told as ticks.
    pub gpu_clock_hz: Option<u64>,
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

fn plural(n: u64, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! A queue as the table shows it, joined of picture, model and history; and the columns to sort by.

use std::cmp::Ordering;

use super::history::History;
use crate::event::{Cause, Escaped, QueueType};
use crate::kfd::snapshot::{self, Snapshot, State};
use crate::model::{self, Model, QueueKey, Usage};

/// A queue.
#[derive(Clone, Debug)]
pub(in crate::top) struct Row {
    pub(in crate::top) key: QueueKey,
    /// Escaped; empty where it is not known.
    pub(in crate::top) comm: String,
    pub(in crate::top) ns_pid: Option<u32>,
    /// Escaped.
    pub(in crate::top) cgroup: Option<String>,
    /// Escaped.
    pub(in crate::top) container: Option<String>,
    pub(in crate::top) uid: Option<u32>,
    pub(in crate::top) queue_type: QueueType,
    pub(in crate::top) state: State,
    pub(in crate::top) depth: Option<u64>,
    pub(in crate::top) rate: Option<f64>,
    pub(in crate::top) preemptions: Option<u64>,
    /// 0 to 1.
    pub(in crate::top) off_share: Option<f64>,
    pub(in crate::top) priority: Option<u32>,
    pub(in crate::top) percent: Option<u32>,
    pub(in crate::top) ring_bytes: u64,
    pub(in crate::top) doorbell: Option<u32>,
    pub(in crate::top) age_ns: Option<u64>,
    pub(in crate::top) idle_ns: Option<u64>,
    pub(in crate::top) latencies_ns: Vec<u64>,
    pub(in crate::top) off_permille: Vec<u64>,
    pub(in crate::top) depths: Vec<u64>,
    /// The picture's own words.
    pub(in crate::top) queue: Option<snapshot::Queue>,
    pub(in crate::top) usage: Option<Usage>,
    /// Whose call took it off last, escaped.
    pub(in crate::top) last_by: Option<String>,
}

/// What a row is made of.
pub(in crate::top) struct Parts<'a> {
    pub(in crate::top) key: QueueKey,
    pub(in crate::top) now_ns: u64,
    pub(in crate::top) model: &'a Model,
    pub(in crate::top) known: Option<&'a model::Queue>,
    pub(in crate::top) snapshot: &'a Snapshot,
    pub(in crate::top) seen: Option<&'a snapshot::Queue>,
    /// The picture is of now, not of a time long before.
    pub(in crate::top) fresh: bool,
    pub(in crate::top) history: &'a History,
}

impl Row {
    pub(in crate::top) fn of(parts: &Parts<'_>) -> Self {
        let Parts {
            key,
            model,
            known,
            seen,
            history,
            ..
        } = *parts;
        let process = parts.snapshot.process(key.pid);
        let told = model.process_of(key.pid);
        let comm = process
            .and_then(|process| process.comm)
            .or_else(|| model.comm(key.pid));
        let usage = model.usage(&key);
        let last_by = usage
            .as_ref()
            .and_then(|usage| usage.last_cause)
            .and_then(|(_, pid)| pid)
            .map(|pid| super::named(model, parts.snapshot, pid));
        Self {
            key,
            comm: comm.map(|comm| comm.to_string()).unwrap_or_default(),
            ns_pid: process
                .and_then(|process| process.ns_pid)
                .or_else(|| told.and_then(|told| told.ns_pid)),
            cgroup: process
                .and_then(|process| process.cgroup.as_deref().map(escape))
                // The engine has escaped it.
                .or_else(|| told.and_then(|told| told.cgroup.as_deref().map(str::to_owned))),
            container: process.and_then(|process| process.container.as_deref().map(escape)),
            uid: process.and_then(|process| process.uid),
            queue_type: known
                .map(|known| known.queue_type)
                .or_else(|| seen.map(|seen| seen.queue_type))
                .unwrap_or(QueueType::Unknown),
            state: state(parts, usage.as_ref()),
            depth: seen.and_then(snapshot::Queue::depth),
            rate: history.rate(),
            preemptions: usage.as_ref().map(|usage| usage.preemptions),
            off_share: history.off_share(),
            priority: known
                .and_then(|known| known.priority)
                .or_else(|| seen.and_then(|seen| seen.priority)),
            percent: known
                .and_then(|known| known.percent)
                .or_else(|| seen.and_then(|seen| seen.percent)),
            ring_bytes: known
                .map(|known| known.ring_bytes)
                .or_else(|| seen.map(|seen| seen.ring_bytes))
                .unwrap_or(0),
            doorbell: known
                .and_then(|known| known.doorbell)
                .or_else(|| seen.and_then(|seen| seen.doorbell)),
            age_ns: known
                .and_then(|known| known.created_ns)
                .map(|created_ns| parts.now_ns.saturating_sub(created_ns)),
            idle_ns: history.idle_ns(),
            latencies_ns: history.latencies_ns(),
            off_permille: history.off_permille(),
            depths: history.depths(),
            queue: seen.cloned(),
            usage,
            last_by,
        }
    }

    /// `name[pid]`.
    pub(in crate::top) fn process(&self) -> String {
        format!("{}[{}]", self.comm, self.key.pid)
    }

    /// `gpu:queue`.
    pub(in crate::top) fn gpu_queue(&self) -> String {
        format!("{}:{}", self.key.gpu_id, self.key.queue_id)
    }

    /// Whether a text that was typed is in what the table shows of it.
    pub(in crate::top) fn matches(&self, lower: &str) -> bool {
        let texts = [
            self.process().to_lowercase(),
            self.gpu_queue(),
            self.state.name().to_owned(),
            self.queue_type.name().to_owned(),
            self.container.as_deref().unwrap_or_default().to_lowercase(),
            self.cgroup.as_deref().unwrap_or_default().to_lowercase(),
        ];
        texts.iter().any(|text| text.contains(lower))
    }
}

fn escape(text: &str) -> String {
    Escaped(text.as_bytes()).to_string()
}

/// A picture of now knows more than events; one of long ago knows less.
fn state(parts: &Parts<'_>, usage: Option<&Usage>) -> State {
    let pictured = parts.seen.map_or(State::Unknown, |seen| seen.state);
    if parts.fresh && pictured != State::Unknown {
        return pictured;
    }
    let Some(usage) = usage else {
        return pictured;
    };
    if usage.off_since_ns.is_none() {
        return State::Mapped;
    }
    if parts.known.is_some_and(|known| known.percent == Some(0)) {
        return State::Disabled;
    }
    match usage.last_cause {
        Some((Cause::Hold, _)) => State::Held,
        Some((Cause::Reserve, _)) => State::Parked,
        Some((Cause::Suspend, _)) => State::Suspended,
        Some((Cause::Evict | Cause::Reset | Cause::Criu, _)) => State::Evicted,
        _ => State::Unmapped,
    }
}

/// The columns, in their order on the screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::top) enum Column {
    Process,
    Container,
    Queue,
    Type,
    State,
    Depth,
    Rate,
    Preemptions,
    Off,
    Priority,
    Percent,
    Latency,
    Cgroup,
}

impl Column {
    pub(in crate::top) const ALL: &[Self] = &[
        Self::Process,
        Self::Container,
        Self::Queue,
        Self::Type,
        Self::State,
        Self::Depth,
        Self::Rate,
        Self::Preemptions,
        Self::Off,
        Self::Priority,
        Self::Percent,
        Self::Latency,
        Self::Cgroup,
    ];

    /// Title.
    pub(in crate::top) fn title(self) -> &'static str {
        match self {
            Self::Process => "PROCESS[PID]",
            Self::Container => "CONTAINER",
            Self::Queue => "GPU:Q",
            Self::Type => "TYPE",
            Self::State => "STATE",
            Self::Depth => "DEPTH",
            Self::Rate => "RATE/s",
            Self::Preemptions => "PRE",
            Self::Off => "OFF%",
            Self::Priority => "PRIO",
            Self::Percent => "%",
            Self::Latency => "LATENCY",
            Self::Cgroup => "CGROUP",
        }
    }

    /// Numbers are most interesting when they are large.
    pub(in crate::top) fn descends(self) -> bool {
        matches!(
            self,
            Self::Depth
                | Self::Rate
                | Self::Preemptions
                | Self::Off
                | Self::Latency
                | Self::Priority
                | Self::Percent
        )
    }

    /// The one after it, or before it, round.
    pub(in crate::top) fn step(self, forward: bool) -> Self {
        let at = Self::ALL
            .iter()
            .position(|column| *column == self)
            .unwrap_or(0);
        let step = if forward { 1 } else { Self::ALL.len() - 1 };
        Self::ALL[(at + step) % Self::ALL.len()]
    }

    /// Ascending.
    pub(in crate::top) fn compare(self, a: &Row, b: &Row) -> Ordering {
        let share = |share: Option<f64>| share.map_or(-1.0, |share| share);
        match self {
            Self::Process => (&a.comm, a.key.pid).cmp(&(&b.comm, b.key.pid)),
            Self::Container => a.container.cmp(&b.container),
            Self::Queue => (a.key.gpu_id, a.key.queue_id).cmp(&(b.key.gpu_id, b.key.queue_id)),
            Self::Type => a.queue_type.cmp(&b.queue_type),
            Self::State => a.state.cmp(&b.state),
            Self::Depth => a.depth.cmp(&b.depth),
            Self::Rate => share(a.rate).total_cmp(&share(b.rate)),
            Self::Preemptions => a.preemptions.cmp(&b.preemptions),
            Self::Off => share(a.off_share).total_cmp(&share(b.off_share)),
            Self::Priority => a.priority.cmp(&b.priority),
            Self::Percent => a.percent.cmp(&b.percent),
            Self::Latency => a.latencies_ns.last().cmp(&b.latencies_ns.last()),
            Self::Cgroup => a.cgroup.cmp(&b.cgroup),
        }
    }
}

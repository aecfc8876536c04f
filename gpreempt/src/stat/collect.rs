// SPDX-License-Identifier: MIT OR Apache-2.0
//! Samples and counts of a period, of all events and by group.

use foldhash::HashMap;

use super::latency::{Latency, COARSE, FINE};
use super::measure::{samples, Measure};
use crate::event::{Comm, GpuId, Happening, Kind, Pid};
use crate::model::{Context, Tally};

/// Groups with distributions of their own; those that come later share one.
pub const MOST_GROUPS: usize = 64;

/// What tells groups apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum By {
    /// Why: the call, the reason of an eviction, the cause of a hold
    Cause,
    /// The process that an event is about, or on whose behalf a runlist changed
    Process,
    /// The node
    Gpu,
}

/// A group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Group {
    /// By its word.
    Cause(&'static str),
    /// A process; `None` is none.
    Process(Option<Pid>),
    /// A node; `None` is none.
    Gpu(Option<GpuId>),
    /// One of too many.
    Others,
}

/// Distributions of one group.
#[derive(Debug)]
struct Latencies {
    digits: u8,
    of: [Option<Box<Latency>>; Measure::COUNT],
}

impl Latencies {
    fn new(digits: u8) -> Self {
        Self {
            digits,
            of: std::array::from_fn(|_| None),
        }
    }

    fn take(&mut self, measure: Measure, ns: u64) {
        let digits = self.digits;
        self.of[measure as usize]
            .get_or_insert_with(|| Box::new(Latency::new(digits)))
            .take(ns);
    }

    fn get(&self, measure: Measure) -> Option<&Latency> {
        self.of[measure as usize].as_deref()
    }
}

/// A period.
#[derive(Debug)]
pub struct Collect {
    /// When it began.
    pub from_ns: u64,
    /// Events by kind.
    pub tally: Tally,
    by: Option<By>,
    all: Latencies,
    groups: HashMap<Group, Latencies>,
    comms: HashMap<Pid, Comm>,
}

impl Collect {
    /// From that moment on.
    #[must_use]
    pub fn new(from_ns: u64, by: Option<By>) -> Self {
        Self {
            from_ns,
            tally: Tally::default(),
            by,
            all: Latencies::new(FINE),
            groups: HashMap::default(),
            comms: HashMap::default(),
        }
    }

    /// One event.
    pub fn take(&mut self, happening: &Happening, context: &Context) {
        self.tally.count(happening.event.kind());
        let (all, groups, comms) = (&mut self.all, &mut self.groups, &mut self.comms);
        let by = self.by;
        samples(happening, context, &mut |measure, ns, why| {
            all.take(measure, ns);
            let Some(by) = by else { return };
            let mut group = match by {
                By::Cause => Group::Cause(why),
                By::Process => Group::Process(happening.pid),
                By::Gpu => Group::Gpu(happening.event.gpu_id()),
            };
            if !groups.contains_key(&group) && groups.len() >= MOST_GROUPS {
                group = Group::Others;
            }
            if let (Group::Process(Some(pid)), Some(comm)) = (group, context.comm) {
                comms.insert(pid, comm);
            }
            groups
                .entry(group)
                .or_insert_with(|| Latencies::new(COARSE))
                .take(measure, ns);
        });
    }

    /// Name of a process that is a group.
    #[must_use]
    pub fn comm(&self, pid: Pid) -> Option<Comm> {
        self.comms.get(&pid).copied()
    }

    /// Kinds that occurred, and how often.
    pub fn counts(&self) -> impl Iterator<Item = (Kind, u64)> + '_ {
        self.tally.by_kind()
    }

    /// What was measured of all events.
    #[must_use]
    pub fn latency(&self, measure: Measure) -> Option<&Latency> {
        self.all.get(measure)
    }

    /// What was measured of each group: the one with most samples first.
    #[must_use]
    pub fn groups(&self, measure: Measure) -> Vec<(Group, &Latency)> {
        let mut groups: Vec<(Group, &Latency)> = self
            .groups
            .iter()
            .filter_map(|(group, latencies)| Some((*group, latencies.get(measure)?)))
            .collect();
        let count = |latency: &Latency| latency.line().map_or(0, |line| line.count);
        groups.sort_by_key(|(group, latency)| (std::cmp::Reverse(count(latency)), *group));
        groups
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Cause, Event};

    fn mapped(pid: u32) -> Happening {
        Happening {
            ts_ns: 1,
            total_ns: 100,
            cause: Cause::CreateQueue,
            status: 0,
            pid: Pid::known(pid),
            actor_pid: Pid(pid),
            actor_tid: pid,
            event: Event::RunlistMapped {
                gpu_id: GpuId(1),
                queues: 1,
                cp_queues: 1,
                processes: 1,
                oversubscribed: false,
            },
        }
    }

    #[test]
    fn groups_are_bounded_and_nothing_is_left_out() {
        let mut collect = Collect::new(0, Some(By::Process));
        for pid in 1..1000 {
            collect.take(&mapped(pid), &Context::default());
        }
        let groups = collect.groups(Measure::Map);
        assert_eq!(groups.len(), MOST_GROUPS + 1);
        let count = |latency: &Latency| latency.line().map_or(0, |line| line.count);
        let sum: u64 = groups.iter().map(|(_, latency)| count(latency)).sum();
        assert_eq!(sum, 999);
        assert_eq!(groups[0].0, Group::Others);
        assert_eq!(collect.latency(Measure::Map).map(count), Some(999));
    }

    #[test]
    fn what_failed_or_was_not_measured_is_no_sample() {
        let mut collect = Collect::new(0, None);
        let failed = Happening {
            status: -5,
            ..mapped(1)
        };
        collect.take(&failed, &Context::default());
        let untimed = Happening {
            total_ns: 0,
            ..mapped(1)
        };
        collect.take(&untimed, &Context::default());
        assert!(collect.latency(Measure::Map).is_none());
        assert_eq!(collect.tally.events(), 2, "they are counted");
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! How fast a GPU's counter runs, by which firmware notes wave saves, without asking the driver: it tells that by an ioctl on
//! /dev/kfd alone, which nothing that only looks opens.
//!
//! A save that stands in one picture and not in the one before it was made between the two. If events were seen, it was made within
//! a call that took the node's runlist off: firmware saves when UNMAP_QUEUES reaches it, and the driver waits for its fence
//! (`unmap_queues_cpsch`, Linux 6.12). So the ticks of its end are of a moment between two known times. Two such moments give the
//! frequency: the ticks between them by the time between them, and bounds of it, as that time is known to be no more and no less
//! than so much. Nothing is assumed, all bounds hold at once, and they get closer with every save that is further away. Bounds that
//! contradict each other mean that the counter was reset, or that an event was lost: then it begins anew.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;

use crate::event::{Event, GpuId, Happening};
use crate::kfd::snapshot::Snapshot;
use crate::model::QueueKey;

/// A rate that is less certain is not used: one percent.
const MOST_ERROR: f64 = 0.01;

/// So much may CLOCK_BOOTTIME be off while it is slewed to the world's time: twice the 500 ppm that the kernel allows.
const SLEW: f64 = 0.001;

/// Saves that are remembered to compare with. The least certain ones go first.
const MOST_SIGHTINGS: usize = 32;

/// Calls between two pictures that are remembered.
const MOST_UNMAPS: usize = 1024;

/// The frequency of a GPU's counter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Ticks per second.
    pub hz: f64,
    /// It is wrong by no more than this share of it.
    pub error: f64,
}

impl Rate {
    /// How long so many ticks are.
    #[must_use]
    pub fn ns(&self, ticks: u64) -> u64 {
        (ticks as f64 * 1e9 / self.hz).round() as u64
    }
}

/// `100.0 MHz ±0.3 %`.
impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not less than it is.
        let percent = (self.error * 1000.0).ceil() / 10.0;
        write!(f, "{:.1} MHz ±{percent:.1} %", self.hz / 1e6)
    }
}

/// The counter showed between these ticks, ends included, some time between these moments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sighting {
    ticks: (u64, u64),
    ns: (u64, u64),
}

impl Sighting {
    fn width_ns(&self) -> u64 {
        self.ns.1.saturating_sub(self.ns.0)
    }
}

/// A GPU's counter.
#[derive(Debug)]
struct Counter {
    sightings: Vec<Sighting>,
    least_hz: f64,
    most_hz: f64,
}

impl Default for Counter {
    fn default() -> Self {
        Self {
            sightings: Vec::new(),
            least_hz: 0.0,
            most_hz: f64::INFINITY,
        }
    }
}

impl Counter {
    fn see(&mut self, sighting: Sighting) {
        for earlier in &self.sightings {
            let (least, most) = bounds(earlier, &sighting);
            self.least_hz = self.least_hz.max(least);
            self.most_hz = self.most_hz.min(most);
        }
        let backwards = self
            .sightings
            .last()
            .is_some_and(|last| sighting.ticks.1 < last.ticks.0);
        if backwards || self.least_hz > self.most_hz {
            *self = Self::default();
        }
        if self.sightings.len() == MOST_SIGHTINGS {
            // The last one stays: it tells when the counter goes back.
            let others = &self.sightings[..MOST_SIGHTINGS - 1];
            let widest = others.iter().enumerate().max_by_key(|(_, s)| s.width_ns());
            if let Some((at, _)) = widest {
                self.sightings.remove(at);
            }
        }
        self.sightings.push(sighting);
    }

    fn rate(&self) -> Option<Rate> {
        let (least, most) = (self.least_hz, self.most_hz);
        if least <= 0.0 || !most.is_finite() {
            return None;
        }
        let hz = (least + most) / 2.0;
        let error = (most - least) / 2.0 / hz;
        (error <= MOST_ERROR).then_some(Rate { hz, error })
    }
}

/// The least and the most ticks per second that two sightings allow.
fn bounds(a: &Sighting, b: &Sighting) -> (f64, f64) {
    let per_s = |ticks: u64, ns: u64| ticks as f64 * 1e9 / ns as f64;
    let longest = b.ns.1.saturating_sub(a.ns.0);
    let shortest = b.ns.0.saturating_sub(a.ns.1);
    let least = match longest {
        0 => 0.0,
        ns => per_s(b.ticks.0.saturating_sub(a.ticks.1), ns) * (1.0 - SLEW),
    };
    let most = match shortest {
        0 => f64::INFINITY,
        ns => per_s(b.ticks.1.saturating_sub(a.ticks.0), ns) * (1.0 + SLEW),
    };
    (least, most)
}

#[derive(Debug, Default)]
struct Node {
    counter: Counter,
    /// Calls that took the runlist off: begin and end.
    unmaps: VecDeque<(u64, u64)>,
    /// Each call that ended since then is in `unmaps`, and firmware saved nothing of its own accord.
    whole_since_ns: Option<u64>,
    /// The runlist holds more than the hardware: firmware takes queues off when their turn is over, without a call.
    oversubscribed: bool,
}

impl Node {
    fn broken(&mut self, ts_ns: u64) {
        self.whole_since_ns = Some(ts_ns);
        self.unmaps.clear();
    }

    /// Between which moments something was saved that was saved between these.
    fn narrowed(&self, from_ns: u64, to_ns: u64) -> (u64, u64) {
        let whole = self.whole_since_ns.is_some_and(|since| since <= from_ns);
        let mut calls = self
            .unmaps
            .iter()
            .filter(|(begin, end)| *end >= from_ns && *begin <= to_ns);
        match (whole && !self.oversubscribed, calls.next()) {
            (true, Some((begin, end))) => {
                let last = calls.map(|(_, end)| *end).max().unwrap_or(*end);
                ((*begin).max(from_ns), last.max(*end).min(to_ns))
            }
            _ => (from_ns, to_ns),
        }
    }
}

/// Saves that are new in a picture, until the events of its time are all there: when the next picture comes.
#[derive(Debug)]
struct Fresh {
    from_ns: u64,
    to_ns: u64,
    /// Earliest and latest end.
    ticks: BTreeMap<GpuId, (u64, u64)>,
}

/// When a picture was begun, and the saves that stood in it.
#[derive(Debug)]
struct Looked {
    begun_ns: u64,
    saves: HashMap<QueueKey, Vec<(u64, u64)>>,
}

/// The counters of all GPUs.
#[derive(Debug, Default)]
pub(super) struct Clocks {
    /// Events are seen since then.
    since_ns: Option<u64>,
    nodes: BTreeMap<GpuId, Node>,
    last: Option<Looked>,
    fresh: Option<Fresh>,
}

impl Clocks {
    /// Every event since then will come.
    pub(super) fn begin(&mut self, ts_ns: u64) {
        self.since_ns = Some(ts_ns);
    }

    /// Takes an event. All of them have to come, in order of their times as far as they have one.
    pub(super) fn event(&mut self, happening: &Happening) {
        let Happening {
            ts_ns, total_ns, ..
        } = *happening;
        match happening.event {
            Event::RunlistUnmapped { gpu_id, .. } => {
                let node = self.watched(gpu_id);
                if node.unmaps.len() == MOST_UNMAPS {
                    node.broken(ts_ns);
                }
                node.whole_since_ns.get_or_insert(ts_ns);
                node.unmaps
                    .push_back((ts_ns.saturating_sub(total_ns), ts_ns));
            }
            Event::RunlistMapped {
                gpu_id,
                oversubscribed,
                ..
            } => {
                let node = self.watched(gpu_id);
                if node.oversubscribed {
                    node.broken(ts_ns);
                }
                node.whole_since_ns.get_or_insert(ts_ns);
                node.oversubscribed = oversubscribed;
            }
            _ => {}
        }
    }

    fn watched(&mut self, gpu_id: GpuId) -> &mut Node {
        let since_ns = self.since_ns;
        let node = self.nodes.entry(gpu_id).or_default();
        node.whole_since_ns = node.whole_since_ns.or(since_ns);
        node
    }

    /// Events were lost before then.
    pub(super) fn lost(&mut self, ts_ns: u64) {
        self.since_ns = Some(ts_ns);
        for node in self.nodes.values_mut() {
            node.broken(ts_ns);
        }
    }

    /// Takes a picture that was begun and done then.
    pub(super) fn picture(&mut self, snapshot: &Snapshot, begun_ns: u64, done_ns: u64) {
        self.settle();
        let mut ticks: BTreeMap<GpuId, (u64, u64)> = BTreeMap::new();
        let mut saves = HashMap::new();
        for queue in snapshot.queues.iter().filter(|q| !q.saves.is_empty()) {
            let key = QueueKey {
                pid: queue.pid,
                gpu_id: queue.gpu_id,
                queue_id: queue.queue_id,
            };
            // Nothing is said of a queue that was not there: only of what was seen to change.
            let earlier = self.last.as_ref().and_then(|last| last.saves.get(&key));
            for (now, before) in queue.saves.iter().zip(earlier.into_iter().flatten()) {
                // The start may be older than the picture before, if that was taken during the save.
                let (start, end) = *now;
                if end != before.1 && start > 0 && end >= start {
                    let ticks = ticks.entry(queue.gpu_id).or_insert((end, end));
                    *ticks = (ticks.0.min(end), ticks.1.max(end));
                }
            }
            saves.insert(key, queue.saves.clone());
        }
        for gpu in &snapshot.gpus {
            if gpu.runlist.is_some_and(|runlist| runlist.oversubscribed) {
                let node = self.nodes.entry(gpu.node.gpu_id).or_default();
                node.broken(done_ns);
            }
        }
        if let Some(last) = &self.last {
            self.fresh = Some(Fresh {
                from_ns: last.begun_ns,
                to_ns: done_ns,
                ticks,
            });
        }
        self.last = Some(Looked { begun_ns, saves });
    }

    /// Draws the conclusions of the last picture: no more events of its time will come.
    pub(super) fn settle(&mut self) {
        let Some(fresh) = self.fresh.take() else {
            return;
        };
        for (gpu_id, ticks) in fresh.ticks {
            let node = self.nodes.entry(gpu_id).or_default();
            let ns = node.narrowed(fresh.from_ns, fresh.to_ns);
            node.counter.see(Sighting { ticks, ns });
        }
        // What ended before the last picture began is over.
        let kept_ns = self.last.as_ref().map_or(0, |last| last.begun_ns);
        for node in self.nodes.values_mut() {
            while node.unmaps.front().is_some_and(|(_, end)| *end < kept_ns) {
                node.unmaps.pop_front();
            }
        }
    }

    /// The frequency of a GPU's counter, if it is certain enough.
    pub(super) fn rate(&self, gpu_id: GpuId) -> Option<Rate> {
        self.nodes.get(&gpu_id)?.counter.rate()
    }
}

#[cfg(test)]
mod tests;

// SPDX-License-Identifier: MIT OR Apache-2.0
//! What was seen over time: pictures, and the events between them, as far as there are any. Bounded by the queues that there are.

use std::collections::HashMap;

use super::clock::{Clocks, Rate};
use super::Evidence;
use crate::event::{GpuId, Happening};
use crate::kfd::snapshot::{Queue, Snapshot, State};
use crate::model::{Model, QueueKey};
use crate::sink::record::{DriverState, Record};

/// A picture, and when it was taken.
type Taken = (Snapshot, u64);

/// A queue over time.
#[derive(Clone, Copy, Debug)]
struct Seen {
    /// In a picture for the first time.
    first_ns: u64,
    /// Packets written.
    written: Option<u64>,
    /// Since then it is mapped in each picture, with nothing waiting and nothing new.
    quiet_ns: Option<u64>,
}

/// What was seen over time.
#[derive(Debug, Default)]
pub struct History {
    first: Option<Taken>,
    before: Option<Taken>,
    now: Option<Taken>,
    queues: HashMap<QueueKey, Seen>,
    clocks: Clocks,
}

impl History {
    /// Takes an event; all of them have to come.
    pub fn event(&mut self, happening: &Happening) {
        self.clocks.event(happening);
    }

    /// Takes a record that says whether all events come.
    pub fn record(&mut self, record: &Record) {
        match record {
            Record::Startup(startup) => self.clocks.begin(startup.ts_ns),
            Record::Lost(lost) => self.clocks.lost(lost.ts_ns),
            // Its GPUs and queues are others when it comes back.
            Record::Driver(change) if change.state == DriverState::Gone => {
                self.clocks = Clocks::default();
                self.queues.clear();
            }
            _ => {}
        }
    }

    /// Takes a picture that was begun and done then.
    pub fn picture(&mut self, snapshot: Snapshot, begun_ns: u64, done_ns: u64) {
        self.clocks.picture(&snapshot, begun_ns, done_ns);
        let queues = snapshot.queues.iter().map(|queue| {
            let key = key(queue);
            let seen = self.queues.get(&key);
            (key, look(queue, seen, begun_ns))
        });
        self.queues = queues.collect();
        self.first
            .get_or_insert_with(|| (snapshot.clone(), begun_ns));
        self.before = self.now.replace((snapshot, begun_ns));
    }

    /// The end: no more events of the last picture's time will come.
    pub fn settle(&mut self) {
        self.clocks.settle();
    }

    /// The first picture, and when it was taken.
    #[must_use]
    pub fn first(&self) -> Option<(&Snapshot, u64)> {
        borrowed(&self.first)
    }

    /// The one before the last.
    #[must_use]
    pub fn before(&self) -> Option<(&Snapshot, u64)> {
        borrowed(&self.before)
    }

    /// The last one.
    #[must_use]
    pub fn now(&self) -> Option<(&Snapshot, u64)> {
        borrowed(&self.now)
    }

    /// How fast a GPU's counter runs, if that can be told.
    #[must_use]
    pub fn rate(&self, gpu_id: GpuId) -> Option<Rate> {
        self.clocks.rate(gpu_id)
    }

    /// Since when a queue was in every picture.
    pub(super) fn seen_since(&self, queue: &Queue) -> Option<u64> {
        Some(self.queues.get(&key(queue))?.first_ns)
    }

    /// Since when a queue was mapped and idle in every picture.
    pub(super) fn quiet_since(&self, queue: &Queue) -> Option<u64> {
        self.queues.get(&key(queue))?.quiet_ns
    }

    /// What findings can be made of. Saves count since the picture before the last.
    #[must_use]
    pub fn evidence<'a>(
        &'a self,
        model: Option<&'a Model>,
        idle_after_ns: u64,
        now_ns: u64,
    ) -> Evidence<'a> {
        Evidence {
            model,
            now: self.now(),
            before: self.before(),
            history: Some(self),
            idle_after_ns,
            now_ns,
        }
    }
}

fn borrowed(taken: &Option<Taken>) -> Option<(&Snapshot, u64)> {
    taken.as_ref().map(|(snapshot, ts_ns)| (snapshot, *ts_ns))
}

fn key(queue: &Queue) -> QueueKey {
    QueueKey {
        pid: queue.pid,
        gpu_id: queue.gpu_id,
        queue_id: queue.queue_id,
    }
}

fn look(queue: &Queue, before: Option<&Seen>, ts_ns: u64) -> Seen {
    // An index that went back is that of another queue at the same id.
    let before = before.filter(|seen| seen.written <= queue.write_index);
    let quiet = queue.state == State::Mapped && queue.depth() == Some(0);
    let as_before = before
        .filter(|seen| seen.written == queue.write_index)
        .and_then(|seen| seen.quiet_ns);
    Seen {
        first_ns: before.map_or(ts_ns, |seen| seen.first_ns),
        written: queue.write_index,
        quiet_ns: quiet.then(|| as_before.unwrap_or(ts_ns)),
    }
}

#[cfg(test)]
mod tests;

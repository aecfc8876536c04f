// SPDX-License-Identifier: MIT OR Apache-2.0
//! How often and how long a node's runlist was off the GPU, and what of that a queue saw: counts that never fall, and accounts that
//! remember where they stood when a queue joined.
//!
//! An event of the runlist touches the node's counts alone, however many queues there are: a queue's share is the difference
//! between the counts now and those when it joined. The scheduler works in the same way at two levels: a process takes part in its
//! node's runlist, a queue in its process's share of it.
//!
//! A runlist is off from the return of the call that took it off to the return of the call that submitted it again: from `ts_ns`
//! to `ts_ns` of their records. What the GPU took to save its waves before that, and to start again after it, is not in it.

use super::usage::Off;
use crate::event::{Cause, Pid};

/// Changes of a runlist that are remembered: those of a call are looked for when the call's own record comes, which is after its
/// return. More than this lie between only when as many threads change the same node at the same time.
const EDGES: usize = 16;

/// How often something was taken off the GPU, and for how long. Counts by cause wrap: only differences of them are used, and sums of
/// many queues are [`Totals`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Times it was taken off.
    pub(super) stops: u64,
    /// The same by cause.
    pub(super) by_cause: [u32; Cause::COUNT],
    /// Of these, on behalf of the process itself. Of a node: none.
    pub(super) own: u64,
    /// Time off, stretches that have ended.
    pub(super) off_ns: u64,
    /// Off since then.
    pub(super) off_since_ns: Option<u64>,
    /// Why it was taken off last, and on whose behalf.
    pub(super) last: Option<(Cause, Option<Pid>)>,
}

impl Counts {
    fn stop(&mut self, cause: Cause, by: Option<Pid>) {
        self.stops += 1;
        let count = &mut self.by_cause[cause.index()];
        *count = count.wrapping_add(1);
        self.last = Some((cause, by));
    }

    fn unstop(&mut self, cause: Cause) {
        self.stops = self.stops.saturating_sub(1);
        let count = &mut self.by_cause[cause.index()];
        *count = count.wrapping_sub(1);
    }

    fn resume(&mut self, ts_ns: u64) {
        if let Some(since_ns) = self.off_since_ns.take() {
            // Clocks of recordings are not to be trusted.
            let ended_ns = ts_ns.saturating_sub(since_ns);
            self.off_ns = self.off_ns.saturating_add(ended_ns);
        }
    }
}

/// Sums of what many queues counted.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Totals {
    pub(super) stops: u64,
    pub(super) by_cause: [u64; Cause::COUNT],
    pub(super) own: u64,
    pub(super) off_ns: u64,
}

impl Totals {
    /// Adds what one queue counted until `until_ns`.
    pub(super) fn add(&mut self, counts: &Counts, until_ns: u64) {
        let mut counts = *counts;
        counts.resume(until_ns);
        self.stops += counts.stops;
        for (sum, count) in self.by_cause.iter_mut().zip(counts.by_cause) {
            *sum += u64::from(count);
        }
        self.own += counts.own.min(counts.stops);
        self.off_ns = self.off_ns.saturating_add(counts.off_ns);
    }
}

/// The runlist of a node.
#[derive(Debug)]
pub(super) struct Runlist {
    pub(super) counts: Counts,
    /// The last changes; the next one goes to `written % EDGES`.
    edges: [Edge; EDGES],
    written: usize,
}

/// A change of the runlist.
#[derive(Clone, Copy, Debug)]
struct Edge {
    ts_ns: u64,
    tid: u32,
    /// Submitted, else taken off.
    on: bool,
    cause: Cause,
    by: Option<Pid>,
    /// [`Counts::off_ns`] after it.
    off_ns: u64,
}

/// A moment of a node: the time and the counts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub(super) ts_ns: u64,
    pub(super) counts: Counts,
}

/// A call into the driver: the thread, and from when to when. Changes at `from_ns` itself are not its own.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    pub(super) tid: u32,
    pub(super) from_ns: u64,
    pub(super) to_ns: u64,
}

impl Call {
    /// The same without what was before an account joined.
    pub(super) fn since(self, joined_ns: u64) -> Self {
        Self {
            from_ns: self.from_ns.max(joined_ns),
            ..self
        }
    }
}

impl Default for Runlist {
    fn default() -> Self {
        let edge = Edge {
            ts_ns: 0,
            tid: 0,
            on: true,
            cause: Cause::Other,
            by: None,
            off_ns: 0,
        };
        Self {
            counts: Counts::default(),
            edges: [edge; EDGES],
            written: 0,
        }
    }
}

impl Runlist {
    /// It was taken off.
    pub(super) fn unmapped(&mut self, ts_ns: u64, tid: u32, cause: Cause, by: Option<Pid>) {
        // The driver takes off only what it submitted (unmap_queues_cpsch, Linux 6.12): the record of that was lost, so nobody
        // knows when it was. A stretch whose end was not seen counts as nothing.
        self.counts.off_since_ns = None;
        self.counts.stop(cause, by);
        self.counts.off_since_ns = Some(ts_ns);
        self.push(ts_ns, tid, false, cause, by);
    }

    /// It was submitted. Returns the time off that this ends, if it was seen to be taken off.
    pub(super) fn mapped(&mut self, ts_ns: u64, tid: u32) -> Option<Off> {
        let since_ns = self.counts.off_since_ns;
        self.counts.resume(ts_ns);
        self.push(ts_ns, tid, true, Cause::Other, None);
        let (cause, by) = self.counts.last?;
        Some(Off {
            ns: ts_ns.saturating_sub(since_ns?),
            cause,
            by,
        })
    }

    /// A thread that took it off has destroyed a queue and submitted nothing: nothing was left (map_queues_cpsch returns early then,
    /// Linux 6.12), and what is submitted next was not off until then.
    pub(super) fn destroyed(&mut self, tid: u32) {
        let last = self
            .written
            .checked_sub(1)
            .map(|at| &self.edges[at % EDGES]);
        if last.is_some_and(|edge| !edge.on && edge.tid == tid) {
            self.counts.off_since_ns = None;
        }
    }

    fn push(&mut self, ts_ns: u64, tid: u32, on: bool, cause: Cause, by: Option<Pid>) {
        self.edges[self.written % EDGES] = Edge {
            ts_ns,
            tid,
            on,
            cause,
            by,
            off_ns: self.counts.off_ns,
        };
        self.written += 1;
    }

    /// Just after the call last took the runlist off, or submitted it.
    pub(super) fn after(&self, call: Call, on: bool) -> Option<Moment> {
        let at = self.find(call, on)?;
        Some(self.moment(at))
    }

    /// Just before the call last took the runlist off, which then does not count.
    pub(super) fn before_stop(&self, call: Call) -> Option<Moment> {
        let at = self.find(call, false)?;
        let mut moment = self.moment(at);
        moment.counts.unstop(self.edges[at % EDGES].cause);
        moment.counts.off_since_ns = None;
        Some(moment)
    }

    fn find(&self, call: Call, on: bool) -> Option<usize> {
        let oldest = self.written.saturating_sub(EDGES);
        (oldest..self.written)
            .rev()
            .map(|at| (at, &self.edges[at % EDGES]))
            .take_while(|(_, edge)| edge.ts_ns > call.from_ns)
            .find(|(_, edge)| edge.on == on && edge.tid == call.tid && edge.ts_ns <= call.to_ns)
            .map(|(at, _)| at)
    }

    /// The counts as they were just after a change: those of now without what came later.
    fn moment(&self, at: usize) -> Moment {
        let edge = &self.edges[at % EDGES];
        let mut counts = self.counts;
        let later = (at + 1..self.written).map(|at| &self.edges[at % EDGES]);
        for edge in later.filter(|edge| !edge.on) {
            counts.unstop(edge.cause);
        }
        counts.off_ns = edge.off_ns;
        counts.off_since_ns = (!edge.on).then_some(edge.ts_ns);
        if at + 1 < self.written {
            let oldest = self.written.saturating_sub(EDGES);
            counts.last = (oldest..=at)
                .rev()
                .map(|at| &self.edges[at % EDGES])
                .find(|edge| !edge.on)
                .map(|edge| (edge.cause, edge.by));
        }
        Moment {
            ts_ns: edge.ts_ns,
            counts,
        }
    }
}

/// The share that a part has in the counts of the whole that it belongs to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Account {
    /// When it was opened.
    pub(super) since_ns: u64,
    /// While it is apart, and off: what it counted. While it belongs to the whole: the time off that it had by then, and of the counts
    /// the difference to those of the whole, so that these are all that is missing. Differences wrap.
    counts: Counts,
    joined: Option<Joined>,
}

/// Since when a part shares what happens to the whole.
#[derive(Clone, Copy, Debug)]
struct Joined {
    ts_ns: u64,
    /// Stops of the whole then.
    stops: u64,
    /// Its time off then; of a stretch that was open, what had passed of it.
    off_ns: u64,
}

impl Account {
    /// Of a part that belongs to the whole from then on.
    pub(super) fn joined(at: &Moment) -> Self {
        let mut account = Self {
            since_ns: at.ts_ns,
            counts: Counts::default(),
            joined: None,
        };
        account.join(at);
        account
    }

    /// Of a part that is off from the start.
    pub(super) fn apart(ts_ns: u64) -> Self {
        Self {
            since_ns: ts_ns,
            counts: Counts {
                off_since_ns: Some(ts_ns),
                ..Counts::default()
            },
            joined: None,
        }
    }

    /// Whether it shares what happens to the whole.
    pub(super) fn is_part(&self) -> bool {
        self.joined.is_some()
    }

    /// Changes of the whole before that are not its own.
    pub(super) fn joined_ns(&self) -> u64 {
        self.joined.map_or(0, |joined| joined.ts_ns)
    }

    /// It was taken off on its own behalf.
    pub(super) fn own_stop(&mut self) {
        self.counts.own = self.counts.own.wrapping_add(1);
    }

    /// What it counted, given the counts of the whole.
    pub(super) fn read(&self, whole: &Counts) -> Counts {
        let Some(joined) = self.joined else {
            return self.counts;
        };
        let mut counts = *whole;
        counts.stops = sum(self.counts.stops, whole.stops);
        counts.own = sum(self.counts.own, whole.own);
        for (count, own) in counts.by_cause.iter_mut().zip(self.counts.by_cause) {
            *count = count.wrapping_add(own).cast_signed().max(0).cast_unsigned();
        }
        // Less than when it joined: the stretch that was open then still is, or its end was lost.
        let shared_ns = whole.off_ns.saturating_sub(joined.off_ns);
        counts.off_ns = self.counts.off_ns.saturating_add(shared_ns);
        counts.off_since_ns = whole
            .off_since_ns
            .map(|since_ns| since_ns.max(joined.ts_ns));
        if whole.stops <= joined.stops {
            counts.last = self.counts.last;
        }
        counts
    }

    /// It takes part from `at` on, unless it does already. Returns the time off that this ends, if it was taken off.
    pub(super) fn join(&mut self, at: &Moment) -> Option<Off> {
        if self.is_part() {
            return None;
        }
        let counts = &mut self.counts;
        let since_ns = counts.off_since_ns;
        counts.resume(at.ts_ns);
        let mut whole = at.counts;
        whole.resume(at.ts_ns);
        counts.stops = counts.stops.wrapping_sub(whole.stops);
        counts.own = counts.own.wrapping_sub(whole.own);
        for (count, base) in counts.by_cause.iter_mut().zip(whole.by_cause) {
            *count = count.wrapping_sub(base);
        }
        self.joined = Some(Joined {
            ts_ns: at.ts_ns,
            stops: whole.stops,
            off_ns: whole.off_ns,
        });
        let (cause, by) = counts.last?;
        Some(Off {
            ns: at.ts_ns.saturating_sub(since_ns?),
            cause,
            by,
        })
    }

    /// It is off by itself from `at` on, unless it is already.
    pub(super) fn leave(&mut self, at: &Moment) {
        if self.is_part() {
            self.counts = self.read(&at.counts);
            self.counts.off_since_ns.get_or_insert(at.ts_ns);
            self.joined = None;
        }
    }
}

/// The sum of a difference and what it lacks; less than nothing is nothing.
fn sum(difference: u64, whole: u64) -> u64 {
    difference
        .wrapping_add(whole)
        .cast_signed()
        .max(0)
        .cast_unsigned()
}

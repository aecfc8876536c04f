// SPDX-License-Identifier: MIT OR Apache-2.0
//! When a job was held: what the guards know of it, whatever the policies remember.
//!
//! Where order and observation differ, the longer pause counts: it begins when it is ordered and ends when it is seen to be over.

use std::collections::VecDeque;

/// So far back pauses are remembered, whatever the window is now: a reload can lengthen it.
pub(super) const HISTORY_NS: u64 = 3_600_000_000_000;

/// More pauses are not kept apart: the two oldest become one, with the run between them.
const MOST_PAUSES: usize = 4096;

/// The first wait after a refusal; it doubles with each one that follows.
const FIRST_WAIT_NS: u64 = 1_000_000_000;

/// And does not double for ever.
const MOST_DOUBLINGS: u32 = 6;

/// The pauses of one job.
#[derive(Clone, Debug, Default)]
pub(super) struct Ledger {
    /// Pauses that are over, the oldest first.
    past: VecDeque<(u64, u64)>,
    /// Since when it is held, or was ordered to be.
    held_since: Option<u64>,
    /// It was ordered to run again and has not been seen to.
    pub(super) releasing: bool,
    /// When it began to run after its last pause; `None` if it was never held.
    running_since: Option<u64>,
    refusals: u32,
    refused_until_ns: u64,
    seen_ns: u64,
}

impl Ledger {
    /// Takes in what was seen: whether any part of it is held, and since when that is so.
    pub(super) fn observe(&mut self, held: bool, since_ns: u64, now_ns: u64) {
        self.seen_ns = now_ns;
        match (self.held_since, held) {
            (None, false) => {}
            (None, true) => self.held_since = Some(since_ns.min(now_ns)),
            (Some(since), true) => self.held_since = Some(since.min(since_ns)),
            (Some(since), false) => self.close(since, since_ns.clamp(since, now_ns.max(since))),
        }
        self.forget(now_ns);
    }

    /// It is in no view any more: nothing of it is held.
    pub(super) fn gone(&mut self, now_ns: u64) {
        if let Some(since) = self.held_since {
            self.close(since, now_ns.max(since));
        }
        self.forget(now_ns);
    }

    /// Whether nothing in it can matter any more.
    pub(super) fn is_stale(&self, now_ns: u64) -> bool {
        self.held_since.is_none()
            && self.past.is_empty()
            && now_ns.saturating_sub(self.seen_ns) > HISTORY_NS
    }

    fn close(&mut self, since: u64, end: u64) {
        // A window is counted from the back: the ends are in order, whatever times were told.
        let end = self.past.back().map_or(end, |(_, last)| end.max(*last));
        if end > since {
            self.past.push_back((since, end));
        }
        if self.past.len() > MOST_PAUSES {
            if let (Some((from, _)), Some(second)) = (self.past.pop_front(), self.past.front_mut())
            {
                second.0 = second.0.min(from);
            }
        }
        self.held_since = None;
        self.releasing = false;
        self.running_since = Some(end);
    }

    fn forget(&mut self, now_ns: u64) {
        let old = now_ns.saturating_sub(HISTORY_NS);
        while self.past.front().is_some_and(|(_, end)| *end <= old) {
            self.past.pop_front();
        }
    }

    /// It is ordered to be held.
    pub(super) fn hold(&mut self, now_ns: u64) {
        self.held_since.get_or_insert(now_ns);
        self.releasing = false;
    }

    /// The driver refused to hold all of it.
    pub(super) fn refused(&mut self, now_ns: u64) {
        let wait = FIRST_WAIT_NS << self.refusals.min(MOST_DOUBLINGS);
        self.refusals = self.refusals.saturating_add(1);
        self.refused_until_ns = now_ns.saturating_add(wait);
    }

    /// All of it was seen to be held.
    pub(super) fn accepted(&mut self) {
        self.refusals = 0;
    }

    /// Until when it is not tried again; `None` = it may be.
    pub(super) fn refused_until(&self, now_ns: u64) -> Option<u64> {
        (self.refused_until_ns > now_ns).then_some(self.refused_until_ns)
    }

    /// Since when it is held.
    pub(super) fn held_since(&self) -> Option<u64> {
        self.held_since
    }

    /// When it has run for so long since its last pause; `None` = it has never been held.
    pub(super) fn has_run_at(&self, min_run_ns: u64) -> Option<u64> {
        self.running_since
            .map(|since| since.saturating_add(min_run_ns))
    }

    /// How long it was held in the window that ends now.
    pub(super) fn paused_ns(&self, window_ns: u64, now_ns: u64) -> u64 {
        let begin = now_ns.saturating_sub(window_ns);
        let current = self.held_since.map(|since| (since, now_ns));
        // Hours of pauses may lie before the window.
        let past = self.past.iter().rev().copied();
        past.take_while(|(_, to)| *to > begin)
            .chain(current)
            .map(|(from, to)| to.min(now_ns).saturating_sub(from.max(begin)))
            .fold(0, u64::saturating_add)
    }

    /// When, without another pause, so little of the window is paused. For a job that is not held.
    pub(super) fn paused_at_most_at(&self, paused_ns: u64, window_ns: u64, now_ns: u64) -> u64 {
        let mut excess = self.paused_ns(window_ns, now_ns).saturating_sub(paused_ns);
        let begin = now_ns.saturating_sub(window_ns);
        for (from, to) in &self.past {
            let from = (*from).max(begin);
            let length = to.saturating_sub(from);
            if excess <= length {
                let at = from.saturating_add(excess).saturating_add(window_ns);
                return at.max(now_ns);
            }
            excess -= length;
        }
        now_ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_lasts_from_the_order_until_it_is_seen_to_be_over() {
        let mut ledger = Ledger::default();
        ledger.observe(false, 0, 100);
        ledger.hold(100);
        ledger.observe(true, 130, 150);
        assert_eq!(ledger.paused_ns(1000, 150), 50, "from the order");
        ledger.hold(150);
        assert_eq!(ledger.held_since(), Some(100), "no new pause");
        ledger.releasing = true;
        ledger.observe(true, 130, 160);
        assert_eq!(ledger.held_since(), Some(100), "an order is no observation");
        ledger.observe(false, 165, 170);
        assert_eq!(ledger.paused_ns(1000, 170), 65);
        assert_eq!(ledger.has_run_at(10), Some(175));
        assert!(!ledger.releasing);
    }

    #[test]
    fn only_the_window_counts() {
        let mut ledger = Ledger::default();
        for from in [1000, 2000] {
            ledger.hold(from);
            ledger.observe(false, from + 400, from + 400);
        }
        assert_eq!(ledger.paused_ns(1000, 2400), 400);
        assert_eq!(ledger.paused_ns(1200, 2400), 600);
        assert_eq!(ledger.paused_ns(1000, 2800), 400);
        let at = ledger.paused_at_most_at(100, 1000, 2800);
        assert_eq!(at, 3300);
        assert_eq!(ledger.paused_ns(1000, at), 100);
        assert_eq!(ledger.paused_at_most_at(400, 1000, 2800), 2800, "now");
    }

    #[test]
    fn old_pauses_are_merged_and_never_shortened() {
        let mut ledger = Ledger::default();
        for n in 0..10_000 {
            ledger.hold(n * 10);
            ledger.observe(false, n * 10 + 5, n * 10 + 5);
        }
        assert_eq!(ledger.past.len(), MOST_PAUSES);
        assert!(ledger.paused_ns(HISTORY_NS, 100_000) >= 50_000);
        ledger.gone(HISTORY_NS + 100_000);
        assert!(ledger.past.is_empty());
        assert!(ledger.is_stale(2 * HISTORY_NS + 200_000));
    }

    #[test]
    fn refusals_are_asked_about_ever_more_seldom() {
        let mut ledger = Ledger::default();
        let waits: Vec<u64> = (0..9)
            .map(|_| {
                ledger.refused(0);
                ledger.refused_until(0).unwrap() / FIRST_WAIT_NS
            })
            .collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 64, 64]);
        ledger.hold(0);
        ledger.accepted();
        ledger.refused(0);
        assert_eq!(ledger.refused_until(0), Some(FIRST_WAIT_NS));
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! How often a GPU was preempted. Each preemption takes every queue of the GPU off, those of online jobs too
//! (unmap_queues_cpsch, Linux 6.12), so that many of them hurt those whom they are made for.
//!
//! Stops are counted. Each is followed by one restart, which interrupts the GPU once more and is never denied.

use std::collections::VecDeque;

/// So far back preemptions are remembered, whatever the window is now.
pub(super) const LONGEST_WINDOW_NS: u64 = 60_000_000_000;

/// The preemptions of one GPU.
#[derive(Clone, Debug, Default)]
pub(super) struct Rate(VecDeque<(u64, u32)>);

impl Rate {
    pub(super) fn forget(&mut self, now_ns: u64) {
        let old = now_ns.saturating_sub(LONGEST_WINDOW_NS);
        while self.0.front().is_some_and(|(at, _)| *at < old) {
            self.0.pop_front();
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn add(&mut self, rounds: u32, now_ns: u64) {
        match self.0.back_mut() {
            Some((at, count)) if *at == now_ns => *count = count.saturating_add(rounds),
            _ => self.0.push_back((now_ns, rounds)),
        }
    }

    /// In the window that ends now; one that lies exactly so far back still counts.
    pub(super) fn count(&self, window_ns: u64, now_ns: u64) -> u32 {
        let begin = now_ns.saturating_sub(window_ns);
        let inside = self.0.iter().rev().take_while(|(at, _)| *at >= begin);
        inside.fold(0, |sum, (_, rounds)| sum.saturating_add(*rounds))
    }

    /// When no more than so many are in the window, if none is added.
    pub(super) fn at_most_at(&self, most: u32, window_ns: u64, now_ns: u64) -> u64 {
        let mut left = self.count(window_ns, now_ns);
        let begin = now_ns.saturating_sub(window_ns);
        for (at, rounds) in self.0.iter().filter(|(at, _)| *at >= begin) {
            if left <= most {
                break;
            }
            left = left.saturating_sub(*rounds);
            if left <= most {
                return at.saturating_add(window_ns).saturating_add(1);
            }
        }
        now_ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_counts_what_is_in_it() {
        let mut rate = Rate::default();
        for at in [100, 100, 150, 300] {
            rate.add(1, at);
        }
        assert_eq!(rate.count(200, 300), 4);
        assert_eq!(rate.count(199, 300), 2);
        assert_eq!(rate.at_most_at(4, 200, 300), 300);
        assert_eq!(rate.at_most_at(3, 200, 300), 301);
        assert_eq!(rate.at_most_at(1, 200, 300), 351);
        assert_eq!(rate.at_most_at(0, 200, 300), 501);
        assert_eq!(rate.count(200, rate.at_most_at(1, 200, 300)), 1);
        rate.forget(LONGEST_WINDOW_NS + 301);
        assert!(rate.is_empty());
    }
}

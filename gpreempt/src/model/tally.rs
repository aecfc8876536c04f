// SPDX-License-Identifier: MIT OR Apache-2.0
//! Counts: events by kind, and records lost.

use crate::event::Kind;

/// Events by kind, and records lost.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    by_kind: [u64; Kind::COUNT],
    lost_before: u64,
    lost_now: u64,
}

impl Tally {
    /// Counts one event.
    pub fn count(&mut self, kind: Kind) {
        self.by_kind[kind.index()] += 1;
    }

    /// Takes the source's own count of lost records, which never falls; returns how many are new.
    pub fn lost(&mut self, total: u64) -> u64 {
        let new = total.saturating_sub(self.lost_now);
        self.lost_now = self.lost_now.max(total);
        new
    }

    /// The source was started again and counts from 0.
    pub fn source_restarted(&mut self) {
        self.lost_before += self.lost_now;
        self.lost_now = 0;
    }

    /// All records lost.
    #[must_use]
    pub fn lost_total(&self) -> u64 {
        self.lost_before + self.lost_now
    }

    /// All events.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.by_kind.iter().sum()
    }

    /// Kinds that occurred, and how often.
    pub fn by_kind(&self) -> impl Iterator<Item = (Kind, u64)> + '_ {
        Kind::ALL
            .iter()
            .map(|kind| (*kind, self.by_kind[kind.index()]))
            .filter(|(_, n)| *n > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_add_up_over_restarts() {
        let mut tally = Tally::default();
        assert_eq!(tally.lost(3), 3);
        assert_eq!(tally.lost(3), 0);
        assert_eq!(tally.lost(10), 7);
        tally.source_restarted();
        assert_eq!(tally.lost(4), 4);
        assert_eq!(tally.lost_total(), 14);
    }
}

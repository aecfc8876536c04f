// SPDX-License-Identifier: MIT OR Apache-2.0
//! What was seen of a queue or a node at each look, for rates, shares and sparklines. Bounded.

use std::collections::VecDeque;

use crate::model::Usage;

/// Shares and medians are of this long.
pub(in crate::top) const WINDOW_NS: u64 = 60_000_000_000;

/// More looks than this are not kept, however often one looks.
pub(in crate::top) const MOST_SAMPLES: usize = 256;

/// A queue at one look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::top) struct Sample {
    pub(in crate::top) ts_ns: u64,
    /// Time off the GPU until then; `None` where nothing watches it.
    pub(in crate::top) off_ns: Option<u64>,
    pub(in crate::top) preemptions: u64,
    pub(in crate::top) read_index: Option<u64>,
    pub(in crate::top) depth: Option<u64>,
}

/// A queue over time.
#[derive(Clone, Debug, Default)]
pub(in crate::top) struct History {
    samples: VecDeque<Sample>,
    /// When watching it began, of the usage: another time is another queue under the same id.
    since_ns: Option<u64>,
    /// When its read index was seen to move last, or was seen first.
    moved_ns: Option<u64>,
}

impl History {
    /// Adds a look.
    pub(in crate::top) fn look(&mut self, sample: Sample, usage: Option<&Usage>) {
        let since_ns = usage.map(|usage| usage.since_ns);
        let restarted = self.since_ns.is_some() && since_ns.is_some() && self.since_ns != since_ns;
        let backwards = self.last().is_some_and(|last| {
            last.ts_ns > sample.ts_ns || last.read_index > sample.read_index.or(last.read_index)
        });
        if restarted || backwards {
            *self = Self::default();
        }
        self.since_ns = since_ns.or(self.since_ns);
        let before = self.last().and_then(|last| last.read_index);
        if sample.read_index.is_some() && before != sample.read_index {
            self.moved_ns = Some(sample.ts_ns);
        }
        if self.last().is_some_and(|last| last.ts_ns == sample.ts_ns) {
            self.samples.pop_back();
        }
        self.samples.push_back(sample);
        // One that is older than the window stays: the window begins there.
        while self.samples.len() > MOST_SAMPLES
            || self
                .samples
                .get(1)
                .is_some_and(|second| second.ts_ns + WINDOW_NS <= sample.ts_ns)
        {
            self.samples.pop_front();
        }
    }

    fn last(&self) -> Option<&Sample> {
        self.samples.back()
    }

    /// Looks that are kept.
    #[cfg(test)]
    pub(in crate::top) fn len(&self) -> usize {
        self.samples.len()
    }

    /// Share of the last minute, or of what was seen of it, that it was off the GPU: 0 to 1.
    pub(in crate::top) fn off_share(&self) -> Option<f64> {
        let last = self.last()?;
        let off_ns = last.off_ns?;
        let begin_ns = last.ts_ns.saturating_sub(WINDOW_NS);
        let first = self.samples.front()?;
        let (from_ns, from_off_ns) = match self.since_ns {
            Some(since_ns) if since_ns >= begin_ns => (since_ns, 0),
            _ => (first.ts_ns, first.off_ns?),
        };
        let span_ns = last.ts_ns.saturating_sub(from_ns);
        (span_ns > 0).then(|| (off_ns.saturating_sub(from_off_ns) as f64 / span_ns as f64).min(1.0))
    }

    /// Packets read a second, between the last two looks that could read the index.
    pub(in crate::top) fn rate(&self) -> Option<f64> {
        let mut read = self
            .samples
            .iter()
            .rev()
            .filter_map(|sample| Some((sample.ts_ns, sample.read_index?)));
        let (now_ns, now) = read.next()?;
        let (then_ns, then) = read.next()?;
        let span_ns = now_ns.saturating_sub(then_ns);
        (span_ns > 0).then(|| now.saturating_sub(then) as f64 * 1e9 / span_ns as f64)
    }

    /// How long the read index has not moved.
    pub(in crate::top) fn idle_ns(&self) -> Option<u64> {
        Some(self.last()?.ts_ns.saturating_sub(self.moved_ns?))
    }

    fn pairs(&self) -> impl DoubleEndedIterator<Item = (&Sample, &Sample)> {
        self.samples.iter().zip(self.samples.iter().skip(1))
    }

    /// Mean time off the GPU for each time it was taken off, between looks; 0 where it was not.
    pub(in crate::top) fn latencies_ns(&self) -> Vec<u64> {
        self.pairs()
            .map(|(a, b)| {
                let off_ns = b.off_ns.unwrap_or(0).saturating_sub(a.off_ns.unwrap_or(0));
                let times = b.preemptions.saturating_sub(a.preemptions);
                off_ns.checked_div(times).unwrap_or(0)
            })
            .collect()
    }

    /// Share of the time between looks that it was off, in thousandths.
    pub(in crate::top) fn off_permille(&self) -> Vec<u64> {
        self.pairs()
            .map(|(a, b)| {
                let off_ns = b.off_ns.unwrap_or(0).saturating_sub(a.off_ns.unwrap_or(0));
                let span_ns = b.ts_ns.saturating_sub(a.ts_ns).max(1);
                (off_ns.saturating_mul(1000) / span_ns).min(1000)
            })
            .collect()
    }

    /// Packets that waited at each look.
    pub(in crate::top) fn depths(&self) -> Vec<u64> {
        self.samples
            .iter()
            .map(|sample| sample.depth.unwrap_or(0))
            .collect()
    }
}

/// A count that only grows, and how fast it did between the last two looks.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::top) struct Rate {
    last: Option<(u64, u64)>,
    per_s: Option<f64>,
}

impl Rate {
    pub(in crate::top) fn look(&mut self, ts_ns: u64, count: u64) -> Option<f64> {
        match self.last {
            Some((then_ns, then)) if ts_ns > then_ns && count >= then => {
                self.per_s = Some((count - then) as f64 * 1e9 / (ts_ns - then_ns) as f64);
            }
            Some((then_ns, _)) if ts_ns == then_ns => return self.per_s,
            _ => self.per_s = None,
        }
        self.last = Some((ts_ns, count));
        self.per_s
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const S: u64 = 1_000_000_000;

    fn sample(ts_ns: u64, off_ns: u64, preemptions: u64, read_index: u64) -> Sample {
        Sample {
            ts_ns,
            off_ns: Some(off_ns),
            preemptions,
            read_index: Some(read_index),
            depth: Some(0),
        }
    }

    fn watched_since(since_ns: u64) -> Usage {
        Usage {
            since_ns,
            ..Usage::default()
        }
    }

    #[test]
    fn shares_are_of_the_last_minute() {
        let mut history = History::default();
        let usage = watched_since(0);
        for second in 1..=10 {
            history.look(sample(second * S, second * S / 10, second, 0), Some(&usage));
        }
        assert_eq!(history.off_share(), Some(0.1), "since its creation");
        for second in 11..=200 {
            history.look(sample(second * S, S, 10, 0), Some(&usage));
        }
        assert_eq!(history.off_share(), Some(0.0), "that was long ago");
        assert_eq!(history.len(), 61);
    }

    #[test]
    fn rates_are_between_two_looks() {
        let mut history = History::default();
        history.look(sample(S, 0, 0, 100), None);
        assert_eq!(history.rate(), None);
        history.look(sample(3 * S, 0, 0, 300), None);
        assert_eq!(history.rate(), Some(100.0));
        assert_eq!(history.idle_ns(), Some(0));
        history.look(sample(5 * S, 0, 0, 300), None);
        assert_eq!(history.rate(), Some(0.0));
        assert_eq!(history.idle_ns(), Some(2 * S));
    }

    #[test]
    fn another_queue_of_the_same_id_starts_anew() {
        let mut history = History::default();
        history.look(sample(S, 5, 5, 9), Some(&watched_since(0)));
        history.look(sample(2 * S, 1, 1, 10), Some(&watched_since(S)));
        assert_eq!(history.len(), 1);
        history.look(sample(3 * S, 1, 1, 2), Some(&watched_since(S)));
        assert_eq!(history.len(), 1, "indices do not go back");
    }

    #[test]
    fn latency_is_time_off_for_each_time_off() {
        let mut history = History::default();
        for (second, off_ns, preemptions) in [(1, 0, 0), (2, 300, 3), (3, 300, 3), (4, 1300, 4)] {
            history.look(sample(second * S, off_ns, preemptions, 0), None);
        }
        assert_eq!(history.latencies_ns(), [100, 0, 1000]);
    }

    #[test]
    fn a_rate_needs_two_looks_and_a_count_that_grows() {
        let mut rate = Rate::default();
        assert_eq!(rate.look(S, 10), None);
        assert_eq!(rate.look(2 * S, 30), Some(20.0));
        assert_eq!(rate.look(2 * S, 30), Some(20.0));
        assert_eq!(rate.look(3 * S, 0), None, "counted from 0 again");
    }

    proptest! {
        #[test]
        fn any_looks_are_survived(looks in proptest::collection::vec((any::<u64>(), any::<u64>(), any::<u64>(), any::<u64>()), 0..600)) {
            let mut history = History::default();
            for (ts_ns, off_ns, preemptions, read) in looks {
                history.look(sample(ts_ns / 2, off_ns, preemptions, read), None);
                prop_assert!(history.len() <= MOST_SAMPLES);
                prop_assert!(history.off_share().is_none_or(|share| (0.0..=1.0).contains(&share)));
                let _ = (history.rate(), history.idle_ns(), history.latencies_ns(), history.off_permille());
            }
        }
    }
}

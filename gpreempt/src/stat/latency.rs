// SPDX-License-Identifier: MIT OR Apache-2.0
//! The distribution of one duration, in fixed memory.

use hdrhistogram::Histogram;
use schemars::JsonSchema;
use serde::Serialize;

/// Digits of percentiles of all events.
pub const FINE: u8 = 3;
/// Digits of percentiles of one group.
pub const COARSE: u8 = 2;
/// Longer durations count as this: 200 years.
const MOST_NS: u64 = u64::MAX >> 1;
/// What one distribution takes, of durations up to an hour: 4 bytes for each of 2^10 steps of 32 doublings.
pub const MOST_BYTES: usize = 4 * 1024 * 33;

/// Samples of one duration.
#[derive(Clone, Debug)]
pub struct Latency {
    histogram: Histogram<u32>,
    count: u64,
    sum_ns: u128,
    min_ns: u64,
    max_ns: u64,
    /// By power of two: at `n`, durations from 2^n to below 2^(n+1) nanoseconds; at 0 also 0.
    powers: [u64; 64],
}

/// What is said of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// Samples.
    pub count: u64,
    /// Least, exact.
    pub min_ns: u64,
    /// Mean, exact.
    pub mean_ns: u64,
    /// Percentiles, to the digits of the histogram and never outside of what was measured.
    pub p50_ns: u64,
    /// See there.
    pub p90_ns: u64,
    /// See there.
    pub p99_ns: u64,
    /// 99.9 %.
    pub p999_ns: u64,
    /// Greatest, exact.
    pub max_ns: u64,
}

/// Samples within a power of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "StatBucket")]
pub struct Bucket {
    /// From this on.
    pub from_ns: u64,
    /// Below this.
    pub to_ns: u64,
    /// Samples.
    pub count: u64,
}

impl Latency {
    /// Without samples; `digits` of percentiles, 1 to 5.
    #[must_use]
    pub fn new(digits: u8) -> Self {
        Self {
            histogram: histogram(digits),
            count: 0,
            sum_ns: 0,
            min_ns: u64::MAX,
            max_ns: 0,
            powers: [0; 64],
        }
    }

    /// One more.
    pub fn take(&mut self, ns: u64) {
        let ns = ns.min(MOST_NS);
        // It grows to what it is given: only more memory than there is could stop it, and the counts below stay right.
        let _ = self.histogram.record(ns.max(1));
        self.count += 1;
        self.sum_ns += u128::from(ns);
        self.min_ns = self.min_ns.min(ns);
        self.max_ns = self.max_ns.max(ns);
        self.powers[ns.max(1).ilog2() as usize] += 1;
    }

    /// `None` without samples.
    #[must_use]
    pub fn line(&self) -> Option<Line> {
        if self.count == 0 {
            return None;
        }
        let at = |quantile| {
            self.histogram
                .value_at_quantile(quantile)
                .clamp(self.min_ns, self.max_ns)
        };
        Some(Line {
            count: self.count,
            min_ns: self.min_ns,
            mean_ns: u64::try_from(self.sum_ns / u128::from(self.count)).unwrap_or(u64::MAX),
            p50_ns: at(0.5),
            p90_ns: at(0.9),
            p99_ns: at(0.99),
            p999_ns: at(0.999),
            max_ns: self.max_ns,
        })
    }

    /// From the first power of two with samples to the last.
    #[must_use]
    pub fn buckets(&self) -> Vec<Bucket> {
        let first = self.powers.iter().position(|count| *count > 0);
        let last = self.powers.iter().rposition(|count| *count > 0);
        let (Some(first), Some(last)) = (first, last) else {
            return Vec::new();
        };
        (first..=last)
            .map(|power| Bucket {
                from_ns: if power == 0 { 0 } else { 1 << power },
                to_ns: 2 << power,
                count: self.powers[power],
            })
            .collect()
    }
}

fn histogram(digits: u8) -> Histogram<u32> {
    // Only digits outside of 0 to 5 are refused.
    let mut histogram = Histogram::new(digits.min(5)).unwrap_or_else(|_| unreachable!());
    histogram.auto(true);
    histogram
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn nothing_has_no_line() {
        let latency = Latency::new(FINE);
        assert_eq!(latency.line(), None);
        assert!(latency.buckets().is_empty());
    }

    #[test]
    fn powers_of_two_hold_what_they_say() {
        let mut latency = Latency::new(FINE);
        for ns in [0, 1, 2, 3, 4, 7, 8, 1000, u64::MAX] {
            latency.take(ns);
        }
        let buckets = latency.buckets();
        assert_eq!(
            buckets[0],
            Bucket {
                from_ns: 0,
                to_ns: 2,
                count: 2
            }
        );
        assert_eq!(
            buckets[1],
            Bucket {
                from_ns: 2,
                to_ns: 4,
                count: 2
            }
        );
        assert_eq!(
            buckets[2],
            Bucket {
                from_ns: 4,
                to_ns: 8,
                count: 2
            }
        );
        assert_eq!(
            buckets[9],
            Bucket {
                from_ns: 512,
                to_ns: 1024,
                count: 1
            }
        );
        assert_eq!(buckets.iter().map(|bucket| bucket.count).sum::<u64>(), 9);
    }

    #[test]
    fn an_hour_fits_into_the_memory_that_is_promised() {
        let mut latency = Latency::new(FINE);
        latency.take(3_600_000_000_000);
        assert!(latency.histogram.distinct_values() * 4 <= MOST_BYTES);
    }

    proptest! {
        #[test]
        fn percentiles_are_those_of_the_samples(mut samples in proptest::collection::vec(1u64..10_000_000_000, 1..300), digits in 2u8..4) {
            let mut latency = Latency::new(digits);
            for ns in &samples {
                latency.take(*ns);
            }
            samples.sort_unstable();
            let line = latency.line().expect("there are samples");
            prop_assert_eq!(line.count, samples.len() as u64);
            prop_assert_eq!((line.min_ns, line.max_ns), (samples[0], samples[samples.len() - 1]));
            for (quantile, told) in [(0.5, line.p50_ns), (0.9, line.p90_ns), (0.99, line.p99_ns), (0.999, line.p999_ns)] {
                let rank = (quantile * samples.len() as f64).ceil() as usize;
                let exact = samples[rank.max(1) - 1];
                let error = exact / 10u64.pow(u32::from(digits)) + 1;
                prop_assert!(told.abs_diff(exact) <= error, "{quantile}: {told} instead of {exact}");
            }
            prop_assert!(line.min_ns <= line.p50_ns && line.p50_ns <= line.p90_ns && line.p90_ns <= line.p99_ns);
            prop_assert!(line.p99_ns <= line.p999_ns && line.p999_ns <= line.max_ns);
        }
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! Statistics of samples that are all kept: every percentile is exact. A run keeps at most [`MOST_SAMPLES`] a row.

use schemars::JsonSchema;
use serde::Serialize;

/// Most samples of one row. Above that, histograms would be due.
pub const MOST_SAMPLES: u32 = 100_000;

/// What there is to say of a set of durations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Summary {
    /// Samples.
    pub n: usize,
    /// Arithmetic mean.
    pub mean_ns: u64,
    /// Least.
    pub min_ns: u64,
    /// Median.
    pub p50_ns: u64,
    /// 95th percentile.
    pub p95_ns: u64,
    /// 99th percentile.
    pub p99_ns: u64,
    /// Greatest.
    pub max_ns: u64,
}

impl Summary {
    /// `None` of no samples.
    #[must_use]
    pub fn of(samples: impl IntoIterator<Item = u64>) -> Option<Self> {
        let mut sorted: Vec<u64> = samples.into_iter().collect();
        sorted.sort_unstable();
        let (min_ns, max_ns) = (*sorted.first()?, *sorted.last()?);
        let sum: u128 = sorted.iter().map(|ns| u128::from(*ns)).sum();
        let n = sorted.len();
        Some(Self {
            n,
            mean_ns: u64::try_from((sum + n as u128 / 2) / n as u128).unwrap_or(u64::MAX),
            min_ns,
            p50_ns: percentile(&sorted, 50.0)?,
            p95_ns: percentile(&sorted, 95.0)?,
            p99_ns: percentile(&sorted, 99.0)?,
            max_ns,
        })
    }
}

/// The nearest-rank percentile: the least sample that at least `percent` of all samples do not exceed. Always one that
/// was measured, never between two. `None` of no samples.
#[must_use]
pub fn percentile<T: Copy>(sorted: &[T], percent: f64) -> Option<T> {
    let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).or(sorted.last()).copied()
}

/// Parts of one duration. They are never negative and add up to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Split {
    /// Waiting for the GPU's scheduler lock in the driver.
    pub lock_wait_ns: u64,
    /// The GPU's answer: from UNMAP_QUEUES to the fence.
    pub hw_ns: u64,
    /// The rest: system calls, driver code, this program.
    pub software_ns: u64,
}

impl Split {
    /// Splits a duration. GPUs that work in parallel, or a record of a neighbour's call, can make the parts longer than
    /// the whole; then the whole goes to the lock wait first and to the hardware next.
    #[must_use]
    pub fn new(total_ns: u64, lock_wait_ns: u64, hw_ns: u64) -> Self {
        let lock_wait_ns = lock_wait_ns.min(total_ns);
        let hw_ns = hw_ns.min(total_ns - lock_wait_ns);
        Self {
            lock_wait_ns,
            hw_ns,
            software_ns: total_ns - lock_wait_ns - hw_ns,
        }
    }

    /// The whole.
    #[must_use]
    pub fn total_ns(&self) -> u64 {
        self.lock_wait_ns + self.hw_ns + self.software_ns
    }

    /// Mean of the parts over the middle half of the samples by their whole (from P25 to P75). Medians of parts do not add
    /// up to the median of the whole, and plain means follow the few slowest; this does neither.
    #[must_use]
    pub fn of_middle_half(splits: &[Self]) -> Option<Self> {
        let mut sorted = splits.to_vec();
        sorted.sort_unstable_by_key(Self::total_ns);
        let cut = sorted.len() / 4;
        let middle = &sorted[cut..sorted.len() - cut];
        let n = u64::try_from(middle.len()).ok().filter(|n| *n > 0)?;
        let mean = |part: fn(&Self) -> u64| middle.iter().map(part).sum::<u64>() / n;
        Some(Self {
            lock_wait_ns: mean(|s| s.lock_wait_ns),
            hw_ns: mean(|s| s.hw_ns),
            software_ns: mean(|s| s.software_ns),
        })
    }
}

/// Ratios of pairs, each pair measured in the same round.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, JsonSchema)]
pub struct RatioSummary {
    /// Pairs.
    pub n: usize,
    /// 10th percentile.
    pub p10: f64,
    /// Median.
    pub p50: f64,
    /// 90th percentile.
    pub p90: f64,
}

impl RatioSummary {
    /// Of `(numerator, denominator)` pairs. A pair with a denominator of 0 says nothing and is left out.
    #[must_use]
    pub fn of(pairs: impl IntoIterator<Item = (u64, u64)>) -> Option<Self> {
        let mut ratios: Vec<f64> = pairs
            .into_iter()
            .filter(|(_, below)| *below > 0)
            .map(|(above, below)| above as f64 / below as f64)
            .collect();
        ratios.sort_unstable_by(f64::total_cmp);
        Some(Self {
            n: ratios.len(),
            p10: percentile(&ratios, 10.0)?,
            p50: percentile(&ratios, 50.0)?,
            p90: percentile(&ratios, 90.0)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn percentiles_are_those_of_the_textbook() {
        // The example of the nearest-rank method: 5th, 30th, 40th, 50th and 100th of five values.
        let five = [15, 20, 35, 40, 50];
        for (percent, value) in [(5.0, 15), (30.0, 20), (40.0, 20), (50.0, 35), (100.0, 50)] {
            assert_eq!(percentile(&five, percent), Some(value), "P{percent}");
        }
        let hundred: Vec<u64> = (1..=100).collect();
        for percent in [1, 50, 95, 99, 100] {
            assert_eq!(
                percentile(&hundred, f64::from(percent)),
                Some(u64::from(percent as u32))
            );
        }
        assert_eq!(percentile(&[7], 0.0), Some(7));
        assert_eq!(percentile::<u64>(&[], 50.0), None);
    }

    #[test]
    fn a_summary_of_known_samples() {
        let samples = (1..=200).rev().map(|n| n * 1_000);
        assert_eq!(
            Summary::of(samples),
            Some(Summary {
                n: 200,
                mean_ns: 100_500,
                min_ns: 1_000,
                p50_ns: 100_000,
                p95_ns: 190_000,
                p99_ns: 198_000,
                max_ns: 200_000,
            })
        );
        assert_eq!(Summary::of([]), None);
        assert_eq!(
            Summary::of([u64::MAX, u64::MAX]).map(|s| s.mean_ns),
            Some(u64::MAX)
        );
    }

    #[test]
    fn the_middle_half_ignores_both_ends() {
        let splits: Vec<Split> = [1, 10, 20, 1_000_000]
            .map(|total| Split::new(total, 0, total / 2))
            .to_vec();
        assert_eq!(
            Split::of_middle_half(&splits),
            Some(Split {
                lock_wait_ns: 0,
                hw_ns: 7,
                software_ns: 7
            })
        );
        assert_eq!(Split::of_middle_half(&splits[..1]), Some(splits[0]));
        assert_eq!(Split::of_middle_half(&[]), None);
    }

    #[test]
    fn ratios_are_of_pairs_not_of_medians() {
        // Medians alone would say 1.
        let pairs = [(10, 1), (1, 10), (100, 10), (5, 0)];
        let ratio = RatioSummary::of(pairs).unwrap();
        assert_eq!((ratio.n, ratio.p50), (3, 10.0));
        assert_eq!(RatioSummary::of([(1, 0)]), None);
    }

    proptest! {
        #[test]
        fn parts_are_never_negative_and_add_up(total in any::<u64>(), lock in any::<u64>(), hw in any::<u64>()) {
            let split = Split::new(total, lock, hw);
            prop_assert_eq!(split.total_ns(), total);
            prop_assert!(split.lock_wait_ns <= lock && split.hw_ns <= hw);
        }

        #[test]
        fn percentiles_are_samples_in_order(mut samples in proptest::collection::vec(any::<u64>(), 1..300)) {
            let s = Summary::of(samples.iter().copied()).unwrap();
            prop_assert!(s.min_ns <= s.p50_ns && s.p50_ns <= s.p95_ns && s.p95_ns <= s.p99_ns && s.p99_ns <= s.max_ns);
            for value in [s.p50_ns, s.p95_ns, s.p99_ns] {
                prop_assert!(samples.contains(&value));
            }
            // At least half do not exceed the median, and at least half are not below it.
            samples.sort_unstable();
            let half = samples.len().div_ceil(2);
            prop_assert!(samples.iter().filter(|v| **v <= s.p50_ns).count() >= half);
            prop_assert!(samples.iter().filter(|v| **v >= s.p50_ns).count() >= samples.len() / 2);
        }
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! When the next piece of work is due. Pure: the caller brings the clock.

use std::time::{Duration, Instant};

/// A small generator with a seed, so that a run can be repeated (splitmix64).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Less than `limit`, which is not 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.bits() % limit
    }

    /// In (0, 1].
    fn fraction(&mut self) -> f64 {
        ((self.bits() >> 11) + 1) as f64 / (1_u64 << 53) as f64
    }
}

/// How work arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// At a fixed interval; work that could not start in time is not made up for, as in a training loop.
    Steady,
    /// Independent users: exponential gaps; late work keeps its place in line and its age, as in a service.
    Independent,
}

/// A schedule.
#[derive(Debug, Clone)]
pub struct Pace {
    arrival: Arrival,
    /// None: always due.
    interval: Option<Duration>,
    next: Instant,
    random: Random,
}

impl Pace {
    /// `per_second` 0 means as fast as the work is taken.
    pub fn new(arrival: Arrival, per_second: f64, seed: u64, now: Instant) -> Self {
        let interval = (per_second > 0.0).then(|| Duration::from_secs_f64(1.0 / per_second));
        Self {
            arrival,
            interval,
            next: now,
            random: Random::new(seed),
        }
    }

    /// When work was due that should start now, if any is.
    pub fn due(&self, now: Instant) -> Option<Instant> {
        match self.interval {
            None => Some(now),
            Some(_) => (self.next <= now).then_some(self.next),
        }
    }

    /// When the next work is due, for sleeping.
    pub fn next(&self) -> Option<Instant> {
        self.interval.map(|_| self.next)
    }

    /// The due work was started.
    pub fn started(&mut self, now: Instant) {
        let Some(interval) = self.interval else {
            return;
        };
        match self.arrival {
            Arrival::Steady => self.next = (self.next + interval).max(now),
            Arrival::Independent => self.next += interval.mul_f64(-self.random.fraction().ln()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn independent_arrivals_keep_the_rate_and_repeat_with_the_seed() {
        let start = Instant::now();
        let run = |seed| {
            let mut pace = Pace::new(Arrival::Independent, 1000.0, seed, start);
            for _ in 0..10_000 {
                pace.started(start);
            }
            pace.next().unwrap() - start
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
        let seconds = run(1).as_secs_f64();
        assert!(
            (9.0..11.0).contains(&seconds),
            "10000 arrivals at 1000/s took {seconds} s"
        );
    }

    #[test]
    fn steady_work_that_fell_behind_is_not_made_up_for() {
        let start = Instant::now();
        let mut pace = Pace::new(Arrival::Steady, 10.0, 0, start);
        let late = start + Duration::from_secs(5);
        pace.started(late);
        assert_eq!(pace.next(), Some(late));
    }
}

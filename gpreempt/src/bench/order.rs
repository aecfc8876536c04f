// SPDX-License-Identifier: MIT OR Apache-2.0
//! In which order the rows of a round are measured. What drifts slowly (the machine, the job) must hit all alike, and no
//! row may always follow the same other: a block of as many rounds as there are rows is a shuffled order turned by one
//! place each round, so every row takes every place once a block, and every block is shuffled anew.

/// Orders, one a round.
#[derive(Debug)]
pub(super) struct Orders {
    random: fastrand::Rng,
    base: Vec<usize>,
    turned: usize,
}

impl Orders {
    /// Of so many rows. The same seed gives the same orders.
    #[must_use]
    pub(super) fn new(rows: usize, seed: u64) -> Self {
        Self {
            random: fastrand::Rng::with_seed(seed),
            base: (0..rows).collect(),
            turned: 0,
        }
    }

    /// The next round's.
    #[must_use]
    pub(super) fn round(&mut self) -> Vec<usize> {
        if self.turned == 0 {
            self.random.shuffle(&mut self.base);
        }
        let mut order = self.base.clone();
        order.rotate_left(self.turned);
        self.turned = (self.turned + 1) % self.base.len().max(1);
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn every_row_takes_every_place_equally_often(rows in 1usize..20, blocks in 1usize..6, seed in any::<u64>()) {
            let mut orders = Orders::new(rows, seed);
            let mut taken = vec![vec![0; rows]; rows];
            for _ in 0..rows * blocks {
                let order = orders.round();
                prop_assert_eq!(order.iter().collect::<BTreeSet<_>>().len(), rows);
                for (place, row) in order.into_iter().enumerate() {
                    taken[row][place] += 1;
                }
            }
            prop_assert!(taken.iter().flatten().all(|n| *n == blocks));
        }
    }

    #[test]
    fn no_row_always_follows_the_same() {
        let mut orders = Orders::new(6, 1);
        let mut before = BTreeSet::new();
        for _ in 0..60 {
            let order = orders.round();
            let at = order.iter().position(|row| *row == 0).unwrap();
            if at > 0 {
                before.insert(order[at - 1]);
            }
        }
        assert!(before.len() >= 4, "{before:?}");
    }

    #[test]
    fn a_seed_repeats_a_run() {
        let orders = |seed| {
            let mut orders = Orders::new(8, seed);
            (0..20).map(|_| orders.round()).collect::<Vec<_>>()
        };
        assert_eq!(orders(7), orders(7));
        assert_ne!(orders(7), orders(8));
        assert!(Orders::new(0, 1).round().is_empty());
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whether a process keeps the queues that it made: from the last creation to the first destruction of its end nothing changes.

use std::collections::HashMap;

use super::run::{Life, Run};
use crate::event::{GpuId, QueueId};

/// Of one process, or of all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Steady {
    /// From the start of the run: the last queue was made.
    pub(super) from_ns: u64,
    /// From the start of the run: the first queue of the end went.
    pub(super) to_ns: u64,
    /// Queues that went before the end began.
    pub(super) gone_early: u64,
    /// Ids that were used again.
    pub(super) reused: u64,
}

impl Steady {
    /// Nothing came or went between the beginning and the end.
    #[must_use]
    pub(super) fn holds(&self) -> bool {
        self.gone_early == 0 && self.reused == 0 && self.from_ns <= self.to_ns
    }
}

/// Of one process.
fn of_process(run: &Run, lives: &[&Life]) -> Steady {
    let last_created = lives.iter().map(|life| life.born_ns(run)).max();
    let from_ns = last_created.unwrap_or(run.from_ns);
    // What goes after the last creation is the end.
    let (mut to_ns, mut gone_early) = (run.to_ns, 0);
    let mut uses: HashMap<(GpuId, QueueId), u64> = HashMap::new();
    for life in lives {
        *uses
            .entry((life.key.gpu_id, life.key.queue_id))
            .or_default() += 1;
        match life.gone_ns(run) {
            gone if gone < from_ns => gone_early += 1,
            gone => to_ns = to_ns.min(gone),
        }
    }
    Steady {
        from_ns: from_ns.saturating_sub(run.from_ns),
        to_ns: to_ns.saturating_sub(run.from_ns),
        gone_early,
        reused: uses.values().map(|uses| uses - 1).sum(),
    }
}

/// Of all processes of a run: steady while each of them is. `None` if it has no queues.
#[must_use]
pub(super) fn of(run: &Run) -> Option<Steady> {
    let users = run.users();
    let each = users.iter().map(|(_, lives)| of_process(run, lives));
    each.reduce(|a, b| Steady {
        from_ns: a.from_ns.max(b.from_ns),
        to_ns: a.to_ns.min(b.to_ns),
        gone_early: a.gone_early + b.gone_early,
        reused: a.reused + b.reused,
    })
}

#[cfg(test)]
mod tests {
    use super::super::run::tests::{run_of, S};
    use super::*;

    #[test]
    fn what_goes_at_the_end_is_steady() {
        let run = run_of(&[(7, 0, 1, Some(9)), (7, 1, 2, Some(10)), (7, 2, 3, None)]);
        let steady = of(&run).unwrap();
        assert_eq!((steady.from_ns, steady.to_ns), (3 * S, 9 * S));
        assert!(steady.holds());
    }

    #[test]
    fn a_queue_that_goes_early_and_an_id_used_again_are_not() {
        let run = run_of(&[(7, 0, 1, Some(2)), (7, 0, 3, Some(9))]);
        let steady = of(&run).unwrap();
        assert_eq!((steady.gone_early, steady.reused), (1, 1));
        assert!(!steady.holds());
    }

    #[test]
    fn processes_one_after_the_other_are_not_steady_together() {
        let run = run_of(&[(7, 0, 1, Some(2)), (8, 0, 3, Some(9))]);
        let steady = of(&run).unwrap();
        assert_eq!((steady.gone_early, steady.reused), (0, 0));
        assert!(!steady.holds(), "{steady:?}");
        assert!(of(&run_of(&[])).is_none());
    }
}

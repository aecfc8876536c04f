// SPDX-License-Identifier: MIT OR Apache-2.0
//! On whose behalf a node's runlist was taken off the GPU, and what that cost. Bounded: what does not fit has no name.

use foldhash::HashMap;

use crate::event::{Cause, Pid};

/// Different (cause, process) of one node that are told apart.
const MOST: usize = 512;

/// What was done to a node's queues for one cause on behalf of one process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Times that the runlist was taken off.
    pub stops: u64,
    /// Queues that were in it, summed over those times.
    pub queues: u64,
    /// From each to the next runlist, summed: submitted, not yet running. Where that never came, nothing.
    pub off_ns: u64,
    /// In the driver's calls that took it off, summed; lock waits are not in it.
    pub unmap_ns: u64,
}

#[derive(Debug, Default)]
pub(super) struct Takers {
    /// By [`key`].
    places: HashMap<u64, usize>,
    all: Vec<((Cause, Option<Pid>), Taken)>,
    last: Option<usize>,
}

/// One number: it is looked up at every unmap.
fn key(cause: Cause, by: Option<Pid>) -> u64 {
    (cause.index() as u64) << 32 | by.map_or(0, |pid| u64::from(pid.0))
}

impl Takers {
    pub(super) fn stop(&mut self, cause: Cause, by: Option<Pid>, queues: u32, unmap_ns: u64) {
        let at = match self.places.get(&key(cause, by)) {
            Some(at) => *at,
            None => {
                // Beyond the bound every cause has one place for all processes.
                let by = by.filter(|_| self.all.len() < MOST);
                let all = &mut self.all;
                *self.places.entry(key(cause, by)).or_insert_with(|| {
                    all.push(((cause, by), Taken::default()));
                    all.len() - 1
                })
            }
        };
        let taken = &mut self.all[at].1;
        taken.stops += 1;
        taken.queues += u64::from(queues);
        taken.unmap_ns = taken.unmap_ns.saturating_add(unmap_ns);
        self.last = Some(at);
    }

    pub(super) fn resumed(&mut self, off_ns: u64) {
        if let Some(at) = self.last.take() {
            let taken = &mut self.all[at].1;
            taken.off_ns = taken.off_ns.saturating_add(off_ns);
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Cause, Option<Pid>, Taken)> + '_ {
        self.all
            .iter()
            .map(|((cause, by), taken)| (*cause, *by, *taken))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stays_bounded_and_loses_names_not_counts() {
        let mut takers = Takers::default();
        for pid in 1..5000 {
            takers.stop(Cause::CreateQueue, Some(Pid(pid)), 2, 10);
            takers.resumed(100);
        }
        assert_eq!(takers.all.len(), MOST + 1);
        let sum = takers.iter().map(|(_, _, taken)| taken.stops).sum::<u64>();
        assert_eq!(sum, 4999);
        let off = takers.iter().map(|(_, _, taken)| taken.off_ns).sum::<u64>();
        assert_eq!(off, 499_900);
        let unnamed = takers.iter().find(|(_, by, _)| by.is_none()).unwrap();
        assert_eq!(unnamed.2.stops, 4999 - MOST as u64);
    }
}

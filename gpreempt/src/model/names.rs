// SPDX-License-Identifier: MIT OR Apache-2.0
//! Names of processes that hold no queue: debuggers, kernel workers, and those that just exited. Bounded, because a
//! watch may run for months.

use std::collections::VecDeque;

use foldhash::HashMap;

use crate::event::{Comm, Pid};

const MOST: usize = 2048;

/// `Some(None)` for a pid whose name is not to be had.
#[derive(Debug, Default)]
pub(super) struct Names {
    by_pid: HashMap<Pid, Option<Comm>>,
    oldest_first: VecDeque<Pid>,
}

impl Names {
    pub(super) fn get(&self, pid: Pid) -> Option<Option<Comm>> {
        self.by_pid.get(&pid).copied()
    }

    pub(super) fn learn(&mut self, pid: Pid, comm: Option<Comm>) {
        if self.by_pid.insert(pid, comm).is_none() {
            self.oldest_first.push_back(pid);
        }
        if self.oldest_first.len() > MOST {
            if let Some(oldest) = self.oldest_first.pop_front() {
                self.by_pid.remove(&oldest);
            }
        }
    }

    pub(super) fn forget(&mut self, pid: Pid) {
        if self.by_pid.remove(&pid).is_some() {
            self.oldest_first.retain(|other| *other != pid);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stays_bounded_and_forgets_the_oldest() {
        let mut names = Names::default();
        for pid in 1..=u32::try_from(MOST).unwrap() + 5 {
            names.learn(Pid(pid), None);
            names.learn(Pid(pid), Some(Comm::from_procfs(b"x\n")));
        }
        assert_eq!(names.by_pid.len(), MOST);
        assert_eq!(names.oldest_first.len(), MOST);
        assert_eq!(names.get(Pid(5)), None);
        assert!(names.get(Pid(6)).is_some());
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whether packets wait in queues, from the indices in the memory of their owners.
//!
//! Looked at often while something runs and seldom when nothing has for a while; not at all while there is nobody whose work
//! matters or nobody to be stopped for it. Where the indices lie is found once for each set of queues.

use std::collections::BTreeSet;

use crate::event::Pid;
use crate::inspect;
use crate::kfd::snapshot::{Queue, Want};
use crate::kfd::{process, Root, Windows};

/// While nothing is seen, the next look comes after this part of the time since something was.
const PART: u64 = 20;

/// What is looked at, and when.
#[derive(Debug, Default)]
pub(super) struct Activity {
    /// Queues with their read index when last looked at.
    looked: Vec<(Queue, Option<u64>)>,
    /// Whose queues these are.
    of: BTreeSet<Pid>,
    windows: Windows,
    /// They may have changed.
    stale: bool,
    /// When something was seen last, or was expected.
    seen_ns: u64,
    due_ns: Option<u64>,
}

impl Activity {
    /// Queues came or went.
    pub(super) fn stale(&mut self) {
        self.stale = true;
    }

    /// When to look next; `None` = there is nothing to look at.
    pub(super) fn due_ns(&self) -> Option<u64> {
        self.due_ns
    }

    /// From now on the queues of these processes; the next look comes soon.
    pub(super) fn watch(&mut self, of: BTreeSet<Pid>, now_ns: u64) {
        if self.of != of {
            self.stale = true;
            self.of = of;
        }
        if self.of.is_empty() {
            self.looked.clear();
            self.due_ns = None;
        } else if self.stale {
            self.due_ns = Some(now_ns);
        }
    }

    /// Looks, and says what was seen: every queue with its read index before.
    pub(super) fn look(
        &mut self,
        root: &Root,
        (busy_ns, idle_ns): (u64, u64),
        now_ns: u64,
    ) -> &[(Queue, Option<u64>)] {
        if self.stale {
            self.stale = false;
            self.seen_ns = now_ns;
            self.windows = Windows::default();
            self.looked = match process::sees_host_pids(root) {
                true => {
                    let all = inspect::look(root, Want::default()).queues;
                    let ours = all
                        .into_iter()
                        .filter(|queue| self.of.contains(&queue.pid) && queue.aql == Some(true));
                    ours.map(|queue| (queue, None)).collect()
                }
                // sysfs and procfs number processes differently.
                false => Vec::new(),
            };
        }
        for (queue, before) in &mut self.looked {
            *before = queue.read_index;
            // The read index first: what is written meanwhile makes the queue deeper, not shallower than nothing.
            let mut index =
                |address: Option<u64>| self.windows.read_u64(root, queue.pid, address?).ok();
            let read = index(queue.rptr_address);
            let both = read.zip(index(queue.wptr_address));
            (queue.read_index, queue.write_index) = both.unzip();
            if queue.write_index != queue.read_index
                || (before.is_some() && *before != queue.read_index)
            {
                self.seen_ns = now_ns;
            }
        }
        let quiet_ns = now_ns.saturating_sub(self.seen_ns);
        self.due_ns = Some(now_ns.saturating_add(interval_ns(quiet_ns, (busy_ns, idle_ns))));
        &self.looked
    }
}

/// Until the next look, when nothing was seen for so long.
fn interval_ns(quiet_ns: u64, (busy_ns, idle_ns): (u64, u64)) -> u64 {
    (quiet_ns / PART).clamp(busy_ns, idle_ns.max(busy_ns))
}

#[cfg(test)]
mod tests {
    use super::interval_ns;

    #[test]
    fn quiet_queues_are_looked_at_less_and_less() {
        let between = (1_000_000, 100_000_000);
        assert_eq!(interval_ns(0, between), 1_000_000);
        assert_eq!(interval_ns(300_000_000, between), 15_000_000);
        assert_eq!(interval_ns(u64::MAX, between), 100_000_000);
    }

    #[test]
    fn an_idle_interval_below_the_busy_one_counts_as_that() {
        assert_eq!(interval_ns(u64::MAX, (2_000_000, 1_000_000)), 2_000_000);
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whether packets wait in queues, from the indices in the memory of their owners.
//!
//! Looked at often while something runs and seldom when nothing has for a while; not at all while there is nobody whose work
//! matters or nobody to be stopped for it. Where the indices lie is found once for each set of queues.

use std::collections::BTreeSet;

use crate::event::Pid;
use crate::inspect;
use crate::kfd::snapshot::{read_indices, Queue, Want};
use crate::kfd::Root;

/// Intervals grow from the busy to the idle one by this factor while nothing is seen.
const GROWTH: u64 = 2;

/// What is looked at, and when.
#[derive(Debug, Default)]
pub(super) struct Activity {
    /// Queues with their read index when last looked at.
    looked: Vec<(Queue, Option<u64>)>,
    /// Whose queues these are.
    of: BTreeSet<Pid>,
    /// They may have changed.
    stale: bool,
    interval_ns: u64,
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
            let all = inspect::look(root, Want::default()).queues;
            let ours = all
                .into_iter()
                .filter(|queue| self.of.contains(&queue.pid) && queue.aql == Some(true));
            self.looked = ours.map(|queue| (queue, None)).collect();
            self.interval_ns = busy_ns;
        }
        let mut busy = false;
        for (queue, before) in &mut self.looked {
            *before = queue.read_index;
            read_indices(root, std::slice::from_mut(queue), &mut |_| {});
            busy |= queue.write_index != queue.read_index
                || (before.is_some() && *before != queue.read_index);
        }
        self.interval_ns = match busy {
            true => busy_ns,
            false => (self.interval_ns * GROWTH).clamp(busy_ns, idle_ns.max(busy_ns)),
        };
        self.due_ns = Some(now_ns.saturating_add(self.interval_ns));
        &self.looked
    }
}

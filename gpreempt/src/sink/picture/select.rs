// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which queues of a picture are shown, and in which order.

use std::cmp::Reverse;

use super::Queue;
use crate::event::{Pid, QueueType};
use crate::kfd::name::{CommGlob, GpuArg};
use crate::kfd::snapshot::State;
use crate::sink::finding::Finding;

/// Which queues are shown: within one list any will do, an empty list lets all through.
#[derive(Clone, Debug, Default)]
pub struct Select {
    /// Of these processes.
    pub pids: Vec<Pid>,
    /// Of processes of these names.
    pub comms: Vec<CommGlob>,
    /// On these nodes.
    pub gpus: Vec<GpuArg>,
    /// In these states.
    pub states: Vec<State>,
    /// Of these types.
    pub types: Vec<QueueType>,
    /// In which order.
    pub sort: Sort,
}

/// By what queues are ordered. What counts comes with the most first; what is not known comes last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Sort {
    /// Process, GPU, queue.
    #[default]
    Pid,
    /// GPU, process, queue.
    Gpu,
    /// State, in the order of its values.
    State,
    /// Packets that wait.
    Depth,
    /// Packets per second.
    Rate,
    /// Priority.
    Prio,
    /// Age, the oldest first.
    Age,
    /// Times taken off.
    Preempted,
    /// Time off.
    Off,
}

impl Select {
    pub(super) fn takes(&self, queue: &Queue) -> bool {
        (self.pids.is_empty() || self.pids.contains(&queue.pid))
            && (self.comms.is_empty()
                || queue
                    .comm
                    .is_some_and(|comm| self.comms.iter().any(|glob| glob.matches(&comm))))
            && (self.gpus.is_empty() || self.gpus.iter().any(|gpu| gpu.is(queue.gpu_id)))
            && (self.states.is_empty() || self.states.contains(&queue.state))
            && (self.types.is_empty() || self.types.contains(&queue.queue_type))
    }

    /// What is of queues or processes comes with queues that are shown. What is of a node concerns all that are on it: whoever made it
    /// so may be another process.
    pub(super) fn takes_finding(&self, finding: &Finding, shown: &[Queue]) -> bool {
        if finding.kind.is_of_node() {
            return finding.gpu_id.is_none_or(|gpu_id| {
                self.gpus.is_empty() || self.gpus.iter().any(|gpu| gpu.is(gpu_id))
            });
        }
        shown.iter().any(|queue| {
            Some(queue.pid) == finding.pid
                && finding.gpu_id.is_none_or(|gpu_id| gpu_id == queue.gpu_id)
                && finding
                    .queue_id
                    .is_none_or(|queue_id| queue_id == queue.queue_id)
        })
    }

    /// They come by process, GPU and id, which stays the order of equal ones.
    pub(super) fn sort(&self, queues: &mut [Queue]) {
        let most = |of: &dyn Fn(&Queue) -> Option<u64>, queues: &mut [Queue]| {
            queues.sort_by_key(|queue| (of(queue).is_none(), Reverse(of(queue))));
        };
        match self.sort {
            Sort::Pid => {}
            Sort::Gpu => queues.sort_by_key(|queue| queue.gpu_id),
            Sort::State => queues.sort_by_key(|queue| queue.state),
            Sort::Depth => most(&|queue| queue.depth, queues),
            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a rate in tenths is positive and small"
            )]
            Sort::Rate => most(
                &|queue| queue.packets_per_s.map(|rate| (rate * 10.0) as u64),
                queues,
            ),
            Sort::Prio => most(&|queue| queue.priority.map(u64::from), queues),
            Sort::Age => queues.sort_by_key(|queue| (queue.created_ns.is_none(), queue.created_ns)),
            Sort::Preempted => most(&|queue| queue.preemptions, queues),
            Sort::Off => most(&|queue| queue.off_ns, queues),
        }
    }
}

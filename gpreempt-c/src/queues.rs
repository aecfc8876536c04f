// SPDX-License-Identifier: MIT OR Apache-2.0
//! The queues that there are, from sysfs; with root and debugfs, which of them are in the runlist.

use gpreempt::event::QueueType;
use gpreempt::kfd::snapshot::{self, Queue, Snapshot, State, Want};
use gpreempt::kfd::Root;

use crate::abi::*;

/// Those of a process, or all for 0.
pub(crate) fn list(root: &Root, pid: u32) -> Vec<gpreempt_queue_info> {
    let picture = snapshot::collect(root, Want::default());
    picture
        .queues
        .iter()
        .filter(|queue| pid == 0 || queue.pid.0 == pid)
        .map(|queue| info(&picture, queue))
        .collect()
}

fn info(picture: &Snapshot, queue: &Queue) -> gpreempt_queue_info {
    let mut comm = [0; 16];
    if let Some(name) = picture.process(queue.pid).and_then(|process| process.comm) {
        let bytes = name.as_bytes();
        // The last byte stays the NUL that ends it.
        let len = bytes.len().min(comm.len() - 1);
        for (to, from) in comm.iter_mut().zip(&bytes[..len]) {
            *to = from.cast_signed();
        }
    }
    gpreempt_queue_info {
        pid: i32::try_from(queue.pid.0).unwrap_or(i32::MAX),
        gpu_id: queue.gpu_id.0,
        queue_id: queue.queue_id.0,
        queue_type: kind(queue.queue_type),
        state: match queue.state {
            State::Mapped => GPREEMPT_STATE_MAPPED,
            State::Unknown => GPREEMPT_STATE_UNKNOWN,
            _ => GPREEMPT_STATE_UNMAPPED,
        },
        priority: queue.priority.unwrap_or(GPREEMPT_UNKNOWN),
        ring_bytes: queue.ring_bytes,
        pending: queue.depth().unwrap_or(u64::MAX),
        comm,
        reserved: [0; 4],
    }
}

fn kind(kind: QueueType) -> u32 {
    match kind {
        QueueType::Compute => GPREEMPT_QUEUE_COMPUTE,
        kind if kind.is_sdma() => GPREEMPT_QUEUE_SDMA,
        _ => GPREEMPT_UNKNOWN,
    }
}

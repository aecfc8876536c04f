// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the driver says of processes that create, update and destroy queues and are evicted: each call takes the runlist off, puts
//! it back, and returns.

use std::ops::Range;

use gpreempt_common::record::{self as rec, cause, Body, Header};
use zerocopy::IntoBytes as _;

use crate::machine::GPU;

/// A record, as it lies in the ring buffer.
pub(crate) struct Record {
    pub(crate) ts_ns: u64,
    pub(crate) bytes: Vec<u8>,
}

/// Records of a call.
const CALL: u64 = 3;

/// Between the records of a call.
const STEP_NS: u64 = 10_000;

/// A queue that comes and goes. The others are there from the start.
const GUEST: u32 = 8;

/// Without end: so many nanoseconds for each record, in the middle of several calls.
pub(crate) fn records(
    start_ns: u64,
    period_ns: u64,
    pids: Range<u32>,
) -> impl Iterator<Item = Record> {
    let kinds = [
        Call::Create,
        Call::Off,
        Call::On,
        Call::Destroy,
        Call::Evict,
        Call::Restore,
    ];
    (1..)
        .zip(
            pids.cycle()
                .flat_map(move |pid| kinds.map(|call| (pid, call))),
        )
        .flat_map(move |(n, (pid, call))| call.records(start_ns + n * CALL * period_ns, pid))
}

#[derive(Clone, Copy)]
enum Call {
    Create,
    Off,
    On,
    Destroy,
    Evict,
    Restore,
}

impl Call {
    fn records(self, end_ns: u64, pid: u32) -> [Record; CALL as usize] {
        let cause = match self {
            Self::Create => cause::CREATE_QUEUE,
            Self::Off | Self::On => cause::UPDATE_QUEUE,
            Self::Destroy => cause::DESTROY_QUEUE,
            Self::Evict => cause::EVICT,
            Self::Restore => cause::RESTORE,
        };
        let head = |ts_ns, total_ns| Head {
            ts_ns,
            total_ns,
            cause,
            pid,
        };
        // Durations differ from call to call.
        let fence_ns = 50_000 + end_ns / 1000 % 30_000;
        [
            head(end_ns - 2 * STEP_NS, fence_ns + 5000).record(rec::RunlistUnmapped {
                lock_wait_ns: 800,
                fence_ns,
                gpu_id: GPU,
                filter: 2,
            }),
            head(end_ns - STEP_NS, 4000).record(rec::RunlistMapped {
                gpu_id: GPU,
                queues: 512,
                cp_queues: 448,
                processes: 64,
                oversubscribed: 1,
                reserved: 0,
            }),
            self.own(&head(end_ns, fence_ns + 40_000)),
        ]
    }

    /// The record of the call itself.
    fn own(self, head: &Head) -> Record {
        let updated = |percent| rec::QueueUpdated {
            gpu_id: GPU,
            queue_id: 3,
            priority: 7,
            percent,
            active: u32::from(percent > 0),
            reserved: 0,
        };
        match self {
            Self::Create => {
                let mut comm = [0; rec::COMM_BYTES];
                comm[..8].copy_from_slice(b"kfd-load");
                head.record(rec::QueueCreated {
                    ring_bytes: 16_384,
                    gpu_id: GPU,
                    queue_id: GUEST,
                    queue_type: 0,
                    format: 1,
                    priority: 7,
                    percent: 100,
                    doorbell: 4096,
                    evicted: 0,
                    comm,
                })
            }
            Self::Off => head.record(updated(0)),
            Self::On => head.record(updated(100)),
            Self::Destroy => head.record(rec::QueueDestroyed {
                gpu_id: GPU,
                queue_id: GUEST,
            }),
            Self::Evict => head.record(rec::ProcessEvicted {
                gpu_id: GPU,
                reason: rec::evict_reason::TTM,
                depth: 1,
                reserved: 0,
            }),
            Self::Restore => head.record(rec::ProcessRestored {
                gpu_id: GPU,
                depth: 0,
            }),
        }
    }
}

struct Head {
    ts_ns: u64,
    total_ns: u64,
    cause: u16,
    pid: u32,
}

impl Head {
    fn record<B: Body>(&self, body: B) -> Record {
        let header = Header {
            ts_ns: self.ts_ns,
            total_ns: self.total_ns,
            len: (size_of::<Header>() + size_of::<B>()) as u16,
            kind: B::KIND,
            cause: self.cause,
            reserved: 0,
            status: 0,
            pid: self.pid,
            actor_pid: self.pid,
            actor_tid: self.pid,
        };
        Record {
            ts_ns: self.ts_ns,
            bytes: [header.as_bytes(), body.as_bytes()].concat(),
        }
    }
}

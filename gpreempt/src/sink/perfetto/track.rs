// SPDX-License-Identifier: MIT OR Apache-2.0
//! Numbers of tracks. They are derived from what the track is about, so that the same input gives the same file, and files of two
//! runs can be joined.

use crate::event::{GpuId, Pid, QueueId};

/// `uuid` of a track.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Track(pub(super) u64);

impl Track {
    /// What concerns no GPU and no process.
    pub(super) fn watch() -> Self {
        Self::of("watch", &[])
    }

    pub(super) fn gpu(gpu_id: GpuId) -> Self {
        Self::of("gpu", &[gpu_id.0.into()])
    }

    /// `since_ns` tells processes that had the same pid apart.
    pub(super) fn process(pid: Pid, since_ns: u64) -> Self {
        Self::of("process", &[pid.0.into(), since_ns])
    }

    /// `since_ns` tells queues that had the same id apart.
    pub(super) fn queue(process: Self, gpu_id: GpuId, queue_id: QueueId, since_ns: u64) -> Self {
        let key = [process.0, gpu_id.0.into(), queue_id.0.into(), since_ns];
        Self::of("queue", &key)
    }

    /// A part of what another track is about.
    pub(super) fn part(self, name: &str, number: usize) -> Self {
        Self::of(name, &[self.0, number as u64])
    }

    /// Fowler-Noll-Vo 1a, which is the same everywhere and for ever.
    fn of(kind: &str, key: &[u64]) -> Self {
        const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
        const PRIME: u64 = 0x0100_0000_01b3;
        let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(PRIME);
        let hash = kind.as_bytes().iter().fold(OFFSET, step);
        let hash = key
            .iter()
            .flat_map(|part| part.to_le_bytes())
            .fold(hash, |hash, byte| step(hash, &byte));
        // 0 is the track of the whole trace.
        Self(hash.max(1))
    }
}

/// Identifies one runlist operation, to join it with the call that made it.
pub(super) fn flow(gpu_id: GpuId, tid: u32, ts_ns: u64) -> u64 {
    Track::of("flow", &[gpu_id.0.into(), tid.into(), ts_ns]).0
}

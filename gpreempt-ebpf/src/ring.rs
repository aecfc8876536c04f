// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! The ring buffer and the counters of what did not get into it.

use aya_ebpf::{
    bindings::{BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    macros::map,
    maps::{PerCpuArray, RingBuf},
};
use gpreempt_common::{
    counters::{Counter, COUNTERS},
    record::{Body, Header, Record},
};

use crate::thread::Now;

/// User space sets the size.
#[map]
static RECORDS: RingBuf = RingBuf::with_byte_size(1 << 20, 0);

#[map]
static LOST: PerCpuArray<u64> = PerCpuArray::with_max_entries(COUNTERS, 0);

/// Adds one and returns the sum on this CPU.
#[inline(always)]
pub fn count(counter: Counter) -> u64 {
    match LOST.get_ptr_mut(counter as u32) {
        // SAFETY: this CPU's slot. A program that preempts this one between load and store can make the sum one too low.
        Some(slot) => unsafe {
            *slot += 1;
            *slot
        },
        None => 0,
    }
}

/// When the reader is woken for a record.
#[derive(Clone, Copy)]
pub enum Wake {
    /// At once.
    Now,
    /// With the next record that is `Now`, at the reader's next tick, or every [`WAKE_EVERY`] records: a wake-up costs more
    /// than the whole record.
    Later,
}

/// Keeps a flood of `Later` records from filling the ring before the reader's tick: at most 64 KiB per CPU.
const WAKE_EVERY: u64 = 1024;

/// What of the header is not the same for all records.
pub struct About {
    /// Duration of the call.
    pub total_ns: u64,
    /// One of `cause`.
    pub cause: u16,
    /// Return value.
    pub status: i32,
    /// Process concerned.
    pub pid: u32,
}

/// Writes one record.
#[inline(always)]
pub fn write<B: Body + 'static>(now: &Now, about: About, wake: Wake, body: B) {
    let Some(mut entry) = RECORDS.reserve::<Record<B>>(0) else {
        count(Counter::RingFull);
        return;
    };
    entry.write(Record {
        header: Header {
            ts_ns: now.ns,
            total_ns: about.total_ns,
            len: size_of::<Record<B>>() as u16,
            kind: B::KIND,
            cause: about.cause,
            reserved: 0,
            status: about.status,
            pid: about.pid,
            actor_pid: now.pid(),
            actor_tid: now.tid(),
        },
        body,
    });
    let written = count(Counter::Written);
    let flags = match wake {
        Wake::Later if !written.is_multiple_of(WAKE_EVERY) => BPF_RB_NO_WAKEUP,
        _ => BPF_RB_FORCE_WAKEUP,
    };
    entry.submit(u64::from(flags));
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! Counters that the eBPF programs keep per CPU, because a record that could not be written cannot report itself.

/// Index into the per-CPU counter array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Counter {
    /// Records lost because the ring buffer was full.
    RingFull = 0,
    /// Exits of a probed function whose entry was not seen (attached in between, or the thread table was full).
    /// The call happened, its record is missing or incomplete.
    Unmatched = 1,
    /// Kernel memory that could not be read: the record was written with the field zeroed.
    ReadFault = 2,
    /// Records written to the ring buffer.
    Written = 3,
    /// Queues created whose process, found through the offset table, was not the calling one: the offsets are wrong.
    Mismatch = 4,
}

/// Number of counters in the array.
pub const COUNTERS: u32 = 5;

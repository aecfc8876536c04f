// SPDX-License-Identifier: MIT OR Apache-2.0
//! The bytes that cross from the eBPF programs to user space.
//!
//! Three things, each defined once: the [`record`]s of the ring buffer, the [`offsets`] table by which
//! the eBPF programs find members of kernel structs, and the names of the [`counters`].
//! Nothing here does I/O or knows aya.

#![no_std]

pub mod counters;
pub mod offsets;
pub mod peek;
pub mod record;

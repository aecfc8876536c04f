// SPDX-License-Identifier: MIT OR Apache-2.0
//! The bytes that cross from the eBPF programs to user space, and between the daemon and its library in jobs.
//!
//! Each defined once: the [`record`]s of the ring buffer, the [`offsets`] table by which
//! the eBPF programs find members of kernel structs, the names of the [`counters`], the frames of an [`agent`] and of a [`hint`].
//! Nothing here does I/O or knows aya.

#![no_std]

pub mod agent;
pub mod counters;
pub mod hint;
pub mod offsets;
pub mod peek;
pub mod record;

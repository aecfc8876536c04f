// SPDX-License-Identifier: MIT OR Apache-2.0
//! Looking at kernel memory from user space: the program `peek` copies, user space asks.

/// Bytes that one run of the program can copy. One struct of the driver fits.
pub const PEEK_BYTES: usize = 1024;

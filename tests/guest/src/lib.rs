// SPDX-License-Identifier: MIT OR Apache-2.0
//! What host and guest of a test VM agree on: the [`frame`]s that cross the channel between them and
//! the [`plan`] that the host puts into the initramfs for PID 1.

pub mod frame;
pub mod plan;

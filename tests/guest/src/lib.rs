// SPDX-License-Identifier: MIT OR Apache-2.0
//! What host and guest of a test VM agree on: the [`frame`]s that cross the channel between them, the [`plan`] that
//! the host puts into the initramfs for PID 1, and what is a [`complaint`] of the guest's kernel.

pub mod complaint;
pub mod frame;
pub mod plan;

/// What PID 1 says on the console before it does anything: a guest that is lost without it never ran a program.
pub const STARTED: &str = "guest-init: PID 1 runs";

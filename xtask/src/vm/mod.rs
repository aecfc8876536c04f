// SPDX-License-Identifier: MIT OR Apache-2.0
//! Guests: a kernel, an initramfs that holds everything, QEMU around them, and a channel to run commands.

mod accel;
pub(crate) mod config;
mod console;
mod cpio;
mod initramfs;
mod machine;
pub(crate) mod modules;
mod session;
mod signals;
mod system;
mod terminal;

pub(crate) use console::Finding;
pub(crate) use machine::{Lost, Machine};
pub(crate) use session::{Ending, Session};

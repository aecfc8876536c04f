// SPDX-License-Identifier: MIT OR Apache-2.0
//! Processes that keep their queues at the same addresses, as those forked from one server do.

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::Context;
use nix::sys::personality::{self, Persona};

use crate::failure::CallError;

/// Starts this program again without random addresses. Returns at once if they are not random.
pub fn make_equal() -> anyhow::Result<()> {
    let fail = |errno| CallError::new("personality", errno);
    let now = personality::get().map_err(fail)?;
    if now.contains(Persona::ADDR_NO_RANDOMIZE) {
        return Ok(());
    }
    personality::set(now | Persona::ADDR_NO_RANDOMIZE).map_err(fail)?;
    let error = Command::new("/proc/self/exe")
        .args(std::env::args_os().skip(1))
        .exec();
    Err(error).context("exec")
}

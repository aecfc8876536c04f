// SPDX-License-Identifier: MIT OR Apache-2.0
//! What every group on the simulated GPU ends with.

use anyhow::Context;

use super::List;
use crate::guest;
use crate::kernel_log::KernelLog;

pub(super) const TESTS: List = &[(
    &[
        "basic",
        "multi",
        "reset",
        "rocm",
        "unload",
        "control",
        "patched",
        "patched-multi",
        "patched-reset",
        "systemd",
        "python",
    ],
    // xtask knows this name: a group needs other tests besides.
    "driver_unloads_without_leaks",
    unloads,
)];

/// Nothing that the group's tests did left an object of the driver behind, now or at an earlier unloading.
fn unloads() -> anyhow::Result<()> {
    if guest::driver_is_loaded() {
        guest::wait_for_no_process()?;
        guest::unload_driver()?;
    }
    let mut log = KernelLog::open()?;
    log.complaints()?;
    let (leaks, unloadings) = log.leaks();
    anyhow::ensure!(leaks.is_empty(), "the driver leaked: {}", leaks.join(" | "));
    (unloadings > 0)
        .then_some(())
        .context("the driver was unloaded and printed no balance")
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! The clock of everything that is told: the kernel side stamps its records with it.

use std::time::Duration;

use nix::time::{clock_gettime, ClockId};

/// CLOCK_BOOTTIME in nanoseconds; 0 where there is none.
#[must_use]
pub fn boottime_ns() -> u64 {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(0, |now| {
        u64::try_from(Duration::from(now).as_nanos()).unwrap_or(u64::MAX)
    })
}

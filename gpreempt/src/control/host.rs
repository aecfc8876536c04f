// SPDX-License-Identifier: MIT OR Apache-2.0
//! What both stock backends need of the host.

use std::time::Instant;

use super::{BackendKind, ControlError};
use crate::kfd::{process, Root};

/// Sysfs names processes by the host's pids, the driver's calls by the caller's.
///
/// # Errors
/// This is a pid namespace of its own.
pub(super) fn check_pids(root: &Root, backend: BackendKind) -> Result<(), ControlError> {
    if process::sees_host_pids(root) {
        return Ok(());
    }
    Err(ControlError::Unavailable {
        what: format!("backend {backend} needs the host's process ids, and this is a pid namespace of its own"),
        fix: "run outside of containers, or in one with the host's pid namespace (--pid=host)".to_owned(),
    })
}

pub(super) fn elapsed_ns(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! Calls into `/dev/kfd`, one file per family: structs, numbers, and the `unsafe` that goes with them.

pub mod criu;
pub mod debug;
pub mod gpreempt;

use std::fs::OpenOptions;
use std::io;
use std::os::fd::OwnedFd;

use super::Root;

/// Where the device is.
pub const DEVICE: &str = "/dev/kfd";

/// Opens the device, which makes this process a KFD process. The descriptor is closed on exec.
///
/// # Errors
/// As open(2): ENOENT without the driver, EACCES without permission; EINVAL from Linux 7.3 where there is no GPU, and while
/// a GPU is being reset (kfd_open, kfd_create_process).
pub fn open(root: &Root) -> io::Result<OwnedFd> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(root.path(DEVICE))?;
    Ok(file.into())
}

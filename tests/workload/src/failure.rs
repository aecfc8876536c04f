// SPDX-License-Identifier: MIT OR Apache-2.0
//! What can go wrong, and the exit code that says so.

use nix::errno::Errno;

/// Exit code: no GPU, driver or feature.
pub const EXIT_UNAVAILABLE: u8 = 69;
/// Exit code: no permission.
pub const EXIT_NO_PERMISSION: u8 = 77;

/// A failed system call, named.
#[derive(Debug, thiserror::Error)]
#[error("{call}: {errno}")]
pub struct CallError {
    /// The ioctl or system call.
    pub call: &'static str,
    pub errno: Errno,
}

impl CallError {
    /// Names the call that returned `errno`.
    pub fn new(call: &'static str, errno: Errno) -> Self {
        Self { call, errno }
    }
}

/// Why no work can be done on this machine.
#[derive(Debug, thiserror::Error)]
pub enum Unavailable {
    #[error("/dev/kfd does not exist: load the amdgpu driver (modprobe amdgpu)")]
    NoDriver,
    #[error("no permission to open {path}: run as root or join the group 'render'")]
    NoPermission { path: String },
    #[error("the driver is loaded but lists no GPU in /sys/class/kfd/kfd/topology: this machine has none that it supports")]
    NoGpu,
    #[error("{wanted} GPUs wanted, {found} found: lower --gpus")]
    TooFewGpus { wanted: usize, found: usize },
    #[error("{0}")]
    NoRuntime(String),
}

/// The exit code for an error chain: the first link that has one decides, else 1.
pub fn exit_code(error: &anyhow::Error) -> u8 {
    for cause in error.chain() {
        match cause.downcast_ref::<Unavailable>() {
            Some(Unavailable::NoPermission { .. }) => return EXIT_NO_PERMISSION,
            Some(_) => return EXIT_UNAVAILABLE,
            None => {}
        }
        if let Some(call) = cause.downcast_ref::<CallError>() {
            if matches!(call.errno, Errno::EPERM | Errno::EACCES) {
                return EXIT_NO_PERMISSION;
            }
        }
    }
    1
}

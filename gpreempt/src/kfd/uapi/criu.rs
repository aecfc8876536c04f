// SPDX-License-Identifier: MIT OR Apache-2.0
//! `AMDKFD_IOC_CRIU_OP` of `include/uapi/linux/kfd_ioctl.h`: the driver's checkpoint interface, as far as it pauses and unpauses
//! a process.
//!
//! The calls go through a descriptor that the target opened, from the thread that traces the target's main thread, with
//! CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN in the initial user namespace (`kfd_ioctl`, Linux 6.12).
//!
//! Kernel support: Linux 5.18.

use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::errno::Errno;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

const OP_PROCESS_INFO: u32 = 0;
const OP_UNPAUSE: u32 = 2;

/// `struct kfd_ioctl_criu_args`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct CriuArgs {
    devices: u64,
    bos: u64,
    priv_data: u64,
    priv_data_size: u64,
    num_devices: u32,
    num_bos: u32,
    num_objects: u32,
    pid: u32,
    op: u32,
    pad: u32,
}

const CRIU_OP: u64 = nix::request_code_readwrite!(b'K', 0x22, size_of::<CriuArgs>());

const _: () = assert!(CRIU_OP == 0xc038_4b22);

/// A copy of another process's descriptor of `/dev/kfd`. As long as it is open the target's KFD process stays alive, its queues
/// with it (the file holds a reference and, before 7.3, queues go with the last one): close it at once.
#[derive(Debug)]
pub struct Device(OwnedFd);

impl Device {
    /// Calls through this copy.
    #[must_use]
    pub fn new(kfd: OwnedFd) -> Self {
        Self(kfd)
    }

    /// `PROCESS_INFO`: evicts all queues of the process from all its GPUs, also those that it creates later. Must not be called
    /// twice without [`Device::unpause`] between: before Linux 7.3 the second eviction could never be undone
    /// (`criu_process_info`, `criu_unpause`).
    ///
    /// # Errors
    /// EACCES no capability, EBADF the descriptor is not of a process that this thread traces, ENODEV no GPU in use.
    pub fn pause(&self) -> nix::Result<()> {
        self.call(OP_PROCESS_INFO)
    }

    /// `UNPAUSE`: restores them.
    ///
    /// # Errors
    /// EINVAL the process is not paused, else as [`Device::pause`].
    pub fn unpause(&self) -> nix::Result<()> {
        self.call(OP_UNPAUSE)
    }

    fn call(&self, op: u32) -> nix::Result<()> {
        let mut args = CriuArgs {
            op,
            ..CriuArgs::default()
        };
        // SAFETY: the number encodes the size of the struct; neither operation follows the addresses in it, which are 0.
        let result =
            unsafe { libc::ioctl(self.0.as_raw_fd(), CRIU_OP, std::ptr::from_mut(&mut args)) };
        Errno::result(result).map(drop)
    }
}

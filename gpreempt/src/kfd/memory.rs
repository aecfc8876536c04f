// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory of other processes: the read and write indices of a queue lie in its owner's.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::unix::fs::FileExt as _;

use nix::errno::Errno;
use nix::sys::uio::{process_vm_readv, RemoteIoVec};

use crate::event::Pid;

/// Eight bytes, little-endian.
///
/// # Errors
/// EPERM without ptrace right, ESRCH if there is no such process, EFAULT where nothing is mapped.
pub(super) fn read_u64(pid: Pid, address: u64) -> io::Result<u64> {
    let invalid = || io::Error::from(io::ErrorKind::InvalidInput);
    let mut bytes = [0; 8];
    let from = RemoteIoVec {
        base: usize::try_from(address).map_err(|_| invalid())?,
        len: bytes.len(),
    };
    let pid = i32::try_from(pid.0).map_err(|_| invalid())?;
    let read = process_vm_readv(
        nix::unistd::Pid::from_raw(pid),
        &mut [IoSliceMut::new(&mut bytes)],
        &[from],
    );
    match read {
        Ok(read) if read == bytes.len() => {}
        // Memory of the driver is mapped without pages to pin; procfs asks the driver for its content (access_process_vm).
        Ok(_) | Err(Errno::EFAULT) => {
            File::open(format!("/proc/{pid}/mem"))?.read_exact_at(&mut bytes, address)?;
        }
        Err(error) => return Err(error.into()),
    }
    Ok(u64::from_le_bytes(bytes))
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory of other processes: the read and write indices of a queue lie in its owner's.

use std::collections::btree_map::{BTreeMap, Entry};
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::unix::fs::FileExt as _;

use nix::errno::Errno;
use nix::sys::uio::{process_vm_readv, RemoteIoVec};

use super::Root;
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

/// Memory of processes that is read again and again, through files of procfs that stay open.
#[derive(Debug, Default)]
pub struct Windows(BTreeMap<Pid, File>);

impl Windows {
    /// Eight bytes, little-endian.
    ///
    /// # Errors
    /// As of [`Root::memory`], and UnexpectedEof if the process has executed another program since it was first read.
    pub fn read_u64(&mut self, root: &Root, pid: Pid, address: u64) -> io::Result<u64> {
        if !root.is_real() {
            return root.memory(pid, address);
        }
        let mut bytes = [0; 8];
        let file = match self.0.entry(pid) {
            Entry::Occupied(open) => open.into_mut(),
            Entry::Vacant(new) => new.insert(File::open(format!("/proc/{pid}/mem"))?),
        };
        file.read_exact_at(&mut bytes, address)?;
        Ok(u64::from_le_bytes(bytes))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn a_window_shows_what_is_there_now() {
        let value = AtomicU64::new(7);
        let address = std::ptr::from_ref(&value) as u64;
        let (root, me) = (Root::real(), Pid(std::process::id()));
        let mut windows = Windows::default();
        assert_eq!(windows.read_u64(&root, me, address).unwrap(), 7);
        value.store(8, Ordering::Relaxed);
        assert_eq!(windows.read_u64(&root, me, address).unwrap(), 8);
        assert_eq!(windows.0.len(), 1);
        assert!(windows.read_u64(&root, me, 0).is_err());
    }
}

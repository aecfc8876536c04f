// SPDX-License-Identifier: MIT OR Apache-2.0
//! Descriptors of processes (pidfd_open(2)): they never come to mean another process, and become readable when it ended.
//!
//! Kernel support: Linux 5.6 for all of it.

use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};

use crate::event::Pid;

/// The process that has this pid now.
///
/// # Errors
/// ESRCH.
pub(crate) fn open(pid: Pid) -> nix::Result<OwnedFd> {
    // SAFETY: the call takes two integers.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.0, 0) };
    owned(result)
}

/// A copy of the process's descriptor `fd`, closed on exec.
///
/// # Errors
/// EPERM without the right to ptrace it, EBADF, ESRCH.
pub(crate) fn copy_of(process: BorrowedFd<'_>, fd: RawFd) -> nix::Result<OwnedFd> {
    // SAFETY: the call takes three integers.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), fd, 0) };
    owned(result)
}

/// Sends SIGKILL.
///
/// # Errors
/// EPERM, ESRCH.
pub(crate) fn kill(process: BorrowedFd<'_>) -> nix::Result<()> {
    let no_info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: the call takes integers and a pointer that may be null.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            process.as_raw_fd(),
            libc::SIGKILL,
            no_info,
            0,
        )
    };
    Errno::result(result).map(drop)
}

/// Waits until the process ended with all its threads, at most so long. Whether it did.
pub(crate) fn wait_end(process: BorrowedFd<'_>, within: Duration) -> bool {
    let until = std::time::Instant::now() + within;
    loop {
        let left = until.saturating_duration_since(std::time::Instant::now());
        let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(process, PollFlags::POLLIN)];
        match poll(&mut fds, left) {
            Ok(0) => return false,
            Ok(_) => return true,
            Err(Errno::EINTR) => {}
            Err(_) => return false,
        }
    }
}

fn owned(result: libc::c_long) -> nix::Result<OwnedFd> {
    let fd = Errno::result(result)?;
    let fd = RawFd::try_from(fd).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd as _;
    use std::process::Command;

    #[test]
    fn a_killed_process_is_readable() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let process = open(Pid(child.id())).unwrap();
        assert!(!wait_end(process.as_fd(), Duration::from_millis(10)));
        kill(process.as_fd()).unwrap();
        assert!(wait_end(process.as_fd(), Duration::from_secs(10)));
        child.wait().unwrap();
        assert_eq!(kill(process.as_fd()), Err(Errno::ESRCH));
    }

    #[test]
    fn a_descriptor_is_copied() {
        let this = open(Pid(std::process::id())).unwrap();
        let (read, write) = std::io::pipe().unwrap();
        let copy = copy_of(this.as_fd(), write.as_raw_fd()).unwrap();
        drop(write);
        drop(copy);
        assert_eq!(std::io::read_to_string(read).unwrap(), "");
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! Detaching without making anybody wait.
//!
//! The kernel detaches one probe after another and waits for all tasks to leave its trampoline each time, a tenth of a second
//! per function (`ftrace_shutdown` calls `synchronize_rcu_tasks`, whose grace periods are that far apart; perf events of
//! kprobes wait likewise). It does so when the last descriptor of a link is closed, in whoever closes it, also at exit. So the
//! links are left to a process of their own, which only waits for this one to let go of them, and exits.

use std::{
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
};

/// Closes the links in the background; the calling thread waits for none of it. For the time that takes, the programs still
/// run, and what fentry keeps loaded stays loaded. Where no process can be made, closes them here.
pub(super) fn in_background(links: Vec<OwnedFd>) {
    let other_process = if links.is_empty() {
        None
    } else {
        spawn(&links).ok()
    };
    drop(links);
    // The end of this pipe tells the other process that the links are its own now.
    drop(other_process);
}

/// Makes a process that has nothing but the links, and exits once the returned end of a pipe is closed.
fn spawn(links: &[OwnedFd]) -> io::Result<OwnedFd> {
    let mut ends = [0; 2];
    // SAFETY: pipe2 writes two descriptors into the array, which are ours alone.
    let (read, write) = unsafe {
        if libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) < 0 {
            return Err(io::Error::last_os_error());
        }
        (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1]))
    };
    let kept = links
        .iter()
        .chain([&read])
        .map(|fd| fd.as_raw_fd())
        .collect();
    let others = gaps(kept);
    // SAFETY: there may be other threads, so the child makes only system calls, on memory that is there already.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => child(&others, read.as_raw_fd()),
        pid => {
            // SAFETY: waits for the child just made. It exits at once, so that its own child is nobody's zombie.
            unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
            Ok(write)
        }
    }
}

/// Ranges of descriptors that are not kept, both ends included.
fn gaps(mut kept: Vec<RawFd>) -> Vec<(u32, u32)> {
    kept.sort_unstable();
    let mut gaps = Vec::with_capacity(kept.len() + 1);
    let mut next = 0;
    for fd in kept.iter().map(|fd| fd.unsigned_abs()) {
        if fd > next {
            gaps.push((next, fd - 1));
        }
        next = fd + 1;
    }
    gaps.push((next, u32::MAX));
    gaps
}

/// The other process. Never returns.
fn child(others: &[(u32, u32)], pipe: RawFd) -> ! {
    // SAFETY: system calls only; the slice and the byte are ours. Nothing of this process's state is used afterwards.
    unsafe {
        if libc::fork() != 0 {
            libc::_exit(0);
        }
        // Out of the terminal's reach and of nobody's directory, named for those who wonder.
        libc::setsid();
        libc::chdir(c"/".as_ptr());
        libc::prctl(libc::PR_SET_NAME, c"gpreempt-detach".as_ptr());
        for (first, last) in others {
            // Without this (Linux 5.9) a reader of our output would not see its end until we exit: the better of two evils.
            libc::syscall(libc::SYS_close_range, *first, *last, 0);
        }
        let mut byte = 0_u8;
        while libc::read(pipe, std::ptr::from_mut(&mut byte).cast(), 1) < 0 && errno_is_eintr() {}
        libc::_exit(0);
    }
}

fn errno_is_eintr() -> bool {
    io::Error::last_os_error().kind() == io::ErrorKind::Interrupted
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs::File, io::Read as _, time::Duration};

    #[test]
    fn everything_but_the_kept_is_in_a_gap() {
        assert_eq!(gaps(vec![5, 3, 4]), [(0, 2), (6, u32::MAX)]);
        assert_eq!(gaps(vec![0, 7]), [(1, 6), (8, u32::MAX)]);
        assert_eq!(gaps(vec![]), [(0, u32::MAX)]);
    }

    #[test]
    fn the_last_descriptor_is_closed_by_the_other_process() {
        // The write end of a pipe stands for a link: its reader sees the end when the last copy is closed.
        let mut ends = [0; 2];
        // SAFETY: as in `spawn`.
        let (read, write) = unsafe {
            assert_eq!(libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC), 0);
            (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1]))
        };
        in_background(vec![write]);
        let (done, wait) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let mut all = Vec::new();
            done.send(File::from(read).read_to_end(&mut all)).unwrap();
        });
        assert_eq!(
            wait.recv_timeout(Duration::from_secs(10)).unwrap().unwrap(),
            0
        );
    }
}

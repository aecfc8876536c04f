// SPDX-License-Identifier: MIT OR Apache-2.0
//! The links that attach programs, and detaching them without making anybody wait.
//!
//! The kernel detaches one probe after another and waits for all tasks to leave its trampoline each time, a tenth of a second
//! per function (`ftrace_shutdown` calls `synchronize_rcu_tasks`, whose grace periods are that far apart; perf events of
//! kprobes wait likewise). It does so when the last descriptor of a link is closed, in whoever closes it, also in a process that
//! is killed: for seconds it would not let go of what it has stopped. So a process of its own has the links too, from the moment
//! they are all there. It waits for this one to let go of them, closes them, and exits.

use std::{
    io::{self, Read as _},
    net::Shutdown,
    os::fd::{AsRawFd as _, OwnedFd, RawFd},
    os::unix::net::UnixStream,
};

/// Links. Dropped, they go in the background, the later ones first: outer functions before the inner ones they call. Until that is
/// done, the programs still run, and what fentry keeps loaded stays loaded.
#[derive(Default)]
pub(super) struct Links {
    links: Vec<OwnedFd>,
    /// Its end tells the process that has them too that they are its own now.
    other: Option<UnixStream>,
}

impl Links {
    pub(super) fn push(&mut self, link: OwnedFd) {
        self.links.push(link);
    }

    pub(super) fn len(&self) -> usize {
        self.links.len()
    }

    /// Closes those after so many, here and now.
    pub(super) fn truncate(&mut self, count: usize) {
        self.links.truncate(count);
    }

    /// Gives the other process all links that there are now. Where none can be made, they are closed here.
    pub(super) fn share(&mut self) {
        if !self.links.is_empty() && self.other.is_none() {
            self.other = spawn(&self.links).ok();
        }
    }

    /// Detaches and waits until the kernel is done: some four seconds for the full plan.
    pub(super) fn close_and_wait(mut self) {
        self.close();
        if let Some(mut other) = self.other.take() {
            // Nobody writes to it: what comes is the end of that process.
            let _ = other.shutdown(Shutdown::Write);
            let _ = other.read(&mut [0]);
        }
    }

    fn close(&mut self) {
        while let Some(link) = self.links.pop() {
            drop(link);
        }
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        // Attaching failed half-way.
        self.share();
        self.close();
    }
}

/// Makes a process that has nothing but the links, and closes them once the returned socket is closed.
fn spawn(links: &[OwnedFd]) -> io::Result<UnixStream> {
    let (ours, theirs) = UnixStream::pair()?;
    let links: Vec<RawFd> = links.iter().map(|link| link.as_raw_fd()).collect();
    let others = gaps(links.iter().copied().chain([theirs.as_raw_fd()]).collect());
    // SAFETY: there may be other threads, so the child makes only system calls, on memory that is there already.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => child(&others, &links, theirs.as_raw_fd()),
        pid => {
            // SAFETY: waits for the child just made. It exits at once, so that its own child is nobody's zombie.
            unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
            Ok(ours)
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
fn child(others: &[(u32, u32)], links: &[RawFd], socket: RawFd) -> ! {
    // SAFETY: system calls only; the slices and the byte are ours. Nothing of this process's state is used afterwards.
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
        while libc::read(socket, std::ptr::from_mut(&mut byte).cast(), 1) < 0 && errno_is_eintr() {}
        for link in links.iter().rev() {
            libc::close(*link);
        }
        libc::_exit(0);
    }
}

fn errno_is_eintr() -> bool {
    io::Error::last_os_error().kind() == io::ErrorKind::Interrupted
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn everything_but_the_kept_is_in_a_gap() {
        assert_eq!(gaps(vec![5, 3, 4]), [(0, 2), (6, u32::MAX)]);
        assert_eq!(gaps(vec![0, 7]), [(1, 6), (8, u32::MAX)]);
        assert_eq!(gaps(vec![]), [(0, u32::MAX)]);
    }

    /// The end of a pair stands for a link: the other end sees when the last copy is closed.
    fn link() -> (Links, UnixStream) {
        let (link, seen) = UnixStream::pair().unwrap();
        seen.set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        let mut links = Links::default();
        links.push(link.into());
        (links, seen)
    }

    #[test]
    fn links_are_there_while_somebody_has_them() {
        let (mut links, mut seen) = link();
        links.share();
        // This process has no link any more, as after its end.
        links.close();
        seen.set_nonblocking(true).unwrap();
        let still = seen.read(&mut [0]).unwrap_err();
        assert_eq!(still.kind(), io::ErrorKind::WouldBlock);
        seen.set_nonblocking(false).unwrap();
        drop(links);
        assert_eq!(seen.read(&mut [0]).unwrap(), 0);
    }

    #[test]
    fn one_can_wait_until_they_are_closed() {
        let (mut links, mut seen) = link();
        links.share();
        links.close_and_wait();
        // At once but for processes that other tests are just starting.
        assert_eq!(seen.read(&mut [0]).unwrap(), 0);
    }

    #[test]
    fn those_that_were_not_shared_are_closed_too() {
        let (links, mut seen) = link();
        drop(links);
        assert_eq!(seen.read(&mut [0]).unwrap(), 0);
    }
}

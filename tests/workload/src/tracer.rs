// SPDX-License-Identifier: MIT OR Apache-2.0
//! Stopping the queues of another process by the driver's own means: the debugger interface and checkpoint/restore.

use std::fs::{self, File};
use std::os::fd::RawFd;
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::errno::Errno;
use nix::sys::ptrace;
use nix::sys::wait::{waitpid, WaitPidFlag, WaitStatus};
use nix::unistd::{pipe2, Pid};
use serde::Serialize;

use crate::failure::CallError;
use crate::ioctl::{pidfd_getfd, pidfd_open, KfdFile};
use crate::report::print;
use crate::stop;
use crate::uapi::*;

/// A line about another process's queues.
#[derive(Debug, Serialize)]
struct Line<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    pid: u32,
    /// The queues asked for (suspend) or none (criu takes the whole process).
    queues: &'a [u32],
    /// How many the driver says it changed.
    count: u32,
    /// User space's time for the ioctl.
    spent_ns: u64,
}

/// A traced process. The driver accepts these calls only from the thread that traces the target. Dropping it detaches.
struct Traced {
    pid: Pid,
}

impl Traced {
    fn seize(pid: u32) -> anyhow::Result<Self> {
        let pid = Pid::from_raw(i32::try_from(pid).context("not a pid")?);
        ptrace::seize(pid, ptrace::Options::empty())
            .map_err(|errno| CallError::new("ptrace", errno))
            .with_context(|| format!("trace process {pid}"))?;
        Ok(Self { pid })
    }

    /// Lets `time` pass while passing the target's signals on to it. False = the target ended.
    fn serve(&self, time: Duration) -> anyhow::Result<bool> {
        let until = Instant::now() + time;
        while Instant::now() < until && !stop::requested() {
            match waitpid(self.pid, Some(WaitPidFlag::WNOHANG | WaitPidFlag::__WALL)) {
                Ok(WaitStatus::Stopped(pid, signal)) => {
                    ptrace::cont(pid, signal).map_err(|errno| CallError::new("ptrace", errno))?;
                }
                Ok(WaitStatus::PtraceEvent(pid, ..)) => {
                    ptrace::cont(pid, None).map_err(|errno| CallError::new("ptrace", errno))?;
                }
                Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) | Err(Errno::ECHILD) => {
                    return Ok(false)
                }
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(CallError::new("waitpid", errno).into()),
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(true)
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        // A seized process must stand still to be detached; if it does not, the kernel detaches when this process ends.
        if ptrace::interrupt(self.pid).is_ok()
            && waitpid(self.pid, Some(WaitPidFlag::__WALL)).is_ok()
        {
            let _ = ptrace::detach(self.pid, None);
        }
    }
}

/// Suspends the queues of `pid` through the debugger interface (6.5 and later), holds them for `hold`, resumes them.
///
/// # Errors
/// If the driver suspended fewer queues than the process has.
pub fn suspend(pid: u32, hold: Duration) -> anyhow::Result<()> {
    let kfd = KfdFile::open()?;
    // For a process that is none of KFD's, DBG_TRAP_ENABLE would make one that stays to the target's end.
    kfd_descriptor(pid)?;
    let traced = Traced::seize(pid)?;
    let (_reader, writer) =
        pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(|errno| CallError::new("pipe2", errno))?;
    kfd.debug_enable(pid, &File::from(writer))
        .context("attach as debugger")?;
    let outcome = suspend_attached(&kfd, &traced, pid, hold);
    // Resumes everything and must be tried whatever happened.
    let detached = kfd.debug_disable(pid).context("detach as debugger");
    outcome.and(detached)
}

fn suspend_attached(
    kfd: &KfdFile,
    traced: &Traced,
    pid: u32,
    hold: Duration,
) -> anyhow::Result<()> {
    let queues: Vec<u32> = kfd
        .debug_snapshot(pid, EC_QUEUE_NEW_MASK)?
        .iter()
        .map(|entry| entry.queue_id)
        .collect();
    anyhow::ensure!(!queues.is_empty(), "process {pid} has no queues");
    let mut ids = queues.clone();
    let started = Instant::now();
    let count = kfd.debug_suspend(pid, &mut ids)?;
    let spent_ns = elapsed_ns(started);
    print(&Line {
        kind: "suspended",
        pid,
        queues: &queues,
        count,
        spent_ns,
    })?;
    let refused: Vec<u32> = ids
        .iter()
        .filter(|id| **id & (DBG_QUEUE_ERROR_MASK | DBG_QUEUE_INVALID_MASK) != 0)
        .copied()
        .collect();
    anyhow::ensure!(
        refused.is_empty(),
        "the driver refused to suspend {refused:#x?}"
    );
    if traced.serve(hold)? {
        let mut ids = queues.clone();
        let started = Instant::now();
        let count = kfd.debug_resume(pid, &mut ids)?;
        let spent_ns = elapsed_ns(started);
        print(&Line {
            kind: "resumed",
            pid,
            queues: &queues,
            count,
            spent_ns,
        })?;
    }
    Ok(())
}

/// Evicts all queues of `pid` through the checkpoint interface, holds them for `hold`, restores them.
pub fn criu_pause(pid: u32, hold: Duration) -> anyhow::Result<()> {
    let traced = Traced::seize(pid)?;
    let pidfd = pidfd_open(pid)?;
    let fd = kfd_descriptor(pid)?;
    // The copy keeps the target's KFD process alive, so it is closed after each use.
    let borrow = || pidfd_getfd(&pidfd, fd).map(KfdFile::from_fd);
    let kfd = borrow()?;
    // A second pause on top of one would never end before 7.3. EINVAL: it was not paused.
    match kfd.criu(CRIU_OP_UNPAUSE) {
        Err(error) if error.errno == Errno::EINVAL => {}
        result => drop(result?),
    }
    let started = Instant::now();
    kfd.criu(CRIU_OP_PROCESS_INFO)?;
    let spent_ns = elapsed_ns(started);
    drop(kfd);
    print(&Line {
        kind: "paused",
        pid,
        queues: &[],
        count: 0,
        spent_ns,
    })?;
    if traced.serve(hold)? {
        let kfd = borrow()?;
        let started = Instant::now();
        kfd.criu(CRIU_OP_UNPAUSE)?;
        let spent_ns = elapsed_ns(started);
        print(&Line {
            kind: "unpaused",
            pid,
            queues: &[],
            count: 0,
            spent_ns,
        })?;
    }
    Ok(())
}

/// The descriptor under which `pid` has /dev/kfd open.
pub fn kfd_descriptor(pid: u32) -> anyhow::Result<RawFd> {
    let folder = format!("/proc/{pid}/fd");
    for entry in fs::read_dir(&folder).with_context(|| format!("read {folder}"))? {
        let entry = entry?;
        if fs::read_link(entry.path()).is_ok_and(|target| target.as_os_str() == "/dev/kfd") {
            let name = entry.file_name();
            return name
                .to_str()
                .and_then(|name| name.parse().ok())
                .context("descriptor is not a number");
        }
    }
    anyhow::bail!("process {pid} has not opened /dev/kfd")
}

fn elapsed_ns(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! The stock driver's ways to stop another process's queues, step by step: debugger and checkpoint interface. The thread
//! that attaches must make all calls.

use std::fs::File;

use anyhow::Context;
use nix::errno::Errno;
use nix::sys::ptrace;
use nix::sys::wait::{waitpid, WaitPidFlag};
use nix::unistd::Pid;
use workload::failure::CallError;
use workload::ioctl::{pidfd_getfd, pidfd_open, KfdFile};
use workload::tracer::kfd_descriptor;
use workload::uapi::{
    CRIU_OP_PROCESS_INFO, CRIU_OP_UNPAUSE, DBG_QUEUE_ERROR_MASK, DBG_QUEUE_INVALID_MASK,
    EC_QUEUE_NEW_MASK,
};

/// A process whose debugger this one is.
pub(super) struct Tracer {
    pid: u32,
    kfd: KfdFile,
    _events: std::io::PipeReader,
}

impl Tracer {
    pub(super) fn attach(pid: u32) -> anyhow::Result<Self> {
        let kfd = KfdFile::open()?;
        ptrace::seize(raw(pid), ptrace::Options::empty()).context("ptrace")?;
        let (events, notify) = std::io::pipe().context("pipe")?;
        kfd.debug_enable(pid, &File::from(std::os::fd::OwnedFd::from(notify)))?;
        Ok(Self {
            pid,
            kfd,
            _events: events,
        })
    }

    pub(super) fn suspend(&self, queues: &[u32]) -> anyhow::Result<u32> {
        // Queues are born with this exception, and cannot be suspended before it is cleared.
        self.kfd.debug_snapshot(self.pid, EC_QUEUE_NEW_MASK)?;
        let mut ids = queues.to_vec();
        let count = self.kfd.debug_suspend(self.pid, &mut ids)?;
        refused(&ids)?;
        Ok(count)
    }

    pub(super) fn resume(&self, queues: &[u32]) -> anyhow::Result<u32> {
        let mut ids = queues.to_vec();
        let count = self.kfd.debug_resume(self.pid, &mut ids)?;
        refused(&ids)?;
        Ok(count)
    }

    pub(super) fn pause(&self) -> anyhow::Result<()> {
        self.criu(CRIU_OP_PROCESS_INFO)
    }

    pub(super) fn unpause(&self) -> anyhow::Result<()> {
        self.criu(CRIU_OP_UNPAUSE)
    }

    /// With a copy of the target's file that is closed at once: it keeps the target's KFD process alive.
    fn criu(&self, op: u32) -> anyhow::Result<()> {
        let pidfd = pidfd_open(self.pid)?;
        let file = KfdFile::from_fd(pidfd_getfd(&pidfd, kfd_descriptor(self.pid)?)?);
        file.criu(op)?;
        Ok(())
    }

    /// Resumes what is suspended.
    pub(super) fn detach(self) -> anyhow::Result<()> {
        let outcome = self.kfd.debug_disable(self.pid);
        // A seized process must stand still to be detached. ESRCH: it is gone.
        match ptrace::interrupt(raw(self.pid)) {
            Ok(()) => {
                waitpid(raw(self.pid), Some(WaitPidFlag::__WALL)).context("waitpid")?;
                match ptrace::detach(raw(self.pid), None) {
                    Ok(()) | Err(Errno::ESRCH) => {}
                    Err(errno) => return Err(CallError::new("ptrace", errno).into()),
                }
            }
            Err(Errno::ESRCH) => {}
            Err(errno) => return Err(CallError::new("ptrace", errno).into()),
        }
        Ok(outcome?)
    }
}

fn refused(ids: &[u32]) -> anyhow::Result<()> {
    anyhow::ensure!(
        ids.iter()
            .all(|id| id & (DBG_QUEUE_ERROR_MASK | DBG_QUEUE_INVALID_MASK) == 0),
        "the driver refused: {ids:#x?}"
    );
    Ok(())
}

fn raw(pid: u32) -> Pid {
    Pid::from_raw(pid.cast_signed())
}

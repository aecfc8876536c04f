// SPDX-License-Identifier: MIT OR Apache-2.0
//! The debugger of one process, on its tracer thread.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;

use super::refusal;
use crate::control::tracer::Session as Traced;
use crate::control::{why, Refusal};
use crate::event::{GpuId, Pid, QueueId};
use crate::kfd::uapi::debug::{
    Device, QueueSnapshot, RuntimeInfo, EC_PROCESS_RUNTIME, EC_QUEUE_NEW, QUEUE_ERROR,
    QUEUE_INVALID, RUNTIME_ENABLED,
};

/// How often a queue that is just being created or destroyed is tried, and the time between.
const ATTEMPTS: u32 = 50;
const BETWEEN: Duration = Duration::from_millis(1);

/// Which queues of a whole process are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Scope {
    pub(super) gpu: Option<GpuId>,
    pub(super) no_sdma: bool,
}

impl Scope {
    fn admits(self, queue: &QueueSnapshot) -> bool {
        self.gpu.is_none_or(|gpu| gpu.0 == queue.gpu_id) && !(self.no_sdma && queue.is_sdma())
    }
}

/// What is to be held or was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Which {
    /// All of a scope, now and later.
    Whole(Scope),
    /// This one.
    One(GpuId, QueueId),
}

impl Which {
    fn admits(&self, queue: &QueueSnapshot) -> bool {
        match self {
            Self::Whole(scope) => scope.admits(queue),
            Self::One(gpu, id) => gpu.0 == queue.gpu_id && id.0 == queue.queue_id,
        }
    }
}

/// How many queues are as wanted now, and how many of these were not so before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Count {
    pub(super) queues: u32,
    pub(super) changed: u32,
}

pub(super) struct Session {
    device: Arc<Device>,
    pid: Pid,
    notify: File,
    held: BTreeMap<QueueId, GpuId>,
    /// Queues created later are held if one of these admits them.
    later: Vec<Scope>,
    /// Nothing is left to undo.
    over: bool,
    trouble: Option<String>,
}

impl Session {
    /// Becomes the debugger of a process that the calling thread traces.
    pub(super) fn open(device: Arc<Device>, pid: Pid) -> Result<Self, Refusal> {
        let notify = notification_pipe().map_err(|errno| why::resources("pipe", errno))?;
        let exceptions = EC_QUEUE_NEW | EC_PROCESS_RUNTIME;
        let info = device
            .enable(pid.0, exceptions, notify.as_fd())
            .map_err(|errno| refusal::enable(pid, errno));
        let info = match info {
            Ok(info) => info,
            Err(refusal) => {
                if refusal.errno == Some(Errno::EALREADY) {
                    // The driver now takes us for that debugger, without having counted us: when this program ended it would
                    // keep a pointer to it. Ending the debugging is the only way to make it forget.
                    let _ = device.disable(pid.0);
                }
                return Err(refusal);
            }
        };
        let session = Self {
            device,
            pid,
            notify,
            held: BTreeMap::new(),
            later: Vec::new(),
            over: false,
            trouble: None,
        };
        if info.runtime_state == RUNTIME_ENABLED {
            Ok(session)
        } else {
            // Dropping the session also answers a process that enables its runtime just now.
            Err(refusal::runtime(pid, info.runtime_state))
        }
    }

    /// Suspends what is not suspended yet. On a refusal, what this call suspended is resumed.
    pub(super) fn hold(&mut self, which: &Which) -> Result<Count, Refusal> {
        let later = self.later.len();
        if let Which::Whole(scope) = *which {
            // First, so that no queue is created between the snapshot and this unseen.
            if !self.later.contains(&scope) {
                self.later.push(scope);
            }
        }
        let mut changed = Vec::new();
        let result = self.suspend(which, &mut changed);
        if result.is_err() {
            self.later.truncate(later);
            self.undo(&changed);
        }
        result.map(|queues| Count {
            queues,
            changed: changed.len() as u32,
        })
    }

    /// Suspends; `changed` is what it suspended, also where it fails.
    fn suspend(&mut self, which: &Which, changed: &mut Vec<QueueId>) -> Result<u32, Refusal> {
        let mut last = Vec::new();
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                std::thread::sleep(BETWEEN);
            }
            let all = self.snapshot()?;
            let mut queues: Vec<&QueueSnapshot> = all.iter().filter(|q| which.admits(q)).collect();
            if let (Which::One(gpu, id), true) = (which, queues.is_empty()) {
                return Err(refusal::no_queue(self.pid, *gpu, *id));
            }
            let total = queues.len();
            queues.retain(|queue| !self.held.contains_key(&QueueId(queue.queue_id)));
            if queues.is_empty() {
                return Ok(total as u32);
            }
            let mut ids: Vec<u32> = queues.iter().map(|queue| queue.queue_id).collect();
            let count = self
                .device
                .suspend(self.pid.0, &mut ids)
                .map_err(|errno| refusal::call(refusal::SUSPEND, self.pid, errno))?;
            let (mut done, mut failed) = (0, false);
            last.clear();
            for (id, queue) in ids.iter().zip(&queues) {
                let queue_id = QueueId(queue.queue_id);
                if id & QUEUE_ERROR != 0 {
                    // The driver marked it suspended all the same.
                    changed.push(queue_id);
                    failed = true;
                } else if id & QUEUE_INVALID != 0 {
                    last.push(queue_id);
                } else {
                    self.held.insert(queue_id, GpuId(queue.gpu_id));
                    changed.push(queue_id);
                    done += 1;
                }
            }
            if failed {
                return Err(refusal::hardware(refusal::SUSPEND, self.pid));
            }
            if count != done {
                return Err(refusal::fewer(self.pid, count, done));
            }
            // What was refused as unknown is gone with the next snapshot, or was created or is being destroyed just now.
            if last.is_empty() {
                return Ok(total as u32);
            }
        }
        Err(refusal::busy(self.pid, &last))
    }

    fn undo(&mut self, changed: &[QueueId]) {
        let mut ids: Vec<u32> = changed.iter().map(|id| id.0).collect();
        if !ids.is_empty() {
            // Where even this fails, the end of the session resumes all.
            let _ = self.device.resume(self.pid.0, &mut ids);
        }
        for id in changed {
            self.held.remove(id);
        }
    }

    /// Resumes what this session suspended; nothing is held later where a whole process is meant.
    pub(super) fn release(&mut self, which: Option<(GpuId, QueueId)>) -> Result<Count, Refusal> {
        if which.is_none() {
            self.later.clear();
        }
        let queues: Vec<QueueId> = match which {
            None => self.held.keys().copied().collect(),
            Some((_, id)) => self
                .held
                .contains_key(&id)
                .then_some(id)
                .into_iter()
                .collect(),
        };
        if queues.is_empty() {
            return Ok(Count::default());
        }
        let mut ids: Vec<u32> = queues.iter().map(|id| id.0).collect();
        let result = self.device.resume(self.pid.0, &mut ids);
        match result {
            Ok(_) => {}
            // Its runtime was disabled, which resumes everything; or the process ended.
            Err(Errno::EPERM | Errno::ESRCH) => {
                self.held.clear();
                return Ok(Count::default());
            }
            Err(errno) => return Err(refusal::call(refusal::RESUME, self.pid, errno)),
        }
        for id in &queues {
            self.held.remove(id);
        }
        if ids.iter().any(|id| id & QUEUE_ERROR != 0) {
            return Err(refusal::hardware(refusal::RESUME, self.pid));
        }
        // An id that the driver does not know is that of a queue that was destroyed.
        let resumed = ids.iter().filter(|id| **id & QUEUE_INVALID == 0).count() as u32;
        Ok(Count {
            queues: resumed,
            changed: resumed,
        })
    }

    /// Whether anything is held now or would be later.
    pub(super) fn holds(&self) -> bool {
        !self.held.is_empty() || !self.later.is_empty()
    }

    /// What went wrong since the last call.
    pub(super) fn trouble(&mut self) -> Option<String> {
        self.trouble.take()
    }

    fn snapshot(&mut self) -> Result<Vec<QueueSnapshot>, Refusal> {
        let all = self
            .device
            .snapshot(self.pid.0, EC_QUEUE_NEW)
            .map_err(|errno| refusal::call(refusal::SNAPSHOT, self.pid, errno))?;
        // A suspended queue is not destroyed before it is resumed (`wait_on_destroy_queue`), so that no id of these can have come
        // to mean another queue.
        self.held
            .retain(|id, _| all.iter().any(|queue| queue.queue_id == id.0));
        Ok(all)
    }

    /// Holds queues that were created meanwhile.
    fn hold_new(&mut self) {
        for scope in self.later.clone() {
            if let Err(refusal) = self.suspend(&Which::Whole(scope), &mut Vec::new()) {
                if refusal.errno != Some(Errno::EPERM) && refusal.errno != Some(Errno::ESRCH) {
                    self.trouble = Some(refusal.to_string());
                }
            }
        }
    }

    /// The process waits in RUNTIME_ENABLE until it is answered.
    fn runtime_changed(&mut self, info: RuntimeInfo) {
        if info.runtime_state != RUNTIME_ENABLED {
            // `runtime_disable` has resumed everything.
            self.held.clear();
        }
        if let Err(errno) = self.device.answer_runtime(self.pid.0) {
            if errno != Errno::ESRCH {
                self.trouble = Some(refusal::call(refusal::ANSWER, self.pid, errno).to_string());
            }
        }
    }

    fn drain(&mut self) -> bool {
        let mut any = false;
        let mut bytes = [0; 512];
        while self.notify.read(&mut bytes).is_ok_and(|count| count > 0) {
            any = true;
        }
        any
    }
}

impl Traced for Session {
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.notify.as_fd())
    }

    fn readable(&mut self) {
        // First: what comes later writes again.
        self.drain();
        if let Ok(Some(info)) = self.device.take_runtime_change(self.pid.0) {
            self.runtime_changed(info);
        }
        if self.later.is_empty() {
            // So that a queue that is created while nothing is held does not look new for ever.
            let _ = self.snapshot();
        } else {
            self.hold_new();
        }
    }

    fn gone(&mut self) {
        // The driver ended debugging with the address space (`kfd_process_notifier_release_internal`).
        self.over = true;
        self.held.clear();
        self.later.clear();
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        // Answers a process that waits for us.
        self.later.clear();
        self.readable();
        match self.device.disable(self.pid.0) {
            Ok(()) | Err(Errno::ESRCH | Errno::EINVAL) => {}
            Err(_) => {
                let mut ids: Vec<u32> = self.held.keys().map(|id| id.0).collect();
                let _ = self.device.resume(self.pid.0, &mut ids);
                let _ = self.device.disable(self.pid.0);
            }
        }
        if self.drain() {
            // It began to wait for an answer between the two. Nobody can give it now, but an interrupted wait is not repeated
            // once debugging ended, and the runtime calls again (EINTR).
            super::nudge::blocked_in_runtime_enable(self.pid);
        }
    }
}

/// A pipe for the driver to write to. Opened for both directions, so that it has a reader as long as the driver has it: else a
/// process that creates a queue after this program's descriptors were closed, and before its memory is, would get SIGPIPE.
/// Without blocking, because the process writes itself.
fn notification_pipe() -> nix::Result<File> {
    let errno = |error: std::io::Error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO));
    let (read, _write) = std::io::pipe().map_err(errno)?;
    File::options()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(format!("/proc/self/fd/{}", read.as_raw_fd()))
        .map_err(errno)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn the_pipe_neither_blocks_nor_breaks() {
        let mut pipe = notification_pipe().unwrap();
        let error = pipe.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
        let full = loop {
            if let Err(error) = pipe.write(&[b'.'; 4096]) {
                break error;
            }
        };
        assert_eq!(full.kind(), std::io::ErrorKind::WouldBlock);
    }

    #[test]
    fn scopes_admit_by_gpu_and_type() {
        let queue = |gpu_id, queue_type| QueueSnapshot {
            gpu_id,
            queue_type,
            ..QueueSnapshot::default()
        };
        let all = Scope {
            gpu: None,
            no_sdma: false,
        };
        let compute_of_7 = Scope {
            gpu: Some(GpuId(7)),
            no_sdma: true,
        };
        for queue_type in 0..5 {
            assert!(all.admits(&queue(3, queue_type)));
            assert!(!compute_of_7.admits(&queue(3, queue_type)));
            let is_compute = matches!(queue_type, 0 | 2);
            assert_eq!(compute_of_7.admits(&queue(7, queue_type)), is_compute);
        }
        assert!(Which::One(GpuId(7), QueueId(0)).admits(&queue(7, 1)));
        assert!(!Which::One(GpuId(3), QueueId(0)).admits(&queue(7, 1)));
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! Stops processes as a checkpoint does: `AMDKFD_IOC_CRIU_OP` PROCESS_INFO evicts all queues of a process, UNPAUSE restores them.
//!
//! It is always the whole process with its SDMA queues, on all GPUs that it has opened: the runlist of each is updated, one GPU
//! after the other, also where the process has no queue. Queues that it creates meanwhile start evicted. Its other calls
//! of the driver wait while the pause is made. Under memory pressure its memory moves out and back in although it cannot run.
//! For traced processes the same holds as in [`super::debug_trap`], but for queues: destroying one does not wait.
//!
//! **The kernel does not undo it**: when this program ends without having restored a process, that stays paused until somebody
//! with the same rights sends UNPAUSE. So a [`super::supervisor`] must watch, and [`super::strays`] finds what is left over.
//!
//! Kernel support: Linux 5.18, hardware scheduling or not. Needs CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN and the right to
//! trace. Before 7.3 two pauses on top of each other could never be undone: UNPAUSE is always sent first.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd as _, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::time::Instant;

use nix::errno::Errno;

use super::outcome::{Outcome, Refusal, TargetOutcome};
use super::tracer::{self, Answer, Tracer};
use super::{host, pidfd, why};
use super::{Backend, BackendKind, ControlError, HoldOptions, Target};
use crate::event::Pid;
use crate::kfd::uapi::criu::Device;
use crate::kfd::{uapi, Root};
use crate::source::permission::Capabilities;

const PAUSE: &str = "AMDKFD_IOC_CRIU_OP PROCESS_INFO";
const UNPAUSE: &str = "AMDKFD_IOC_CRIU_OP UNPAUSE";

/// The backend.
pub struct Criu {
    root: Root,
    attached: BTreeMap<Pid, Attached>,
}

struct Attached {
    start_ticks: u64,
    tracer: Tracer<Session>,
}

/// Queues of the process, and whether this call stopped (or restarted) them.
type Done = Result<(u32, bool), Refusal>;

impl Criu {
    /// # Errors
    /// A capability is missing.
    pub fn new() -> Result<Self, ControlError> {
        let root = Root::real();
        host::check_pids(&root, BackendKind::Criu)?;
        if !Capabilities::of_this_process().can_checkpoint() {
            return Err(ControlError::NoPermission {
                what: "the driver's checkpoint interface needs CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN".to_owned(),
                fix: "run as root".to_owned(),
            });
        }
        if !root.exists(uapi::DEVICE) {
            // With the reason why it is not there.
            super::open_kfd(&root)?;
        }
        Ok(Self {
            root,
            attached: BTreeMap::new(),
        })
    }

    fn is_attached(&self, target: &Target) -> bool {
        self.attached.get(&target.pid).is_some_and(|attached| {
            attached.start_ticks == target.start_ticks && !attached.tracer.is_gone()
        })
    }

    fn attach(&mut self, targets: &[Target], refused: &mut BTreeMap<Pid, Refusal>) {
        let mut starting = Vec::new();
        for target in targets {
            let (pid, ticks) = (target.pid, target.start_ticks);
            if self.is_attached(target) || refused.contains_key(&pid) {
                continue;
            }
            self.attached.remove(&pid);
            let start = if pid.0 == std::process::id() {
                Err(why::is_self(pid))
            } else {
                start(&self.root, pid, ticks)
            };
            match start {
                Ok(start) => starting.push((pid, ticks, start)),
                Err(refusal) => {
                    refused.insert(pid, refusal);
                }
            }
        }
        for (pid, start_ticks, start) in starting {
            match start.wait() {
                Ok(tracer) => {
                    let attached = Attached {
                        start_ticks,
                        tracer,
                    };
                    self.attached.insert(pid, attached);
                }
                Err(refusal) => {
                    refused.insert(pid, refusal);
                }
            }
        }
    }

    fn ask_unpause(&self, pids: impl Iterator<Item = Pid>) -> Vec<(Pid, Answer<Done>)> {
        let attached = pids.filter_map(|pid| Some((pid, self.attached.get(&pid)?)));
        attached
            .map(|(pid, attached)| {
                let answer = attached.tracer.ask(|session| match session {
                    Some(session) => session.unpause(),
                    None => Ok((0, false)),
                });
                (pid, answer)
            })
            .collect()
    }
}

/// Starts to trace a process of which nothing is known yet.
fn start(root: &Root, pid: Pid, start_ticks: u64) -> Result<tracer::Starting<Session>, Refusal> {
    let inner = root.clone();
    Tracer::start(root, pid, start_ticks, move || Session::open(inner, pid))
}

fn outcome(pid: Pid, done: Done) -> TargetOutcome {
    let (queues, changed, refusal) = match done {
        Ok((queues, changed)) => (queues, if changed { queues } else { 0 }, None),
        Err(refusal) => (0, 0, Some(refusal)),
    };
    TargetOutcome {
        pid,
        queue: None,
        queues,
        changed,
        refusal,
        kept_off: None,
    }
}

fn answered(asked: Vec<(Pid, Answer<Done>)>) -> impl Iterator<Item = TargetOutcome> {
    asked.into_iter().map(|(pid, answer)| {
        let done = answer.wait().unwrap_or_else(|| Err(why::thread_ended()));
        outcome(pid, done)
    })
}

impl Backend for Criu {
    fn kind(&self) -> BackendKind {
        BackendKind::Criu
    }

    fn preempt(
        &mut self,
        targets: &[Target],
        options: &HoldOptions,
    ) -> Result<Outcome, ControlError> {
        let started = Instant::now();
        let before: Vec<Pid> = self.attached.keys().copied().collect();
        let mut refused = BTreeMap::new();
        for target in targets {
            if let Some(refusal) = partial(target, options) {
                refused.insert(target.pid, refusal);
            }
        }
        self.attach(targets, &mut refused);
        let mut outcomes = Vec::new();
        let mut asked = Vec::new();
        for target in targets {
            let pid = target.pid;
            if let Some(refusal) = refused.get(&pid) {
                outcomes.push(outcome(pid, Err(refusal.clone())));
            } else if let Some(attached) = self.attached.get(&pid) {
                let answer = attached.tracer.ask(move |session| match session {
                    Some(session) => session.pause(),
                    None => Err(why::ended(PAUSE, pid)),
                });
                asked.push((pid, answer));
            }
        }
        outcomes.extend(answered(asked));
        let total_ns = host::elapsed_ns(started);
        for one in &outcomes {
            if one.refusal.is_some() && !before.contains(&one.pid) {
                self.attached.remove(&one.pid);
            }
        }
        Ok(Outcome {
            targets: outcomes,
            total_ns,
            ..Outcome::default()
        })
    }

    fn resume(&mut self, targets: &[Target]) -> Result<Outcome, ControlError> {
        let started = Instant::now();
        let mut outcomes = Vec::new();
        let mut pids = Vec::new();
        for target in targets {
            if !target.whole && self.is_attached(target) {
                outcomes.push(outcome(target.pid, Err(only_whole(target.pid))));
            } else if self.is_attached(target) {
                pids.push(target.pid);
            } else {
                outcomes.push(outcome(target.pid, Ok((0, false))));
            }
        }
        outcomes.extend(answered(self.ask_unpause(pids.into_iter())));
        Ok(Outcome {
            targets: outcomes,
            total_ns: host::elapsed_ns(started),
            ..Outcome::default()
        })
    }

    fn resume_all(&mut self) -> Result<Outcome, ControlError> {
        let started = Instant::now();
        let asked = self.ask_unpause(self.attached.keys().copied());
        Ok(Outcome {
            targets: answered(asked).collect(),
            total_ns: host::elapsed_ns(started),
            ..Outcome::default()
        })
    }

    /// The driver keeps no time: this says whether the threads that hold still live.
    fn renew(&mut self) -> Result<(), ControlError> {
        let asked: Vec<(Pid, Answer<()>)> = self
            .attached
            .iter()
            .map(|(pid, attached)| (*pid, attached.tracer.ask(|_| ())))
            .collect();
        for (pid, answer) in asked {
            if answer.wait().is_none() {
                return Err(ControlError::Failed(anyhow::anyhow!(
                    "process {pid}: {}",
                    why::thread_ended()
                )));
            }
        }
        Ok(())
    }
}

impl Drop for Criu {
    fn drop(&mut self) {
        // All at once; then each is waited for.
        self.attached
            .values_mut()
            .for_each(|attached| attached.tracer.begin_end());
    }
}

/// Unpauses a process that this program did not pause. Whether it was paused.
///
/// # Errors
/// It cannot be traced, or the driver refused.
pub(crate) fn heal(root: &Root, pid: Pid, start_ticks: u64) -> Result<bool, Refusal> {
    let tracer = start(root, pid, start_ticks)?.wait()?;
    let healed = tracer.ask(move |session| match session {
        Some(session) => session.heal(),
        None => Err(why::ended(UNPAUSE, pid)),
    });
    healed.wait().unwrap_or_else(|| Err(why::thread_ended()))
}

/// One process, on its tracer thread.
struct Session {
    root: Root,
    pid: Pid,
    process: OwnedFd,
    paused: bool,
}

impl Session {
    fn open(root: Root, pid: Pid) -> Result<Self, Refusal> {
        if !root.exists(&format!("/sys/class/kfd/kfd/proc/{pid}")) {
            return Err(why::not_kfd(&root, pid));
        }
        let process = pidfd::open(pid).map_err(|errno| call("pidfd_open", pid, errno))?;
        Ok(Self {
            root,
            pid,
            process,
            paused: false,
        })
    }

    fn pause(&mut self) -> Done {
        let queues = self.queues();
        if self.paused {
            return Ok((queues, false));
        }
        // From here on dropping the session unpauses.
        self.paused = true;
        let result = self.each_device(|device| {
            // Whatever was before, and if an earlier descriptor was of the same KFD process: two pauses are one too many.
            unpause(device)?;
            device.pause()
        });
        match result {
            Ok(_) => Ok((queues, true)),
            Err(errno) => {
                let _ = self.each_device(unpause);
                self.paused = false;
                Err(call(PAUSE, self.pid, errno))
            }
        }
    }

    fn unpause(&mut self) -> Done {
        if !self.paused {
            return Ok((0, false));
        }
        let queues = self.queues();
        self.each_device(unpause)
            .map_err(|errno| call(UNPAUSE, self.pid, errno))?;
        self.paused = false;
        Ok((queues, true))
    }

    fn heal(&mut self) -> Result<bool, Refusal> {
        self.each_device(unpause)
            .map(|was_paused| was_paused.contains(&true))
            .map_err(|errno| call(UNPAUSE, self.pid, errno))
    }

    /// Does something through a copy of each of the process's descriptors of `/dev/kfd`, closed before the next. There can be
    /// several of one KFD process, and of several: one from before an exec stands for what the process was then. One that was
    /// inherited stands for a parent; the driver refuses that with EBADF, because this thread traces another process.
    fn each_device<R>(&self, what: impl Fn(&Device) -> nix::Result<R>) -> nix::Result<Vec<R>> {
        let mut done = Vec::new();
        let mut foreign = Errno::ENOENT;
        for fd in descriptors(&self.root, self.pid) {
            let result =
                pidfd::copy_of(self.process.as_fd(), fd).and_then(|copy| what(&Device::new(copy)));
            match result {
                Ok(one) => done.push(one),
                // Closed meanwhile, or another process's.
                Err(Errno::EBADF) => foreign = Errno::EBADF,
                Err(errno) => return Err(errno),
            }
        }
        if done.is_empty() {
            return Err(foreign);
        }
        Ok(done)
    }

    fn queues(&self) -> u32 {
        let path = format!("/sys/class/kfd/kfd/proc/{}/queues", self.pid);
        fs::read_dir(self.root.path(&path)).map_or(0, |entries| entries.count() as u32)
    }
}

/// Whether it was paused.
fn unpause(device: &Device) -> nix::Result<bool> {
    match device.unpause() {
        Ok(()) => Ok(true),
        Err(Errno::EINVAL) => Ok(false),
        Err(errno) => Err(errno),
    }
}

impl tracer::Session for Session {
    fn gone(&mut self) {
        self.paused = false;
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if self.paused {
            let _ = self.each_device(unpause);
        }
    }
}

/// Descriptors under which the process has the device open, whatever it calls that.
fn descriptors(root: &Root, pid: Pid) -> Vec<RawFd> {
    let device = fs::metadata(root.path(uapi::DEVICE))
        .map(|meta| meta.rdev())
        .ok();
    let Ok(entries) = fs::read_dir(root.path(&format!("/proc/{pid}/fd"))) else {
        return Vec::new();
    };
    let mut found: Vec<RawFd> = entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let meta = fs::metadata(entry.path()).ok()?;
            let is_device = meta.file_type().is_char_device() && Some(meta.rdev()) == device;
            is_device.then(|| entry.file_name().to_str()?.parse().ok())?
        })
        .collect();
    found.sort_unstable();
    found
}

/// The refusal of a target of which only a part is meant.
pub(super) fn partial(target: &Target, options: &HoldOptions) -> Option<Refusal> {
    let whole = target.whole && options.gpu.is_none() && !options.no_sdma;
    (!whole).then(|| only_whole(target.pid))
}

fn only_whole(pid: Pid) -> Refusal {
    Refusal {
        call: PAUSE,
        errno: Some(Errno::EOPNOTSUPP),
        what: format!("a checkpoint pause stops all queues of process {pid} on all its GPUs, not some of them"),
        fix: "leave out --gpu, --no-sdma and --queue, or use --backend debug-trap or patched".to_owned(),
    }
}

fn call(call: &'static str, pid: Pid, errno: Errno) -> Refusal {
    let (what, fix) = match errno {
        Errno::EACCES => (
            "the driver wants CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN of the initial user namespace".to_owned(),
            "run as root of the host",
        ),
        Errno::EPERM => (
            format!("no right to copy descriptors of process {pid}"),
            "run as root, with CAP_SYS_PTRACE",
        ),
        Errno::ENOENT => (
            format!("process {pid} has closed /dev/kfd, or it cannot be read which descriptors it has"),
            "run as root, or use another backend",
        ),
        Errno::EBADF => (
            format!("no descriptor of /dev/kfd that process {pid} has open is its own: it was inherited, or is from before an exec"),
            "use another backend",
        ),
        Errno::ENOTTY => (
            "this driver has no checkpoint interface (Linux 5.18)".to_owned(),
            "use another backend",
        ),
        Errno::ENODEV => (
            format!("process {pid} has not opened a GPU yet"),
            "there is nothing to stop",
        ),
        Errno::ESRCH => (format!("process {pid} has ended"), "nothing is left to do"),
        Errno::ETIME | Errno::EIO => (
            format!("the GPU did not answer while queues of process {pid} were changed; the driver resets it, and every process that uses a GPU of this host is lost"),
            "look at the kernel's log, end the processes that use GPUs, and do not preempt before they are gone",
        ),
        _ => (
            format!("failed for process {pid}: {}", errno.desc()),
            "look at the kernel's log, or use another backend",
        ),
    };
    Refusal {
        call,
        errno: Some(errno),
        what,
        fix: fix.to_owned(),
    }
}

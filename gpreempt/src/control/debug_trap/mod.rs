// SPDX-License-Identifier: MIT OR Apache-2.0
//! Stops queues as a debugger does: `AMDKFD_IOC_DBG_TRAP` SUSPEND_QUEUES and RESUME_QUEUES of the unmodified driver.
//!
//! A process is attached to when it is first stopped, and stays attached until this backend is dropped: attaching and
//! detaching update the runlist of every GPU of the process several times, suspending once. While it is attached
//! - rocgdb, strace and other tracers cannot attach to it;
//! - signals to its main thread, and its end, reach it only as long as this program runs: what hangs here hangs there;
//! - a call of it that destroys a suspended queue waits until the queue is resumed (`wait_on_destroy_queue`). A signal that interrupts
//!   that wait makes the driver count the queue's buffers down twice (`pqm_destroy_queue`, Linux 6.12), so that the process may not be able
//!   to free them later: a reason to hold for seconds, not hours;
//! - replacing its program (exec) ends the hold: the new program is another GPU process.
//!
//! What holds when this program ends in whatever way: the driver resumes everything when its address space goes
//! (`kfd_process_notifier_release_internal`). When it hangs, somebody must kill it: [`super::supervisor`].
//!
//! Kernel support: Linux 6.5. Needs hardware scheduling or MES, gfx9 and later, a target whose runtime enabled debugging, and
//! the right to trace it.

mod nudge;
mod refusal;
mod session;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use nix::errno::Errno;

use super::outcome::{Outcome, Refusal, TargetOutcome};
use super::tracer::{Answer, Tracer};
use super::{check_kfd, host, open_kfd, why};
use super::{Backend, BackendKind, ControlError, HoldOptions, Target};
use crate::event::{GpuId, Pid, QueueId};
use crate::kfd::topology::{self, GpuNode};
use crate::kfd::uapi::debug::{Device, SINCE_VERSION};
use crate::kfd::Root;
use session::{Count, Scope, Session, Which};

pub(crate) use nudge::blocked_in_runtime_enable;
pub(super) use refusal::ENABLE;

/// The backend.
pub struct DebugTrap {
    root: Root,
    device: Arc<Device>,
    attached: BTreeMap<Pid, Attached>,
    /// A foreign debugger was found where none can be: this program cannot rely on the driver any more.
    poisoned: bool,
}

struct Attached {
    start_ticks: u64,
    tracer: Tracer<Session>,
}

/// A question to a tracer thread about one target, and what it is about.
struct Asked {
    pid: Pid,
    queue: Option<(GpuId, QueueId)>,
    answer: Answer<Result<Count, Refusal>>,
}

impl Asked {
    fn outcome(self) -> TargetOutcome {
        let result = match self.answer.wait() {
            Some(result) => result,
            None => Err(why::thread_ended()),
        };
        outcome(self.pid, self.queue, result)
    }
}

fn outcome(
    pid: Pid,
    queue: Option<(GpuId, QueueId)>,
    result: Result<Count, Refusal>,
) -> TargetOutcome {
    let (count, refusal) = match result {
        Ok(count) => (count, None),
        Err(refusal) => (Count::default(), Some(refusal)),
    };
    TargetOutcome {
        pid,
        queue,
        queues: count.queues,
        changed: count.changed,
        refusal,
        kept_off: None,
    }
}

/// What of a target is asked for one by one.
fn parts(target: &Target) -> Vec<Option<(GpuId, QueueId)>> {
    if target.whole {
        return vec![None];
    }
    let queues = target.queues.iter();
    queues.map(|q| Some((q.gpu_id, q.queue_id))).collect()
}

impl DebugTrap {
    /// Opens `/dev/kfd`, which makes this program a KFD process as long as the backend lives.
    ///
    /// # Errors
    /// What is missing: driver, interface, hardware scheduling, permission.
    pub fn new() -> Result<Self, ControlError> {
        let root = Root::real();
        host::check_pids(&root, BackendKind::DebugTrap)?;
        let device = Device::new(open_kfd(&root)?);
        let version = device.version().map_err(|errno| {
            ControlError::Failed(anyhow::anyhow!("AMDKFD_IOC_GET_VERSION: {}", errno.desc()))
        })?;
        check_version(version)?;
        check_scheduling(root.number("/sys/module/amdgpu/parameters/sched_policy"))?;
        Ok(Self {
            root,
            device: Arc::new(device),
            attached: BTreeMap::new(),
            poisoned: false,
        })
    }

    /// Attaches to the targets that are not attached yet, all at once. Returns why some could not be.
    fn attach(&mut self, targets: &[Target]) -> BTreeMap<Pid, Refusal> {
        let mut refused = BTreeMap::new();
        let mut starting = Vec::new();
        for target in targets {
            if self.is_attached(target) || refused.contains_key(&target.pid) {
                continue;
            }
            // A process that is gone, or one before it that had its pid.
            self.attached.remove(&target.pid);
            match self.start(target) {
                Ok(start) => starting.push((target, start)),
                Err(refusal) => {
                    refused.insert(target.pid, refusal);
                }
            }
        }
        for (target, start) in starting {
            match start.wait() {
                Ok(tracer) => {
                    let start_ticks = target.start_ticks;
                    self.attached.insert(
                        target.pid,
                        Attached {
                            start_ticks,
                            tracer,
                        },
                    );
                }
                Err(refusal) => {
                    self.poisoned |= refusal.errno == Some(Errno::EALREADY);
                    refused.insert(target.pid, refusal);
                }
            }
        }
        refused
    }

    fn start(&self, target: &Target) -> Result<super::tracer::Starting<Session>, Refusal> {
        let pid = target.pid;
        if pid.0 == std::process::id() {
            return Err(why::is_self(pid));
        }
        let (root, device) = (self.root.clone(), Arc::clone(&self.device));
        Tracer::start(&self.root, pid, target.start_ticks, move || {
            // The driver would make a KFD process of one that is none, and keep it to its end (`kfd_create_process`). Looked for
            // when it cannot change its program unseen any more.
            if !root.exists(&format!("/sys/class/kfd/kfd/proc/{pid}")) {
                return Err(why::not_kfd(&root, pid));
            }
            Session::open(device, pid)
        })
    }

    fn usable(&self) -> Result<(), ControlError> {
        if !self.poisoned {
            return Ok(());
        }
        Err(ControlError::Failed(anyhow::anyhow!(
            "a debugger that no longer traces was still attached to one of the processes; it has been detached, after which the \
             driver no longer knows how many processes this program debugs: everything was restarted, run this again"
        )))
    }

    fn is_attached(&self, target: &Target) -> bool {
        self.attached.get(&target.pid).is_some_and(|attached| {
            attached.start_ticks == target.start_ticks && !attached.tracer.is_gone()
        })
    }

    /// Detaches from processes of which nothing is held.
    fn detach_idle(&mut self, pids: &[Pid]) {
        let idle = pids.iter().filter(|pid| {
            self.attached.get(pid).is_some_and(|attached| {
                let holds = attached
                    .tracer
                    .ask(|session| session.is_some_and(|s| s.holds()));
                !holds.wait().unwrap_or(false)
            })
        });
        let idle: Vec<Pid> = idle.copied().collect();
        let mut ending: Vec<Attached> = idle
            .iter()
            .filter_map(|pid| self.attached.remove(pid))
            .collect();
        ending.iter_mut().for_each(|one| one.tracer.begin_end());
    }

    fn ask_release(&self, target: &Target) -> Vec<Asked> {
        let Some(attached) = self.attached.get(&target.pid) else {
            return Vec::new();
        };
        let parts = parts(target).into_iter();
        parts
            .map(|queue| Asked {
                pid: target.pid,
                queue,
                answer: attached.tracer.ask(move |session| match session {
                    Some(session) => session.release(queue),
                    None => Ok(Count::default()),
                }),
            })
            .collect()
    }
}

impl Backend for DebugTrap {
    fn kind(&self) -> BackendKind {
        BackendKind::DebugTrap
    }

    fn preempt(
        &mut self,
        targets: &[Target],
        options: &HoldOptions,
    ) -> Result<Outcome, ControlError> {
        self.usable()?;
        let started = Instant::now();
        let before: Vec<Pid> = self.attached.keys().copied().collect();
        let refused = self.attach(targets);
        if self.poisoned {
            // Detaches from all.
            self.attached.clear();
            self.usable()?;
        }
        let scope = Scope {
            gpu: options.gpu,
            no_sdma: options.no_sdma,
        };
        let mut outcomes = Vec::new();
        let mut asked = Vec::new();
        for target in targets {
            for queue in parts(target) {
                if let Some(refusal) = refused.get(&target.pid) {
                    outcomes.push(outcome(target.pid, queue, Err(refusal.clone())));
                    continue;
                }
                let Some(attached) = self.attached.get(&target.pid) else {
                    continue;
                };
                let pid = target.pid;
                let which = match queue {
                    None => Which::Whole(scope),
                    Some((gpu, id)) => Which::One(gpu, id),
                };
                asked.push(Asked {
                    pid,
                    queue,
                    answer: attached.tracer.ask(move |session| match session {
                        Some(session) => session.hold(&which),
                        None => Err(why::ended(refusal::SUSPEND, pid)),
                    }),
                });
            }
        }
        outcomes.extend(asked.into_iter().map(Asked::outcome));
        let total_ns = host::elapsed_ns(started);
        // A refused target is left as it was.
        let new: Vec<Pid> = outcomes
            .iter()
            .filter(|one| one.refusal.is_some() && !before.contains(&one.pid))
            .map(|one| one.pid)
            .collect();
        self.detach_idle(&new);
        Ok(Outcome {
            targets: outcomes,
            total_ns,
            ..Outcome::default()
        })
    }

    fn resume(&mut self, targets: &[Target]) -> Result<Outcome, ControlError> {
        let started = Instant::now();
        let mut outcomes = Vec::new();
        let mut asked = Vec::new();
        for target in targets {
            if self.is_attached(target) {
                asked.extend(self.ask_release(target));
            } else {
                let parts = parts(target).into_iter();
                outcomes
                    .extend(parts.map(|queue| outcome(target.pid, queue, Ok(Count::default()))));
            }
        }
        outcomes.extend(asked.into_iter().map(Asked::outcome));
        Ok(Outcome {
            targets: outcomes,
            total_ns: host::elapsed_ns(started),
            ..Outcome::default()
        })
    }

    fn resume_all(&mut self) -> Result<Outcome, ControlError> {
        let started = Instant::now();
        let asked: Vec<Asked> = self
            .attached
            .iter()
            .map(|(pid, attached)| Asked {
                pid: *pid,
                queue: None,
                answer: attached.tracer.ask(|session| match session {
                    Some(session) => session.release(None),
                    None => Ok(Count::default()),
                }),
            })
            .collect();
        Ok(Outcome {
            targets: asked.into_iter().map(Asked::outcome).collect(),
            total_ns: host::elapsed_ns(started),
            ..Outcome::default()
        })
    }

    /// The driver keeps no time: this says whether everything is still held that should be.
    fn renew(&mut self) -> Result<(), ControlError> {
        self.usable()?;
        let asked: Vec<(Pid, Answer<Option<String>>)> = self
            .attached
            .iter()
            .map(|(pid, attached)| {
                let answer = attached
                    .tracer
                    .ask(|session| session.and_then(Session::trouble));
                (*pid, answer)
            })
            .collect();
        for (pid, answer) in asked {
            match answer.wait() {
                Some(None) => {}
                Some(Some(trouble)) => return Err(ControlError::Failed(anyhow::anyhow!(trouble))),
                None => {
                    return Err(ControlError::Failed(anyhow::anyhow!(
                        "process {pid}: {}",
                        why::thread_ended()
                    )))
                }
            }
        }
        Ok(())
    }
}

impl Drop for DebugTrap {
    fn drop(&mut self) {
        // All at once; then each is waited for.
        self.attached
            .values_mut()
            .for_each(|attached| attached.tracer.begin_end());
    }
}

/// Ends whatever debugging of a process there is, which resumes its queues. Whether there was any. For processes that nobody
/// traces: a debugger whose tracing thread has ended is left there. Opens `/dev/kfd`.
///
/// Kernel support: Linux 6.5 to 6.12; from 7.3 on only the debugger itself may (EPERM).
///
/// # Errors
/// As [`DebugTrap::new`], ESRCH.
pub fn debug_disable(pid: Pid) -> Result<bool, ControlError> {
    let root = Root::real();
    let device = Device::new(open_kfd(&root)?);
    match device.disable(pid.0) {
        Ok(()) => Ok(true),
        Err(Errno::EINVAL | Errno::ENOTTY | Errno::ESRCH) => Ok(false),
        Err(errno @ (Errno::EPERM | Errno::EACCES)) => Err(ControlError::NoPermission {
            what: format!(
                "AMDKFD_IOC_DBG_TRAP DISABLE of process {pid}: {}",
                errno.desc()
            ),
            fix: "end the debugger of that process".to_owned(),
        }),
        Err(errno) => Err(ControlError::Failed(anyhow::anyhow!(
            "AMDKFD_IOC_DBG_TRAP DISABLE of process {pid}: {}",
            errno.desc()
        ))),
    }
}

/// Why [`DebugTrap::new`] would fail, as far as that can be known without opening the device.
pub(super) fn check(root: &Root) -> Result<(), ControlError> {
    host::check_pids(root, BackendKind::DebugTrap)?;
    check_kfd(root)?;
    // The property came with the interface (`node_show`, Linux 6.5).
    let gpus = topology::read(root);
    let lacks = |gpu: &GpuNode| !gpu.properties.contains_key("debug_prop");
    if !gpus.is_empty() && gpus.iter().all(lacks) {
        return Err(ControlError::Unavailable {
            what: "the driver has no debugger interface, which came with Linux 6.5".to_owned(),
            fix: "use a newer kernel, --backend criu, or a driver with our patches".to_owned(),
        });
    }
    check_scheduling(root.number("/sys/module/amdgpu/parameters/sched_policy"))
}

fn check_version(version: (u32, u32)) -> Result<(), ControlError> {
    if version >= SINCE_VERSION {
        return Ok(());
    }
    Err(ControlError::Unavailable {
        what: format!(
            "the driver's interface is {}.{}, and the debugger interface came with {}.{} (Linux 6.5)",
            version.0, version.1, SINCE_VERSION.0, SINCE_VERSION.1
        ),
        fix: "use a newer kernel, --backend criu, or a driver with our patches".to_owned(),
    })
}

/// `KFD_SCHED_POLICY_NO_HWS` is 2.
fn check_scheduling(policy: Option<i64>) -> Result<(), ControlError> {
    if policy != Some(2) {
        return Ok(());
    }
    Err(ControlError::Unavailable {
        what: "the driver schedules without hardware (sched_policy=2), where it has no debugger interface".to_owned(),
        fix: "load amdgpu without sched_policy=2, or use --backend criu".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        assert!(check_version((1, 17)).is_ok());
        assert!(check_version((2, 0)).is_ok());
        let old = check_version((1, 11)).unwrap_err();
        assert!(matches!(&old, ControlError::Unavailable { what, .. } if what.contains("1.11")));
        assert!(check_scheduling(None).is_ok());
        assert!(check_scheduling(Some(0)).is_ok());
        assert!(check_scheduling(Some(2)).is_err());
    }
}

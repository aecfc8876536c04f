// SPDX-License-Identifier: MIT OR Apache-2.0
//! The backend on a driver with our patches: one call stops any number of queues of any processes on any GPUs, one runlist
//! update per GPU. The kernel keeps the lease: what is held is released when the lease ends, when this process ends or executes
//! another program, and when the descriptor is closed, whichever comes first.
//!
//! Kernel support: drivers with the patches of `kernel-patch/`.

use std::time::{Duration, Instant};

use anyhow::anyhow;
use nix::errno::Errno;

use super::errno::{self, Call};
use super::{
    open_kfd, Backend, BackendKind, ControlError, HoldOptions, Outcome, Refusal, Target,
    TargetOutcome,
};
use crate::event::{GpuId, Pid, QueueId};
use crate::kfd::uapi::gpreempt::{self as abi, state, BatchArgs, Device, Entry};
use crate::kfd::{module, Root};

/// Module parameter that tells the version of the interface.
const PARAMETER: &str = "gpreempt_abi";

/// What the driver's parameter says of the interface, without opening the device.
///
/// # Errors
/// The driver is not patched, or speaks another version.
pub fn advertised(root: &Root) -> Result<u32, ControlError> {
    let Some(text) = module::parameter(root, PARAMETER) else {
        return Err(ControlError::Unavailable {
            what: "the driver is not patched (no /sys/module/amdgpu/parameters/gpreempt_abi)"
                .to_owned(),
            fix: "load amdgpu with the patches of kernel-patch/, or use another backend".to_owned(),
        });
    };
    match text.parse() {
        Ok(version) => known(version),
        Err(_) => Err(ControlError::Failed(anyhow!(
            "/sys/module/amdgpu/parameters/gpreempt_abi is not a number"
        ))),
    }
}

fn known(version: u32) -> Result<u32, ControlError> {
    if version == abi::ABI_VERSION {
        return Ok(version);
    }
    Err(ControlError::Unavailable {
        what: format!(
            "the driver's patches speak version {version} of the interface, this program version {}",
            abi::ABI_VERSION
        ),
        fix: "use a program and patches of one release".to_owned(),
    })
}

/// The calls that the backend makes: [`Device`], or a driver that a test made.
pub trait Calls: Send {
    /// `AMDKFD_IOC_BATCH_UNMAP_QUEUES`.
    ///
    /// # Errors
    /// Where nothing of the batch was processed.
    fn hold(&mut self, args: BatchArgs, entries: &mut [Entry]) -> nix::Result<BatchArgs>;

    /// `AMDKFD_IOC_FAST_REMAP`.
    ///
    /// # Errors
    /// Where nothing of the batch was processed.
    fn release(&mut self, args: BatchArgs, entries: &mut [Entry]) -> nix::Result<BatchArgs>;
}

impl Calls for Device {
    fn hold(&mut self, args: BatchArgs, entries: &mut [Entry]) -> nix::Result<BatchArgs> {
        Self::hold(self, args, entries)
    }

    fn release(&mut self, args: BatchArgs, entries: &mut [Entry]) -> nix::Result<BatchArgs> {
        Self::release(self, args, entries)
    }
}

/// Opens the device and asks it for the interface.
pub(super) fn open(root: &Root) -> Result<Device, ControlError> {
    advertised(root)?;
    let device = Device::new(open_kfd(root)?);
    match device.abi_version() {
        Ok(version) => known(version).map(|_| device),
        Err(errno @ (Errno::ENOTTY | Errno::EINVAL)) => Err(ControlError::Unavailable {
            what: format!(
                "the driver says by its parameter {PARAMETER} that it is patched, but refuses AMDKFD_IOC_BATCH_UNMAP_QUEUES \
                 ({})",
                errno::name(errno)
            ),
            fix: "see whether /dev/kfd belongs to that driver: `gpreempt doctor`".to_owned(),
        }),
        Err(errno) => Err(ControlError::Failed(anyhow!(
            "AMDKFD_IOC_BATCH_UNMAP_QUEUES: {}",
            errno.desc()
        ))),
    }
}

/// The backend.
pub struct Patched {
    calls: Box<dyn Calls>,
    /// What is held, as it was asked for.
    held: Vec<Asked>,
    lease_ms: u32,
}

/// One entry of a batch and what it stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Asked {
    entry: Entry,
    queue: Option<(GpuId, QueueId)>,
}

impl Asked {
    fn pid(&self) -> Pid {
        // Came from a Pid that fits.
        Pid(self.entry.pid.unsigned_abs())
    }

    fn names_the_same(&self, other: &Self) -> bool {
        (self.entry.pid, self.entry.start_ticks, self.queue)
            == (other.entry.pid, other.entry.start_ticks, other.queue)
    }

    fn errno(&self) -> Option<Errno> {
        (self.entry.status != 0).then(|| Errno::from_raw(self.entry.status.saturating_neg()))
    }

    /// Whether the process, or the queue, is not there any more.
    fn is_gone(&self) -> bool {
        matches!(
            self.errno(),
            Some(Errno::ESRCH | Errno::ENXIO | Errno::ENOENT)
        )
    }

    fn outcome(&self, call: Call) -> TargetOutcome {
        let refusal = self
            .errno()
            .map(|errno| errno::refusal(call, errno, &self.entry));
        let done = refusal.is_none();
        TargetOutcome {
            pid: self.pid(),
            queue: self.queue,
            queues: if done { self.entry.n_matched } else { 0 },
            changed: if done { self.entry.n_changed } else { 0 },
            refusal,
            kept_off: None,
        }
    }
}

/// Sums of the calls that one batch took.
#[derive(Default)]
struct Times {
    lock_wait_ns: u64,
    hw_ns: u64,
}

impl Patched {
    /// Opens `/dev/kfd`, after the driver's parameter told that it is patched.
    ///
    /// # Errors
    /// The driver is not patched, or cannot be opened.
    pub fn new(root: &Root) -> Result<Self, ControlError> {
        Ok(Self::with(Box::new(open(root)?)))
    }

    /// On these calls.
    #[must_use]
    pub fn with(calls: Box<dyn Calls>) -> Self {
        Self {
            calls,
            held: Vec::new(),
            lease_ms: 0,
        }
    }

    /// Holds, in as few calls as there can be.
    fn hold(&mut self, asked: &mut [Asked], lease_ms: u32) -> Result<Times, ControlError> {
        let args = BatchArgs {
            lease_ms,
            ..BatchArgs::default()
        };
        let mut times = Times::default();
        let mut done = 0;
        let mut failed = None;
        for chunk in asked.chunks_mut(abi::MAX_ENTRIES) {
            match batch(chunk, |entries| self.calls.hold(args, entries)) {
                Ok(args) => times.add(&args),
                Err(errno) => {
                    failed = Some(errno);
                    break;
                }
            }
            done += chunk.len();
        }
        let Some(errno) = failed else {
            return Ok(times);
        };
        // "Nothing stays stopped by this call": what earlier calls of it changed is undone.
        let (before, _) = asked.split_at_mut(done);
        let mut changed: Vec<Asked> = before
            .iter()
            .filter(|asked| asked.entry.n_changed > 0)
            .copied()
            .collect();
        let undone = self.release(&mut changed, false);
        Err(whole(Call::BatchUnmap, errno, undone.err()))
    }

    fn release(&mut self, asked: &mut [Asked], force: bool) -> Result<Times, ControlError> {
        let args = BatchArgs {
            flags: if force { abi::FORCE } else { 0 },
            ..BatchArgs::default()
        };
        let mut times = Times::default();
        let mut failed = None;
        for chunk in asked.chunks_mut(abi::MAX_ENTRIES) {
            match batch(chunk, |entries| self.calls.release(args, entries)) {
                Ok(args) => times.add(&args),
                // The other calls are still worth trying: what can be released is.
                Err(errno) => failed = Some(errno),
            }
        }
        match failed {
            None => Ok(times),
            Some(errno) => Err(whole(Call::FastRemap, errno, None)),
        }
    }

    /// Releases whatever anybody holds of these processes and queues. For recovery: it breaks the holds of living
    /// controllers too.
    ///
    /// # Errors
    /// When no target could be tried at all. Without CAP_SYS_ADMIN the driver refuses.
    pub fn force(
        &mut self,
        targets: &[Target],
        gpu: Option<GpuId>,
    ) -> Result<Outcome, ControlError> {
        let started = Instant::now();
        let mut asked = entries(targets, gpu, false)?;
        let times = self
            .release(&mut asked, true)
            .map_err(|error| match error {
                ControlError::NoPermission { .. } => ControlError::NoPermission {
                    what: "releasing what others hold takes CAP_SYS_ADMIN".to_owned(),
                    fix: "run as root, or end the program that holds".to_owned(),
                },
                other => other,
            })?;
        Ok(times.outcome(released(&asked), started.elapsed()))
    }

    fn resume_asked(&mut self, mut asked: Vec<Asked>) -> Result<Outcome, ControlError> {
        let started = Instant::now();
        for asked in &mut asked {
            asked.clear();
        }
        let times = self.release(&mut asked, false)?;
        // What the driver refuses to release it no longer holds for us either, except where the hardware was at fault: then
        // it is asked again when this is dropped.
        self.held.retain(|held| {
            !asked.iter().any(|asked| {
                asked.names_the_same(held)
                    && !matches!(asked.errno(), Some(Errno::EIO | Errno::ENOMEM))
            })
        });
        Ok(times.outcome(released(&asked), started.elapsed()))
    }

    /// Takes refused holds back: EIO and ETIME leave the mark set, and a queue that is still in the runlist is none of ours.
    fn take_back(&mut self, refused: impl Iterator<Item = Asked>) {
        let mut refused: Vec<Asked> = refused
            .filter(|asked| !asked.is_gone() && asked.errno() != Some(Errno::EBUSY))
            .map(Asked::cleared)
            .collect();
        // Best effort: the refusal is what is reported, and the lease ends the mark otherwise.
        let _ = self.release(&mut refused, false);
    }
}

impl Asked {
    fn clear(&mut self) {
        self.entry.status = 0;
        self.entry.state = 0;
        self.entry.n_matched = 0;
        self.entry.n_changed = 0;
    }

    fn cleared(mut self) -> Self {
        self.clear();
        self
    }
}

impl Times {
    fn add(&mut self, args: &BatchArgs) {
        self.lock_wait_ns = self.lock_wait_ns.max(args.lock_wait_ns);
        self.hw_ns = self.hw_ns.max(args.hw_ns);
    }

    fn outcome(&self, targets: Vec<TargetOutcome>, took: Duration) -> Outcome {
        Outcome {
            targets,
            lock_wait_ns: Some(self.lock_wait_ns),
            hw_ns: Some(self.hw_ns),
            total_ns: u64::try_from(took.as_nanos()).unwrap_or(u64::MAX),
        }
    }
}

/// One call: entries out, entries in.
fn batch(
    asked: &mut [Asked],
    call: impl FnOnce(&mut [Entry]) -> nix::Result<BatchArgs>,
) -> nix::Result<BatchArgs> {
    let mut entries: Vec<Entry> = asked.iter().map(|asked| asked.entry).collect();
    let args = call(&mut entries)?;
    for (asked, entry) in asked.iter_mut().zip(entries) {
        asked.entry = entry;
    }
    Ok(args)
}

/// What was released: a process or queue that ended meanwhile counts as that.
fn released(asked: &[Asked]) -> Vec<TargetOutcome> {
    asked
        .iter()
        .map(|asked| {
            let mut outcome = asked.outcome(Call::FastRemap);
            if asked.is_gone() {
                outcome.refusal = None;
            } else if outcome.queues > 0 {
                outcome.kept_off = errno::kept_off(asked.entry.state);
            }
            outcome
        })
        .collect()
}

/// The error of a whole call.
fn whole(call: Call, errno: Errno, undone: Option<ControlError>) -> ControlError {
    if matches!(errno, Errno::EPERM | Errno::EACCES) {
        return ControlError::NoPermission {
            what: format!("{} is not permitted ({})", call.name(), errno::name(errno)),
            fix: "run as root".to_owned(),
        };
    }
    let more = undone.map_or_else(String::new, |error| {
        format!("; and undoing it: {error}; the lease ends what is held")
    });
    ControlError::Failed(anyhow!("{}: {}{more}", call.name(), errno.desc()))
}

/// One entry for each process meant as a whole, one for each queue otherwise.
fn entries(
    targets: &[Target],
    gpu: Option<GpuId>,
    no_sdma: bool,
) -> Result<Vec<Asked>, ControlError> {
    let mut all = Vec::new();
    for target in targets {
        let entry = Entry {
            pid: i32::try_from(target.pid.0)
                .map_err(|_| anyhow!("{} is no process id", target.pid))?,
            start_ticks: target.start_ticks,
            ..Entry::default()
        };
        if target.whole {
            all.push(Asked {
                entry: Entry {
                    gpu_id: gpu.map_or(abi::ALL_GPUS, |gpu| gpu.0),
                    queue_id: abi::ALL_QUEUES,
                    flags: abi::INHERIT | if no_sdma { abi::NO_SDMA } else { 0 },
                    ..entry
                },
                queue: None,
            });
        } else {
            all.extend(target.queues.iter().map(|queue| Asked {
                entry: Entry {
                    gpu_id: queue.gpu_id.0,
                    queue_id: queue.queue_id.0,
                    ..entry
                },
                queue: Some((queue.gpu_id, queue.queue_id)),
            }));
        }
    }
    Ok(all)
}

impl Backend for Patched {
    fn kind(&self) -> BackendKind {
        BackendKind::Patched
    }

    fn preempt(
        &mut self,
        targets: &[Target],
        options: &HoldOptions,
    ) -> Result<Outcome, ControlError> {
        let started = Instant::now();
        let lease_ms = u32::try_from(options.lease.as_millis()).unwrap_or(abi::MAX_MS);
        self.lease_ms = lease_ms.clamp(1, abi::MAX_MS);
        let mut asked = entries(targets, options.gpu, options.no_sdma)?;
        let times = self.hold(&mut asked, self.lease_ms)?;
        let took = started.elapsed();
        let mut refused = Vec::new();
        let mut outcomes = Vec::with_capacity(asked.len());
        for asked in asked {
            let mut outcome = asked.outcome(Call::BatchUnmap);
            // The state was read after the hardware answered. A queue of the entry that is still in the runlist was not stopped.
            if outcome.refusal.is_none() && asked.entry.state & state::ACTIVE != 0 {
                outcome = TargetOutcome {
                    queues: 0,
                    changed: 0,
                    refusal: Some(errno::still_active()),
                    ..outcome
                };
            }
            if outcome.refusal.is_some() {
                refused.push(asked);
            } else if !self.held.iter().any(|held| held.names_the_same(&asked)) {
                self.held.push(asked);
            }
            outcomes.push(outcome);
        }
        if !refused.is_empty() {
            self.held
                .retain(|held| !refused.iter().any(|asked| asked.names_the_same(held)));
            self.take_back(refused.into_iter());
        }
        Ok(times.outcome(outcomes, took))
    }

    fn resume(&mut self, targets: &[Target]) -> Result<Outcome, ControlError> {
        let named = |held: &Asked| {
            targets.iter().any(|target| {
                target.pid == held.pid()
                    && target.start_ticks == held.entry.start_ticks
                    && (target.whole
                        || held.queue.is_some_and(|named| {
                            target
                                .queues
                                .iter()
                                .any(|queue| (queue.gpu_id, queue.queue_id) == named)
                        }))
            })
        };
        let asked = self
            .held
            .iter()
            .filter(|held| named(held))
            .copied()
            .collect();
        self.resume_asked(asked)
    }

    fn resume_all(&mut self) -> Result<Outcome, ControlError> {
        self.resume_asked(self.held.clone())
    }

    fn renew(&mut self) -> Result<(), ControlError> {
        let mut asked: Vec<Asked> = self.held.iter().copied().map(Asked::cleared).collect();
        if asked.is_empty() {
            return Ok(());
        }
        self.hold(&mut asked, self.lease_ms)?;
        self.held.retain(|held| {
            !asked
                .iter()
                .any(|asked| asked.is_gone() && asked.names_the_same(held))
        });
        // Holding what is held changes nothing, and new queues are born held: what changed had been let go meanwhile.
        if asked.iter().any(|asked| asked.entry.n_changed > 0) {
            let _ = self.resume_all();
            return Err(ControlError::Failed(anyhow!(
                "the queues were released before the lease was renewed: somebody forced it (`gpreempt resume`), or gpreempt was \
                 stopped or starved; the latter takes a longer --lease"
            )));
        }
        match asked
            .iter()
            .filter(|asked| !asked.is_gone())
            .find_map(Asked::errno)
        {
            // A reset is going on: the mark stays, and the next renewal tells more.
            None | Some(Errno::EIO) => Ok(()),
            Some(errno) => {
                let refusal: Refusal = errno::refusal(Call::BatchUnmap, errno, &Entry::default());
                Err(ControlError::Failed(refusal.into()))
            }
        }
    }
}

impl Drop for Patched {
    fn drop(&mut self) {
        // The kernel does the same when the descriptor is closed; asking first tells it apart in traces.
        if !self.held.is_empty() {
            let _ = self.resume_all();
        }
    }
}

#[cfg(test)]
mod tests;

// SPDX-License-Identifier: MIT OR Apache-2.0
//! The records of `preempt`, `resume` and `reserve`: the contract with tools. The JSON schema and docs/json-records.md are
//! generated from here.
//!
//! Times are CLOCK_BOOTTIME in nanoseconds.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::errno;
use super::observe::How;
use super::{BackendKind, Outcome, Refusal, Target, TargetOutcome};
use crate::event::{Comm, GpuId, Pid, QueueId};

/// One line of `preempt`, `resume` and `reserve` with `--format json`.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(tag = "type", content = "data", rename_all = "snake_case")]
pub enum ControlRecord {
    /// Queues were stopped, or with `--dry-run` would be.
    Preempted(Preempted),
    /// Queues were restarted.
    Resumed(Resumed),
    /// Slots were reserved.
    Reserved(Reserved),
    /// A reservation ended.
    Unreserved(Unreserved),
    /// State of the reservation of one GPU (`reserve --show`).
    Reservation(Reservation),
}

/// Queues were stopped, or with `--dry-run` would be.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Preempted {
    /// When it was known.
    pub ts_ns: u64,
    /// By which means.
    pub backend: BackendKind,
    /// Why by these means and not by others.
    pub reason: String,
    /// The process that holds.
    pub owner_pid: Pid,
    /// Processes that are held, wholly or in part.
    pub processes: u32,
    /// Queues that are held. For a whole process these can be 0: its future queues are held too.
    pub queues: u32,
    /// Longest wait for a GPU's scheduler lock; null if it is not known.
    pub lock_wait_ns: Option<u64>,
    /// Longest time that a GPU took to answer; null if it is not known.
    pub hw_ns: Option<u64>,
    /// From before the first call into the kernel to after the last, in user space; not the observation.
    pub total_ns: u64,
    /// How long the hold lives without a sign of life of the holder.
    pub lease_ms: u64,
    /// How it was seen that the queues stopped.
    pub observed: Observed,
    /// What became of each process or queue.
    pub targets: Vec<TargetReport>,
}

/// Queues were restarted.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Resumed {
    /// When it was known.
    pub ts_ns: u64,
    /// By which means.
    pub backend: BackendKind,
    /// Why by these means.
    pub reason: String,
    /// The process that held; null where it is not known (`resume`).
    pub owner_pid: Option<Pid>,
    /// Processes that run again.
    pub processes: u32,
    /// Queues that run again.
    pub queues: u32,
    /// Longest wait for a GPU's scheduler lock; null if it is not known.
    pub lock_wait_ns: Option<u64>,
    /// Longest time that a GPU took to answer; null if it is not known.
    pub hw_ns: Option<u64>,
    /// From before the first call into the kernel to after the last, in user space; not the observation.
    pub total_ns: u64,
    /// As in `preempted`; null where it is not known (`resume`).
    pub lease_ms: Option<u64>,
    /// How it was seen that the queues run again.
    pub observed: Observed,
    /// Why the hold ended.
    pub cause: EndCause,
    /// How long it was held, from the kernel's answer to the release's call; null where it is not known (`resume`).
    pub held_ns: Option<u64>,
    /// What became of each process or queue.
    pub targets: Vec<TargetReport>,
}

/// Slots were reserved.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Reserved {
    /// When.
    pub ts_ns: u64,
    /// The process that reserved: the reservation lives as long as it does.
    pub owner_pid: Pid,
    /// State just after it.
    #[serde(flatten)]
    pub state: ReservationState,
    /// The offline processes.
    pub targets: Vec<TargetReport>,
}

/// A reservation ended.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Unreserved {
    /// When.
    pub ts_ns: u64,
    /// Node.
    pub gpu_id: GpuId,
    /// Why.
    pub cause: EndCause,
    /// How long it was in force; null where it is not known (`--clear`).
    pub held_ns: Option<u64>,
}

/// State of the reservation of one GPU.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Reservation {
    /// When.
    pub ts_ns: u64,
    /// It.
    #[serde(flatten)]
    pub state: ReservationState,
}

/// Slots of one GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct ReservationState {
    /// Node.
    pub gpu_id: GpuId,
    /// Compute queue slots that the scheduler may use.
    pub slots_total: u32,
    /// Of these, kept free of queues of offline processes.
    pub slots_reserved: u32,
    /// Who reserved; null = nobody.
    pub reserved_by: Option<Pid>,
    /// How often parked queues take turns; null while nothing is reserved.
    pub rotate_ms: Option<u32>,
    /// Compute queues in the runlist.
    pub cp_queues_active: u32,
    /// Queues parked by the reservation.
    pub queues_capped: u32,
    /// Processes in the runlist.
    pub processes: u32,
    /// Processes that can run without time slicing.
    pub processes_max: u32,
    /// Whether the runlist is time-sliced.
    pub oversubscribed: bool,
}

/// What became of one process, or one queue of it.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct TargetReport {
    /// Process, in the initial pid namespace.
    pub pid: Pid,
    /// Its name, escaped.
    #[schemars(with = "Option<String>")]
    pub comm: Option<Comm>,
    /// Node of the queue; null if the process is meant as a whole.
    pub gpu_id: Option<GpuId>,
    /// The queue; null if the process is meant as a whole.
    pub queue_id: Option<QueueId>,
    /// Queues that are held now, or run again.
    pub queues: u32,
    /// Of these, those that this call changed.
    pub changed: u32,
    /// What became of it.
    pub status: TargetStatus,
    /// The call that was refused.
    pub call: Option<&'static str>,
    /// Name of its errno.
    pub errno: Option<String>,
    /// What that means here.
    pub message: Option<String>,
    /// What can be done about it.
    pub fix: Option<String>,
}

/// What became of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TargetStatus {
    /// It is stopped.
    Held,
    /// It runs again.
    Released,
    /// It was released, but something else keeps its queues off the GPU: `message` says what.
    KeptOff,
    /// It ended.
    Gone,
    /// It could not be done; it is as it was before.
    Refused,
    /// With `--dry-run`: it would be stopped.
    WouldHold,
    /// With `--dry-run`: it would be restarted.
    WouldRelease,
    /// It is offline for a reservation.
    Offline,
}

/// How success was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Observed {
    /// eBPF saw the driver take the queues off the GPU, or put them back.
    Events,
    /// The driver's dump of the runlist lacks the queues, or has them again.
    Runlist,
    /// The driver's answer, which it gives after the GPU's.
    Driver,
    /// Nothing was done.
    DryRun,
}

impl From<How> for Observed {
    fn from(how: How) -> Self {
        match how {
            How::Events => Self::Events,
            How::Runlist => Self::Runlist,
            How::Driver => Self::Driver,
        }
    }
}

/// Why a hold or a reservation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EndCause {
    /// By request (`resume`, `reserve --clear`).
    Released,
    /// The time was over.
    Duration,
    /// The command ended.
    Command,
    /// A signal.
    Signal,
    /// All targets ended, or the lease could not be renewed.
    Lost,
    /// Something failed.
    Error,
}

/// Processes and queues of an outcome that were done.
#[must_use]
pub fn totals(outcome: &Outcome) -> (u32, u32) {
    let done = outcome.targets.iter().filter(|t| t.refusal.is_none());
    let mut pids: Vec<Pid> = done.clone().map(|target| target.pid).collect();
    pids.dedup();
    let queues = done.map(|target| target.queues).sum();
    (u32::try_from(pids.len()).unwrap_or(u32::MAX), queues)
}

/// The targets of an outcome with the names they had when they were chosen; `done` is the status of those not refused.
#[must_use]
pub fn targets(
    outcome: &Outcome,
    chosen: &[Target],
    done: impl Fn(&TargetOutcome) -> TargetStatus,
) -> Vec<TargetReport> {
    outcome
        .targets
        .iter()
        .map(|target| {
            let comm = chosen
                .iter()
                .find(|chosen| chosen.pid == target.pid)
                .map(|chosen| chosen.comm);
            TargetReport::new(target, comm, done(target))
        })
        .collect()
}

impl TargetReport {
    fn new(target: &TargetOutcome, comm: Option<Comm>, done: TargetStatus) -> Self {
        let refusal: Option<&Refusal> = target.refusal.as_ref();
        Self {
            pid: target.pid,
            comm,
            gpu_id: target.queue.map(|(gpu, _)| gpu),
            queue_id: target.queue.map(|(_, queue)| queue),
            queues: target.queues,
            changed: target.changed,
            status: match (refusal, target.kept_off) {
                (Some(_), _) => TargetStatus::Refused,
                (None, Some(_)) => TargetStatus::KeptOff,
                (None, None) => done,
            },
            call: refusal.map(|refusal| refusal.call),
            errno: refusal.and_then(|refusal| refusal.errno).map(errno::name),
            message: refusal
                .map(|refusal| refusal.what.clone())
                .or_else(|| target.kept_off.map(str::to_owned)),
            fix: refusal.map(|refusal| refusal.fix.clone()),
        }
    }
}

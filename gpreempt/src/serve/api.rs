// SPDX-License-Identifier: MIT OR Apache-2.0
//! What goes over the daemon's socket: the bodies of its HTTP calls. The OpenAPI document is generated from here.
//!
//! Times are CLOCK_BOOTTIME in nanoseconds, like those of all records.

use std::borrow::Cow;
use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::control::BackendKind;
use crate::event::{GpuId, Pid, QueueId, QueueType};
use crate::policy::{Class, JobId, PolicyName};

pub use crate::policy::SOCKET;

/// `GET /v1/status`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Status {
    /// Version of the daemon.
    pub version: Cow<'static, str>,
    /// Its process.
    pub pid: Pid,
    /// Since when it runs.
    pub since_ns: u64,
    /// Now.
    pub now_ns: u64,
    /// Who decides.
    pub policy: PolicyName,
    /// It decides and acts on nothing.
    pub dry_run: bool,
    /// By which means it stops queues; null before it has stopped any, or if it cannot.
    pub backend: Option<BackendKind>,
    /// Why by these means and not by others, or why by none.
    pub backend_why: String,
    /// Whether events of the driver are seen; else it looks at sysfs now and then.
    pub events: bool,
    /// Why not, or what is missing.
    pub events_why: Option<String>,
    /// Events that were lost.
    pub lost_total: u64,
    /// A GPU did not answer: nothing is held until `POST /v1/go-on`.
    pub hung: bool,
    /// Slots that offline jobs leave free, by GPU; empty unless `[reservation]` asks for it.
    pub reservations: Vec<ReservationInfo>,
    /// Hints that are in force.
    pub hints: u32,
    /// Jobs by class.
    pub jobs_by_class: BTreeMap<String, u32>,
    /// Jobs that are held.
    pub jobs_held: u32,
    /// Stops that were seen to take effect.
    pub holds_total: u64,
    /// Restarts.
    pub releases_total: u64,
    /// Stops that the driver refused, or that were not seen.
    pub refusals_total: u64,
    /// Stops that a policy wanted and a guard did not allow.
    pub denials_total: u64,
    /// From the order to the answer of the driver, the median of the last stops; null before the first.
    pub hold_latency_ns: Option<u64>,
}

/// Slots of a GPU that offline jobs leave free.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReservationInfo {
    /// Node.
    pub gpu_id: GpuId,
    /// So many.
    pub slots_reserved: u32,
    /// Of so many; null while nobody is offline.
    pub slots_total: Option<u32>,
    /// Processes that leave them free.
    pub processes: u32,
    /// Why none are reserved.
    pub error: Option<String>,
}

/// One of `GET /v1/jobs`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct JobInfo {
    /// Its name.
    pub job: JobId,
    /// What it is.
    pub class: Class,
    /// The rule that says so, counted from 1; null for one that registered itself or that no rule matches.
    pub rule: Option<usize>,
    /// It, or a part of it, registered itself.
    pub registered: bool,
    /// Its part in `share`.
    pub weight: u32,
    /// Its processes.
    pub pids: Vec<Pid>,
    /// The nodes on which it has queues.
    pub gpus: Vec<GpuId>,
    /// Its queues.
    pub queues: u32,
    /// It is held.
    pub held: bool,
    /// Since when it is held, or runs.
    pub since_ns: u64,
    /// When it must run again at the latest.
    pub until_ns: Option<u64>,
    /// What made the policy want it, and what that was; null while it runs.
    pub why: Option<String>,
    /// How long it ran since the daemon knows it.
    pub run_ns: u64,
    /// How long it was held since then.
    pub paused_ns: u64,
    /// How often it was held.
    pub holds: u64,
    /// Packets that wait in its queues; only of online jobs, as far as it is known.
    pub pending: Option<u64>,
    /// What was asked for by name and is in force.
    pub wish: Option<WishInfo>,
}

/// What was asked for by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WishInfo {
    /// Held, or not.
    pub hold: bool,
    /// When it ends; null = when it is taken back.
    pub until_ns: Option<u64>,
}

/// One of `GET /v1/queues`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct QueueInfo {
    /// Its process.
    pub pid: Pid,
    /// Name of the process.
    pub comm: Option<String>,
    /// The job that it belongs to.
    pub job: JobId,
    /// What the job is.
    pub class: Class,
    /// Node.
    pub gpu_id: GpuId,
    /// Id in its process.
    pub queue_id: QueueId,
    /// Type.
    pub queue_type: QueueType,
    /// The daemon holds it.
    pub held: bool,
}

/// Body of `POST /v1/hints`: work of an online service is coming or has begun.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HintBegin {
    /// When the work begins, from now. Offline queues are stopped so much before that as a stop takes here. 0 = it has begun.
    pub lead_ms: u64,
    /// It ends by itself after so long, at most an hour. Absent = `hint_expiry` of the configuration.
    pub expires_ms: Option<u64>,
    /// It ends when this process does. Absent = it outlives its caller.
    pub pid: Option<Pid>,
    /// Answer only when offline queues have been stopped, or it is known that they will not be.
    pub wait: bool,
}

/// Answer to `POST /v1/hints`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HintBegun {
    /// Names it for `DELETE /v1/hints/{id}`.
    pub id: u64,
    /// When it ends by itself.
    pub until_ns: u64,
}

/// Answer to `DELETE /v1/hints/{id}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HintEnded {
    /// How long the work took, for the policy `slo`: from its begin to now.
    pub latency_ns: u64,
}

/// Body of `POST /v1/jobs`: what a process says that it is. It counts above the rules, until the process ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Register {
    /// It, as the host numbers it. Absent = the caller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<Pid>,
    /// What it is.
    pub class: Class,
    /// The job that it belongs to. Absent = a job of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Its part in `share`, 1 to 10000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
    /// Longest pause; it can only tighten the guard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_pause_ms: Option<u64>,
    /// Least run between two pauses; it can only lengthen the guard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_run_ms: Option<u64>,
}

/// Answer to `POST /v1/jobs`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Registered {
    /// The job that the process now belongs to.
    pub job: JobId,
}

/// Body of `POST /v1/hold` and `POST /v1/resume`: jobs, by name or by one of their processes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Whom {
    /// Names.
    pub jobs: Vec<JobId>,
    /// Processes: the jobs that they belong to are meant.
    pub pids: Vec<Pid>,
    /// For so long. Absent: until it is taken back, by `POST /v1/free`, or a guard ends it.
    pub for_ms: Option<u64>,
}

/// Answer to `POST /v1/hold`, `/v1/resume` and `/v1/free`: what became of each job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Asked {
    /// In the order of their names.
    pub jobs: Vec<AskedJob>,
}

/// What became of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AskedJob {
    /// It.
    pub job: JobId,
    /// Whether it is held now.
    pub held: bool,
    /// Whether that is what was asked for.
    pub done: bool,
    /// Why not, or how long at most.
    pub why: String,
}

/// Body of `PUT /v1/policy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SetPolicy {
    /// Who is to decide, until the configuration is read again.
    pub name: PolicyName,
}

/// Answer to `POST /v1/reload` and `POST /v1/go-on`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Done {
    /// What was done.
    pub what: String,
}

/// One of `GET /v1/config`: a value that is in force.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Setting {
    /// Its key, as in `policy.slo.target`.
    pub key: String,
    /// Its value, as TOML.
    pub value: String,
    /// `default`, or the file and line that set it.
    pub origin: String,
}

/// Body of every answer with a status of 400 and above.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Problem {
    /// What is wrong, and what can be done.
    pub error: String,
}

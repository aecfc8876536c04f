// SPDX-License-Identifier: MIT OR Apache-2.0
//! The records of `bench preempt`: the contract with tools.
//!
//! Times are in nanoseconds. 64-bit ids that may exceed 2^53 are strings.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;

use super::plan::Calls;
use super::stats::{RatioSummary, Split, Summary};
use crate::control::BackendKind;
use crate::event::{Comm, GpuId, Pid};
use crate::sink::record::Id64;
use crate::sink::schema::schema_of;

/// One line of `bench preempt --format json`.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(tag = "type", content = "data", rename_all = "snake_case")]
pub enum Record<'a> {
    /// The first line: what was measured on.
    BenchEnvironment(&'a Environment),
    /// Something that was asked for and is not measured.
    BenchSkipped(&'a Skipped),
    /// Latencies of one operation, of one set of queues, by one backend.
    BenchResult(&'a Measured),
    /// One latency in relation to another.
    BenchRatio(&'a Ratio),
    /// The last line.
    BenchEnd(&'a BenchEnd),
}

/// Version of these records; grows when a field changes its meaning or goes away.
pub const SCHEMA: u32 = 1;

/// JSON schema (draft 2020-12) of one line of `bench preempt --format json`.
#[must_use]
pub fn schema() -> String {
    schema_of::<Record<'_>>("one line of gpreempt bench preempt --format json")
}

/// What was measured on.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Environment {
    /// Version of these records.
    pub schema: u32,
    /// When the run began, in UTC.
    pub began: String,
    /// Version of gpreempt.
    pub version: String,
    /// Release of the running kernel.
    pub kernel: String,
    /// Version or srcversion of the amdgpu module.
    pub module_version: Option<String>,
    /// Parameters of the simulated GPU, if that is what the driver runs on; their delays are settings, not predictions.
    pub simulation: Option<BTreeMap<String, String>>,
    /// Processors that are online.
    pub cpus: usize,
    /// GPU nodes.
    pub gpus: Vec<Gpu>,
    /// Processes whose queues are stopped.
    pub offline: Vec<Process>,
    /// Processes whose disturbance is measured. Where none is named it is that of anybody on the GPUs of the job.
    pub online: Vec<Process>,
    /// What was found of each backend.
    pub backends: Vec<BackendState>,
    /// How stops and restarts are seen from outside of the driver's answer.
    pub observed: String,
    /// Rounds asked for.
    pub rounds: u32,
    /// Between stop and restart, and between restart and the next stop.
    pub hold_ns: u64,
    /// Of the order of rows.
    pub seed: Id64,
    /// How percentiles are taken.
    pub percentiles: String,
}

impl Environment {
    /// What the hardware is.
    #[must_use]
    pub fn hardware(&self) -> &'static str {
        if self.simulation.is_some() {
            "simulated hardware, real driver"
        } else {
            "real hardware"
        }
    }
}

/// A GPU node.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Gpu {
    /// Key.
    pub gpu_id: GpuId,
    /// Instruction set, `gfx942`.
    pub gfx: String,
    /// XCCs of the node.
    pub num_xcc: u64,
    /// Compute queue slots per XCC.
    pub num_cp_queues: u64,
}

/// A process with queues.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Process {
    /// In the initial pid namespace.
    pub pid: Pid,
    /// Name, escaped.
    #[schemars(with = "String")]
    pub comm: Comm,
    /// Its queues.
    pub queues: usize,
    /// Where they are.
    pub gpus: Vec<GpuId>,
}

/// A backend here.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct BackendState {
    /// Which.
    pub backend: BackendKind,
    /// Why it is not measured; null if it is.
    pub why_not: Option<String>,
}

/// Something that is not measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Skipped {
    /// By this backend; null = by none.
    pub backend: Option<BackendKind>,
    /// Which queues.
    pub case: String,
    /// Why.
    pub why: String,
}

/// The two things that are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// Stop.
    Preempt,
    /// Restart.
    Resume,
}

impl Operation {
    /// Both, in order.
    pub const ALL: [Self; 2] = [Self::Preempt, Self::Resume];

    /// The name that JSON uses.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Preempt => "preempt",
            Self::Resume => "resume",
        }
    }
}

/// Latencies of one operation, of one set of queues, by one backend.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Measured {
    /// By which backend.
    pub backend: BackendKind,
    /// What was done, in words.
    pub case: String,
    /// Processes concerned.
    pub processes: usize,
    /// Queues concerned.
    pub queues: usize,
    /// Whether that is every queue of these processes.
    pub whole: bool,
    /// Calls of the backend.
    pub calls: Calls,
    /// Which operation.
    pub operation: Operation,
    /// Rounds that stopped and restarted everything.
    pub n: usize,
    /// Rounds that failed; they give no latency.
    pub failed: u32,
    /// Operations that the driver reported done and that were not seen from outside; null where nobody looks.
    pub unseen: Option<u32>,
    /// From before the first call into the kernel to after the last one. Of several calls: the sum.
    pub total: Option<Summary>,
    /// Of it, waiting for the GPUs' scheduler locks, measured in the kernel. Null where that cannot be seen; then it is part of
    /// `software`.
    pub lock_wait: Option<Summary>,
    /// Of it, the GPUs' answers, from UNMAP_QUEUES to the fence, measured in the kernel.
    pub hw: Option<Summary>,
    /// The rest of it.
    pub software: Option<Summary>,
    /// Mean of the parts over the rounds from P25 to P75 of the total: these three add up. A wait that cannot be seen is 0 here.
    pub middle_half: Option<Split>,
    /// How long the disturbed GPU had nothing on its hardware because of one operation: from UNMAP_QUEUES sent to the
    /// runlist submitted. Of several GPUs: the one off for longest.
    pub off_hardware: Option<Summary>,
    /// Median of how often that happened in one operation.
    pub cycles_p50: Option<usize>,
    /// What failed, and how often.
    pub failures: BTreeMap<String, u32>,
    /// Why it was given up before the last round.
    pub given_up: Option<String>,
}

/// What two latencies differ in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Compares {
    /// The same queues, the same calls, two backends.
    Backends,
    /// The same queues, the same backend: a call for each part against one call.
    Calls,
    /// The same backend, one call: many queues against one queue.
    Sizes,
}

/// One latency in relation to another, pair by pair: both of a pair are of the same round.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Ratio {
    /// What they differ in.
    pub compares: Compares,
    /// Above the line.
    pub numerator: String,
    /// Below the line.
    pub denominator: String,
    /// Backend of both, where it is one.
    pub backend: Option<BackendKind>,
    /// What is done, where both do the same.
    pub case: Option<String>,
    /// Which operation.
    pub operation: Operation,
    /// The ratio.
    #[serde(flatten)]
    pub ratio: RatioSummary,
}

/// The last line.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct BenchEnd {
    /// Why it ended.
    pub end: EndKind,
    /// More of it, for people.
    pub message: Option<String>,
    /// Which signal, if it was one.
    pub signal: Option<u8>,
    /// Rounds begun.
    pub rounds: u32,
}

/// Why a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EndKind {
    /// All rounds are done.
    Complete,
    /// A signal came. What is there is of fewer rounds.
    Signal,
    /// A process of the job ended. What is there is of fewer rounds.
    JobGone,
    /// A GPU did not answer in time and is reset, which ends every compute process of the host.
    GpuTimedOut,
    /// Queues could not be restarted.
    Stuck,
    /// No backend could do anything here.
    Nothing,
}

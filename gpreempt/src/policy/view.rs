// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a policy is shown: jobs, what the online ones do, and what a preemption costs here. The caller fills it in; times are
//! CLOCK_BOOTTIME in nanoseconds.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::class::Assigned;
use crate::event::{GpuId, Pid};

/// Names a job: the group that a rule put it in, or `pid:` and the pid of a process that is in none.
#[derive(
    Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(transparent)]
pub struct JobId(pub Arc<str>);

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl JobId {
    pub(super) const OF_PID: &str = "pid:";

    /// Of a process that is in no group.
    #[must_use]
    pub fn of(pid: Pid) -> Self {
        Self(format!("{}{pid}", Self::OF_PID).into())
    }
}

impl From<&str> for JobId {
    fn from(name: &str) -> Self {
        Self(name.into())
    }
}

/// What a process is to the policy.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    JsonSchema,
    clap::ValueEnum,
)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// May be stopped.
    Offline,
    /// Left alone, and nobody is stopped for it.
    Ignore,
    /// Never stopped; others are stopped for it.
    Online,
}

impl Class {
    /// The name that files and records use.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Offline => "offline",
            Self::Ignore => "ignore",
            Self::Online => "online",
        }
    }
}

/// A process of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// It.
    pub pid: Pid,
    /// Nodes on which it has queues.
    pub gpus: BTreeSet<GpuId>,
    /// The daemon holds it, or any part of it.
    pub held: bool,
}

/// What a job does, as far as it is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Activity {
    /// Packets that wait in its queues.
    pub pending: u64,
    /// When a packet of it was last seen to wait or to be taken.
    pub last_ns: Option<u64>,
    /// When the packets of all its compute queues were counted last.
    pub counted_ns: Option<u64>,
}

impl Activity {
    /// Until when it counts as active: for ever while packets wait, else for a while after the last one.
    #[must_use]
    pub fn until_ns(&self, linger_ns: u64) -> Option<u64> {
        match self.pending {
            0 => self.last_ns.map(|last| last.saturating_add(linger_ns)),
            _ => Some(u64::MAX),
        }
    }
}

/// Processes that are stopped together or not at all: a gang.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// Its name; no two jobs of a view have the same.
    pub id: JobId,
    /// What it is to the policy.
    pub class: Class,
    /// The rule that says so, counted from 1.
    pub rule: Option<usize>,
    /// Its part in `share`.
    pub weight: u32,
    /// Longest pause that its rule allows.
    pub max_pause_ns: Option<u64>,
    /// Least time between two pauses that its rule demands.
    pub min_run_ns: Option<u64>,
    /// Its processes.
    pub members: Vec<Member>,
    /// Since when it is held, or runs.
    pub since_ns: u64,
    /// How long it could run so far.
    pub run_ns: u64,
    /// How long it was held so far.
    pub paused_ns: u64,
    /// What it does.
    pub activity: Activity,
}

impl Job {
    /// A job that was just seen and runs.
    #[must_use]
    pub fn new(id: JobId, class: Class, now_ns: u64) -> Self {
        Self {
            id,
            class,
            rule: None,
            weight: 1,
            max_pause_ns: None,
            min_run_ns: None,
            members: Vec::new(),
            since_ns: now_ns,
            run_ns: 0,
            paused_ns: 0,
            activity: Activity::default(),
        }
    }

    /// Whether any part of it is held.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.members.iter().any(|member| member.held)
    }

    /// Whether a part of it is held and another is not.
    #[must_use]
    pub fn is_split(&self) -> bool {
        self.is_held() && self.members.iter().any(|member| !member.held)
    }

    /// Every node on which it has queues.
    #[must_use]
    pub fn gpus(&self) -> BTreeSet<GpuId> {
        self.members
            .iter()
            .flat_map(|member| member.gpus.iter().copied())
            .collect()
    }

    /// Whether the two can meet on a GPU. A job of which no GPU is known can meet every other.
    #[must_use]
    pub fn meets(&self, other: &Self) -> bool {
        let has_none = |job: &Self| job.members.iter().all(|member| member.gpus.is_empty());
        let on = |gpu_id| other.members.iter().any(|of| of.gpus.contains(gpu_id));
        has_none(self)
            || has_none(other)
            || self.members.iter().flat_map(|member| &member.gpus).any(on)
    }

    /// Makes jobs of processes: those that a rule put in the same group are one. Where members disagree, the class that protects
    /// more, the shorter longest pause, the longer least run and the greater weight count. In order of their names.
    #[must_use]
    pub fn gather(
        processes: impl IntoIterator<Item = (Assigned, Member)>,
        now_ns: u64,
    ) -> Vec<Self> {
        let mut jobs: BTreeMap<JobId, Self> = BTreeMap::new();
        for (assigned, member) in processes {
            let job = jobs
                .entry(assigned.job.clone())
                .or_insert_with(|| Self::new(assigned.job, assigned.class, now_ns));
            if job.rule.is_none() || assigned.class > job.class {
                job.rule = assigned.rule;
            }
            job.class = job.class.max(assigned.class);
            job.weight = job.weight.max(assigned.weight);
            job.max_pause_ns = [job.max_pause_ns, assigned.max_pause_ns]
                .into_iter()
                .flatten()
                .min();
            job.min_run_ns = job.min_run_ns.max(assigned.min_run_ns);
            job.members.push(member);
        }
        jobs.into_values().collect()
    }
}

/// How long a request of an online service took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Latency {
    /// When it ended.
    pub ts_ns: u64,
    /// How long it took.
    pub latency_ns: u64,
}

/// How often the GPU is interrupted by one stop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rounds {
    /// Once for all that is stopped at a time (`patched`).
    Call,
    /// Once for each process (`debug-trap`, `criu`).
    #[default]
    Process,
}

/// What a preemption costs here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// From the decision until the queues are off or on again, as measured; the guards release so much earlier.
    pub latency_ns: u64,
    /// How often the GPU is interrupted by one stop.
    pub rounds: Rounds,
}

/// What somebody asked for by name (`ctl hold`, `ctl release`). It counts above the policy and below the guards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wish {
    /// Held or not.
    pub hold: bool,
    /// When it ends; `None` = when it is taken back.
    pub until_ns: Option<u64>,
}

/// Everything that a decision is made from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// Every job, and every job of which something is held, whatever its class.
    pub jobs: Vec<Job>,
    /// Online services that have said that a request is coming or running (`ctl hint`).
    pub hints: u32,
    /// Requests that ended since the last view.
    pub latencies: Vec<Latency>,
    /// What a preemption costs here.
    pub cost: Cost,
    /// What was asked for by name.
    pub wishes: BTreeMap<JobId, Wish>,
}

impl View {
    /// Jobs of a class.
    pub fn of(&self, class: Class) -> impl Iterator<Item = &Job> {
        self.jobs.iter().filter(move |job| job.class == class)
    }

    /// Until when somebody online counts as active where this job is. `None` = nobody is known to have been.
    #[must_use]
    pub fn online_until_ns(&self, job: &Job, linger_ns: u64) -> Option<u64> {
        if self.hints > 0 {
            return Some(u64::MAX);
        }
        self.of(Class::Online)
            .filter(|online| online.meets(job))
            .filter_map(|online| online.activity.until_ns(linger_ns))
            .max()
    }
}

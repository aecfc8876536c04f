// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is to be done, and why: what the daemon carries out and the audit log keeps.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::view::JobId;
use crate::event::{GpuId, Pid};

macro_rules! names {
    ($(#[$doc:meta])* $name:ident { $( $(#[$vdoc:meta])* $variant:ident = $text:literal, )+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema, clap::ValueEnum)]
        pub enum $name {
            $( $(#[$vdoc])* #[serde(rename = $text)] #[value(name = $text)] $variant, )+
        }

        impl $name {
            /// The name that files, options and records use.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $( Self::$variant => $text, )+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.name())
            }
        }
    };
}

names! {
    /// Who decides.
    PolicyName {
        /// Nothing is held but what was asked for by name.
        Manual = "manual",
        /// Offline jobs are held while online ones are active.
        Priority = "priority",
        /// Offline jobs run a fixed part of each period.
        Timeslice = "timeslice",
        /// Offline jobs take turns by weight.
        Share = "share",
        /// Offline jobs are held as much as the latency of online ones demands.
        Slo = "slo",
    }
}

names! {
    /// What made a policy want a job held.
    Trigger {
        /// Somebody asked for it by name.
        Wish = "wish",
        /// An online service said that it has work.
        Hint = "hint",
        /// Packets of an online job wait.
        Pending = "pending",
        /// An online job was active a moment ago.
        Linger = "linger",
        /// The part of the period that is not the job's.
        Slice = "slice",
        /// It is another job's turn.
        Turn = "turn",
        /// The latency target is at risk.
        Target = "target",
        /// Its queues have been empty for long.
        Idle = "idle",
    }
}

names! {
    /// What no policy can override.
    GuardName {
        /// Only offline jobs are held.
        Class = "class",
        /// A GPU did not answer. Nothing is held until somebody says so.
        Hang = "hang",
        /// The driver refused; it is tried again later.
        Refusal = "refusal",
        /// A job is held as a whole or not at all.
        Gang = "gang",
        /// Longest pause.
        MaxPause = "max_pause",
        /// Longest pause that the job's collective operations survive.
        Collective = "collective",
        /// Least run between two pauses.
        MinRun = "min_run",
        /// Greatest part of a window in which a job may be held.
        PauseShare = "pause_share",
        /// Preemptions of a GPU in a window.
        Rate = "rate",
    }
}

/// A job that is to be held, as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HoldOrder {
    /// It.
    pub job: JobId,
    /// The rule that made it offline, counted from 1.
    pub rule: Option<usize>,
    /// All its processes.
    pub pids: Vec<Pid>,
    /// All GPUs concerned.
    pub gpus: Vec<GpuId>,
    /// What made the policy want it.
    pub trigger: Trigger,
    /// That in words.
    pub why: String,
    /// When it must run again at the latest: the lease to take.
    pub until_ns: u64,
}

/// A job that is to run again, as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReleaseOrder {
    /// It.
    pub job: JobId,
    /// The rule that classified it, counted from 1.
    pub rule: Option<usize>,
    /// All its processes.
    pub pids: Vec<Pid>,
    /// All GPUs concerned.
    pub gpus: Vec<GpuId>,
    /// The guard that demands it; `None` if the policy wants it held no more.
    pub guard: Option<GuardName>,
    /// That in words.
    pub why: String,
}

/// A job that is held and stays so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Kept {
    /// It.
    pub job: JobId,
    /// What makes the policy want it.
    pub trigger: Trigger,
    /// That in words.
    pub why: String,
    /// When it must run again at the latest.
    pub until_ns: u64,
}

/// A job that the policy wants held and a guard does not allow to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Denied {
    /// It.
    pub job: JobId,
    /// The rule that classified it, counted from 1.
    pub rule: Option<usize>,
    /// What made the policy want it.
    pub trigger: Trigger,
    /// Which guard.
    pub guard: GuardName,
    /// That in words.
    pub why: String,
    /// When it may be allowed; `None` = not by time alone.
    pub retry_ns: Option<u64>,
}

/// What is to be done now. Releases come first, then holds; then the daemon asks again at `next_ns`, or earlier if anything changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Decision {
    /// When it was made.
    pub now_ns: u64,
    /// By whom.
    pub policy: PolicyName,
    /// Jobs to hold.
    pub to_hold: Vec<HoldOrder>,
    /// Jobs to release.
    pub to_release: Vec<ReleaseOrder>,
    /// Jobs that stay held.
    pub kept: Vec<Kept>,
    /// Jobs that the policy wants held and a guard does not.
    pub denied: Vec<Denied>,
    /// When it must be asked again at the latest. Later than `now_ns`, unless time itself ends.
    pub next_ns: u64,
}

impl Decision {
    /// Whether it changes or denies anything: what the audit log keeps.
    #[must_use]
    pub fn is_news(&self) -> bool {
        !(self.to_hold.is_empty() && self.to_release.is_empty() && self.denied.is_empty())
    }
}

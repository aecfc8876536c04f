// SPDX-License-Identifier: MIT OR Apache-2.0
//! From the state of classified work to decisions: who is held, who runs, why. Pure: no I/O and no clock; time is an argument.
//!
//! ```text
//! facts of processes --class, config--> jobs --view--> a policy --wanted--> guard --decision--> the daemon, the audit log
//! ```
//!
//! A policy only wants. The guards come after every policy and remember on their own what was done, so that neither a fault in a
//! policy nor a change of it can pause a job for longer, or a GPU more often, than the configuration allows.

mod class;
mod config;
mod daemon;
mod decider;
mod decision;
mod duration;
mod guard;
mod manual;
mod parking;
mod priority;
mod share;
mod slo;
#[cfg(test)]
mod tests;
mod timeslice;
mod view;
mod whatif;

pub use class::{Assigned, Explanation, Facts, PassedOver, Rule, Rules};
pub use config::{Config, ConfigError, Policies};
pub use daemon::{Access, Means, Metrics, Reservation, Serve, Who, SOCKET};
pub use decider::Decider;
pub use decision::{
    Decision, Denied, GuardName, HoldOrder, Kept, PolicyName, ReleaseOrder, Trigger,
};
pub use guard::{Guard, Limits};
pub use view::{Activity, Class, Cost, Job, JobId, Latency, Member, Rounds, View, Wish};
pub use whatif::{what_if, Known, Totals, WhatIf};

/// A job that a policy wants held, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Want {
    /// It.
    pub job: JobId,
    /// What made the policy want it.
    pub trigger: Trigger,
    /// That in words.
    pub why: String,
}

/// What a policy wants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Jobs to be held, the most urgent first. All others are to run.
    pub hold: Vec<Want>,
    /// When it may want something else although nothing has happened; `None` = never.
    pub next_ns: Option<u64>,
}

impl Wanted {
    fn ask_at(&mut self, ns: u64) {
        self.next_ns = Some(self.next_ns.map_or(ns, |next| next.min(ns)));
    }
}

/// Decides whom to hold. May remember what it needs, and must give the same answers to the same sequence of questions.
pub trait Policy: std::fmt::Debug + Send {
    /// Its name.
    fn name(&self) -> PolicyName;

    /// What it wants now. It is asked whenever something has changed, and at the time that it named. Time does not go back.
    fn want(&mut self, view: &View, now_ns: u64) -> Wanted;
}

/// The policy that the configuration names.
#[must_use]
pub fn build(policies: &Policies) -> Box<dyn Policy> {
    match policies.name {
        PolicyName::Manual => Box::new(manual::Manual),
        PolicyName::Priority => Box::new(priority::Priority::new(&policies.priority)),
        PolicyName::Timeslice => Box::new(timeslice::Timeslice::new(&policies.timeslice)),
        PolicyName::Share => Box::new(share::Share::new(&policies.share)),
        PolicyName::Slo => Box::new(slo::Slo::new(&policies.slo)),
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! One policy, the wishes above it, idle jobs beside it, and the guards above all: what the daemon asks.

use super::guard::Guard;
use super::parking::park;
use super::{
    build, Config, Decision, JobId, Policies, Policy, PolicyName, Trigger, View, Want, Wanted,
};

/// Makes decisions. What it remembers of pauses survives every change of the configuration.
#[derive(Debug)]
pub struct Decider {
    parameters: Policies,
    policy: Box<dyn Policy>,
    /// When idle jobs are parked.
    idle_after_ns: Option<u64>,
    guard: Guard,
}

impl Decider {
    /// By this configuration.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        Self {
            parameters: config.policy.clone(),
            policy: build(&config.policy),
            idle_after_ns: config.parking.idle_after,
            guard: Guard::new(config.guards.clone()),
        }
    }

    /// From now on by this configuration. A policy whose parameters are the same goes on with what it knows; another one begins anew.
    pub fn reload(&mut self, config: &Config) {
        self.guard.set_limits(config.guards.clone());
        self.idle_after_ns = config.parking.idle_after;
        if self.parameters != config.policy {
            self.policy = build(&config.policy);
            self.parameters = config.policy.clone();
        }
    }

    /// Who decides.
    #[must_use]
    pub fn policy(&self) -> PolicyName {
        self.policy.name()
    }

    /// The guards: whether a GPU hung.
    #[must_use]
    pub fn guard(&self) -> &Guard {
        &self.guard
    }

    /// As [`Guard::hung`].
    pub fn hung(&mut self, now_ns: u64) {
        self.guard.hung(now_ns);
    }

    /// As [`Guard::go_on`].
    pub fn go_on(&mut self) {
        self.guard.go_on();
    }

    /// As [`Guard::refused`].
    pub fn refused(&mut self, job: &JobId, now_ns: u64) {
        self.guard.refused(job, now_ns);
    }

    /// What is to be done now.
    #[must_use]
    pub fn decide(&mut self, view: &View, now_ns: u64) -> Decision {
        let now_ns = self.guard.clock(now_ns);
        let mut wanted = self.policy.want(view, now_ns);
        add_wishes(view, &mut wanted, now_ns);
        park(view, self.idle_after_ns, &mut wanted, now_ns);
        self.guard.apply(view, self.policy.name(), &wanted, now_ns)
    }
}

/// What was asked for by name counts above what the policy wants.
fn add_wishes(view: &View, wanted: &mut Wanted, now_ns: u64) {
    let mut held = Vec::new();
    for (job, wish) in &view.wishes {
        if let Some(until_ns) = wish.until_ns {
            if until_ns <= now_ns {
                continue;
            }
            wanted.ask_at(until_ns);
        }
        wanted.hold.retain(|want| want.job != *job);
        if wish.hold {
            held.push(Want {
                job: job.clone(),
                trigger: Trigger::Wish,
                why: "it was asked for by name".to_owned(),
            });
        }
    }
    held.append(&mut wanted.hold);
    wanted.hold = held;
}

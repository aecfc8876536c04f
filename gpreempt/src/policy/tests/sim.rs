// SPDX-License-Identifier: MIT OR Apache-2.0
//! A machine in a few lines: jobs that are held and released as a decision says, and a clock.
//!
//! A hold works at once and a release takes a while: the worst that the guards promise to cope with.

use std::collections::BTreeMap;

use super::super::*;
use crate::event::{GpuId, Pid};

pub(crate) const MS: u64 = 1_000_000;
pub(crate) const S: u64 = 1000 * MS;

/// A job, and what became of it.
pub(crate) struct SimJob {
    pub(crate) job: Job,
    /// When the release that was ordered takes effect.
    releases_ns: Option<u64>,
    /// Pauses of any part of it.
    pub(crate) pauses: Vec<(u64, u64)>,
    updated_ns: u64,
}

impl SimJob {
    /// Lets time pass.
    fn advance(&mut self, now_ns: u64) {
        if let Some(at) = self.releases_ns.filter(|at| *at <= now_ns) {
            self.account(at);
            self.let_go(at);
        }
        self.account(now_ns);
    }

    fn account(&mut self, now_ns: u64) {
        let passed = now_ns - self.updated_ns;
        match self.job.is_held() {
            true => self.job.paused_ns += passed,
            false => self.job.run_ns += passed,
        }
        self.updated_ns = now_ns;
    }

    fn let_go(&mut self, at_ns: u64) {
        self.releases_ns = None;
        if self.job.is_held() {
            self.pauses.push((self.job.since_ns, at_ns));
            self.job.since_ns = at_ns;
        }
        for member in &mut self.job.members {
            member.held = false;
        }
    }

    fn hold(&mut self, members: usize, now_ns: u64) {
        if !self.job.is_held() {
            self.job.since_ns = now_ns;
        }
        for member in self.job.members.iter_mut().take(members) {
            member.held = true;
        }
    }

    /// Whether a release was ordered that has not taken effect.
    pub(crate) fn is_releasing(&self) -> bool {
        self.releases_ns.is_some()
    }

    /// All pauses; one that goes on ends now.
    pub(crate) fn all_pauses(&self, now_ns: u64) -> Vec<(u64, u64)> {
        let mut all = self.pauses.clone();
        if self.job.is_held() {
            all.push((self.job.since_ns, now_ns));
        }
        all
    }
}

pub(crate) struct Sim {
    pub(crate) now_ns: u64,
    pub(crate) decider: Decider,
    pub(crate) jobs: BTreeMap<JobId, SimJob>,
    /// Everything of a view but the jobs.
    pub(crate) view: View,
    pub(crate) release_ns: u64,
    /// How many members of a job the driver holds before it refuses.
    pub(crate) refuse_after: Option<usize>,
    pub(crate) log: Vec<Decision>,
    /// Which GPU was preempted when.
    pub(crate) preempted: Vec<(GpuId, u64)>,
}

impl Sim {
    pub(crate) fn new(config: &str) -> Self {
        Self {
            now_ns: 1000 * S,
            decider: Decider::new(&Config::parse(config).unwrap()),
            jobs: BTreeMap::new(),
            view: View {
                cost: Cost {
                    latency_ns: 0,
                    rounds: Rounds::Call,
                },
                ..View::default()
            },
            release_ns: 0,
            refuse_after: None,
            log: Vec::new(),
            preempted: Vec::new(),
        }
    }

    /// A job with a process on each of these GPUs.
    pub(crate) fn add(&mut self, id: &str, class: Class, gpus: &[u32]) -> &mut Job {
        let mut job = Job::new(id.into(), class, self.now_ns);
        for gpu in gpus {
            job.members.push(member(1 + job.members.len() as u32, *gpu));
        }
        let sim = SimJob {
            job,
            releases_ns: None,
            pauses: Vec::new(),
            updated_ns: self.now_ns,
        };
        self.jobs.insert(id.into(), sim);
        self.job(id)
    }

    pub(crate) fn job(&mut self, id: &str) -> &mut Job {
        &mut self.jobs.get_mut(&JobId::from(id)).unwrap().job
    }

    pub(crate) fn is_held(&self, id: &str) -> bool {
        self.jobs[&JobId::from(id)].job.is_held()
    }

    pub(crate) fn advance_to(&mut self, now_ns: u64) {
        self.now_ns = self.now_ns.max(now_ns);
        for job in self.jobs.values_mut() {
            job.advance(self.now_ns);
        }
    }

    /// Asks, and does as it is told; asks again at once if the driver refused.
    pub(crate) fn ask(&mut self) -> Decision {
        loop {
            let decision = self.ask_once();
            self.log.push(decision.clone());
            if !self.carry_out(&decision) {
                return decision;
            }
        }
    }

    fn ask_once(&mut self) -> Decision {
        self.view.jobs = self.jobs.values().map(|sim| sim.job.clone()).collect();
        let decision = self.decider.decide(&self.view, self.now_ns);
        self.view.latencies.clear();
        decision
    }

    /// Returns whether the driver refused.
    fn carry_out(&mut self, decision: &Decision) -> bool {
        let (now_ns, release_ns) = (self.now_ns, self.release_ns);
        for order in &decision.to_release {
            let job = self.jobs.get_mut(&order.job).unwrap();
            job.releases_ns.get_or_insert(now_ns + release_ns);
            job.advance(now_ns);
        }
        let mut refused = false;
        let mut rounds: Vec<GpuId> = Vec::new();
        for order in &decision.to_hold {
            let job = self.jobs.get_mut(&order.job).unwrap();
            let members = job.job.members.iter();
            rounds.extend(members.flat_map(|member| &member.gpus));
            match self.refuse_after.take() {
                Some(members) => {
                    job.hold(members, now_ns);
                    self.decider.refused(&order.job, now_ns);
                    refused = true;
                }
                None => job.hold(usize::MAX, now_ns),
            }
        }
        if self.view.cost.rounds == Rounds::Call {
            rounds.sort_unstable();
            rounds.dedup();
        }
        let rounds = rounds.into_iter().map(|gpu_id| (gpu_id, now_ns));
        self.preempted.extend(rounds);
        refused
    }

    /// Runs for a while: every tick the world changes, and the decider is asked if it wants to be or if anything is different.
    pub(crate) fn run(&mut self, for_ns: u64, tick_ns: u64, mut world: impl FnMut(&mut Self)) {
        let end = self.now_ns + for_ns;
        while self.now_ns < end {
            world(self);
            let next = self.ask().next_ns;
            let tick = self.now_ns + tick_ns;
            self.advance_to(next.min(tick).min(end));
        }
    }

    /// Part of the last so many nanoseconds in which a job could run.
    pub(crate) fn run_part(&self, id: &str, window_ns: u64) -> f64 {
        let begin = self.now_ns - window_ns;
        let pauses = self.jobs[&JobId::from(id)].all_pauses(self.now_ns);
        let paused: u64 = pauses
            .iter()
            .map(|(from, to)| to.saturating_sub(begin.max(*from)))
            .sum();
        1.0 - paused as f64 / window_ns as f64
    }
}

pub(crate) fn member(pid: u32, gpu: u32) -> Member {
    Member {
        pid: Pid(pid),
        gpus: [GpuId(gpu)].into(),
        held: false,
    }
}

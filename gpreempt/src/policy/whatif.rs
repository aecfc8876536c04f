// SPDX-License-Identifier: MIT OR Apache-2.0
//! What would have been held, when and why, had a configuration been in force during a recording. Pure, like all of this room.
//!
//! The events tell who had queues where and when. They do not tell packets, so an online process counts as active as long as it
//! has a compute queue, unless the caller knows better and gives the times of its requests. Holds and releases work at once, and a job
//! that is held has the same queues as it had in the recording: what it would have done otherwise nobody knows.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::Serialize;

use super::{Activity, Class, Config, Cost, Decider, Decision, Facts, Job, JobId, Member, View};
use crate::event::{Event, GpuId, Happening, HoldCause, Pid, QueueId};

/// What is known beside the events.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// Processes; one that is missing is known by what events say of it, which is its name.
    pub facts: BTreeMap<Pid, Facts>,
    /// When online services had requests, in order and without overlap. `None` = as long as they have compute queues.
    pub requests: Option<Vec<(u64, u64)>>,
    /// What a preemption costs.
    pub cost: Cost,
}

/// What a job would have got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Totals {
    /// How long it would have been held.
    pub held_ns: u64,
    /// How long it had queues and would not have been held.
    pub run_ns: u64,
    /// How often it would have been held.
    pub holds: u64,
    /// How often a guard would have forbidden or ended it.
    pub denials: u64,
    /// How long any of it was held in the recording.
    pub recorded_ns: u64,
}

/// What would have been.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct WhatIf {
    /// Every decision that changes or denies anything which the one before it did not.
    pub decisions: Vec<Decision>,
    /// Every job.
    pub jobs: BTreeMap<JobId, Totals>,
}

/// Plays the events of a recording, which ends then, to the policy and the guards of a configuration.
#[must_use]
pub fn what_if<'a>(
    config: &Config,
    known: &Known,
    happenings: impl IntoIterator<Item = &'a Happening>,
    end_ns: u64,
) -> WhatIf {
    let mut play = Play {
        config,
        known,
        decider: Decider::new(config),
        machine: Machine::default(),
        jobs: BTreeMap::new(),
        result: WhatIf::default(),
        now_ns: 0,
        next_ns: u64::MAX,
        denied: BTreeSet::new(),
    };
    for happening in happenings {
        play.run_to(happening.ts_ns.min(end_ns));
        play.machine.apply(happening);
        play.ask();
    }
    play.run_to(end_ns);
    play.result
}

/// Who has queues, as the events tell.
#[derive(Debug, Default)]
struct Machine {
    facts: BTreeMap<Pid, Facts>,
    /// Queues, and whether they are compute queues.
    queues: BTreeMap<(Pid, GpuId, QueueId), bool>,
    /// Queues that were held in the recording.
    held: BTreeMap<(Pid, GpuId), u32>,
}

impl Machine {
    fn apply(&mut self, happening: &Happening) {
        let Some(pid) = happening.pid else {
            return;
        };
        match happening.event {
            Event::ProcessAttached { comm, .. } => {
                self.facts
                    .entry(pid)
                    .or_insert_with(|| Facts::new(pid))
                    .comm = Some(comm);
            }
            Event::QueueExisting {
                gpu_id,
                queue_id,
                queue_type,
                comm,
                ..
            }
            | Event::QueueCreated {
                gpu_id,
                queue_id,
                queue_type,
                comm,
                ..
            } => {
                let facts = self.facts.entry(pid).or_insert_with(|| Facts::new(pid));
                facts.comm = facts.comm.or(Some(comm)).filter(|comm| !comm.is_empty());
                self.queues
                    .insert((pid, gpu_id, queue_id), !queue_type.is_sdma());
            }
            Event::QueueDestroyed { gpu_id, queue_id } => {
                self.queues.remove(&(pid, gpu_id, queue_id));
            }
            Event::ProcessExited { .. } => {
                self.queues.retain(|(owner, ..), _| *owner != pid);
                self.held.retain(|(owner, _), _| *owner != pid);
                self.facts.remove(&pid);
            }
            Event::QueuesHeld(hold) if hold.cause != HoldCause::Reservation => {
                let held = self.held.entry((pid, hold.gpu_id)).or_default();
                *held = held.saturating_add(hold.count);
            }
            Event::QueuesReleased(hold) if hold.cause != HoldCause::Reservation => {
                let held = self.held.entry((pid, hold.gpu_id)).or_default();
                *held = held.saturating_sub(hold.count);
            }
            _ => {}
        }
    }

    fn gpus(&self) -> BTreeMap<Pid, BTreeSet<GpuId>> {
        let mut gpus: BTreeMap<Pid, BTreeSet<GpuId>> = BTreeMap::new();
        for (pid, gpu_id, _) in self.queues.keys() {
            gpus.entry(*pid).or_default().insert(*gpu_id);
        }
        gpus
    }

    fn has_compute(&self, pid: Pid) -> bool {
        let mut queues = self.queues.iter();
        queues.any(|((owner, ..), compute)| *owner == pid && *compute)
    }

    fn was_held(&self, pid: Pid) -> bool {
        let mut held = self.held.iter();
        held.any(|((owner, _), count)| *owner == pid && *count > 0)
    }
}

/// What the play itself did to a job.
#[derive(Debug, Default)]
struct State {
    held: bool,
    since_ns: u64,
    pids: BTreeSet<Pid>,
    /// It has queues.
    present: bool,
    was_held: bool,
}

struct Play<'a> {
    config: &'a Config,
    known: &'a Known,
    decider: Decider,
    machine: Machine,
    jobs: BTreeMap<JobId, State>,
    result: WhatIf,
    now_ns: u64,
    next_ns: u64,
    /// Who was denied the last time: not said again as long as it stays so.
    denied: BTreeSet<JobId>,
}

impl Play<'_> {
    fn run_to(&mut self, ns: u64) {
        loop {
            let next = self.next_ns.min(self.request_edge_ns());
            if next >= ns {
                break;
            }
            self.pass_to(next);
            self.ask();
        }
        self.pass_to(ns);
    }

    /// When the next request begins or ends.
    fn request_edge_ns(&self) -> u64 {
        let requests = self.known.requests.as_deref().unwrap_or_default();
        let over = requests.partition_point(|(_, to)| *to <= self.now_ns);
        requests.get(over).map_or(
            u64::MAX,
            |(from, to)| {
                if *from > self.now_ns {
                    *from
                } else {
                    *to
                }
            },
        )
    }

    fn pass_to(&mut self, ns: u64) {
        let passed = ns.saturating_sub(self.now_ns);
        for (id, state) in self.jobs.iter().filter(|(_, state)| state.present) {
            let totals = self.result.jobs.entry(id.clone()).or_default();
            match state.held {
                true => totals.held_ns += passed,
                false => totals.run_ns += passed,
            }
            totals.recorded_ns += if state.was_held { passed } else { 0 };
        }
        self.now_ns = self.now_ns.max(ns);
    }

    fn activity(&self, job: &Job) -> Activity {
        let now_ns = self.now_ns;
        let requests = self.known.requests.as_deref();
        match requests.filter(|_| job.class == Class::Online) {
            Some(requests) => {
                let begun = requests.partition_point(|(from, _)| *from <= now_ns);
                let last = requests[..begun].last().map(|(_, to)| *to);
                Activity {
                    pending: u64::from(last.is_some_and(|to| to > now_ns)),
                    last_ns: last.map(|to| to.min(now_ns)),
                    counted_ns: None,
                }
            }
            None => {
                let mut pids = job.members.iter().map(|member| member.pid);
                let pending = pids.any(|pid| self.machine.has_compute(pid));
                Activity {
                    pending: u64::from(pending),
                    last_ns: None,
                    counted_ns: None,
                }
            }
        }
    }

    fn view(&mut self) -> View {
        let mut processes = Vec::new();
        for (pid, gpus) in self.machine.gpus() {
            let of_events = self.machine.facts.get(&pid);
            let facts = self.known.facts.get(&pid).or(of_events);
            let unknown = Facts::new(pid);
            let assigned = self.config.rules.assign(facts.unwrap_or(&unknown));
            let state = self.jobs.get(&assigned.job);
            let held = state.is_some_and(|state| state.held && state.pids.contains(&pid));
            processes.push((assigned, Member { pid, gpus, held }));
        }
        let mut jobs = Job::gather(processes, self.now_ns);
        let names: BTreeSet<&JobId> = jobs.iter().map(|job| &job.id).collect();
        for (id, state) in &mut self.jobs {
            if !names.contains(id) {
                *state = State::default();
            }
        }
        for job in &mut jobs {
            job.activity = self.activity(job);
            let was_held = job.members.iter().any(|m| self.machine.was_held(m.pid));
            let now_ns = self.now_ns;
            let state = self.jobs.entry(job.id.clone()).or_default();
            if !state.present {
                state.since_ns = now_ns;
            }
            state.present = true;
            state.was_held = was_held;
            let totals = self.result.jobs.entry(job.id.clone()).or_default();
            (job.run_ns, job.paused_ns) = (totals.run_ns, totals.held_ns);
            job.since_ns = state.since_ns;
        }
        View {
            jobs,
            cost: self.known.cost,
            ..View::default()
        }
    }

    fn ask(&mut self) {
        let view = self.view();
        let decision = self.decider.decide(&view, self.now_ns);
        self.next_ns = decision.next_ns;
        for order in &decision.to_release {
            if let Some(state) = self.jobs.get_mut(&order.job) {
                state.held = false;
                state.since_ns = self.now_ns;
            }
        }
        for order in &decision.to_hold {
            if let Some(state) = self.jobs.get_mut(&order.job) {
                if !state.held {
                    state.since_ns = self.now_ns;
                    self.result.jobs.entry(order.job.clone()).or_default().holds += 1;
                }
                state.held = true;
                state.pids = order.pids.iter().copied().collect();
            }
        }
        let denied: BTreeSet<JobId> = decision.denied.iter().map(|d| d.job.clone()).collect();
        let mut news = !decision.to_hold.is_empty() || !decision.to_release.is_empty();
        for job in denied.difference(&self.denied) {
            self.result.jobs.entry(job.clone()).or_default().denials += 1;
            news = true;
        }
        self.denied = denied;
        if news {
            self.result.decisions.push(decision);
        }
    }
}

#[cfg(test)]
mod tests;

// SPDX-License-Identifier: MIT OR Apache-2.0
//! `share`: offline jobs take turns, by weight.
//!
//! **Algorithm.** Each job has a virtual time: the time that it could run, divided by its weight. When a turn ends, the job that is
//! furthest behind gets the next one, and those that it can meet on a GPU are held; then the next that meets none of the chosen, and so
//! on, so that jobs on different GPUs run at the same time. Over many turns, jobs that compete get run time in proportion to their weights.
//! A job that runs because a guard demands it pays for that time like for any other.
//!
//! **Idle jobs.** A job without a packet for `idle_after` takes part in nothing: it is not held, since that costs an interruption
//! and gains nothing, it pays for nothing, and its turn passes to the next. When it has work again, it begins level with the one that is
//! furthest behind of those that were busy: nobody saves up time by sleeping. A job whose packets cannot be seen counts as busy.
//!
//! **Failure mode.** A job that has a packet every now and then keeps its turn for little work: what is shared is time on the GPU, not work done.
//! And the guards come after: of two jobs with weights 9 and 1 the second is held nine tenths of the time, which a
//! `pause_share` of 0.5 does not allow. Then they run together for a while; the decisions name the guard.

use std::collections::{BTreeMap, BTreeSet};

use super::{config, Class, Job, JobId, Policy, PolicyName, Trigger, View, Want, Wanted};

/// Parts of a nanosecond in which virtual time is counted, so that great weights lose little by rounding.
const FRACTIONS: u128 = 1 << 20;

#[derive(Debug, Default)]
struct Account {
    virtual_time: u128,
    /// Run time that was counted.
    run_ns: u64,
    busy: bool,
}

#[derive(Debug)]
pub(super) struct Share {
    turn_ns: u64,
    idle_after_ns: u64,
    accounts: BTreeMap<JobId, Account>,
    /// Whose turn it is.
    chosen: BTreeSet<JobId>,
    turn_ends_ns: u64,
}

impl Share {
    pub(super) fn new(parameters: &config::Share) -> Self {
        Self {
            turn_ns: parameters.turn,
            idle_after_ns: parameters.idle_after,
            accounts: BTreeMap::new(),
            chosen: BTreeSet::new(),
            turn_ends_ns: 0,
        }
    }

    /// Until when the job counts as busy.
    fn busy_until_ns(&self, job: &Job) -> u64 {
        job.activity
            .until_ns(self.idle_after_ns)
            .unwrap_or(u64::MAX)
    }

    /// Charges what was run since the last time, and lets those in that have work again.
    fn charge(&mut self, jobs: &[&Job], now_ns: u64) {
        let ids: BTreeSet<&JobId> = jobs.iter().map(|job| &job.id).collect();
        self.accounts.retain(|id, _| ids.contains(id));
        for job in jobs {
            let account = self.accounts.entry(job.id.clone()).or_default();
            let run = job.run_ns.saturating_sub(account.run_ns);
            account.run_ns = job.run_ns;
            if account.busy {
                let cost = u128::from(run) * FRACTIONS / u128::from(job.weight.max(1));
                account.virtual_time = account.virtual_time.saturating_add(cost);
            }
        }
        let busy = self.accounts.values().filter(|account| account.busy);
        let behind = busy.map(|account| account.virtual_time).min();
        for job in jobs {
            let busy = self.busy_until_ns(job) > now_ns;
            let account = self.accounts.entry(job.id.clone()).or_default();
            if let (true, false, Some(behind)) = (busy, account.busy, behind) {
                account.virtual_time = account.virtual_time.max(behind);
            }
            account.busy = busy;
        }
    }
}

impl Policy for Share {
    fn name(&self) -> PolicyName {
        PolicyName::Share
    }

    fn want(&mut self, view: &View, now_ns: u64) -> Wanted {
        let jobs: Vec<&Job> = view.of(Class::Offline).collect();
        self.charge(&jobs, now_ns);
        let mut busy: Vec<&Job> = jobs
            .into_iter()
            .filter(|job| self.accounts.get(&job.id).is_some_and(|a| a.busy))
            .collect();
        let turn_over = now_ns >= self.turn_ends_ns;
        busy.sort_by_key(|job| {
            let keeps = !turn_over && self.chosen.contains(&job.id);
            let behind = self.accounts.get(&job.id).map(|a| a.virtual_time);
            (!keeps, behind, &job.id)
        });
        let mut chosen: Vec<&Job> = Vec::new();
        let mut waiting: Vec<(&Job, &Job)> = Vec::new();
        for job in busy {
            match chosen.iter().find(|other| other.meets(job)) {
                Some(other) => waiting.push((job, other)),
                None => chosen.push(job),
            }
        }
        let now_chosen: BTreeSet<JobId> = chosen.iter().map(|job| job.id.clone()).collect();
        if turn_over || !self.chosen.is_subset(&now_chosen) {
            self.turn_ends_ns = now_ns.saturating_add(self.turn_ns);
        }
        self.chosen = now_chosen;
        let mut wanted = Wanted::default();
        if !waiting.is_empty() {
            wanted.ask_at(self.turn_ends_ns);
            for job in &chosen {
                wanted.ask_at(self.busy_until_ns(job));
            }
        }
        for (job, other) in waiting {
            wanted.ask_at(self.busy_until_ns(job));
            wanted.hold.push(Want {
                job: job.id.clone(),
                trigger: Trigger::Turn,
                why: format!("it is the turn of {}", other.id),
            });
        }
        wanted
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! What no policy can override. The guards take what a policy wants and let pass what is safe; they remember on their own when each
//! job was held and when each GPU was preempted, so that another policy or another configuration finds the same past.
//!
//! A hold must be allowed by every guard. A release is never denied: a job that must not be held any longer, or that nobody wants
//! held, is released, again and again until it is seen to run.
//!
//! **Timing.** The guards act only when they are asked. So each decision says when that must be, early enough that a release which
//! takes as long as the margin is still in time. A caller that comes too late is answered by the lease that each order names.
//!
//! **What they cannot do.** They see the holds of this daemon only: a pause by somebody else does not count. They cannot make a
//! driver release. A job that appears under a new name is a new job with a past of its own. And to a collective operation that gets
//! nowhere in `min_run`, two pauses are one: whoever has such operations lengthens it.

mod ledger;
mod limits;
mod rate;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

pub use limits::Limits;

use super::decision::{Decision, Denied, GuardName, HoldOrder, Kept, PolicyName, ReleaseOrder};
use super::duration::show;
use super::view::{Class, Job, JobId, Member, Rounds, View};
use super::{Want, Wanted};
use crate::event::{GpuId, Pid};
use ledger::Ledger;
use limits::shortest_pause_ns;
use rate::Rate;

/// Asked sooner than that, nothing is different.
const STEP_NS: u64 = 1_000_000;

/// Asked at least so often, whatever happens: what changes wakes the daemon, and what runs out says when.
const HEARTBEAT_NS: u64 = 10_000_000_000;

/// A release that is not seen is ordered again so much later.
const RELEASE_AGAIN_NS: u64 = 50_000_000;

/// What is remembered to guard jobs and GPUs.
#[derive(Clone, Debug, Default)]
pub struct Guard {
    limits: Limits,
    jobs: BTreeMap<JobId, Ledger>,
    gpus: BTreeMap<GpuId, Rate>,
    /// When a GPU did not answer.
    hung_ns: Option<u64>,
    /// The latest time that was told: a clock that goes back makes no pause shorter.
    clock_ns: u64,
}

/// Why a job may not be held.
struct No {
    guard: GuardName,
    why: String,
    retry_ns: Option<u64>,
}

impl No {
    fn new(guard: GuardName, retry_ns: Option<u64>, why: String) -> Self {
        Self {
            guard,
            why,
            retry_ns,
        }
    }
}

impl Guard {
    /// With nothing in memory.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            ..Self::default()
        }
    }

    /// Other limits for the same past.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// A GPU did not answer in time (ETIME). It is reset, and every process of the host that uses a GPU loses its queues: from now on
    /// nothing is held, until [`go_on`](Self::go_on).
    pub fn hung(&mut self, now_ns: u64) {
        let now_ns = self.clock(now_ns);
        self.hung_ns.get_or_insert(now_ns);
    }

    /// When a GPU did not answer, if that was not answered for yet.
    #[must_use]
    pub fn hung_ns(&self) -> Option<u64> {
        self.hung_ns
    }

    /// Somebody who knows the machine says that jobs may be held again.
    pub fn go_on(&mut self) {
        self.hung_ns = None;
    }

    /// The driver refused to hold the job, or a part of it. What is held of it is released with the next decision.
    pub fn refused(&mut self, job: &JobId, now_ns: u64) {
        let now_ns = self.clock(now_ns);
        self.jobs.entry(job.clone()).or_default().refused(now_ns);
    }

    /// The time that counts.
    pub(super) fn clock(&mut self, now_ns: u64) -> u64 {
        self.clock_ns = self.clock_ns.max(now_ns);
        self.clock_ns
    }

    fn margin_ns(&self, view: &View) -> u64 {
        self.limits.margin.max(view.cost.latency_ns)
    }

    fn observe(&mut self, jobs: &BTreeMap<&JobId, &Job>, now_ns: u64) {
        for (id, job) in jobs {
            let ledger = self.jobs.entry((*id).clone()).or_default();
            ledger.observe(job.is_held(), job.since_ns, now_ns);
            if job.is_held() && !job.is_split() && ledger.refused_until(now_ns).is_none() {
                ledger.accepted();
            }
        }
        self.jobs.retain(|id, ledger| {
            if !jobs.contains_key(id) {
                ledger.gone(now_ns);
            }
            !ledger.is_stale(now_ns)
        });
        self.gpus.retain(|_, rate| {
            rate.forget(now_ns);
            !rate.is_empty()
        });
    }

    /// When a job that is held since then must run again, and which guard says so.
    fn until(&self, job: &Job, ledger: &Ledger, since_ns: u64, now_ns: u64) -> (u64, GuardName) {
        let limits = &self.limits;
        let max_pause = job
            .max_pause_ns
            .map_or(limits.max_pause, |ns| ns.min(limits.max_pause));
        let paused = ledger.paused_ns(limits.window, now_ns);
        let left = limits.budget_ns().saturating_sub(paused);
        let bounds = [
            (since_ns.saturating_add(max_pause), GuardName::MaxPause),
            (
                since_ns.saturating_add(limits.collective_timeout / 2),
                GuardName::Collective,
            ),
            (now_ns.saturating_add(left), GuardName::PauseShare),
        ];
        let mut first = bounds[0];
        for bound in bounds {
            if bound.0 < first.0 {
                first = bound;
            }
        }
        first
    }

    fn limit_in_words(&self, guard: GuardName) -> String {
        let limits = &self.limits;
        match guard {
            GuardName::Collective => format!(
                "no pause is longer than half of the collective timeout of {}",
                show(limits.collective_timeout)
            ),
            GuardName::PauseShare => format!(
                "no job is held for more than {} of any {}",
                show(limits.budget_ns()),
                show(limits.window)
            ),
            _ => "the longest pause that its rule and the guards allow".to_owned(),
        }
    }

    /// What every hold needs, new ones and those that go on.
    fn may_be_held(&self, job: &Job, now_ns: u64) -> Result<(), No> {
        if job.class != Class::Offline {
            let why = format!("it is {}, and only offline jobs are held", job.class.name());
            return Err(No::new(GuardName::Class, None, why));
        }
        if let Some(at) = self.hung_ns {
            let why = format!(
                "a GPU did not answer {} ago; nothing is held until somebody says so",
                show(now_ns.saturating_sub(at))
            );
            return Err(No::new(GuardName::Hang, None, why));
        }
        Ok(())
    }

    /// Whether a job that runs may be held, and until when.
    fn admit(&self, job: &Job, ledger: &Ledger, margin_ns: u64, now_ns: u64) -> Result<u64, No> {
        self.may_be_held(job, now_ns)?;
        if let Some(until) = ledger.refused_until(now_ns) {
            let why = format!(
                "the driver refused; tried again in {}",
                show(until.saturating_sub(now_ns))
            );
            return Err(No::new(GuardName::Refusal, Some(until), why));
        }
        let min_run = job.min_run_ns.unwrap_or(0).max(self.limits.min_run);
        if let Some(at) = ledger.has_run_at(min_run).filter(|at| *at > now_ns) {
            let why = format!(
                "it runs for {} between two pauses; {} of that are left",
                show(min_run),
                show(at.saturating_sub(now_ns))
            );
            return Err(No::new(GuardName::MinRun, Some(at), why));
        }
        let (until, guard) = self.until(job, ledger, now_ns, now_ns);
        let least = shortest_pause_ns(margin_ns);
        if until.saturating_sub(now_ns) < least {
            let limits = &self.limits;
            let retry = limits
                .budget_ns()
                .checked_sub(least)
                .filter(|_| guard == GuardName::PauseShare)
                .map(|paused| ledger.paused_at_most_at(paused, limits.window, now_ns));
            return Err(No::new(guard, retry, self.limit_in_words(guard)));
        }
        Ok(until)
    }

    /// Whether the GPUs of these members may be preempted once more; `charged` are those that the same call preempts anyway.
    fn rate(
        &self,
        members: &[Member],
        rounds: Rounds,
        charged: &BTreeSet<GpuId>,
        now_ns: u64,
    ) -> Result<BTreeMap<GpuId, u32>, No> {
        let mut needed: BTreeMap<GpuId, u32> = BTreeMap::new();
        for gpu_id in members.iter().flat_map(|member| &member.gpus) {
            let of_gpu = needed.entry(*gpu_id).or_default();
            *of_gpu = match rounds {
                Rounds::Call => u32::from(!charged.contains(gpu_id)),
                Rounds::Process => of_gpu.saturating_add(1),
            };
        }
        let Limits {
            preemptions: most,
            rate_window: window,
            ..
        } = self.limits;
        for (gpu_id, needed) in &needed {
            let rate = self.gpus.get(gpu_id);
            let count = rate.map_or(0, |rate| rate.count(window, now_ns));
            if *needed == 0 || count.saturating_add(*needed) <= most {
                continue;
            }
            let before = most.checked_sub(*needed);
            let retry = before.and_then(|before| Some(rate?.at_most_at(before, window, now_ns)));
            let why = format!(
                "GPU {gpu_id} was preempted {count} times in {}, this needs {needed} more, {most} are allowed",
                show(window)
            );
            return Err(No::new(GuardName::Rate, retry, why));
        }
        Ok(needed)
    }

    /// Whether a job that is held may stay so, and until when.
    fn keep(&self, job: &Job, ledger: &Ledger, margin_ns: u64, now_ns: u64) -> Result<u64, No> {
        self.may_be_held(job, now_ns)?;
        if ledger.releasing {
            let why = "it was ordered to run and has to be seen to do so first".to_owned();
            return Err(No::new(GuardName::MinRun, None, why));
        }
        if job.is_split() && ledger.refused_until(now_ns).is_some() {
            let why = "the driver refused to hold a part of it".to_owned();
            return Err(No::new(GuardName::Gang, None, why));
        }
        let since = ledger.held_since().unwrap_or(now_ns);
        let (until, guard) = self.until(job, ledger, since, now_ns);
        let due = now_ns.saturating_add(margin_ns).saturating_add(STEP_NS);
        match due < until {
            true => Ok(until),
            false => Err(No::new(guard, None, self.limit_in_words(guard))),
        }
    }

    /// Decides: what the policy wants, as far as it is safe.
    #[must_use]
    pub fn apply(
        &mut self,
        view: &View,
        policy: PolicyName,
        wanted: &Wanted,
        now_ns: u64,
    ) -> Decision {
        let now_ns = self.clock(now_ns);
        let jobs: BTreeMap<&JobId, &Job> = view.jobs.iter().map(|job| (&job.id, job)).collect();
        self.observe(&jobs, now_ns);
        let mut work = Work {
            margin_ns: self.margin_ns(view),
            rounds: view.cost.rounds,
            charged: BTreeSet::new(),
            decision: Decision {
                now_ns,
                policy,
                to_hold: Vec::new(),
                to_release: Vec::new(),
                kept: Vec::new(),
                denied: Vec::new(),
                next_ns: now_ns.saturating_add(HEARTBEAT_NS),
            },
        };
        let mut left = jobs;
        for want in &wanted.hold {
            if let Some(job) = left.remove(&want.job) {
                self.wanted(job, want, &mut work);
            }
        }
        for job in left.into_values().filter(|job| job.is_held()) {
            let why = "nobody wants it held".to_owned();
            self.release(job, None, why, &mut work);
        }
        if let Some(next) = wanted.next_ns {
            work.ask_at(next);
        }
        work.decision
    }

    fn wanted(&mut self, job: &Job, want: &Want, work: &mut Work) {
        let now_ns = work.decision.now_ns;
        let held = job.is_held();
        let unknown = Ledger::default();
        let ledger = self.jobs.get(&job.id).unwrap_or(&unknown);
        let verdict = match held {
            true => self.keep(job, ledger, work.margin_ns, now_ns),
            false => self.admit(job, ledger, work.margin_ns, now_ns),
        };
        let verdict = verdict.and_then(|until_ns| {
            // What is held as a whole needs no call. Else the call is about all of it, so that nothing of it is left out.
            let concerned: &[Member] = match held && !job.is_split() {
                true => &[],
                false => &job.members,
            };
            let needed = self
                .rate(concerned, work.rounds, &work.charged, now_ns)
                .map_err(|no| match held {
                    // A part of it runs, and that part cannot be held now.
                    true => No::new(GuardName::Gang, None, no.why),
                    false => no,
                })?;
            Ok((until_ns, needed))
        });
        let (until_ns, needed) = match verdict {
            Ok(allowed) => allowed,
            Err(no) => {
                if let Some(retry_ns) = no.retry_ns {
                    work.ask_at(retry_ns);
                }
                if held {
                    self.release(job, Some(no.guard), no.why.clone(), work);
                }
                work.decision.denied.push(Denied {
                    job: job.id.clone(),
                    rule: job.rule,
                    trigger: want.trigger,
                    guard: no.guard,
                    why: no.why,
                    retry_ns: no.retry_ns,
                });
                return;
            }
        };
        if job.members.is_empty() {
            return;
        }
        work.ask_at(until_ns.saturating_sub(work.margin_ns.saturating_add(STEP_NS)));
        if held && !job.is_split() {
            work.decision.kept.push(Kept {
                job: job.id.clone(),
                trigger: want.trigger,
                why: want.why.clone(),
                until_ns,
            });
            return;
        }
        for (gpu_id, rounds) in needed {
            if rounds > 0 {
                self.gpus.entry(gpu_id).or_default().add(rounds, now_ns);
                work.charged.insert(gpu_id);
            }
        }
        if let Entry::Occupied(mut ledger) = self.jobs.entry(job.id.clone()) {
            ledger.get_mut().hold(now_ns);
        }
        work.decision.to_hold.push(HoldOrder {
            job: job.id.clone(),
            rule: job.rule,
            pids: pids(job),
            gpus: job.gpus().into_iter().collect(),
            trigger: want.trigger,
            why: want.why.clone(),
            until_ns,
        });
    }

    fn release(&mut self, job: &Job, guard: Option<GuardName>, why: String, work: &mut Work) {
        if let Some(ledger) = self.jobs.get_mut(&job.id) {
            ledger.releasing = true;
        }
        work.ask_at(work.decision.now_ns.saturating_add(RELEASE_AGAIN_NS));
        work.decision.to_release.push(ReleaseOrder {
            job: job.id.clone(),
            rule: job.rule,
            pids: pids(job),
            gpus: job.gpus().into_iter().collect(),
            guard,
            why,
        });
    }
}

fn pids(job: &Job) -> Vec<Pid> {
    job.members.iter().map(|member| member.pid).collect()
}

/// A decision in the making.
struct Work {
    margin_ns: u64,
    rounds: Rounds,
    /// GPUs that this decision preempts.
    charged: BTreeSet<GpuId>,
    decision: Decision,
}

impl Work {
    fn ask_at(&mut self, ns: u64) {
        let soonest = self.decision.now_ns.saturating_add(STEP_NS);
        self.decision.next_ns = self.decision.next_ns.min(ns.max(soonest));
    }
}

#[cfg(test)]
mod tests;

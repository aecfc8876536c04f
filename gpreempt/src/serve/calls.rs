// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the daemon does for those who call it: each call checks what the caller may, and is carried out in the controller's
//! thread.

use std::collections::{BTreeMap, BTreeSet};

use super::access::{allowed, Caller, Right};
use super::api::{
    Asked, AskedJob, Done, JobInfo, QueueInfo, Register, Registered, SetPolicy, Setting, Status,
    Whom, WishInfo,
};
use super::audit::{self, AuditRecord};
use super::controller::Controller;
use super::seconds;
use crate::control::agent::Agents;
use crate::event::Pid;
use crate::kfd::{boottime_ns, process};
use crate::policy::{Access, Assigned, Class, Explanation, JobId, PolicyName, Wish};

/// Why a call is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// 403.
    Denied(String),
    /// 404.
    NotFound(String),
    /// 422.
    Wrong(String),
    /// 503.
    Busy(String),
}

pub(super) type Answer<T> = Result<T, Refusal>;

/// Refuses a caller who may not do that.
pub(super) fn permit(access: &Access, caller: Caller, right: Right) -> Answer<()> {
    match allowed(access, caller, right) {
        true => Ok(()),
        false => Err(Refusal::Denied(format!(
            "user {} may not do that: {} of [access] in the daemon's configuration says who may",
            caller.uid,
            right.name()
        ))),
    }
}

/// What a hold or its opposite asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    Hold,
    Resume,
    /// As the policy likes.
    Free,
}

impl Ask {
    fn name(self) -> &'static str {
        match self {
            Self::Hold => "hold",
            Self::Resume => "resume",
            Self::Free => "free",
        }
    }
}

impl Controller {
    fn check(&self, caller: Caller, right: Right) -> Answer<()> {
        permit(&self.settings.config.access, caller, right)
    }

    pub(super) fn status(&mut self, caller: Caller) -> Answer<Status> {
        self.check(caller, Right::Read)?;
        let now_ns = boottime_ns();
        let mut jobs: BTreeMap<JobId, Class> = BTreeMap::new();
        for process in self.jobs.processes.values() {
            let of = jobs
                .entry(process.assigned.job.clone())
                .or_insert(Class::Offline);
            *of = (*of).max(process.assigned.class);
        }
        let mut jobs_by_class: BTreeMap<String, u32> = BTreeMap::new();
        for class in jobs.values() {
            *jobs_by_class.entry(class.name().to_owned()).or_default() += 1;
        }
        let (backend, why) = self.hands.backend();
        let [holds_total, releases_total, refusals_total, denials_total] = self.metrics.totals();
        let events_why = match &self.events {
            Ok(0) => None,
            Ok(missed) => Some(format!("{missed} probes could not be attached")),
            Err(why) => Some(why.clone()),
        };
        Ok(Status {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: Pid(std::process::id()),
            since_ns: self.since_ns,
            now_ns,
            policy: self.decider.policy(),
            dry_run: self.dry,
            backend,
            backend_why: why.to_owned(),
            events: self.events.is_ok(),
            events_why,
            lost_total: self.lost_total,
            hung: self.decider.guard().hung_ns().is_some(),
            reservations: self.reservations.state().to_vec(),
            hints: self.desk.with(|hints| hints.active(now_ns)),
            jobs_by_class,
            jobs_held: u32::try_from(self.orders.len()).unwrap_or(u32::MAX),
            holds_total,
            releases_total,
            refusals_total,
            denials_total,
            hold_latency_ns: self.hold_latency_ns(),
        })
    }

    pub(super) fn list_jobs(&mut self, caller: Caller) -> Answer<Vec<JobInfo>> {
        self.check(caller, Right::Read)?;
        let now_ns = boottime_ns();
        let hands = &self.hands;
        let jobs = self.jobs.view(|pid| hands.holds(pid), now_ns);
        let infos = jobs.into_iter().map(|job| {
            let of_it = |pid: &Pid| self.jobs.processes.get(pid);
            let pids: Vec<Pid> = job.members.iter().map(|member| member.pid).collect();
            let order = self.orders.get(&job.id);
            let gpus: BTreeSet<_> = job.members.iter().flat_map(|m| &m.gpus).copied().collect();
            let queues: usize = pids.iter().filter_map(of_it).map(|p| p.queues.len()).sum();
            JobInfo {
                class: job.class,
                rule: job.rule,
                registered: pids
                    .iter()
                    .filter_map(of_it)
                    .any(|process| process.registered.is_some()),
                weight: job.weight,
                gpus: gpus.into_iter().collect(),
                queues: u32::try_from(queues).unwrap_or(u32::MAX),
                held: job.is_held(),
                since_ns: job.since_ns,
                until_ns: order.map(|order| order.until_ns),
                why: order.map(|order| order.why.clone()),
                run_ns: job.run_ns,
                paused_ns: job.paused_ns,
                holds: self.jobs.account(&job.id, now_ns).holds,
                pending: (job.class == Class::Online && job.activity.last_ns.is_some())
                    .then_some(job.activity.pending),
                wish: self.wishes.get(&job.id).map(|wish| WishInfo {
                    hold: wish.hold,
                    until_ns: wish.until_ns,
                }),
                pids,
                job: job.id,
            }
        });
        Ok(infos.collect())
    }

    pub(super) fn list_queues(&mut self, caller: Caller) -> Answer<Vec<QueueInfo>> {
        self.check(caller, Right::Read)?;
        let queues = self.jobs.processes.iter().flat_map(|(pid, process)| {
            let held = self.hands.holds(*pid);
            process
                .queues
                .iter()
                .map(move |((gpu_id, queue_id), queue_type)| QueueInfo {
                    pid: *pid,
                    comm: process.facts.comm.map(|comm| comm.to_string()),
                    job: process.assigned.job.clone(),
                    class: process.assigned.class,
                    gpu_id: *gpu_id,
                    queue_id: *queue_id,
                    queue_type: *queue_type,
                    held,
                })
        });
        Ok(queues.collect())
    }

    pub(super) fn explain(&mut self, caller: Caller, pid: Pid) -> Answer<Explanation> {
        self.check(caller, Right::Read)?;
        // It tells what procfs hides from other users: which file a process executes.
        if process::owner(&self.root, pid) != Some(caller.uid) {
            self.check(caller, Right::Policy)?;
        }
        let rules = &self.settings.config.rules;
        let explanation = self.jobs.explain(&self.root, rules, pid);
        explanation.ok_or_else(|| Refusal::NotFound(format!("there is no process {pid}")))
    }

    pub(super) fn config(&mut self, caller: Caller) -> Answer<Vec<Setting>> {
        self.check(caller, Right::Read)?;
        Ok(self.settings.settings().to_vec())
    }

    pub(super) fn register(&mut self, caller: Caller, asked: &Register) -> Answer<Registered> {
        let pid = asked.pid.or(caller.pid).ok_or_else(|| {
            Refusal::Wrong("the caller's process is not known here: name a pid".to_owned())
        })?;
        let may_all = allowed(&self.settings.config.access, caller, Right::Register);
        let own = process::owner(&self.root, pid) == Some(caller.uid);
        let harmless = own && asked.class == Class::Offline;
        if !may_all && !harmless {
            return Err(Refusal::Denied(
                "everybody may register own processes as offline; more takes the right `register` of [access]".to_owned(),
            ));
        }
        let rules = &self.settings.config.rules;
        if process::start_ticks(&self.root, pid).is_none() {
            return Err(Refusal::NotFound(format!("there is no process {pid}")));
        }
        let weight = asked.weight.unwrap_or(1);
        if !(1..=10_000).contains(&weight) {
            return Err(Refusal::Wrong(
                "a weight is a number from 1 to 10000".to_owned(),
            ));
        }
        let job = match &asked.group {
            None => JobId::of(pid),
            Some(name) if !is_name(name) => {
                return Err(Refusal::Wrong(
                    "a group is named by 1 to 128 printable ASCII characters that do not begin with pid:"
                        .to_owned(),
                ))
            }
            Some(name) if may_all => JobId::from(name.as_str()),
            // A group of the rules' is not to be joined by everybody: it is held as a whole.
            Some(name) => JobId::from(format!("uid:{}/{name}", caller.uid).as_str()),
        };
        self.jobs.look_at(&self.root, rules, pid);
        let ns = |ms: u64| ms.saturating_mul(1_000_000);
        let assigned = Assigned {
            job: job.clone(),
            class: asked.class,
            rule: None,
            weight,
            max_pause_ns: asked.max_pause_ms.map(ns),
            min_run_ns: asked.min_run_ms.map(ns),
        };
        if let Some(process) = self.jobs.processes.get_mut(&pid) {
            process.register(assigned);
        }
        self.audit.put(AuditRecord::Registered(audit::Registered {
            by: caller.into(),
            pid,
            class: asked.class,
            job: job.clone(),
        }));
        self.touch();
        Ok(Registered { job })
    }

    /// As [`Controller::register`], of the caller itself, which from then on obeys. Returns where, and as whom, it is to be added.
    pub(super) fn register_agent(
        &mut self,
        caller: Caller,
        asked: &Register,
    ) -> Answer<(Agents, Pid, u64)> {
        let unknown =
            || Refusal::Wrong("an agent's process must be one that the daemon can see".to_owned());
        let pid = caller.pid.ok_or_else(unknown)?;
        if asked.pid.is_some_and(|named| named != pid) {
            return Err(Refusal::Wrong(
                "an agent is that of its own process".to_owned(),
            ));
        }
        let start_ticks = process::start_ticks(&self.root, pid).ok_or_else(unknown)?;
        self.register(caller, asked)?;
        Ok((self.agents.clone(), pid, start_ticks))
    }

    /// Notes what is asked for; [`Controller::asked`] says what came of it.
    pub(super) fn ask(&mut self, caller: Caller, ask: Ask, whom: &Whom) -> Answer<Vec<JobId>> {
        self.check(caller, Right::Hold)?;
        let now_ns = boottime_ns();
        let known: BTreeSet<JobId> = self
            .jobs
            .processes
            .values()
            .map(|process| process.assigned.job.clone())
            .collect();
        let mut jobs = BTreeSet::new();
        for job in &whom.jobs {
            match known.contains(job) {
                true => jobs.insert(job.clone()),
                false => {
                    return Err(Refusal::NotFound(format!(
                        "there is no job {job:?}",
                        job = job.0
                    )))
                }
            };
        }
        for pid in &whom.pids {
            match self.jobs.processes.get(pid) {
                Some(process) => jobs.insert(process.assigned.job.clone()),
                None => {
                    return Err(Refusal::NotFound(format!(
                        "process {pid} has not opened /dev/kfd, or has ended"
                    )))
                }
            };
        }
        if jobs.is_empty() {
            return Err(Refusal::Wrong("name a job or a pid".to_owned()));
        }
        let until_ns = whom
            .for_ms
            .map(|ms| now_ns.saturating_add(ms.saturating_mul(1_000_000)));
        for job in &jobs {
            match ask {
                Ask::Free => {
                    self.wishes.remove(job);
                }
                Ask::Hold | Ask::Resume => {
                    let hold = ask == Ask::Hold;
                    self.wishes.insert(job.clone(), Wish { hold, until_ns });
                }
            }
        }
        let jobs: Vec<JobId> = jobs.into_iter().collect();
        self.audit.put(AuditRecord::Asked(audit::Asked {
            by: caller.into(),
            what: ask.name().to_owned(),
            jobs: jobs.clone(),
            for_ms: whom.for_ms,
        }));
        self.touch();
        Ok(jobs)
    }

    /// What came of it.
    pub(super) fn asked(&self, ask: Ask, jobs: Vec<JobId>) -> Asked {
        let now_ns = boottime_ns();
        let of = |job: JobId| {
            let held = self
                .jobs
                .pids_of(&job)
                .iter()
                .any(|pid| self.hands.holds(*pid));
            let done = match ask {
                Ask::Hold => held,
                Ask::Resume => !held,
                Ask::Free => true,
            };
            let denied = self.denied.get(&job);
            let why = match (self.orders.get(&job), denied) {
                (Some(order), _) => {
                    let left = order.until_ns.saturating_sub(now_ns);
                    format!(
                        "{}; it runs again in {:.1} s at the latest",
                        order.why,
                        seconds(left)
                    )
                }
                (None, Some((guard, why))) => format!("guard {guard}: {why}"),
                (None, None) if ask == Ask::Hold => "it is not there any more".to_owned(),
                (None, None) => "it runs".to_owned(),
            };
            AskedJob {
                job,
                held,
                done,
                why,
            }
        };
        Asked {
            jobs: jobs.into_iter().map(of).collect(),
        }
    }

    pub(super) fn set_policy(&mut self, caller: Caller, asked: SetPolicy) -> Answer<Done> {
        self.check(caller, Right::Policy)?;
        let from: PolicyName = self.decider.policy();
        let mut config = self.settings.config.clone();
        config.policy.name = asked.name;
        if let Some(fault) = config.policy.fault() {
            return Err(Refusal::Wrong(fault));
        }
        self.decider.reload(&config);
        self.settings.config = config;
        self.audit.put(AuditRecord::Policy(audit::PolicyChanged {
            by: caller.into(),
            from,
            to: asked.name,
        }));
        self.touch();
        Ok(Done {
            what: format!(
                "policy {} decides, until the configuration is read again",
                asked.name
            ),
        })
    }

    pub(super) fn read_again(&mut self, caller: Caller) -> Answer<Done> {
        self.check(caller, Right::Policy)?;
        self.reload(Some(caller.into())).map_err(Refusal::Wrong)?;
        Ok(Done {
            what: format!(
                "{} rules, policy {}",
                self.settings.config.rules.len(),
                self.decider.policy()
            ),
        })
    }

    pub(super) fn go_on(&mut self, caller: Caller) -> Answer<Done> {
        self.check(caller, Right::Policy)?;
        let hung = self.decider.guard().hung_ns().is_some();
        self.decider.go_on();
        if hung {
            self.audit
                .put(AuditRecord::WentOn(audit::WentOn { by: caller.into() }));
        }
        self.touch();
        let what = match hung {
            true => "jobs may be held again",
            false => "no GPU had hung: nothing has changed",
        };
        Ok(Done {
            what: what.to_owned(),
        })
    }

    pub(super) fn read_audit(&mut self, caller: Caller, last: usize) -> Answer<audit::Reading> {
        self.check(caller, Right::Read)?;
        Ok(self.audit.read(last))
    }

    pub(super) fn may_read(&mut self, caller: Caller) -> Answer<()> {
        self.check(caller, Right::Read)
    }
}

fn is_name(name: &str) -> bool {
    let printable = name.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    (1..=128).contains(&name.len()) && printable && !name.starts_with("pid:")
}

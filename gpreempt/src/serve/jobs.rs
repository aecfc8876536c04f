// SPDX-License-Identifier: MIT OR Apache-2.0
//! The processes that have queues, the jobs that they form, and how long each of these ran and was held.

use std::collections::{BTreeMap, BTreeSet};

use crate::control::{Target, TargetQueue};
use crate::event::{Comm, GpuId, Pid, QueueId, QueueType};
use crate::kfd::snapshot::{self, Queue};
use crate::kfd::{process, queues, Root};
use crate::policy::{Activity, Assigned, Class, Explanation, Facts, Job, JobId, Member, Rules};

/// A process that has /dev/kfd open.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) facts: Facts,
    pub(super) start_ticks: u64,
    pub(super) queues: BTreeMap<(GpuId, QueueId), QueueType>,
    /// What it registered itself as.
    pub(super) registered: Option<Assigned>,
    pub(super) assigned: Assigned,
    pub(super) activity: Activity,
}

/// A job over time.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Account {
    pub(super) since_ns: u64,
    pub(super) held: bool,
    pub(super) run_ns: u64,
    pub(super) paused_ns: u64,
    pub(super) holds: u64,
}

impl Account {
    /// The same with the present period counted up to now.
    pub(super) fn at(mut self, now_ns: u64) -> Self {
        let passed = now_ns.saturating_sub(self.since_ns);
        match self.held {
            true => self.paused_ns += passed,
            false => self.run_ns += passed,
        }
        self
    }
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Jobs {
    pub(super) processes: BTreeMap<Pid, Process>,
    accounts: BTreeMap<JobId, Account>,
}

/// What procfs says of a process.
pub(super) fn facts(root: &Root, pid: Pid) -> Facts {
    let seen = snapshot::process(root, pid);
    Facts {
        pid,
        comm: seen.comm,
        exe: process::exe(root, pid),
        cgroup: seen.cgroup,
        uid: seen.uid,
        container: seen.container,
        cmdline: process::cmdline(root, pid),
    }
}

impl Jobs {
    /// Looks at everything anew: sysfs is right, whatever events were lost. Whether anything changed.
    pub(super) fn scan(&mut self, root: &Root, rules: &Rules) -> bool {
        let Ok(pids) = queues::processes(root) else {
            return false;
        };
        let mut changed = false;
        let before = self.processes.len();
        self.processes
            .retain(|pid, of| pids.contains(pid) && process::is_alive(root, *pid, of.start_ticks));
        changed |= self.processes.len() != before;
        for pid in &pids {
            changed |= self.look_at(root, rules, *pid);
        }
        changed
    }

    /// Looks at one process anew. Whether anything changed.
    pub(super) fn look_at(&mut self, root: &Root, rules: &Rules, pid: Pid) -> bool {
        let Some(start_ticks) = process::start_ticks(root, pid) else {
            return self.processes.remove(&pid).is_some();
        };
        let found: BTreeMap<_, _> = queues::of(root, &[pid])
            .into_iter()
            .map(|queue| {
                let of = QueueType::from_raw(queue.queue_type);
                ((queue.gpu_id, queue.queue_id), of)
            })
            .collect();
        // A program that executes another one keeps its pid and its start, and loses its queues. Rules may mean the new one.
        let facts = facts(root, pid);
        let known = self
            .processes
            .get_mut(&pid)
            .filter(|of| of.start_ticks == start_ticks);
        if let Some(known) = known {
            let changed = known.queues != found || known.facts != facts;
            known.queues = found;
            if known.facts != facts {
                known.facts = facts;
                known.assign(rules);
            }
            return changed;
        }
        let new = Process {
            assigned: rules.assign(&facts),
            facts,
            start_ticks,
            queues: found,
            registered: None,
            activity: Activity::default(),
        };
        self.processes.insert(pid, new);
        true
    }

    /// A queue came: sysfs may not show it yet.
    pub(super) fn queue_created(&mut self, pid: Pid, queue: TargetQueue) -> bool {
        let Some(process) = self.processes.get_mut(&pid) else {
            return false;
        };
        let key = (queue.gpu_id, queue.queue_id);
        process.queues.insert(key, queue.queue_type).is_none()
    }

    /// A queue went.
    pub(super) fn queue_destroyed(&mut self, pid: Pid, gpu_id: GpuId, queue_id: QueueId) -> bool {
        self.processes
            .get_mut(&pid)
            .is_some_and(|process| process.queues.remove(&(gpu_id, queue_id)).is_some())
    }

    /// It does something: a process that makes a queue is about to use it.
    pub(super) fn noticed(&mut self, pid: Pid, now_ns: u64) {
        if let Some(process) = self.processes.get_mut(&pid) {
            process.activity.last_ns = Some(now_ns);
        }
    }

    /// Processes of a job.
    pub(super) fn pids_of(&self, job: &JobId) -> Vec<Pid> {
        let of_it = self.processes.iter();
        of_it
            .filter(|(_, process)| process.assigned.job == *job)
            .map(|(pid, _)| *pid)
            .collect()
    }

    /// Other rules.
    pub(super) fn assign_all(&mut self, rules: &Rules) {
        for process in self.processes.values_mut() {
            process.assign(rules);
        }
    }

    /// Why a process is what it is; `None` if there is none.
    pub(super) fn explain(&self, root: &Root, rules: &Rules, pid: Pid) -> Option<Explanation> {
        let process = self.processes.get(&pid);
        if process.is_none() {
            process::start_ticks(root, pid)?;
        }
        let facts = match process {
            Some(process) => process.facts.clone(),
            None => facts(root, pid),
        };
        let mut explanation = rules.explain(&facts);
        if let Some(registered) = process.and_then(|process| process.registered.as_ref()) {
            explanation.rule = None;
            explanation.class = registered.class;
            explanation.job = registered.job.clone();
            explanation.why = format!(
                "it was registered as {} over the daemon's socket, which counts above the rules; of these: {}",
                registered.class.name(),
                explanation.why
            );
        }
        Some(explanation)
    }

    /// All jobs as the policy sees them. Accounts of jobs that are gone are closed.
    pub(super) fn view(&mut self, holds: impl Fn(Pid) -> bool, now_ns: u64) -> Vec<Job> {
        let members = self.processes.iter().map(|(pid, process)| {
            let gpus: BTreeSet<GpuId> = process.queues.keys().map(|(gpu, _)| *gpu).collect();
            let member = Member {
                pid: *pid,
                gpus,
                held: holds(*pid),
            };
            (process.assigned.clone(), member)
        });
        let mut jobs = Job::gather(members, now_ns);
        for job in &mut jobs {
            let held = job.is_held();
            let account = self.accounts.entry(job.id.clone()).or_insert(Account {
                since_ns: now_ns,
                held,
                ..Account::default()
            });
            if account.held != held {
                *account = Account {
                    since_ns: now_ns,
                    held,
                    holds: account.holds + u64::from(held),
                    ..account.at(now_ns)
                };
            }
            job.activity.counted_ns = Some(now_ns);
            let now = account.at(now_ns);
            job.since_ns = account.since_ns;
            job.run_ns = now.run_ns;
            job.paused_ns = now.paused_ns;
            for member in &job.members {
                if let Some(process) = self.processes.get(&member.pid) {
                    // `None` is less than any time.
                    let counted_ns = process.activity.counted_ns;
                    job.activity.counted_ns = job.activity.counted_ns.min(counted_ns);
                    job.activity.pending += process.activity.pending;
                    job.activity.last_ns = job.activity.last_ns.max(process.activity.last_ns);
                }
            }
        }
        // In order of their names, as these are.
        self.accounts
            .retain(|id, _| jobs.binary_search_by(|job| job.id.cmp(id)).is_ok());
        jobs
    }

    /// The account of a job, up to now.
    pub(super) fn account(&self, job: &JobId, now_ns: u64) -> Account {
        let account = self.accounts.get(job).copied();
        account.map_or_else(Account::default, |account| account.at(now_ns))
    }

    /// What to stop of a process; `None` if it is gone.
    pub(super) fn target(&self, pid: Pid, no_sdma: bool) -> Option<Target> {
        let process = self.processes.get(&pid)?;
        Some(Target {
            pid,
            start_ticks: process.start_ticks,
            comm: process.facts.comm.unwrap_or_else(|| Comm::from_procfs(b"")),
            queues: process
                .queues
                .iter()
                .map(|((gpu_id, queue_id), queue_type)| TargetQueue {
                    gpu_id: *gpu_id,
                    queue_id: *queue_id,
                    queue_type: *queue_type,
                })
                .filter(|queue| !(no_sdma && queue.queue_type.is_sdma()))
                .collect(),
            whole: true,
        })
    }

    /// Processes of a class that have queues.
    pub(super) fn of(&self, class: Class) -> impl Iterator<Item = (&Pid, &Process)> {
        let with = self.processes.iter();
        with.filter(move |(_, process)| process.assigned.class == class)
            .filter(|(_, process)| !process.queues.is_empty())
    }

    /// What was seen of the indices of queues. Whether any process was found to have work, or to have none any more.
    pub(super) fn note(&mut self, looked: &[(Queue, Option<u64>)], now_ns: u64) -> bool {
        let mut seen: BTreeMap<Pid, (u64, bool)> = BTreeMap::new();
        let mut counted: BTreeMap<Pid, usize> = BTreeMap::new();
        for (queue, read_before) in looked {
            let (Some(write), Some(read)) = (queue.write_index, queue.read_index) else {
                continue;
            };
            *counted.entry(queue.pid).or_default() += 1;
            let entry = seen.entry(queue.pid).or_default();
            entry.0 += write.saturating_sub(read);
            entry.1 |= read_before.is_some_and(|before| before != read);
        }
        let mut changed = false;
        for (pid, (pending, moved)) in seen {
            let Some(process) = self.processes.get_mut(&pid) else {
                continue;
            };
            let compute = process.queues.values().filter(|kind| !kind.is_sdma());
            let all = counted.get(&pid) == Some(&compute.count());
            let activity = &mut process.activity;
            activity.counted_ns = all.then_some(now_ns);
            changed |= (activity.pending > 0) != (pending > 0);
            activity.pending = pending;
            if pending > 0 || moved {
                changed |= activity.last_ns.is_none() || moved;
                activity.last_ns = Some(now_ns);
            }
        }
        changed
    }
}

impl Process {
    fn assign(&mut self, rules: &Rules) {
        self.assigned = match &self.registered {
            Some(registered) => registered.clone(),
            None => rules.assign(&self.facts),
        };
    }

    /// It says what it is.
    pub(super) fn register(&mut self, as_what: Assigned) {
        self.registered = Some(as_what.clone());
        self.assigned = as_what;
    }
}

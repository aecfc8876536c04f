// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the daemon holds: stops and restarts processes by one or more backends, and says of each what was seen.
//!
//! A process that one backend cannot stop is tried by the next; what is held stays with the backend that holds it. Dropping
//! this restarts everything.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::control::agent::{Agent, Agents};
use crate::control::choose::Chooser;
use crate::control::lease::{Hold, KernelGuards};
use crate::control::observe::{Action, Observer, Want};
use crate::control::report::Observed;
use crate::control::supervisor;
use crate::control::wait::Kept as _;
use crate::control::{BackendKind, ControlError, HoldOptions, Outcome, Target};
use crate::event::Pid;
use crate::kfd::{process, Root};

/// Longest wait for queues to be seen to stop.
const STOPPED_WITHIN: Duration = Duration::from_secs(1);

/// Longest wait for queues to be seen to run again; others wait for the daemon meanwhile.
const RUNNING_WITHIN: Duration = Duration::from_millis(200);

/// What became of a call.
#[derive(Clone, Debug, Default)]
pub(super) struct Report {
    /// Of each process: its queues, or why not.
    pub(super) processes: BTreeMap<Pid, Result<u32, String>>,
    /// By which means.
    pub(super) backend: Option<BackendKind>,
    /// How it was seen.
    pub(super) observed: Option<Observed>,
    /// From the first call into the driver to its last answer.
    pub(super) total_ns: u64,
    /// Longest time that a GPU took to answer.
    pub(super) hw_ns: Option<u64>,
    /// What of a stop was spent before the driver was first called, and around that call.
    pub(super) order_ns: Option<u64>,
    /// A GPU did not answer.
    pub(super) timed_out: bool,
    /// A hold ended at once, and with it everything that it held.
    pub(super) lost: Option<String>,
}

/// The holds, one for each backend in use.
pub(super) struct Hands {
    root: Root,
    options: HoldOptions,
    dry: bool,
    /// What a dry run would hold.
    pretended: BTreeMap<Pid, Target>,
    agents: Agents,
    /// What holds those that have no agent; `None` if others are not to be held.
    chooser: Option<Chooser>,
    /// That by agents comes before those of the chooser.
    asks_agents: bool,
    holds: Vec<Hold>,
    observer: Observer,
    /// By which means something was stopped last.
    used: Option<BackendKind>,
    /// Why this backend.
    reason: String,
}

impl Hands {
    pub(super) fn new(
        root: &Root,
        backend: Option<BackendKind>,
        agents: &Agents,
        options: HoldOptions,
        dry: bool,
    ) -> Self {
        let want = if dry { Want::Driver } else { Want::Auto };
        let (observer, _) = Observer::open(root, want);
        let only_agents = backend == Some(BackendKind::Agent);
        let (usable, reason) = match Chooser::new(root, backend).usable() {
            Ok((kind, reason)) => (Some(kind), format!("{kind}: {reason}")),
            Err(_) if only_agents => (None, "agent: asked for".to_owned()),
            Err(error) => (None, error.to_string()),
        };
        Self {
            root: root.clone(),
            options,
            dry,
            pretended: BTreeMap::new(),
            agents: agents.clone(),
            chooser: (!only_agents).then(|| Chooser::new(root, backend)),
            // A patched driver does better what an agent can do.
            asks_agents: only_agents || (backend.is_none() && usable != Some(BackendKind::Patched)),
            holds: Vec::new(),
            observer,
            used: None,
            reason,
        }
    }

    /// The backend that is in use, and why this one.
    pub(super) fn backend(&self) -> (Option<BackendKind>, &str) {
        let kind = match self.dry {
            true => Some(BackendKind::DryRun),
            false => self.used,
        };
        (kind, &self.reason)
    }

    /// Whether any part of a process is held.
    pub(super) fn holds(&self, pid: Pid) -> bool {
        self.targets().any(|target| target.pid == pid)
    }

    /// Everything that is held.
    pub(super) fn targets(&self) -> impl Iterator<Item = &Target> {
        let held = self.holds.iter().flat_map(Hold::targets);
        held.chain(self.pretended.values())
    }

    /// Stops processes, all in one call where the backend can. Success is what was seen; the rest is let go again.
    pub(super) fn hold(&mut self, targets: Vec<Target>) -> Report {
        let mut report = Report::default();
        if self.dry {
            for target in targets {
                let queues = u32::try_from(target.queues.len()).unwrap_or(u32::MAX);
                report.processes.insert(target.pid, Ok(queues));
                self.pretended.insert(target.pid, target);
            }
            report.backend = Some(BackendKind::DryRun);
            report.observed = Some(Observed::DryRun);
            return report;
        }
        self.observer.begin();
        let started = Instant::now();
        self.open_agents();
        let mut left = targets.clone();
        let mut at = 0;
        while !left.is_empty() {
            if at == self.holds.len() {
                if let Err(error) = self.open() {
                    for target in &left {
                        report
                            .processes
                            .entry(target.pid)
                            .or_insert_with(|| Err(error.to_string()));
                    }
                    break;
                }
            }
            let hold = &mut self.holds[at];
            let kind = hold.backend();
            let obeys =
                |target: &Target| target.whole && self.agents.has(target.pid, target.start_ticks);
            let asked: Vec<Target> = match (kind, &self.chooser) {
                // The others are for the next, who tells more of them than that they have no agent.
                (BackendKind::Agent, Some(_)) => {
                    left.iter().filter(|t| obeys(t)).cloned().collect()
                }
                _ => left.clone(),
            };
            if asked.is_empty() {
                at += 1;
                continue;
            }
            match hold.add(asked, &self.options) {
                Ok(outcome) => {
                    let ours = ns(started.elapsed()).saturating_sub(outcome.total_ns);
                    report.order_ns.get_or_insert(ours);
                    if outcome.targets.iter().any(|of| of.refusal.is_none()) {
                        report.backend.get_or_insert(kind);
                        self.used = Some(kind);
                    }
                    report.timed_out |= outcome.timed_out();
                    report.hw_ns = report.hw_ns.max(outcome.hw_ns);
                    count(&outcome, &mut report.processes);
                    if report.timed_out {
                        break;
                    }
                    // What this one is refused for a reason that the next one may not have.
                    let other = at + 1 < self.holds.len()
                        || self.chooser.as_mut().is_some_and(|chooser| {
                            kind == BackendKind::Agent || chooser.reject(kind, &outcome)
                        });
                    left.retain(|target| {
                        other && !matches!(report.processes.get(&target.pid), Some(Ok(_)))
                    });
                    at += 1;
                }
                Err(error) => {
                    for target in &left {
                        report.processes.insert(target.pid, Err(error.to_string()));
                    }
                    if hold.renew().is_err() {
                        // Dropping it restarts what it held.
                        drop(self.holds.remove(at));
                        report.lost = Some(error.to_string());
                    }
                    break;
                }
            }
        }
        report.total_ns = ns(started.elapsed());
        if !report.timed_out {
            self.confirm_stopped(&targets, &mut report);
        }
        report
    }

    fn confirm_stopped(&mut self, targets: &[Target], report: &mut Report) {
        let held = |pid: Pid, report: &Report| matches!(report.processes.get(&pid), Some(Ok(_)));
        let asked: Vec<Target> = targets
            .iter()
            .filter(|target| held(target.pid, report))
            .cloned()
            .collect();
        if asked.is_empty() {
            return;
        }
        let within = STOPPED_WITHIN.min(self.options.lease / 2);
        let seen = self.observer.confirm(Action::Stopped, &asked, within);
        report.observed = Some(seen.how.into());
        report.hw_ns = report.hw_ns.or(seen.hw_ns);
        let unseen: Vec<Target> = asked
            .into_iter()
            .filter(|target| seen.missing.iter().any(|(pid, _)| *pid == target.pid))
            .collect();
        if unseen.is_empty() {
            return;
        }
        for target in &unseen {
            let why = "the driver answered success, but its queues were not seen to stop";
            report.processes.insert(target.pid, Err(why.to_owned()));
        }
        self.let_go(&unseen, &mut Report::default());
    }

    /// Restarts processes.
    pub(super) fn release(&mut self, targets: &[Target]) -> Report {
        let mut report = Report::default();
        if self.dry {
            for target in targets {
                self.pretended.remove(&target.pid);
                let queues = u32::try_from(target.queues.len()).unwrap_or(u32::MAX);
                report.processes.insert(target.pid, Ok(queues));
            }
            report.backend = Some(BackendKind::DryRun);
            report.observed = Some(Observed::DryRun);
            return report;
        }
        self.observer.begin();
        let started = Instant::now();
        self.let_go(targets, &mut report);
        report.total_ns = ns(started.elapsed());
        let alive: Vec<Target> = targets
            .iter()
            .filter(|target| process::is_alive(&self.root, target.pid, target.start_ticks))
            .filter(|target| matches!(report.processes.get(&target.pid), Some(Ok(_))))
            .cloned()
            .collect();
        if !alive.is_empty() {
            let seen = self
                .observer
                .confirm(Action::Running, &alive, RUNNING_WITHIN);
            report.observed = seen.confirmed.then_some(seen.how.into());
        }
        report
    }

    fn let_go(&mut self, targets: &[Target], report: &mut Report) {
        let mut dead = Vec::new();
        for (at, hold) in self.holds.iter_mut().enumerate() {
            let of_it: Vec<Target> = targets
                .iter()
                .filter(|target| hold.targets().iter().any(|held| held.pid == target.pid))
                .cloned()
                .collect();
            if of_it.is_empty() {
                continue;
            }
            report.backend.get_or_insert(hold.backend());
            match hold.let_go(&of_it) {
                Ok(outcome) => {
                    report.timed_out |= outcome.timed_out();
                    report.hw_ns = report.hw_ns.max(outcome.hw_ns);
                    count(&outcome, &mut report.processes);
                }
                Err(error) => {
                    dead.push(at);
                    report.lost = Some(error.to_string());
                }
            }
        }
        for at in dead.into_iter().rev() {
            // Dropping it restarts what it held.
            drop(self.holds.remove(at));
        }
        for target in targets {
            report.processes.entry(target.pid).or_insert(Ok(0));
        }
    }

    /// Forgets processes that ended, and returns them.
    pub(super) fn bury(&mut self) -> Vec<Pid> {
        let dead: Vec<Target> = self
            .targets()
            .filter(|target| !process::is_alive(&self.root, target.pid, target.start_ticks))
            .cloned()
            .collect();
        if dead.is_empty() {
            return Vec::new();
        }
        for target in &dead {
            self.pretended.remove(&target.pid);
        }
        self.let_go(&dead, &mut Report::default());
        dead.iter().map(|target| target.pid).collect()
    }

    /// When the holds must be renewed, if there is anything in them.
    pub(super) fn renewal_due(&self) -> Option<Instant> {
        let with = self.holds.iter().filter(|hold| !hold.targets().is_empty());
        with.map(|hold| hold.renewal_due()).min()
    }

    /// Renews those that are due. Of one that cannot be renewed, everything is restarted: why.
    pub(super) fn renew(&mut self) -> Option<String> {
        let now = Instant::now();
        let mut lost = None;
        self.holds.retain_mut(|hold| {
            if hold.targets().is_empty() || hold.renewal_due() > now {
                return true;
            }
            match hold.renew() {
                Ok(()) => true,
                Err(error) => {
                    lost = Some(error.to_string());
                    false
                }
            }
        });
        lost
    }

    /// Restarts everything and closes the backends.
    pub(super) fn release_all(&mut self) -> Report {
        let targets: Vec<Target> = self.targets().cloned().collect();
        let report = self.release(&targets);
        self.holds.clear();
        report
    }

    /// Jobs that obey are asked before others are made to.
    fn open_agents(&mut self) {
        let mut kinds = self.holds.iter().map(Hold::backend);
        if self.asks_agents && !kinds.any(|kind| kind == BackendKind::Agent) {
            let agent = Box::new(Agent::new(self.agents.clone()));
            let hold = Hold::nothing(agent, Box::new(KernelGuards), self.options.lease);
            self.holds.insert(0, hold);
        }
    }

    fn open(&mut self) -> Result<(), ControlError> {
        let Some(chooser) = &mut self.chooser else {
            return Err(ControlError::Unavailable {
                what: "it cannot be held by an agent".to_owned(),
                fix: "start it by `gpreempt run`".to_owned(),
            });
        };
        let choice = match chooser.choose() {
            Ok(choice) => choice,
            Err(error) => {
                self.reason = error.to_string();
                return Err(error);
            }
        };
        let kind = choice.backend.kind();
        let guard = supervisor::guard(kind, self.options.lease)?;
        self.reason = choice.reason;
        self.holds
            .push(Hold::nothing(choice.backend, guard, self.options.lease));
        Ok(())
    }
}

/// What became of each process: one whose queues were refused in part is refused.
fn count(outcome: &Outcome, processes: &mut BTreeMap<Pid, Result<u32, String>>) {
    let mut these: BTreeMap<Pid, Result<u32, String>> = BTreeMap::new();
    for target in &outcome.targets {
        let entry = these.entry(target.pid).or_insert(Ok(0));
        match (&target.refusal, entry) {
            (Some(refusal), entry) => *entry = Err(refusal.to_string()),
            (None, Ok(queues)) => *queues = queues.saturating_add(target.queues),
            (None, Err(_)) => {}
        }
    }
    processes.extend(these);
}

fn ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

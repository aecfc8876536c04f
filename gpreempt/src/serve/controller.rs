// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who decides and acts. It alone knows who is held. A thread of its own sleeps until a message comes, as calls over the socket
//! are, or something is due. For an event of the driver, and for a hint that a service waits for, that would be one thread more to
//! wake: who has read it makes the turn itself.
//!
//! A call of the driver that stops queues can take as long as a GPU takes to answer. Nothing else is decided meanwhile.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{channel, Receiver, RecvTimeoutError, SendError, Sender};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::activity::Activity;
use super::audit::{self, Audit, AuditRecord};
use super::desk::Desk;
use super::hands::{Hands, Report};
use super::jobs::Jobs;
use super::metrics::Metrics;
use super::reservations::Reserver;
use super::settings::Settings;
use super::watcher::Change;
use crate::control::agent::Agents;
use crate::control::{BackendKind, HoldOptions, Target};
use crate::event::{Pid, ResetPhase};
use crate::kfd::{boottime_ns, Root};
use crate::policy::{
    Class, Config, Cost, Decider, Decision, GuardName, HoldOrder, JobId, Means, PolicyName,
    ReleaseOrder, Rounds, View, Wish,
};

/// How often everything is looked at anew while events tell what changes, and while they do not.
const SCAN_NS: u64 = 30_000_000_000;
const SCAN_BLIND_NS: u64 = 250_000_000;

/// The kernel tells first that a process ends, and removes it a moment later: the first time to look again.
const LEAVING_NS: u64 = 20_000_000;

/// What the driver did not restart is tried again after so long.
const AGAIN_NS: u64 = 100_000_000;

/// How often it is looked whether processes that own hints live.
const OWNERS_NS: u64 = 100_000_000;

/// Longest sleep: so often the watchdog hears of this thread.
const BEAT: Duration = Duration::from_secs(10);

/// What a stop costs is the median of so many.
const LATENCIES: usize = 32;

/// Called with the controller, in its thread.
pub(super) type Call = Box<dyn FnOnce(&mut Controller) + Send>;

/// To the controller.
pub(super) enum Message {
    Call(Call),
    /// Hints have begun or ended.
    Hints,
    /// Another thread has made a turn: something else may be due next.
    Turned,
    /// Read the configuration again.
    Reload,
    /// Restart everything and end.
    End(String),
}

/// A message and when it was sent.
pub(super) type Letter = (u64, Message);

/// Where messages to the controller are left.
#[derive(Clone)]
pub(super) struct Mailbox(Sender<Letter>);

impl Mailbox {
    pub(super) fn new() -> (Self, Receiver<Letter>) {
        let (to, letters) = channel();
        (Self(to), letters)
    }

    /// Fails if the controller has ended.
    pub(super) fn send(&self, message: Message) -> Result<(), SendError<Letter>> {
        self.0.send((boottime_ns(), message))
    }
}

/// What the controller was woken by: when it was sent, or noted by the kernel, and when it was there.
#[derive(Clone, Copy, Debug)]
struct Woken {
    sent_ns: u64,
    there_ns: u64,
}

/// A job that is held.
#[derive(Clone, Debug)]
pub(super) struct Order {
    pub(super) until_ns: u64,
    pub(super) why: String,
    since_ns: u64,
}

pub(super) struct Controller {
    pub(super) root: Root,
    pub(super) settings: Settings,
    pub(super) decider: Decider,
    pub(super) jobs: Jobs,
    pub(super) hands: Hands,
    pub(super) desk: Desk,
    pub(super) audit: Audit,
    pub(super) wishes: BTreeMap<JobId, Wish>,
    pub(super) orders: BTreeMap<JobId, Order>,
    /// What was denied last, and has not been allowed since.
    pub(super) denied: BTreeMap<JobId, (GuardName, String)>,
    pub(super) metrics: Arc<Metrics>,
    /// Jobs that obey.
    pub(super) agents: Agents,
    pub(super) dry: bool,
    pub(super) since_ns: u64,
    /// Probes that are missing, or why no events are seen.
    pub(super) events: Result<usize, String>,
    pub(super) lost_total: u64,
    pub(super) reservations: Reserver,
    activity: Activity,
    latencies: VecDeque<u64>,
    /// Held processes that have new queues.
    grown: BTreeSet<Pid>,
    /// Processes that end, and were still there when last looked at; the last of them began to at that time.
    leaving: BTreeSet<Pid>,
    left_ns: u64,
    /// What this turn comes from; `None` = it was time.
    woken: Option<Woken>,
    /// To be called when what is due has been done.
    after: Vec<Call>,
    changed: bool,
    decide_ns: u64,
    scan_ns: u64,
    owners_ns: u64,
    heartbeat: Arc<AtomicU64>,
}

impl Controller {
    pub(super) fn new(
        root: Root,
        settings: Settings,
        dry: bool,
        metrics: Arc<Metrics>,
        desk: Desk,
        heartbeat: Arc<AtomicU64>,
    ) -> Self {
        let now_ns = boottime_ns();
        let config = &settings.config;
        let agents = Agents::default();
        Self {
            decider: Decider::new(config),
            hands: hands(&root, config, &agents, dry),
            reservations: Reserver::new(&config.reservation),
            audit: Audit::new(config.serve.audit.clone()),
            root,
            settings,
            jobs: Jobs::default(),
            desk,
            wishes: BTreeMap::new(),
            orders: BTreeMap::new(),
            denied: BTreeMap::new(),
            metrics,
            agents,
            dry,
            since_ns: now_ns,
            events: Err("probes are being attached".to_owned()),
            lost_total: 0,
            activity: Activity::default(),
            latencies: VecDeque::new(),
            grown: BTreeSet::new(),
            leaving: BTreeSet::new(),
            left_ns: 0,
            woken: None,
            after: Vec::new(),
            changed: true,
            decide_ns: now_ns,
            scan_ns: now_ns,
            owners_ns: now_ns,
            heartbeat,
        }
    }

    fn begin(&mut self) {
        self.audit.put(AuditRecord::Started(audit::Started {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: Pid(std::process::id()),
            policy: self.decider.policy(),
            dry_run: self.dry,
        }));
    }

    /// Takes messages: why it is to end, if it is.
    fn take(&mut self, first: Letter, more: impl Iterator<Item = Letter>) -> Option<String> {
        self.woken = Some(Woken {
            sent_ns: first.0,
            there_ns: boottime_ns(),
        });
        let mut ended = None;
        for (_, message) in std::iter::once(first).chain(more) {
            match message {
                Message::Call(call) => call(self),
                Message::Hints => self.changed = true,
                Message::Turned => {}
                Message::Reload => {
                    let _ = self.reload(None);
                }
                Message::End(why) => ended = Some(why),
            }
        }
        ended
    }

    fn end(mut self, why: String) {
        let held = self.orders.len();
        self.release_everything(&format!("the daemon ends: {why}"));
        self.audit.put(AuditRecord::Ended(audit::Ended {
            why,
            released: u32::try_from(held).unwrap_or(u32::MAX),
        }));
        for call in std::mem::take(&mut self.after) {
            call(&mut self);
        }
    }

    /// Has something done when this turn is over: what it asks for has been decided and done by then.
    pub(super) fn after(&mut self, call: Call) {
        self.after.push(call);
        self.changed = true;
    }

    /// Something changed that decisions depend on.
    pub(super) fn touch(&mut self) {
        self.changed = true;
    }

    fn sleep(&self) -> Duration {
        let now_ns = boottime_ns();
        let due_ns = [
            Some(self.decide_ns),
            Some(self.scan_ns),
            self.activity.due_ns(),
            self.desk.with(|hints| hints.next_ns(now_ns)),
            self.desk
                .with(|hints| hints.has_owners())
                .then_some(self.owners_ns),
        ];
        let due_ns = due_ns.into_iter().flatten().min().unwrap_or(u64::MAX);
        let until = Duration::from_nanos(due_ns.saturating_sub(now_ns)).min(BEAT);
        match self.hands.renewal_due() {
            Some(due) => until.min(due.saturating_duration_since(Instant::now())),
            None => until,
        }
    }

    /// Does what is due.
    fn turn(&mut self) {
        let now_ns = boottime_ns();
        self.heartbeat.store(now_ns, Ordering::Relaxed);
        // What a message changed waits for nothing of the rest, unless more may have changed than it told.
        if self.changed && now_ns < self.scan_ns {
            self.changed = false;
            self.decide(now_ns);
        }
        if now_ns >= self.scan_ns {
            self.changed |= self.jobs.scan(&self.root, &self.settings.config.rules);
            self.bury();
            self.scan_ns = now_ns.saturating_add(self.until_scan_ns(now_ns));
            self.reservations.again();
        }
        self.reserve();
        self.changed |= self.desk.with(|hints| hints.expire(now_ns));
        if self.desk.with(|hints| hints.has_owners()) && now_ns >= self.owners_ns {
            self.owners_ns = now_ns + OWNERS_NS;
            self.changed |= self.desk.with(|hints| hints.bury(&self.root));
        }
        self.look(now_ns);
        if let Some(why) = self.hands.renew() {
            self.lost(why);
        }
        self.hold_new_queues();
        // What was done changes what is to be decided: it is asked again, at once but not for ever.
        for _ in 0..2 {
            let now_ns = boottime_ns();
            if !self.changed && now_ns < self.decide_ns {
                break;
            }
            self.changed = false;
            self.decide(now_ns);
        }
        for call in std::mem::take(&mut self.after) {
            call(self);
        }
        self.woken = None;
    }

    /// After everything has been looked at: how soon again.
    fn until_scan_ns(&mut self, now_ns: u64) -> u64 {
        let processes = &self.jobs.processes;
        self.leaving.retain(|pid| processes.contains_key(pid));
        let every_ns = match self.events {
            Ok(_) => SCAN_NS,
            Err(_) => SCAN_BLIND_NS,
        };
        if self.leaving.is_empty() {
            return every_ns;
        }
        // Doubles each time: one that executed another program stays for long.
        let passed_ns = now_ns.saturating_sub(self.left_ns);
        passed_ns.clamp(LEAVING_NS, every_ns)
    }

    fn change(&mut self, change: Change) {
        let rules = &self.settings.config.rules;
        match change {
            Change::Process(pid) => {
                self.leaving.remove(&pid);
                self.changed |= self.jobs.look_at(&self.root, rules, pid);
            }
            Change::Created(pid, queue) => {
                if !self.jobs.processes.contains_key(&pid) {
                    self.jobs.look_at(&self.root, rules, pid);
                }
                self.jobs.queue_created(pid, queue);
                self.jobs.noticed(pid, boottime_ns());
                self.activity.stale();
                self.grown.insert(pid);
                self.changed = true;
            }
            Change::Destroyed(pid, gpu_id, queue_id) => {
                self.changed |= self.jobs.queue_destroyed(pid, gpu_id, queue_id);
                self.activity.stale();
            }
            Change::Exited(pid) => {
                // The pid lives on if another program was executed.
                self.changed |= self.jobs.look_at(&self.root, rules, pid);
                self.changed |= self.desk.with(|hints| hints.bury(&self.root));
                self.leaving.insert(pid);
                self.left_ns = boottime_ns();
                self.scan_ns = 0;
            }
            Change::Reset(gpu_id, phase) => {
                if matches!(phase, ResetPhase::Hang | ResetPhase::Pre) {
                    self.hung(format!("GPU {gpu_id} hangs or is being reset"));
                }
            }
            Change::Watching(missed) => {
                self.events = Ok(missed);
                // What happened before the probes were there.
                self.scan_ns = 0;
            }
            Change::Blind(why) => {
                self.events = Err(why);
                self.scan_ns = 0;
            }
            Change::Lost(total) => {
                self.lost_total = total;
                self.metrics.lost(total);
                self.scan_ns = 0;
            }
        }
    }

    /// Tells the driver whom it is to keep from slots.
    fn reserve(&mut self) {
        if self.dry || self.settings.config.reservation.slots.is_none() {
            return;
        }
        let offline: Vec<Target> = self
            .jobs
            .of(Class::Offline)
            .filter_map(|(pid, _)| self.jobs.target(*pid, true))
            .collect();
        self.reservations.keep(&self.root, &offline);
    }

    /// Looks whether packets wait, where that matters.
    fn look(&mut self, now_ns: u64) {
        let with = |class| self.jobs.of(class).map(|(pid, _)| *pid);
        let offline: BTreeSet<Pid> = with(Class::Offline).collect();
        let parked = match self.settings.config.parking.idle_after {
            Some(_) => offline.clone(),
            None => BTreeSet::new(),
        };
        let mut of: BTreeSet<Pid> = match self.decider.policy() {
            _ if offline.is_empty() => BTreeSet::new(),
            PolicyName::Priority | PolicyName::Slo => with(Class::Online).collect(),
            PolicyName::Share => offline,
            PolicyName::Manual | PolicyName::Timeslice => BTreeSet::new(),
        };
        of.extend(parked);
        self.activity.watch(of, now_ns);
        if self.activity.due_ns().is_some_and(|due| due <= now_ns) {
            let serve = &self.settings.config.serve;
            let intervals = (serve.poll_busy, serve.poll_idle);
            let looked = self.activity.look(&self.root, intervals, now_ns);
            self.changed |= self.jobs.note(looked, now_ns);
        }
    }

    fn decide(&mut self, now_ns: u64) {
        self.wishes
            .retain(|_, wish| wish.until_ns.is_none_or(|until| until > now_ns));
        let hands = &self.hands;
        let jobs = self.jobs.view(|pid| hands.holds(pid), now_ns);
        self.wishes
            .retain(|id, _| jobs.iter().any(|job| job.id == *id));
        let view = View {
            jobs,
            hints: self.desk.with(|hints| hints.active(now_ns)),
            latencies: self.desk.with(|hints| hints.take_latencies()),
            cost: Cost {
                latency_ns: self.hold_latency_ns().unwrap_or(0),
                rounds: match self.hands.backend().0 {
                    Some(BackendKind::Patched) => Rounds::Call,
                    _ => Rounds::Process,
                },
            },
            wishes: self.wishes.clone(),
        };
        let decision = self.decider.decide(&view, now_ns);
        let decided_ns = boottime_ns();
        self.decide_ns = decision.next_ns;
        self.act(&decision, now_ns, decided_ns);
        self.metrics.view(&view);
    }

    fn act(&mut self, decision: &Decision, now_ns: u64, decided_ns: u64) {
        for kept in &decision.kept {
            if let Some(order) = self.orders.get_mut(&kept.job) {
                order.until_ns = kept.until_ns;
                order.why.clone_from(&kept.why);
            }
        }
        let told = decision.denied.iter().map(|denied| {
            let of_it = (denied.guard, denied.why.clone());
            (denied.job.clone(), of_it)
        });
        let before = std::mem::replace(&mut self.denied, told.collect());
        if !decision.to_release.is_empty() {
            self.release(&decision.to_release, decision.policy);
        }
        if !decision.to_hold.is_empty() {
            self.hold(&decision.to_hold, decision.policy, (now_ns, decided_ns));
        }
        // Nobody waits for what is not done.
        for denied in &decision.denied {
            let known = before.get(&denied.job);
            if known.is_none_or(|(guard, _)| *guard != denied.guard) {
                self.metrics.denied(denied.guard);
                self.audit.put(AuditRecord::Denied(audit::Denied {
                    job: denied.job.clone(),
                    rule: denied.rule,
                    policy: decision.policy,
                    trigger: denied.trigger,
                    guard: denied.guard,
                    why: denied.why.clone(),
                }));
            }
        }
    }

    fn release(&mut self, orders: &[ReleaseOrder], policy: PolicyName) {
        let named: BTreeSet<Pid> = orders
            .iter()
            .flat_map(|order| &order.pids)
            .copied()
            .collect();
        let of_them = |target: &&Target| named.contains(&target.pid);
        let targets: Vec<Target> = self.hands.targets().filter(of_them).cloned().collect();
        let report = self.hands.release(&targets);
        for order in orders {
            let failed = failures(&report, &order.pids);
            if let Some((pids, why)) = failed {
                self.decide_ns = boottime_ns() + AGAIN_NS;
                self.metrics.refused();
                self.audit.put(AuditRecord::Refused(audit::Refused {
                    job: order.job.clone(),
                    policy,
                    hold: false,
                    pids,
                    why,
                }));
                continue;
            }
            self.changed = true;
            let since_ns = self.orders.remove(&order.job).map(|order| order.since_ns);
            let held_ns = boottime_ns().saturating_sub(since_ns.unwrap_or_else(boottime_ns));
            self.metrics.released(held_ns, report.total_ns);
            self.audit.put(AuditRecord::Released(audit::Released {
                job: order.job.clone(),
                guard: order.guard,
                why: order.why.clone(),
                pids: order.pids.clone(),
                held_ns,
                observed: report.observed,
                latency_ns: report.total_ns,
            }));
        }
        self.consequences(&report);
    }

    /// Asked of the policy at `now_ns`, decided at `decided_ns`.
    fn hold(&mut self, orders: &[HoldOrder], policy: PolicyName, (now_ns, decided_ns): (u64, u64)) {
        let no_sdma = self.settings.config.serve.no_sdma;
        let mut targets = Vec::new();
        for pid in orders.iter().flat_map(|order| &order.pids) {
            targets.extend(self.jobs.target(*pid, no_sdma));
        }
        let ordered_ns = boottime_ns();
        let report = self.hands.hold(targets);
        self.changed = true;
        let done_ns = boottime_ns();
        let order_ns = ordered_ns.saturating_sub(decided_ns) + report.order_ns.unwrap_or(0);
        let woken = self.woken;
        for order in orders {
            if let Some((pids, why)) = failures(&report, &order.pids) {
                // A gang is held as a whole or not at all.
                let of_it = |target: &&Target| order.pids.contains(&target.pid);
                let part: Vec<Target> = self.hands.targets().filter(of_it).cloned().collect();
                if !part.is_empty() {
                    self.hands.release(&part);
                }
                self.orders.remove(&order.job);
                self.decider.refused(&order.job, done_ns);
                self.denied
                    .insert(order.job.clone(), (GuardName::Refusal, why.clone()));
                self.metrics.refused();
                self.audit.put(AuditRecord::Refused(audit::Refused {
                    job: order.job.clone(),
                    policy,
                    hold: true,
                    pids,
                    why,
                }));
                continue;
            }
            let queues = order.pids.iter().filter_map(|pid| {
                let of_it = report.processes.get(pid)?;
                of_it.as_ref().ok().copied()
            });
            let latency_ns = done_ns.saturating_sub(now_ns);
            self.metrics.held(order.trigger, report.total_ns);
            let before = self.orders.get(&order.job).map(|order| order.since_ns);
            self.orders.insert(
                order.job.clone(),
                Order {
                    until_ns: order.until_ns,
                    why: order.why.clone(),
                    since_ns: before.unwrap_or(now_ns),
                },
            );
            self.audit.put(AuditRecord::Held(audit::Held {
                job: order.job.clone(),
                rule: order.rule,
                policy,
                trigger: order.trigger,
                why: order.why.clone(),
                pids: order.pids.clone(),
                gpus: order.gpus.clone(),
                queues: queues.sum(),
                until_ns: order.until_ns,
                backend: report.backend,
                observed: report.observed,
                latency_ns,
                hw_ns: report.hw_ns,
                message_ns: woken.map(|woken| woken.there_ns.saturating_sub(woken.sent_ns)),
                decision_ns: woken.map(|woken| decided_ns.saturating_sub(woken.there_ns)),
                order_ns,
            }));
        }
        if report.processes.values().any(Result::is_ok) && !self.dry {
            if self.latencies.len() == LATENCIES {
                self.latencies.pop_front();
            }
            self.latencies.push_back(report.total_ns);
            self.desk.set_ahead(self.hold_latency_ns().unwrap_or(0));
        }
        self.consequences(&report);
    }

    /// Queues that a held process made meanwhile. A patched driver has them begin held.
    fn hold_new_queues(&mut self) {
        let grown = std::mem::take(&mut self.grown);
        if self.hands.backend().0 == Some(BackendKind::Patched) {
            return;
        }
        let no_sdma = self.settings.config.serve.no_sdma;
        let held = grown.into_iter().filter(|pid| self.hands.holds(*pid));
        let targets: Vec<Target> = held
            .filter_map(|pid| self.jobs.target(pid, no_sdma))
            .collect();
        if targets.is_empty() {
            return;
        }
        let report = self.hands.hold(targets);
        for (pid, of_it) in &report.processes {
            if let (Err(why), Some(process)) = (of_it, self.jobs.processes.get(pid)) {
                self.metrics.refused();
                self.audit.put(AuditRecord::Refused(audit::Refused {
                    job: process.assigned.job.clone(),
                    policy: self.decider.policy(),
                    hold: true,
                    pids: vec![*pid],
                    why: format!("a new queue: {why}"),
                }));
            }
        }
        self.changed = true;
        self.consequences(&report);
    }

    fn consequences(&mut self, report: &Report) {
        if report.timed_out {
            self.hung("a GPU did not answer a preemption in time".to_owned());
        } else if let Some(why) = &report.lost {
            self.lost(why.clone());
        }
    }

    /// A hold is gone, and what it held runs.
    fn lost(&mut self, why: String) {
        self.audit.put(AuditRecord::Lost(audit::Lost { why }));
        self.forget_released();
        self.changed = true;
    }

    fn hung(&mut self, why: String) {
        let already = self.decider.guard().hung_ns().is_some();
        self.decider.hung(boottime_ns());
        if !already {
            self.audit
                .put(AuditRecord::Hung(audit::Hung { why: why.clone() }));
        }
        self.release_everything(&why);
        self.changed = true;
    }

    /// Drops what processes that ended held.
    fn bury(&mut self) {
        let dead = self.hands.bury();
        if !dead.is_empty() {
            self.changed = true;
        }
        self.forget_released();
    }

    /// Orders of jobs of which nothing is held any more.
    fn forget_released(&mut self) {
        let held: BTreeSet<JobId> = self
            .hands
            .targets()
            .filter_map(|target| self.jobs.processes.get(&target.pid))
            .map(|process| process.assigned.job.clone())
            .collect();
        self.orders.retain(|job, _| held.contains(job));
    }

    fn release_everything(&mut self, why: &str) {
        if self.hands.targets().next().is_none() {
            self.orders.clear();
            return;
        }
        let report = self.hands.release_all();
        let now_ns = boottime_ns();
        for (job, order) in std::mem::take(&mut self.orders) {
            let pids = self.jobs.pids_of(&job);
            let held_ns = now_ns.saturating_sub(order.since_ns);
            self.metrics.released(held_ns, report.total_ns);
            self.audit.put(AuditRecord::Released(audit::Released {
                job,
                guard: None,
                why: why.to_owned(),
                pids,
                held_ns,
                observed: report.observed,
                latency_ns: report.total_ns,
            }));
        }
    }

    /// What a stop takes here: the median of the last ones.
    pub(super) fn hold_latency_ns(&self) -> Option<u64> {
        let mut sorted: Vec<u64> = self.latencies.iter().copied().collect();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 2).copied()
    }

    /// Reads the configuration again. One that cannot be used changes nothing.
    pub(super) fn reload(&mut self, by: Option<audit::By>) -> Result<(), String> {
        let read = self.settings.again().map_err(|error| format!("{error:#}"));
        self.audit.put(AuditRecord::Reloaded(audit::Reloaded {
            by,
            error: read.as_ref().err().cloned(),
        }));
        let settings = read.inspect_err(|error| {
            super::say(&format!(
                "the configuration was not read again, the one before stays in force: {error}"
            ));
        })?;
        let (old, new) = (&self.settings.config.serve, &settings.config.serve);
        let acts_otherwise =
            (old.backend, old.lease, old.no_sdma) != (new.backend, new.lease, new.no_sdma);
        if old.socket != new.socket {
            super::say("serve.socket has changed: that takes a restart");
        }
        self.settings = settings;
        let config = &self.settings.config;
        self.audit.set_path(config.serve.audit.clone());
        self.desk.reload(config);
        self.decider.reload(config);
        self.jobs.assign_all(&config.rules);
        self.reservations.reconfigure(&config.reservation);
        if acts_otherwise {
            self.release_everything("the configuration has changed how queues are stopped");
            self.hands = hands(&self.root, &self.settings.config, &self.agents, self.dry);
        }
        self.changed = true;
        Ok(())
    }
}

/// The controller, which one thread at a time has, until it ends.
#[derive(Clone)]
pub(super) struct Seat {
    controller: Arc<Mutex<Option<Controller>>>,
    to: Mailbox,
}

impl Seat {
    pub(super) fn new(controller: Controller, to: Mailbox) -> Self {
        Self {
            controller: Arc::new(Mutex::new(Some(controller))),
            to,
        }
    }

    /// For the controller's own thread: see [`Mailbox::send`].
    pub(super) fn send(&self, message: Message) -> Result<(), SendError<Letter>> {
        self.to.send(message)
    }

    /// After a panic there is no next turn: the process ends, and whoever restarts what it held does.
    fn take(&self) -> MutexGuard<'_, Option<Controller>> {
        self.controller
            .lock()
            .unwrap_or_else(|_| panic!("a turn of the controller ended badly"))
    }

    /// Makes turns until it is told to end, or nobody can tell it anything any more.
    pub(super) fn run(&self, letters: &Receiver<Letter>) {
        if let Some(controller) = self.take().as_mut() {
            controller.begin();
        }
        let mut sleep = Duration::ZERO;
        loop {
            let first = letters.recv_timeout(sleep);
            let mut seat = self.take();
            let Some(controller) = seat.as_mut() else {
                return;
            };
            let why = match first {
                Ok(first) => controller.take(first, letters.try_iter()),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => Some("nobody is left to tell it".to_owned()),
            };
            if let Some(why) = why {
                if let Some(controller) = seat.take() {
                    controller.end(why);
                }
                return;
            }
            controller.turn();
            sleep = controller.sleep();
        }
    }

    /// What happened, and when the kernel noted the first of it: decided and done when this returns. False if the controller has ended.
    pub(super) fn happened(&self, since_ns: u64, changes: impl Iterator<Item = Change>) -> bool {
        self.turn(since_ns, |controller| {
            for change in changes {
                controller.change(change);
            }
        })
    }

    /// A hint has begun that somebody waits for: likewise.
    pub(super) fn hinted(&self, since_ns: u64) -> bool {
        self.turn(since_ns, Controller::touch)
    }

    /// Makes a turn in this thread, in which the controller is told that first.
    fn turn(&self, since_ns: u64, tell: impl FnOnce(&mut Controller)) -> bool {
        // Dropped last, after a panic too, of which it learns so.
        let _turned = Turned(&self.to);
        let mut seat = self.take();
        let Some(controller) = seat.as_mut() else {
            return false;
        };
        controller.woken = Some(Woken {
            sent_ns: since_ns,
            there_ns: boottime_ns(),
        });
        tell(controller);
        controller.turn();
        true
    }
}

/// Has the controller's own thread look what is due, when it is dropped.
struct Turned<'a>(&'a Mailbox);

impl Drop for Turned<'_> {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.send(Message::Turned);
    }
}

fn hands(root: &Root, config: &Config, agents: &Agents, dry: bool) -> Hands {
    let backend = match config.serve.backend {
        Means::Auto => None,
        Means::Patched => Some(BackendKind::Patched),
        Means::Agent => Some(BackendKind::Agent),
        Means::DebugTrap => Some(BackendKind::DebugTrap),
        Means::Criu => Some(BackendKind::Criu),
    };
    let options = HoldOptions {
        gpu: None,
        no_sdma: config.serve.no_sdma,
        lease: Duration::from_nanos(config.serve.lease),
    };
    Hands::new(root, backend, agents, options, dry)
}

/// The processes of a job that something could not be done to, and why.
fn failures(report: &Report, pids: &[Pid]) -> Option<(Vec<Pid>, String)> {
    let failed = |pid: &Pid| match report.processes.get(pid) {
        Some(Err(why)) => Some((*pid, why.clone())),
        _ => None,
    };
    let (pids, why): (Vec<Pid>, Vec<String>) = pids.iter().filter_map(failed).unzip();
    let why = why.into_iter().next()?;
    Some((pids, why))
}

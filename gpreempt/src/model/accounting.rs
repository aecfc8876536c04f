// SPDX-License-Identifier: MIT OR Apache-2.0
//! What every event means for the accounts of queues: see `stops.rs` for how they are kept.
//!
//! The record of a call is written at its return, after those of the unmap and the map that it made. A queue leaves the runlist at
//! the unmap of the call that stopped it, and joins at the map of the call that let it run: both are looked for by thread and time.

use super::oversubscription::{self, Limits};
use super::shares::Stopped;
use super::stops::{Account, Call, Moment, Runlist};
use super::takers::{Taken, Takers};
use super::usage::{Off, Oversubscription, ProcessUsage, Usage};
use super::{Gpu, Model, Queue, QueueKey, Tracked};
use crate::event::{Cause, Comm, GpuId, Happening, Pid};

/// A node.
#[derive(Debug, Default)]
pub(super) struct Node {
    pub(super) gpu: Gpu,
    runlist: Runlist,
    takers: Takers,
    /// Most processes of a runlist that was not oversubscribed.
    fitting: u32,
}

impl Node {
    /// After its new counts are in place. Returns the time off that this ends.
    pub(super) fn mapped(
        &mut self,
        happening: &Happening,
        limits: impl FnOnce() -> Limits,
        since_ns: u64,
    ) -> Option<Off> {
        let gpu = &mut self.gpu;
        let first = gpu.maps == 0;
        gpu.maps += 1;
        gpu.mapped = happening.status == 0;
        if happening.status != 0 {
            return None;
        }
        let off = self.runlist.mapped(happening.ts_ns, happening.actor_tid);
        if let Some(off) = off {
            self.takers.resumed(off.ns);
        }
        if !gpu.oversubscribed {
            self.fitting = self.fitting.max(gpu.processes);
            if let Some(over) = gpu.oversubscription.take() {
                let ns = happening.ts_ns.saturating_sub(over.since_ns);
                gpu.oversubscribed_ns = gpu.oversubscribed_ns.saturating_add(ns);
                gpu.last_oversubscription = Some(over);
            }
        } else if gpu.oversubscription.is_none() {
            gpu.oversubscriptions += 1;
            gpu.oversubscription = Some(Oversubscription {
                since_ns: if first { since_ns } else { happening.ts_ns },
                by: if first { None } else { happening.pid },
                cause: happening.cause,
                rule: oversubscription::rule(limits(), self.fitting, gpu.cp_queues, gpu.processes),
                cp_queues: gpu.cp_queues,
                processes: gpu.processes,
            });
        }
        off
    }

    fn now(&self, ts_ns: u64) -> Moment {
        Moment {
            ts_ns,
            counts: self.runlist.counts,
        }
    }
}

fn call(happening: &Happening) -> Call {
    Call {
        tid: happening.actor_tid,
        from_ns: happening.ts_ns.saturating_sub(happening.total_ns),
        to_ns: happening.ts_ns,
    }
}

impl Model {
    /// Says when watching began: what was so at the first event has been so since then.
    pub fn begin(&mut self, ts_ns: u64) {
        self.since_ns = Some(ts_ns);
    }

    /// When watching began, or the first event.
    #[must_use]
    pub fn since_ns(&self) -> Option<u64> {
        self.since_ns
    }

    /// Says what a node's scheduler takes at once. Forgotten when the driver goes.
    pub fn set_limits(&mut self, gpu_id: GpuId, limits: Limits) {
        self.limits.insert(gpu_id, limits);
    }

    /// What a node's scheduler takes at once, as far as it was told.
    #[must_use]
    pub fn limits(&self, gpu_id: GpuId) -> Limits {
        self.limits.get(&gpu_id).copied().unwrap_or_default()
    }

    /// What became of a queue since it was seen first.
    #[must_use]
    pub fn usage(&self, key: &QueueKey) -> Option<Usage> {
        let account = &self.queues.get(key)?.account;
        let node = self.gpus.get(key.gpu_id)?;
        let share = self.shares.get(key.pid, key.gpu_id)?;
        let counts = account.read(&share.account.read(&node.runlist.counts));
        Some(Usage::new(account.since_ns, &counts))
    }

    /// What became of all queues of each process on each node until `now_ns`: of processes that ended, of which the last thousand
    /// are remembered, and of those that have queues.
    #[must_use]
    pub fn process_usage(&self, now_ns: u64) -> Vec<ProcessUsage> {
        let mut all: Vec<ProcessUsage> = self
            .shares
            .usage(|pid| self.comm(pid))
            .filter(|usage| usage.queues_seen > 0)
            .collect();
        // The last of a pid is the living one.
        let mut places = foldhash::HashMap::default();
        for (at, usage) in all.iter().enumerate().filter(|(_, usage)| !usage.ended) {
            places.insert((usage.pid, usage.gpu_id), at);
        }
        for key in self.queues.keys() {
            let place = places.get(&(key.pid, key.gpu_id));
            if let (Some(sum), Some(usage)) = (place.map(|at| &mut all[*at]), self.usage(key)) {
                sum.preemptions += usage.preemptions;
                for (sum, count) in sum.by_cause.iter_mut().zip(usage.by_cause) {
                    *sum += count;
                }
                sum.by_own += usage.by_own;
                sum.off_ns = sum.off_ns.saturating_add(usage.off_until(now_ns));
            }
        }
        all
    }

    /// Processes that ended and are not in [`Model::process_usage`] any more.
    #[must_use]
    pub fn processes_forgotten(&self) -> u64 {
        self.shares.forgotten()
    }

    /// On whose behalf a node's runlist was taken off, and what that cost, in no order. A process that is `None` is not known,
    /// or one of too many.
    pub fn taken(&self, gpu_id: GpuId) -> impl Iterator<Item = (Cause, Option<Pid>, Taken)> + '_ {
        self.gpus
            .get(gpu_id)
            .into_iter()
            .flat_map(|node| node.takers.iter())
    }

    /// Every node that an event named, in no order.
    pub fn gpus(&self) -> impl Iterator<Item = (GpuId, &Gpu)> {
        self.gpus.iter().map(|(gpu_id, node)| (gpu_id, &node.gpu))
    }

    pub(super) fn unmapped(&mut self, gpu_id: GpuId, happening: &Happening) {
        let node = self.gpus.of_event(gpu_id);
        node.gpu.unmaps += 1;
        // The driver keeps the runlist as active when taking it off failed (unmap_queues_cpsch, Linux 6.12).
        node.gpu.mapped = happening.status != 0;
        if happening.status != 0 {
            return;
        }
        let (cause, by, tid) = (happening.cause, happening.pid, happening.actor_tid);
        let share = by.and_then(|pid| self.shares.get_mut(pid, gpu_id));
        if let Some(share) = share {
            if cause == Cause::ProcessExit && share.account.is_part() {
                // Its queues are being torn down: that is no preemption of them.
                let stopped = Stopped {
                    ending: true,
                    ..share.stopped
                };
                let now = Call {
                    tid,
                    from_ns: happening.ts_ns,
                    to_ns: happening.ts_ns,
                };
                share.set(stopped, &node.runlist, now);
            }
            share.own_stop();
        }
        node.runlist.unmapped(happening.ts_ns, tid, cause, by);
        let queues = node.gpu.queues;
        node.takers.stop(cause, by, queues, happening.total_ns);
    }

    /// A queue exists from now on.
    pub(super) fn open_account(&mut self, key: QueueKey, queue: Queue, happening: &Happening) {
        let node = self.gpus.of_event(key.gpu_id);
        let at = node
            .runlist
            .after(call(happening), true)
            .unwrap_or(node.now(happening.ts_ns));
        let share = self.shares.entry(key.pid, key.gpu_id, &at);
        share.queues += 1;
        share.queues_seen += 1;
        let born_evicted = matches!(
            happening.event,
            crate::event::Event::QueueCreated { evicted: true, .. }
        );
        if born_evicted || self.evictions.contains_key(&(key.pid, key.gpu_id)) {
            let stopped = Stopped {
                evicted: true,
                ..share.stopped
            };
            share.set(stopped, &node.runlist, call(happening));
        }
        let account = match queue.percent {
            Some(0) => Account::apart(happening.ts_ns),
            _ => Account::joined(&share.moment(&at)),
        };
        if let Some(old) = self.queues.insert(key, Tracked { queue, account }) {
            // That it was destroyed was not seen.
            let counts = old.account.read(&share.account.read(&node.runlist.counts));
            share.past.add(&counts, happening.ts_ns);
            share.queues -= 1;
        }
    }

    /// A queue may run, or may not. Returns the time off that this ends.
    pub(super) fn change_share(
        &mut self,
        key: &QueueKey,
        runs: bool,
        happening: &Happening,
    ) -> Option<Off> {
        let tracked = self.queues.get_mut(key)?;
        let node = self.gpus.get(key.gpu_id)?;
        let share = self.shares.get(key.pid, key.gpu_id)?;
        let joined_ns = tracked.account.joined_ns().max(share.account.joined_ns());
        let at = node
            .runlist
            .after(call(happening).since(joined_ns), runs)
            .unwrap_or(node.now(happening.ts_ns));
        let at = share.moment(&at);
        if runs {
            return tracked.account.join(&at);
        }
        tracked.account.leave(&at);
        None
    }

    /// A queue is gone.
    pub(super) fn close_account(&mut self, key: &QueueKey, happening: &Happening) -> Option<Queue> {
        let tracked = self.queues.remove(key)?;
        let node = self.gpus.get(key.gpu_id);
        let share = self.shares.get_mut(key.pid, key.gpu_id);
        let mut over = false;
        if let (Some(node), Some(share)) = (node, share) {
            let joined_ns = tracked.account.joined_ns().max(share.account.joined_ns());
            let last = node.runlist.before_stop(call(happening).since(joined_ns));
            let at = last.unwrap_or(node.now(happening.ts_ns));
            let counts = tracked.account.read(&share.account.read(&at.counts));
            share.past.add(&counts, at.ts_ns);
            over = share.queue_gone();
        }
        if over {
            self.shares.end_empty(key.pid, self.comm(key.pid));
        }
        if self.gpus.get(key.gpu_id).is_some() {
            let node = self.gpus.of_event(key.gpu_id);
            node.runlist.destroyed(happening.actor_tid);
        }
        Some(tracked.queue)
    }

    /// Everything that a process had is gone.
    pub(super) fn close_accounts_of(&mut self, pid: Pid, ts_ns: u64, comm: Option<Comm>) {
        self.settle(ts_ns, |key| key.pid == pid);
        self.queues.retain(|key, _| key.pid != pid);
        self.shares.forget(pid, comm);
    }

    pub(super) fn close_all_accounts(&mut self, ts_ns: u64) {
        self.settle(ts_ns, |_| true);
        self.queues.clear();
        let mut shares = std::mem::take(&mut self.shares);
        shares.forget_all(|pid| self.comm(pid));
        self.shares = shares;
    }

    fn settle(&mut self, ts_ns: u64, of: impl Fn(&QueueKey) -> bool) {
        for (key, tracked) in self.queues.iter().filter(|(key, _)| of(key)) {
            let share = self.shares.get_mut(key.pid, key.gpu_id);
            if let (Some(node), Some(share)) = (self.gpus.get(key.gpu_id), share) {
                let counts = tracked
                    .account
                    .read(&share.account.read(&node.runlist.counts));
                share.past.add(&counts, ts_ns);
            }
        }
    }

    pub(super) fn weigh_eviction(
        &mut self,
        pid: Pid,
        gpu_id: GpuId,
        evicted: bool,
        happening: &Happening,
    ) -> Option<Off> {
        self.set_share(pid, gpu_id, happening, |stopped, _| Stopped {
            evicted,
            ..stopped
        })
    }

    /// Holds tell how many queues, not which: when as many are held as there are, all are off.
    pub(super) fn weigh_holds(
        &mut self,
        pid: Pid,
        gpu_id: GpuId,
        happening: &Happening,
    ) -> Option<Off> {
        let held = self.holds.get(pid, gpu_id);
        let most = held.queues.max(held.parked);
        self.set_share(pid, gpu_id, happening, |stopped, queues| Stopped {
            held: most > 0 && most >= queues,
            ..stopped
        })
    }

    /// Suspends tell neither which queues nor on which node: when as many are suspended as the process has, all are off.
    pub(super) fn weigh_suspend(&mut self, pid: Pid, happening: &Happening) -> Option<Off> {
        let suspended = self.suspended.get(&pid).copied().unwrap_or(0);
        let queues: u32 = self.shares.of(pid).map(|(_, share)| share.queues).sum();
        let all = suspended > 0 && suspended >= queues;
        let gpu_ids: Vec<GpuId> = self.shares.of(pid).map(|(gpu_id, _)| gpu_id).collect();
        let mut off = None;
        for gpu_id in gpu_ids {
            let ended = self.set_share(pid, gpu_id, happening, |stopped, _| Stopped {
                suspended: all,
                ..stopped
            });
            off = [off, ended].into_iter().flatten().max_by_key(|off| off.ns);
        }
        off
    }

    fn set_share(
        &mut self,
        pid: Pid,
        gpu_id: GpuId,
        happening: &Happening,
        set: impl Fn(Stopped, u32) -> Stopped,
    ) -> Option<Off> {
        let node = self.gpus.get(gpu_id)?;
        let share = self.shares.get_mut(pid, gpu_id)?;
        let stopped = set(share.stopped, share.queues);
        share.set(stopped, &node.runlist, call(happening))
    }
}

#[cfg(test)]
mod tests;

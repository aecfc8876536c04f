// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who has which share of a node's runlist: every process on every node, and what became of those that are gone.
//!
//! What is not known of single queues: a hold and a debugger's suspend tell how many queues they stopped, not which. A process is
//! off when as many are stopped as it has queues; while it is some of them, all of them count as running.

use std::collections::VecDeque;

use foldhash::HashMap;

use super::stops::{Account, Call, Moment, Runlist, Totals};
use super::usage::{Off, ProcessUsage};
use crate::event::{Comm, GpuId, Pid};

/// Processes that are remembered after their end.
const MOST_ENDED: usize = 1024;

/// One process on one node.
#[derive(Debug)]
pub(super) struct Share {
    /// Its part in the node's runlist.
    pub(super) account: Account,
    /// Its queues there, now.
    pub(super) queues: u32,
    /// Queues that it had there, all in all.
    pub(super) queues_seen: u64,
    /// What its destroyed queues counted.
    pub(super) past: Totals,
    pub(super) stopped: Stopped,
    /// The process has exited; its queues go next.
    exited: bool,
}

/// What keeps the queues of a process off a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Stopped {
    pub(super) evicted: bool,
    pub(super) suspended: bool,
    pub(super) held: bool,
    pub(super) ending: bool,
}

impl Stopped {
    fn any(self) -> bool {
        self.evicted || self.suspended || self.held || self.ending
    }
}

impl Share {
    fn new(at: &Moment) -> Self {
        Self {
            account: Account::joined(at),
            queues: 0,
            queues_seen: 0,
            past: Totals::default(),
            stopped: Stopped::default(),
            exited: false,
        }
    }

    /// A moment of the node as its queues see it.
    pub(super) fn moment(&self, at: &Moment) -> Moment {
        Moment {
            ts_ns: at.ts_ns,
            counts: self.account.read(&at.counts),
        }
    }

    /// Sets what keeps it off. It leaves and joins the runlist at the change that the call made, if there was one.
    /// Returns the time off that this ends.
    pub(super) fn set(&mut self, stopped: Stopped, runlist: &Runlist, call: Call) -> Option<Off> {
        self.stopped = stopped;
        let off = stopped.any();
        if off != self.account.is_part() {
            return None;
        }
        let call = call.since(self.account.joined_ns());
        let at = runlist.after(call, !off).unwrap_or(Moment {
            ts_ns: call.to_ns,
            counts: runlist.counts,
        });
        if off {
            self.account.leave(&at);
            return None;
        }
        self.account.join(&at)
    }

    /// It lost a queue. Returns whether it is over.
    pub(super) fn queue_gone(&mut self) -> bool {
        self.queues = self.queues.saturating_sub(1);
        self.queues == 0 && self.exited
    }

    /// The runlist is about to be taken off on behalf of this process.
    pub(super) fn own_stop(&mut self) {
        if self.account.is_part() {
            self.account.own_stop();
        }
    }

    fn usage(&self, pid: Pid, gpu_id: GpuId, comm: Option<Comm>) -> ProcessUsage {
        ProcessUsage {
            pid,
            gpu_id,
            comm,
            queues: self.queues,
            queues_seen: self.queues_seen,
            ended: false,
            preemptions: self.past.stops,
            by_cause: self.past.by_cause,
            by_own: self.past.own,
            off_ns: self.past.off_ns,
        }
    }
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Shares {
    living: HashMap<(Pid, GpuId), Share>,
    ended: VecDeque<ProcessUsage>,
    forgotten: u64,
}

impl Shares {
    pub(super) fn get(&self, pid: Pid, gpu_id: GpuId) -> Option<&Share> {
        self.living.get(&(pid, gpu_id))
    }

    pub(super) fn get_mut(&mut self, pid: Pid, gpu_id: GpuId) -> Option<&mut Share> {
        self.living.get_mut(&(pid, gpu_id))
    }

    /// The share of a process that has a queue on the node from `at` on.
    pub(super) fn entry(&mut self, pid: Pid, gpu_id: GpuId, at: &Moment) -> &mut Share {
        self.living
            .entry((pid, gpu_id))
            .or_insert_with(|| Share::new(at))
    }

    /// The shares of one process.
    pub(super) fn of(&mut self, pid: Pid) -> impl Iterator<Item = (GpuId, &mut Share)> {
        self.living
            .iter_mut()
            .filter(move |((owner, _), _)| *owner == pid)
            .map(|((_, gpu_id), share)| (*gpu_id, share))
    }

    /// The process has exited: its shares end with their last queues.
    pub(super) fn exit(&mut self, pid: Pid, comm: Option<Comm>) {
        self.of(pid).for_each(|(_, share)| share.exited = true);
        self.end_empty(pid, comm);
    }

    /// Ends shares of an exited process that have no queue.
    pub(super) fn end_empty(&mut self, pid: Pid, comm: Option<Comm>) {
        let gone =
            |key: &(Pid, GpuId), share: &Share| key.0 == pid && share.exited && share.queues == 0;
        self.end(comm, gone);
    }

    /// Whatever it has, it is gone.
    pub(super) fn forget(&mut self, pid: Pid, comm: Option<Comm>) {
        self.end(comm, |key, _| key.0 == pid);
    }

    /// Everything is gone.
    pub(super) fn forget_all(&mut self, comm: impl Fn(Pid) -> Option<Comm>) {
        let pids: Vec<Pid> = self.living.keys().map(|(pid, _)| *pid).collect();
        for pid in pids {
            self.forget(pid, comm(pid));
        }
    }

    fn end(&mut self, comm: Option<Comm>, gone: impl Fn(&(Pid, GpuId), &Share) -> bool) {
        let ended = &mut self.ended;
        self.living.retain(|key, share| {
            let gone = gone(key, share);
            if gone && share.queues_seen > 0 {
                ended.push_back(ProcessUsage {
                    ended: true,
                    queues: 0,
                    ..share.usage(key.0, key.1, comm)
                });
            }
            !gone
        });
        while self.ended.len() > MOST_ENDED {
            self.ended.pop_front();
            self.forgotten += 1;
        }
    }

    /// What became of every share: first those that ended, the longest ago first. Of the others, only what their destroyed
    /// queues counted.
    pub(super) fn usage<'a>(
        &'a self,
        comm: impl Fn(Pid) -> Option<Comm> + 'a,
    ) -> impl Iterator<Item = ProcessUsage> + 'a {
        let living = self
            .living
            .iter()
            .map(move |((pid, gpu_id), share)| share.usage(*pid, *gpu_id, comm(*pid)));
        self.ended.iter().cloned().chain(living)
    }

    /// Ended shares that are no longer remembered.
    pub(super) fn forgotten(&self) -> u64 {
        self.forgotten
    }
}

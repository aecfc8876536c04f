// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where hints are given and taken back: by the thread that serves the socket, which only tells the controller that something has
//! changed. A service waits for its hint before every request, and would wait for two threads more otherwise.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::access::{Caller, Right};
use super::api::{HintBegin, HintBegun, HintEnded};
use super::calls::{permit, Answer, Refusal};
use super::hints::{self, Hints};
use crate::event::Pid;
use crate::kfd::{boottime_ns, process, Root};
use crate::policy::{Access, Config};

/// Shared by the two threads.
#[derive(Clone)]
pub(super) struct Desk(Arc<Inner>);

struct Inner {
    root: Root,
    hints: Mutex<Hints>,
    terms: Mutex<Terms>,
}

/// What is demanded of a hint, and what becomes of it.
struct Terms {
    access: Access,
    expiry_ns: u64,
    /// What a stop takes here.
    ahead_ns: u64,
}

impl Desk {
    pub(super) fn new(root: Root, config: &Config) -> Self {
        Self(Arc::new(Inner {
            root,
            hints: Mutex::default(),
            terms: Mutex::new(Terms {
                access: config.access.clone(),
                expiry_ns: config.serve.hint_expiry,
                ahead_ns: 0,
            }),
        }))
    }

    /// From now on by this configuration.
    pub(super) fn reload(&self, config: &Config) {
        let mut terms = lock(&self.0.terms);
        terms.access = config.access.clone();
        terms.expiry_ns = config.serve.hint_expiry;
    }

    /// What a stop takes here.
    pub(super) fn set_ahead(&self, ahead_ns: u64) {
        lock(&self.0.terms).ahead_ns = ahead_ns;
    }

    /// Does something with the hints themselves. Not to be called within itself.
    pub(super) fn with<T>(&self, call: impl FnOnce(&mut Hints) -> T) -> T {
        call(&mut lock(&self.0.hints))
    }

    pub(super) fn begin(&self, caller: Caller, asked: &HintBegin) -> Answer<HintBegun> {
        let owner = asked.pid.map(|pid| self.owner(pid, caller.uid));
        self.begin_with(caller, asked, owner.transpose()?)
    }

    /// A process that is there, and when it started.
    pub(super) fn started(&self, pid: Pid) -> Option<(Pid, u64)> {
        process::start_ticks(&self.0.root, pid).map(|started| (pid, started))
    }

    fn owner(&self, pid: Pid, uid: u32) -> Answer<(Pid, u64)> {
        hints::owner(&self.0.root, pid, uid).map_err(Refusal::Wrong)
    }

    /// Begins one that ends with this process, whatever `asked` says of it.
    pub(super) fn begin_with(
        &self,
        caller: Caller,
        asked: &HintBegin,
        process: Option<(Pid, u64)>,
    ) -> Answer<HintBegun> {
        let (expiry_ns, ahead_ns) = {
            let terms = lock(&self.0.terms);
            permit(&terms.access, caller, Right::Hint)?;
            (terms.expiry_ns, terms.ahead_ns)
        };
        let now_ns = boottime_ns();
        let begin = |hints: &mut Hints| {
            hints.begin(asked, process, caller.uid, expiry_ns, ahead_ns, now_ns)
        };
        self.with(begin).map_err(Refusal::Wrong)
    }

    pub(super) fn end(&self, caller: Caller, id: u64) -> Answer<HintEnded> {
        permit(&lock(&self.0.terms).access, caller, Right::Hint)?;
        self.with(|hints| hints.end(id, caller.uid, boottime_ns()))
            .map(|latency_ns| HintEnded { latency_ns })
            .ok_or_else(|| {
                Refusal::NotFound(format!(
                    "there is no hint {id} of this user; it may have expired"
                ))
            })
    }
}

/// After a panic, too: what is behind it is sound between any two of its steps.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

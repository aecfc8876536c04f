// SPDX-License-Identifier: MIT OR Apache-2.0
//! Processes with /dev/kfd open, and the names of others. Most events are on behalf of the process of the one before, whose name is
//! at hand.

use foldhash::HashMap;

use super::names::Names;
use super::Process;
use crate::event::{Comm, Pid};

#[derive(Debug, Default)]
pub(super) struct Processes {
    all: HashMap<Pid, Process>,
    names: Names,
    /// The last whose name was asked for by [`Processes::of_event`], as long as nothing changed.
    last: Option<(Pid, Option<Comm>)>,
}

impl Processes {
    pub(super) fn get(&self, pid: Pid) -> Option<&Process> {
        self.all.get(&pid)
    }

    /// It, from now on.
    pub(super) fn entry(&mut self, pid: Pid) -> &mut Process {
        self.last = None;
        self.all.entry(pid).or_default()
    }

    pub(super) fn remove(&mut self, pid: Pid) -> Option<Process> {
        self.last = None;
        self.all.remove(&pid)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Pid, &Process)> {
        self.all.iter().map(|(pid, process)| (*pid, process))
    }

    /// Names stay.
    pub(super) fn clear(&mut self) {
        self.last = None;
        self.all.clear();
    }

    /// Its name, if it was ever told.
    pub(super) fn comm(&self, pid: Pid) -> Option<Comm> {
        match self.all.get(&pid).and_then(|process| process.comm) {
            Some(comm) => Some(comm),
            None => self.names.get(pid).flatten(),
        }
    }

    /// The same for the process of an event.
    pub(super) fn of_event(&mut self, pid: Pid) -> Option<Comm> {
        match self.last {
            Some((last, comm)) if last == pid => {
                debug_assert_eq!(comm, self.comm(pid));
                comm
            }
            _ => {
                let comm = self.comm(pid);
                self.last = Some((pid, comm));
                comm
            }
        }
    }

    /// Whether its name was never told, nor that there is none to be had.
    pub(super) fn is_unknown(&self, pid: Pid) -> bool {
        match self.last {
            Some((last, Some(_))) if last == pid => false,
            _ => {
                self.all
                    .get(&pid)
                    .is_none_or(|process| process.comm.is_none())
                    && self.names.get(pid).is_none()
            }
        }
    }

    pub(super) fn learn(&mut self, pid: Pid, comm: Option<Comm>) {
        self.last = None;
        self.names.learn(pid, comm);
    }

    /// The name that it had without being a GPU process.
    pub(super) fn forget_name(&mut self, pid: Pid) {
        self.last = None;
        self.names.forget(pid);
    }
}

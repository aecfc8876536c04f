// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which processes belong to a run: those of its commands and of what these started, or all that a filter lets through.

use std::collections::HashMap;

use crate::event::{GpuId, Pid};
use crate::kfd::{process, Root};
use crate::model::Model;
use crate::sink::filter::Filter;

/// Generations that are looked at, so that a loop of stale parents ends.
const MOST_GENERATIONS: usize = 64;

/// Whose queues count.
#[derive(Clone, Debug)]
pub enum Who {
    /// Those of every process that this lets through.
    All(Filter),
    /// Of these, those of the commands that are started.
    Commands(Filter),
}

/// Tells for each process once.
#[derive(Debug)]
pub(super) struct Membership {
    root: Root,
    who: Who,
    jobs: Vec<Pid>,
    known: HashMap<Pid, Option<Belongs>>,
}

/// A process that belongs, and to which command, where that can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Belongs(pub(super) Option<usize>);

impl Membership {
    pub(super) fn new(root: Root, who: Who) -> Self {
        Self {
            root,
            who,
            jobs: Vec::new(),
            known: HashMap::new(),
        }
    }

    /// Whether queues of a node count.
    pub(super) fn on(&self, gpu_id: GpuId) -> bool {
        let (Who::All(filter) | Who::Commands(filter)) = &self.who;
        filter.shows_gpu(gpu_id)
    }

    /// These are the commands from now on.
    pub(super) fn start(&mut self, jobs: &[Pid]) {
        self.jobs = jobs.to_vec();
        self.known.clear();
    }

    /// The pid may be another process's soon.
    pub(super) fn forget(&mut self, pid: Pid) {
        self.known.remove(&pid);
    }

    /// Whether a process belongs. Asked when it is first seen: its parents are looked up while they are there.
    pub(super) fn of(&mut self, pid: Pid, model: &Model) -> Option<Belongs> {
        let comm = model.comm(pid);
        match &self.who {
            Who::All(filter) => filter
                .shows_owner(pid, comm.as_ref())
                .then_some(Belongs(None)),
            Who::Commands(filter) => {
                let (root, jobs) = (&self.root, &self.jobs);
                self.known
                    .entry(pid)
                    .or_insert_with(|| belongs(root, jobs, pid))
                    .filter(|_| filter.shows_owner(pid, comm.as_ref()))
            }
        }
    }
}

/// A process that is gone already belongs to one of the commands as far as can be told: nothing else was seen of it before.
fn belongs(root: &Root, jobs: &[Pid], pid: Pid) -> Option<Belongs> {
    let of = |pid: Pid| jobs.iter().position(|job| *job == pid);
    if let Some(party) = of(pid) {
        return Some(Belongs(Some(party)));
    }
    let Some(mut at) = process::parent(root, pid) else {
        let only = (jobs.len() == 1).then_some(0);
        return Some(Belongs(only)).filter(|_| !jobs.is_empty());
    };
    for _ in 0..MOST_GENERATIONS {
        if let Some(party) = of(at) {
            return Some(Belongs(Some(party)));
        }
        at = process::parent(root, at)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn children_of_children_belong() {
        let dir = std::env::temp_dir().join(format!("gpreempt-member-{}", std::process::id()));
        for (pid, parent) in [
            (10, 1),
            (11, 10),
            (12, 11),
            (20, 2),
            (21, 2),
            (2, 0),
            (30, 31),
            (31, 30),
        ] {
            let process = dir.join(format!("proc/{pid}"));
            fs::create_dir_all(&process).unwrap();
            let stat = format!("{pid} (a ) b) S {parent} 0 0");
            fs::write(process.join("stat"), stat).unwrap();
        }
        let root = Root::at(dir.clone());
        let jobs = [Pid(20), Pid(10)];
        let of = |pid| belongs(&root, &jobs, Pid(pid));
        let party = |party| Some(Belongs(Some(party)));
        assert_eq!(of(10), party(1));
        assert_eq!(of(12), party(1));
        assert_eq!(of(20), party(0));
        assert_eq!(of(21), None, "a process of somebody else");
        assert_eq!(of(30), None, "a loop of stale parents ends");
        assert_eq!(of(99), Some(Belongs(None)), "gone, and one of two");
        assert_eq!(belongs(&root, &jobs[..1], Pid(99)), party(0));
        assert_eq!(belongs(&root, &[], Pid(99)), None);
        fs::remove_dir_all(dir).unwrap();
    }
}

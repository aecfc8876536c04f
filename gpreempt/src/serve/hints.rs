// SPDX-License-Identifier: MIT OR Apache-2.0
//! Hints: online services say that a request is coming or running.
//!
//! A hint ends when its service says so, when its time is over, or when the process that it names ends: a service that dies
//! between begin and end does not keep offline jobs stopped.

use std::collections::BTreeMap;

use super::api::{HintBegin, HintBegun};
use crate::event::Pid;
use crate::kfd::{process, Root};
use crate::policy::Latency;

/// Longest time that a hint may be given.
const LONGEST_NS: u64 = 3_600_000_000_000;

/// More hints at once are refused: somebody forgets to end them.
const MOST: usize = 4096;

#[derive(Debug)]
struct Hint {
    /// When the work begins.
    work_ns: u64,
    /// When queues are to be stopped for it.
    from_ns: u64,
    until_ns: u64,
    /// Whose it is.
    process: Option<(Pid, u64)>,
    uid: u32,
}

/// A process that a hint of this user may end with, and when it started.
pub(super) fn owner(root: &Root, pid: Pid, uid: u32) -> Result<(Pid, u64), String> {
    match process::start_ticks(root, pid) {
        Some(started) if uid == 0 || process::owner(root, pid) == Some(uid) => Ok((pid, started)),
        Some(_) => Err(format!("process {pid} is another user's")),
        None => Err(format!("there is no process {pid}")),
    }
}

/// Those that were begun and have not ended.
#[derive(Debug, Default)]
pub(super) struct Hints {
    hints: BTreeMap<u64, Hint>,
    last_id: u64,
    /// Of requests that ended since they were last taken.
    latencies: Vec<Latency>,
}

impl Hints {
    /// Begins one, which ends with `process`. `ahead_ns` is what a stop takes here.
    pub(super) fn begin(
        &mut self,
        asked: &HintBegin,
        process: Option<(Pid, u64)>,
        uid: u32,
        expiry_ns: u64,
        ahead_ns: u64,
        now_ns: u64,
    ) -> Result<HintBegun, String> {
        if self.hints.len() >= MOST {
            return Err(format!(
                "{MOST} hints are in force: end them (DELETE /v1/hints/ID), or give a shorter expires_ms"
            ));
        }
        let ms = |ms: u64| ms.saturating_mul(1_000_000);
        let lasts_ns = asked.expires_ms.map_or(expiry_ns, ms).min(LONGEST_NS);
        let lead_ns = ms(asked.lead_ms).min(LONGEST_NS);
        let work_ns = now_ns.saturating_add(lead_ns);
        let until_ns = work_ns.saturating_add(lasts_ns);
        self.last_id += 1;
        self.hints.insert(
            self.last_id,
            Hint {
                work_ns,
                from_ns: work_ns.saturating_sub(ahead_ns).max(now_ns),
                until_ns,
                process,
                uid,
            },
        );
        Ok(HintBegun {
            id: self.last_id,
            until_ns,
        })
    }

    /// Ends one of this user, and says how long the work took.
    pub(super) fn end(&mut self, id: u64, uid: u32, now_ns: u64) -> Option<u64> {
        if !self
            .hints
            .get(&id)
            .is_some_and(|hint| uid == 0 || hint.uid == uid)
        {
            return None;
        }
        let hint = self.hints.remove(&id)?;
        let latency_ns = now_ns.saturating_sub(hint.work_ns);
        self.latencies.push(Latency {
            ts_ns: now_ns,
            latency_ns,
        });
        Some(latency_ns)
    }

    /// Ends those whose time is over. Whether any did.
    pub(super) fn expire(&mut self, now_ns: u64) -> bool {
        let before = self.hints.len();
        self.hints.retain(|_, hint| hint.until_ns > now_ns);
        self.hints.len() < before
    }

    /// Ends those whose process has ended. Whether any did.
    pub(super) fn bury(&mut self, root: &Root) -> bool {
        let before = self.hints.len();
        self.hints.retain(|_, hint| {
            hint.process
                .is_none_or(|(pid, started)| process::is_alive(root, pid, started))
        });
        self.hints.len() < before
    }

    /// Whether any ends with a process.
    pub(super) fn has_owners(&self) -> bool {
        self.hints.values().any(|hint| hint.process.is_some())
    }

    /// How many stop others now.
    pub(super) fn active(&self, now_ns: u64) -> u32 {
        let active = self.hints.values().filter(|hint| hint.from_ns <= now_ns);
        u32::try_from(active.count()).unwrap_or(u32::MAX)
    }

    /// When that changes by itself.
    pub(super) fn next_ns(&self, now_ns: u64) -> Option<u64> {
        let moments = self
            .hints
            .values()
            .flat_map(|hint| [hint.from_ns, hint.until_ns]);
        moments.filter(|at| *at > now_ns).min()
    }

    /// Requests that ended since this was last asked.
    pub(super) fn take_latencies(&mut self) -> Vec<Latency> {
        std::mem::take(&mut self.latencies)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn begin(hints: &mut Hints, asked: &HintBegin, now_ns: u64) -> HintBegun {
        hints
            .begin(asked, None, 1000, 100 * MS, 3 * MS, now_ns)
            .unwrap()
    }

    #[test]
    fn a_hint_stops_others_from_its_lead_to_its_end() {
        let mut hints = Hints::default();
        let coming = HintBegin {
            lead_ms: 10,
            ..HintBegin::default()
        };
        let begun = begin(&mut hints, &coming, 0);
        assert_eq!(hints.active(0), 0);
        assert_eq!(hints.next_ns(0), Some(7 * MS));
        assert_eq!(hints.active(7 * MS), 1);
        assert_eq!(hints.end(begun.id, 1001, 30 * MS), None, "another user's");
        assert_eq!(hints.end(begun.id, 1000, 30 * MS), Some(20 * MS));
        assert_eq!(hints.active(30 * MS), 0);
        assert_eq!(hints.take_latencies().len(), 1);
        assert_eq!(hints.end(begun.id, 1000, 31 * MS), None);
    }

    #[test]
    fn a_forgotten_hint_ends_by_itself() {
        let mut hints = Hints::default();
        begin(&mut hints, &HintBegin::default(), 0);
        assert!(!hints.expire(99 * MS));
        assert!(hints.expire(100 * MS));
        assert_eq!(hints.active(100 * MS), 0);
        assert!(
            hints.take_latencies().is_empty(),
            "nobody knows when it ended"
        );
    }

    #[test]
    fn a_hint_ends_with_its_process() {
        let root = Root::real();
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let mut hints = Hints::default();
        let asked = HintBegin {
            pid: Some(Pid(child.id())),
            ..HintBegin::default()
        };
        let uid = nix::unistd::getuid().as_raw();
        let of = owner(&root, asked.pid.unwrap(), uid).unwrap();
        hints
            .begin(&asked, Some(of), uid, 60_000 * MS, 0, 0)
            .unwrap();
        assert!(!hints.bury(&root));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(hints.bury(&root));
        let gone = owner(&root, asked.pid.unwrap(), uid);
        assert!(gone.unwrap_err().contains("no process"));
    }

    #[test]
    fn too_many_are_refused() {
        let mut hints = Hints::default();
        for _ in 0..MOST {
            begin(&mut hints, &HintBegin::default(), 0);
        }
        let more = hints.begin(&HintBegin::default(), None, 0, MS, 0, 0);
        assert!(more.unwrap_err().contains("4096 hints"));
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is worth knowing of a run: findings of all its pictures and events, of its own processes.

use std::collections::BTreeMap;

use super::run::Run;
use crate::event::{GpuId, Happening, Pid, QueueId};
use crate::findings::{self, Finding, History, Kind};
use crate::kfd::snapshot::Snapshot;
use crate::model::Model;
use crate::sink::record::Record;

/// A mapped queue is idle after so long without a packet: runs are short.
const IDLE_AFTER_NS: u64 = 2_000_000_000;

type About = (Kind, Option<GpuId>, Option<Pid>, Option<QueueId>);

/// Collects them.
#[derive(Debug, Default)]
pub(super) struct Noteworthy {
    history: History,
    found: BTreeMap<About, Finding>,
}

impl Noteworthy {
    pub(super) fn record(&mut self, record: &Record) {
        self.history.record(record);
    }

    pub(super) fn event(&mut self, happening: &Happening) {
        self.history.event(happening);
    }

    /// What is found in a picture stays found when its queue is gone, and not if a later picture shows that it is not so.
    pub(super) fn picture(&mut self, snapshot: &Snapshot, begun_ns: u64, done_ns: u64) {
        self.history.picture(snapshot.clone(), begun_ns, done_ns);
        self.found.retain(|(kind, gpu_id, pid, queue_id), _| {
            let quiet = matches!(kind, Kind::IdleQueue | Kind::UnusedQueue);
            let shown = || {
                let (gpu_id, pid, queue_id) = ((*gpu_id)?, (*pid)?, (*queue_id)?);
                snapshot.queue(pid, gpu_id, queue_id)
            };
            !quiet || shown().is_none()
        });
        let evidence = self.history.evidence(None, IDLE_AFTER_NS, begun_ns);
        let found = findings::find(&evidence).into_iter().filter(|finding| {
            let of_queues = [Kind::IdleQueue, Kind::UnusedQueue, Kind::SaveRestore];
            of_queues.contains(&finding.kind)
        });
        for finding in found {
            self.found.insert(about(&finding), finding);
        }
    }

    /// Those of a run that has ended, and begins anew.
    pub(super) fn finish(&mut self, run: &Run, model: Option<&Model>) -> Vec<Finding> {
        self.history.settle();
        let evidence = self.history.evidence(model, IDLE_AFTER_NS, run.to_ns);
        // What its calls did to others, COST says.
        let of_model = |finding: &Finding| match finding.kind {
            Kind::Oversubscribed => run
                .levels
                .iter()
                .any(|level| level.oversubscribed && Some(level.gpu_id) == finding.gpu_id),
            kind => kind == Kind::PlaceOnly,
        };
        for finding in findings::find(&evidence).into_iter().filter(of_model) {
            self.found.insert(about(&finding), finding);
        }
        let own = |finding: &Finding| {
            let is_own = |pid| run.members.iter().any(|member| member.pid == pid);
            finding.kind.is_of_node() || finding.pid.is_none_or(is_own)
        };
        let mut found: Vec<Finding> = std::mem::take(&mut self.found).into_values().collect();
        found.retain(own);
        found.sort_by_key(|finding| (finding.severity, about(finding)));
        found
    }
}

fn about(finding: &Finding) -> About {
    (finding.kind, finding.gpu_id, finding.pid, finding.queue_id)
}

#[cfg(test)]
mod tests {
    use super::super::run::tests::{queue, run_of, S};
    use super::*;
    use crate::kfd::snapshot::{Queue, State};

    fn picture(written: u64, read: u64) -> Snapshot {
        let used = Queue {
            write_index: Some(written),
            read_index: Some(read),
            ..queue(7, 0, State::Mapped)
        };
        let unused = Queue {
            write_index: Some(0),
            read_index: Some(0),
            ..queue(7, 1, State::Mapped)
        };
        Snapshot {
            queues: vec![used, unused],
            ..Snapshot::default()
        }
    }

    #[test]
    fn what_was_found_stays_when_its_queue_is_gone() {
        let mut noteworthy = Noteworthy::default();
        for (at, written) in [(1, 5), (2, 9), (5, 9), (8, 9)] {
            noteworthy.picture(&picture(written, written), at * S, at * S);
        }
        noteworthy.picture(&Snapshot::default(), 9 * S, 9 * S);
        let run = run_of(&[(7, 0, 1, Some(9)), (7, 1, 1, Some(9))]);
        let found = noteworthy.finish(&run, None);
        let kinds: Vec<Kind> = found.iter().map(|finding| finding.kind).collect();
        assert_eq!(kinds, [Kind::IdleQueue, Kind::UnusedQueue], "{found:?}");
        assert!(noteworthy.finish(&run, None).is_empty(), "it begins anew");
    }

    #[test]
    fn a_queue_that_works_again_is_not_idle_and_others_are_left_out() {
        let mut noteworthy = Noteworthy::default();
        for (at, written) in [(1, 9), (5, 9), (8, 10)] {
            noteworthy.picture(&picture(written, written), at * S, at * S);
        }
        let run = run_of(&[(7, 0, 1, Some(9))]);
        let found = noteworthy.finish(&run, None);
        assert!(
            found.iter().all(|f| f.kind == Kind::UnusedQueue),
            "{found:?}"
        );
        for at in [1, 5] {
            noteworthy.picture(&picture(9, 9), at * S, at * S);
        }
        assert!(noteworthy
            .finish(&run_of(&[(8, 0, 1, None)]), None)
            .is_empty());
    }
}

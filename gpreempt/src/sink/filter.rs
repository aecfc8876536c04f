// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which events are shown. An event must pass every kind of filter that is given; of one kind, any value will do.

use crate::event::{Comm, Event, GpuId, Happening, Kind, Pid};
pub use crate::kfd::name::{CommGlob, GpuArg};
use crate::model::Context;

/// What the user asked to see; empty = everything.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Of, or caused by, one of these processes.
    pub pids: Vec<Pid>,
    /// Of, or caused by, a process whose name matches one of these.
    pub comms: Vec<CommGlob>,
    /// On one of these nodes.
    pub gpus: Vec<GpuArg>,
    /// One of these.
    pub kinds: Vec<Kind>,
}

impl Filter {
    /// Whether an event is shown. Resets concern every process of the GPU and pass the filters for processes.
    #[must_use]
    pub fn shows(&self, happening: &Happening, context: &Context) -> bool {
        let event = &happening.event;
        let of_all_processes = matches!(event, Event::GpuReset { .. });
        let pids = [
            happening.pid,
            Pid::known(happening.actor_pid.0),
            event.owner_pid(),
        ];
        let comms = [context.comm, context.actor_comm, context.owner_comm];
        passes(&self.kinds, |kind| *kind == event.kind())
            && passes(&self.gpus, |gpu| {
                event.gpu_id().is_some_and(|id| gpu.is(id))
            })
            && (of_all_processes || passes(&self.pids, |pid| pids.contains(&Some(*pid))))
            && (of_all_processes
                || passes(&self.comms, |glob| {
                    comms.iter().flatten().any(|c| glob.matches(c))
                }))
    }

    /// Whether what became of a process on a node is shown.
    #[must_use]
    pub fn shows_process(&self, pid: Pid, comm: Option<&Comm>, gpu_id: GpuId) -> bool {
        self.shows_owner(pid, comm) && self.shows_gpu(gpu_id)
    }

    /// Whether a process is one that is asked for.
    #[must_use]
    pub fn shows_owner(&self, pid: Pid, comm: Option<&Comm>) -> bool {
        passes(&self.pids, |wanted| *wanted == pid)
            && passes(&self.comms, |glob| {
                comm.is_some_and(|comm| glob.matches(comm))
            })
    }

    /// Whether a node is one that is asked for.
    #[must_use]
    pub fn shows_gpu(&self, gpu_id: GpuId) -> bool {
        passes(&self.gpus, |gpu| gpu.is(gpu_id))
    }
}

fn passes<T>(wanted: &[T], fits: impl Fn(&T) -> bool) -> bool {
    wanted.is_empty() || wanted.iter().any(fits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Cause, Hold, HoldCause, ResetPhase, UnmapFilter};

    fn unmap(pid: u32, actor: u32) -> Happening {
        let gpu_id = GpuId(0x52a1);
        Happening {
            ts_ns: 1,
            total_ns: 1,
            cause: Cause::Evict,
            status: 0,
            pid: Pid::known(pid),
            actor_pid: Pid(actor),
            actor_tid: actor,
            event: Event::RunlistUnmapped {
                gpu_id,
                filter: UnmapFilter::Dynamic,
                lock_wait_ns: 0,
                fence_ns: 0,
            },
        }
    }

    #[test]
    fn a_process_is_found_as_owner_and_as_cause() {
        let filter = Filter {
            pids: vec![Pid(7)],
            ..Filter::default()
        };
        assert!(filter.shows(&unmap(7, 1), &Context::default()));
        assert!(filter.shows(&unmap(1, 7), &Context::default()));
        assert!(!filter.shows(&unmap(1, 2), &Context::default()));
    }

    #[test]
    fn the_owner_of_a_hold_finds_what_a_worker_did_for_it() {
        let hold = Hold {
            gpu_id: GpuId(0x52a1),
            count: 1,
            owner_pid: Some(Pid(300)),
            cause: HoldCause::Lease,
            lock_wait_ns: 0,
            hw_ns: 0,
        };
        let released = Happening {
            event: Event::QueuesReleased(hold),
            ..unmap(7, 2)
        };
        let context = Context {
            owner_comm: Some(Comm::from_procfs(b"gpreempt\n")),
            ..Context::default()
        };
        let of = |pid| Filter {
            pids: vec![Pid(pid)],
            ..Filter::default()
        };
        assert!(of(300).shows(&released, &context));
        assert!(of(7).shows(&released, &context));
        assert!(!of(8).shows(&released, &context));
        let filter = Filter {
            comms: vec!["gpre*".parse().unwrap()],
            ..Filter::default()
        };
        assert!(filter.shows(&released, &context));
    }

    #[test]
    fn kinds_of_filters_add_up() {
        let gpus = vec!["52a1".parse().unwrap()];
        let filter = Filter {
            pids: vec![Pid(7)],
            gpus,
            kinds: vec![Kind::RunlistUnmapped],
            ..Filter::default()
        };
        assert!(filter.shows(&unmap(7, 1), &Context::default()));
        let other = Filter {
            kinds: vec![Kind::RunlistMapped],
            ..filter
        };
        assert!(!other.shows(&unmap(7, 1), &Context::default()));
    }

    #[test]
    fn resets_reach_everybody() {
        let event = Event::GpuReset {
            gpu_id: GpuId(1),
            phase: ResetPhase::Pre,
        };
        let reset = Happening {
            pid: None,
            event,
            ..unmap(0, 3)
        };
        let filter = Filter {
            pids: vec![Pid(7)],
            ..Filter::default()
        };
        assert!(filter.shows(&reset, &Context::default()));
        let other_gpu = Filter {
            gpus: vec!["0x2".parse().unwrap()],
            ..Filter::default()
        };
        assert!(!other_gpu.shows(&reset, &Context::default()));
    }
}

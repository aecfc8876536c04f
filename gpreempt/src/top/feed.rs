// SPDX-License-Identifier: MIT OR Apache-2.0
//! What events tell, from the thread that reads them to the screen: a model of their own, which the screen looks into when it is
//! drawn. An event costs what applying it costs, however many queues there are, and never a redraw.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::state::Status;
use crate::event::{Event, GpuId, Happening};
use crate::findings::History;
use crate::kfd::snapshot::Snapshot;
use crate::model::{Context, Limits, Model};
use crate::sink::record::{DriverState, Gpu, Record};
use crate::sink::Sink;

/// The median of the last minute is of so many unmaps at most.
pub(super) const MOST_UNMAPS: usize = 4096;

/// A runlist that was taken off the hardware.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unmap {
    /// When that was done.
    pub(super) ts_ns: u64,
    /// The driver's call, with its wait for the lock of the scheduler.
    pub(super) total_ns: u64,
}

/// What events told so far.
#[derive(Debug, Default)]
pub(super) struct Feed {
    pub(super) model: Model,
    /// The last [`MOST_UNMAPS`] of each node.
    pub(super) unmaps: HashMap<GpuId, VecDeque<Unmap>>,
    /// Where the source stands.
    pub(super) status: Status,
    /// The last message for people.
    pub(super) notice: Option<String>,
    /// Processes that a node runs at once, where the driver was told a number.
    pub(super) processes_max: Option<u32>,
    /// A picture that a recording holds, not yet shown.
    pub(super) snapshot: Option<Snapshot>,
    /// Pictures and events over time, for findings.
    pub(super) history: History,
}

impl Feed {
    fn event(&mut self, happening: &Happening, context: &Context) {
        self.history.event(happening);
        self.model.apply(happening);
        // The session has looked up names and paths; here nothing is read.
        let names = [
            (happening.pid, context.comm),
            (Some(happening.actor_pid), context.actor_comm),
            (happening.event.owner_pid(), context.owner_comm),
        ];
        for (pid, comm) in names {
            if let (Some(pid), Some(comm)) = (pid, comm) {
                if self.model.wants_name(pid) {
                    self.model.learn(pid, Some(comm));
                }
            }
        }
        match (happening.event, happening.pid, &context.cgroup) {
            (Event::ProcessAttached { .. }, Some(pid), Some(path)) => {
                self.model.set_cgroup(pid, Arc::clone(path));
            }
            (Event::RunlistUnmapped { gpu_id, .. }, _, _) => {
                let unmaps = self.unmaps.entry(gpu_id).or_default();
                if unmaps.len() == MOST_UNMAPS {
                    unmaps.pop_front();
                }
                unmaps.push_back(Unmap {
                    ts_ns: happening.ts_ns,
                    total_ns: happening.total_ns,
                });
            }
            _ => {}
        }
    }

    fn record(&mut self, record: &Record) {
        self.history.record(record);
        match record {
            Record::Startup(startup) => {
                self.model.begin(startup.ts_ns);
                self.limits(&startup.gpus);
                self.status = Status::Events {
                    missed: startup.probes_missed,
                };
            }
            Record::Lost(lost) => {
                self.model.lost(lost.total);
            }
            Record::Driver(change) => {
                if change.state == DriverState::Gone {
                    self.model.driver_gone(change.ts_ns);
                    self.unmaps.clear();
                }
                self.limits(&change.gpus);
                if let Some(missed) = change.probes_missed {
                    self.status = Status::Events { missed };
                }
            }
            _ => {}
        }
    }

    /// Tells the model what it takes to say which rule a runlist breaks.
    fn limits(&mut self, gpus: &[Gpu]) {
        for gpu in gpus {
            let limits = Limits::new(gpu.num_cp_queues, self.processes_max);
            self.model.set_limits(gpu.gpu_id, limits);
        }
    }
}

/// A feed that two threads know.
#[derive(Clone, Debug, Default)]
pub(super) struct Shared(Arc<Mutex<Feed>>);

impl Shared {
    /// A panic of the other thread ends the program soon; until then what is there is as good as it was.
    pub(super) fn lock(&self) -> MutexGuard<'_, Feed> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sink for Shared {
    fn record(&mut self, record: &Record) -> io::Result<()> {
        self.lock().record(record);
        Ok(())
    }

    fn event(
        &mut self,
        happening: &Happening,
        context: &Context,
        _model: &Model,
    ) -> io::Result<()> {
        self.lock().event(happening, context);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Cause, Comm, Pid, UnmapFilter};
    use crate::sink::record::Lost;

    #[test]
    fn unmaps_are_kept_within_bounds_and_names_are_learnt() {
        let shared = Shared::default();
        let mut sink = shared.clone();
        let gpu_id = GpuId(0x52a1);
        let context = Context {
            actor_comm: Some(Comm::from_procfs(b"worker\n")),
            ..Context::default()
        };
        for ts_ns in 0..MOST_UNMAPS as u64 + 10 {
            let happening = Happening {
                ts_ns,
                total_ns: ts_ns,
                cause: Cause::Evict,
                status: 0,
                pid: None,
                actor_pid: Pid(9),
                actor_tid: 9,
                event: Event::RunlistUnmapped {
                    gpu_id,
                    filter: UnmapFilter::Dynamic,
                    lock_wait_ns: 0,
                    fence_ns: 0,
                },
            };
            sink.event(&happening, &context, &Model::default()).unwrap();
        }
        let feed = shared.lock();
        let unmaps = &feed.unmaps[&gpu_id];
        assert_eq!(unmaps.len(), MOST_UNMAPS);
        assert_eq!(unmaps.front().unwrap().ts_ns, 10);
        assert_eq!(feed.model.comm(Pid(9)), context.actor_comm);
    }

    #[test]
    fn losses_are_those_of_the_session() {
        let mut feed = Feed::default();
        for (count, total) in [(3, 3), (7, 10)] {
            let ts_ns = 1;
            feed.record(&Record::Lost(Lost {
                ts_ns,
                count,
                total,
            }));
        }
        assert_eq!(feed.model.tally().lost_total(), 10);
    }
}

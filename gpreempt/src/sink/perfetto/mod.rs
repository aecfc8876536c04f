// SPDX-License-Identifier: MIT OR Apache-2.0
//! A trace for Perfetto (`docs/perfetto.md`): a track for each queue below its process, and for each GPU what was done to its runlist.
//!
//! A record is written when a call returns, so the slice of a call is written as a whole, beginning in the past. What a queue does
//! between calls is begun when it becomes known and ended by what comes next, so that a file which is cut off shows it. Perfetto sorts
//! by time; on each track, time does not go back in the file either.
//!
//! Memory is bounded by what is alive: processes with their queues, GPUs, and the closed vocabulary of names.

mod calls;
mod gpu;
mod lanes;
mod line;
mod packets;
mod process;
mod proto;
pub mod read;
mod state;
mod track;

use std::collections::BTreeMap;
use std::io::{self, Write};

use super::record::{DriverState, Record};
use super::Sink;
use crate::event::{Cause, Comm, Event, GpuId, Happening, HoldCause, Pid};
use crate::model::{Context, Model};
use calls::Recent;
use gpu::{Gpu, Over, Pending};
use line::Line;
use packets::{Args, Packets};
use process::Process;
use state::{By, Runlist};
use track::Track;

/// Writes a trace.
#[derive(Debug)]
pub struct Perfetto<W: Write> {
    packets: Packets<W>,
    /// What concerns the watch as a whole.
    watch: Option<Line>,
    gfx: BTreeMap<GpuId, String>,
    gpus: BTreeMap<GpuId, Gpu>,
    processes: BTreeMap<Pid, Process>,
    /// Since when the newest of them is there: with the pid, its key, which must not come again.
    newest_ns: u64,
    recent: Recent,
}

impl<W: Write> Perfetto<W> {
    /// Writes to `out`.
    #[must_use]
    pub fn new(out: W) -> Self {
        Self {
            packets: Packets::new(out),
            watch: None,
            gfx: BTreeMap::new(),
            gpus: BTreeMap::new(),
            processes: BTreeMap::new(),
            newest_ns: 0,
            recent: Recent::default(),
        }
    }

    /// Something about the watch itself.
    fn note(&mut self, ts_ns: u64, name: &'static str, args: &Args) -> io::Result<()> {
        let line = match self.watch.as_mut() {
            Some(line) => line,
            None => {
                let track = Track::watch();
                let about = "The watch itself: its start, records that were lost, the driver going and coming";
                self.packets.track(track, None, "gpreempt", Some(about))?;
                self.watch.insert(Line::new(track))
            }
        };
        line.instant(&mut self.packets, ts_ns, &name.into(), args)
    }

    fn gpu(&mut self, gpu_id: GpuId) -> io::Result<&mut Gpu> {
        use std::collections::btree_map::Entry;
        match self.gpus.entry(gpu_id) {
            Entry::Occupied(gpu) => Ok(gpu.into_mut()),
            Entry::Vacant(place) => {
                let gfx = self.gfx.get(&gpu_id).map(String::as_str);
                Ok(place.insert(Gpu::new(&mut self.packets, gpu_id, gfx)?))
            }
        }
    }

    fn process(&mut self, pid: Pid, comm: Option<Comm>, ts_ns: u64) -> io::Result<&mut Process> {
        use std::collections::btree_map::Entry;
        match self.processes.entry(pid) {
            Entry::Occupied(process) => {
                let process = process.into_mut();
                process.named(&mut self.packets, pid, comm)?;
                Ok(process)
            }
            Entry::Vacant(place) => {
                self.newest_ns = ts_ns.max(self.newest_ns + 1);
                let process = Process::new(&mut self.packets, pid, comm, self.newest_ns)?;
                Ok(place.insert(process))
            }
        }
    }

    /// Shows what every queue on the node does since `ts_ns`.
    fn show_node(&mut self, gpu_id: GpuId, ts_ns: u64) -> io::Result<()> {
        let runlist = self.gpu(gpu_id)?.runlist;
        for process in self.processes.values_mut() {
            process.show(&mut self.packets, gpu_id, runlist, ts_ns)?;
        }
        Ok(())
    }

    /// Shows what every queue of the process does since `ts_ns`.
    fn show_process(&mut self, pid: Pid, ts_ns: u64) -> io::Result<()> {
        let Some(process) = self.processes.get(&pid) else {
            return Ok(());
        };
        let nodes: Vec<GpuId> = process.nodes();
        for gpu_id in nodes {
            let runlist = self.gpu(gpu_id)?.runlist;
            if let Some(process) = self.processes.get_mut(&pid) {
                process.show(&mut self.packets, gpu_id, runlist, ts_ns)?;
            }
        }
        Ok(())
    }

    /// The runlist that a call submitted is taken as mapped: what the call did is known, or never will be.
    fn settle(&mut self, which: impl Fn(GpuId, &Pending) -> bool) -> io::Result<()> {
        let settled: Vec<(GpuId, u64)> = self
            .gpus
            .iter_mut()
            .filter_map(|(gpu_id, gpu)| {
                let pending = gpu.pending.filter(|pending| which(*gpu_id, pending))?;
                gpu.pending = None;
                gpu.runlist = Runlist::Mapped;
                Some((*gpu_id, pending.ts_ns))
            })
            .collect();
        for (gpu_id, ts_ns) in settled {
            self.show_node(gpu_id, ts_ns)?;
        }
        Ok(())
    }

    /// The runlist of a node was taken off or submitted.
    fn runlist(
        &mut self,
        gpu_id: GpuId,
        happening: &Happening,
        by: By,
        model: &Model,
    ) -> io::Result<()> {
        self.settle(|other, _| other == gpu_id)?;
        let Happening {
            ts_ns,
            cause,
            status,
            actor_tid,
            ..
        } = *happening;
        let over = model.gpu(gpu_id).and_then(|gpu| gpu.oversubscription);
        let over = over.map(|over| Over {
            rule: over.rule,
            culprit: over.by.map(|pid| match model.comm(pid) {
                Some(comm) => format!("{comm}[{pid}]"),
                None => format!("[{pid}]"),
            }),
        });
        self.gpu(gpu_id)?;
        let flow = match self.gpus.get_mut(&gpu_id) {
            Some(gpu) => gpu.operation(&mut self.packets, happening, by, over.as_ref())?,
            None => return Ok(()),
        };
        self.recent.add(actor_tid, ts_ns, flow);
        if status != 0 {
            // The driver keeps what it believes of the runlist (unmap_queues_cpsch, map_queues_cpsch, Linux 6.12).
            return Ok(());
        }
        let gpu = self.gpu(gpu_id)?;
        match happening.event {
            Event::RunlistUnmapped { .. } => {
                gpu.runlist = Runlist::Unmapped(cause, by);
                if cause == Cause::ProcessExit {
                    if let Some(process) = by.pid.and_then(|pid| self.processes.get_mut(&pid)) {
                        process.dies(gpu_id);
                    }
                }
            }
            _ if gpu::is_told(cause) => {
                gpu.pending = Some(Pending {
                    tid: actor_tid,
                    ts_ns,
                });
                return Ok(());
            }
            _ => gpu.runlist = Runlist::Mapped,
        }
        self.show_node(gpu_id, ts_ns)
    }

    /// A call that has a record of its own: what it did to queues.
    fn call(&mut self, happening: &Happening, context: &Context) -> io::Result<()> {
        let ts_ns = happening.ts_ns;
        let actor = By {
            pid: Pid::known(happening.actor_pid.0),
            comm: context.actor_comm,
        };
        let Some(pid) = happening.pid.or(actor.pid) else {
            return Ok(());
        };
        let comm = if happening.pid.is_some() {
            context.comm
        } else {
            context.actor_comm
        };
        self.process(pid, comm, ts_ns)?;
        if let Some(process) = self.processes.get_mut(&pid) {
            let flows = self.recent.of_call(happening);
            calls::write(&mut self.packets, process, happening, context, flows)?;
            calls::apply(&mut self.packets, process, happening, context)?;
        }
        self.settle(|_, pending| pending.tid == happening.actor_tid)?;
        self.show_process(pid, ts_ns)?;
        if let Event::QueueDestroyed { gpu_id, .. } = happening.event {
            let used = self
                .processes
                .values()
                .any(|process| process.has_queue_on(gpu_id));
            if let (false, Some(gpu)) = (used, self.gpus.get_mut(&gpu_id)) {
                gpu.emptied(&mut self.packets, ts_ns)?;
            }
        }
        self.forget_if_gone(pid)
    }

    fn forget_if_gone(&mut self, pid: Pid) -> io::Result<()> {
        if self.processes.get(&pid).is_some_and(Process::is_gone) {
            self.processes.remove(&pid);
        }
        Ok(())
    }

    /// Everything ends here.
    fn close(&mut self, ts_ns: u64) -> io::Result<()> {
        self.settle(|_, _| true)?;
        for process in std::mem::take(&mut self.processes).values_mut() {
            process.close(&mut self.packets, ts_ns)?;
        }
        for gpu in self.gpus.values_mut() {
            gpu.close(&mut self.packets, ts_ns)?;
        }
        Ok(())
    }

    fn learn_gpus(&mut self, gpus: &[super::record::Gpu]) {
        for gpu in gpus {
            self.gfx.insert(gpu.gpu_id, gpu.gfx.clone());
        }
    }
}

impl<W: Write> Sink for Perfetto<W> {
    fn record(&mut self, record: &Record) -> io::Result<()> {
        match record {
            Record::Startup(startup) => {
                self.packets.clocks(startup.ts_ns, startup.unix_ns.0)?;
                self.learn_gpus(&startup.gpus);
                let args = Args::new()
                    .text("version", &startup.version)
                    .text("kernel", &startup.kernel)
                    .text("module", &startup.module)
                    .uint("probes_attached", startup.probes_attached as u64)
                    .uint("probes_missed", startup.probes_missed as u64);
                self.note(startup.ts_ns, "start", &args)
            }
            Record::Lost(lost) => {
                let args = Args::new()
                    .uint("count", lost.count)
                    .uint("total", lost.total);
                self.note(lost.ts_ns, "records lost", &args)
            }
            Record::Driver(change) => match change.state {
                DriverState::Gone => {
                    self.close(change.ts_ns)?;
                    // What comes back may number its GPUs anew.
                    for gpu in self.gpus.values_mut() {
                        gpu.runlist = Runlist::Unknown;
                    }
                    self.note(change.ts_ns, "driver gone", &Args::new())
                }
                DriverState::Loaded => {
                    self.learn_gpus(&change.gpus);
                    self.note(change.ts_ns, "driver loaded", &Args::new())
                }
            },
            Record::Summary(summary) => {
                self.close(summary.ts_ns)?;
                let args = Args::new()
                    .uint("lost", summary.lost)
                    .uint("undecoded", summary.undecoded)
                    .uint("unmatched", summary.unmatched);
                self.note(summary.ts_ns, "end", &args)?;
                self.packets.flush()
            }
            // Events come by themselves, also those that filters leave out.
            _ => Ok(()),
        }
    }

    fn unfiltered(
        &mut self,
        happening: &Happening,
        context: &Context,
        model: &Model,
    ) -> io::Result<()> {
        match happening.event {
            Event::RunlistUnmapped { gpu_id, .. } | Event::RunlistMapped { gpu_id, .. } => {
                // Whom to name as the origin of a change that concerns a whole node.
                let by = match happening.pid {
                    Some(pid) => By {
                        pid: Some(pid),
                        comm: context.comm,
                    },
                    None => By {
                        pid: Pid::known(happening.actor_pid.0),
                        comm: context.actor_comm,
                    },
                };
                self.runlist(gpu_id, happening, by, model)
            }
            Event::GpuReset { gpu_id, phase } => {
                self.gpu(gpu_id)?;
                match self.gpus.get_mut(&gpu_id) {
                    Some(gpu) => gpu.reset(&mut self.packets, happening, phase),
                    None => Ok(()),
                }
            }
            _ => self.call(happening, context),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.packets.flush()
    }
}

/// Whether queues are parked by a reservation, which is a thing of its own beside a hold.
fn is_parking(cause: HoldCause) -> bool {
    cause == HoldCause::Reservation
}

#[cfg(test)]
mod tests;

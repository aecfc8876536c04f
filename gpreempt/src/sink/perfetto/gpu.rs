// SPDX-License-Identifier: MIT OR Apache-2.0
//! The tracks of a GPU node: what was done to its runlist, how full it was, resets.

use std::io::{self, Write};

use super::lanes::{Inner, Lanes, Slice};
use super::line::Line;
use super::packets::{Args, Packets};
use super::state::{By, Runlist};
use super::track::{flow, Track};
use crate::event::{Cause, Event, GpuId, Happening, ResetPhase};
use crate::model::Rule;

/// A runlist that was submitted within a call which may change more queues than the runlist tells: which, its own record says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pending {
    pub(super) tid: u32,
    pub(super) ts_ns: u64,
}

/// An oversubscription as the model judges it.
#[derive(Clone, Debug)]
pub(super) struct Over {
    pub(super) rule: Option<Rule>,
    /// Whose call crossed the line, if that was seen: not that of the runlist where it was so before.
    pub(super) culprit: Option<String>,
}

impl Over {
    fn add_to(&self, mut args: Args) -> Args {
        if let Some(rule) = self.rule {
            args = args.text("rule", rule.name());
        }
        match &self.culprit {
            Some(culprit) => args.text("culprit", culprit),
            None => args,
        }
    }
}

#[derive(Debug)]
pub(super) struct Gpu {
    gpu_id: GpuId,
    runlist_ops: Lanes,
    oversubscribed: Line,
    resets: Line,
    queues: Line,
    cp_queues: Line,
    processes: Line,
    pub(super) runlist: Runlist,
    pub(super) pending: Option<Pending>,
}

impl Gpu {
    /// Describes its tracks.
    pub(super) fn new<W: Write>(
        packets: &mut Packets<W>,
        gpu_id: GpuId,
        gfx: Option<&str>,
    ) -> io::Result<Self> {
        let track = Track::gpu(gpu_id);
        let name = match gfx {
            Some(gfx) => format!("GPU {gpu_id} ({gfx})"),
            None => format!("GPU {gpu_id}"),
        };
        packets.track(track, None, &name, None)?;
        let mut line = |name: &str, description| {
            let part = track.part(name, 0);
            packets.track(part, Some(track), name, Some(description))?;
            Ok::<_, io::Error>(Line::new(part))
        };
        let oversubscribed = line(
            "oversubscribed",
            "While the runlist holds more than the hardware: queues take turns",
        )?;
        let resets = line("resets", "Hangs and resets of the device")?;
        let mut counter = |name: &str| {
            let part = track.part(name, 0);
            packets.counter_track(part, track, name)?;
            Ok::<_, io::Error>(Line::new(part))
        };
        Ok(Self {
            gpu_id,
            runlist_ops: Lanes::new(
                track,
                "runlist",
                "Runlists taken off the hardware and submitted, with the wait for the lock of the node's scheduler",
            ),
            oversubscribed,
            resets,
            queues: counter("queues in runlist")?,
            cp_queues: counter("compute queues in runlist")?,
            processes: counter("processes")?,
            runlist: Runlist::Unknown,
            pending: None,
        })
    }

    /// A runlist was taken off or submitted. Returns the number that joins the slice with the call that did it.
    pub(super) fn operation<W: Write>(
        &mut self,
        packets: &mut Packets<W>,
        happening: &Happening,
        by: By,
        over: Option<&Over>,
    ) -> io::Result<u64> {
        let Happening {
            ts_ns,
            total_ns,
            cause,
            status,
            actor_tid,
            ..
        } = *happening;
        let flow = flow(self.gpu_id, actor_tid, ts_ns);
        let call_ns = ts_ns.saturating_sub(total_ns);
        let args = Args::new()
            .text("cause", cause.name())
            .by(by.pid, by.comm)
            .status(status);
        let mut slice = Slice {
            name: "".into(),
            begin_ns: call_ns,
            end_ns: ts_ns,
            args,
            flows: vec![flow],
            inner: Vec::new(),
        };
        match happening.event {
            Event::RunlistUnmapped {
                filter,
                lock_wait_ns,
                fence_ns,
                ..
            } => {
                slice.name = format!("unmap ({})", cause.name()).into();
                slice.args = slice.args.text("filter", filter.name());
                if lock_wait_ns > 0 {
                    // The lock is taken by the callers of unmap_queues_cpsch (Linux 6.12), before it.
                    slice.begin_ns = call_ns.saturating_sub(lock_wait_ns);
                    slice.inner.push(Inner {
                        name: "lock wait",
                        begin_ns: slice.begin_ns,
                        end_ns: call_ns,
                    });
                }
                if fence_ns > 0 {
                    // What unmap_queues_cpsch does after the fence is little: the record has the duration, not the moment.
                    slice.inner.push(Inner {
                        name: "fence",
                        begin_ns: ts_ns.saturating_sub(fence_ns).max(call_ns),
                        end_ns: ts_ns,
                    });
                }
                if status == 0 {
                    self.counts(packets, ts_ns, [0, 0, 0])?;
                }
            }
            Event::RunlistMapped {
                queues,
                cp_queues,
                processes,
                oversubscribed,
                ..
            } => {
                slice.name = format!("map ({})", cause.name()).into();
                slice.args = slice
                    .args
                    .uint("queues", queues)
                    .uint("compute_queues", cp_queues)
                    .uint("processes", processes)
                    .bool("oversubscribed", oversubscribed);
                if status == 0 {
                    self.counts(packets, ts_ns, [queues, cp_queues, processes])?;
                    let args = match over {
                        Some(over) => over.add_to(slice.args.clone()),
                        None => slice.args.clone(),
                    };
                    self.oversubscription(packets, ts_ns, oversubscribed, &args)?;
                }
            }
            _ => {}
        }
        self.runlist_ops.write(packets, &slice)?;
        Ok(flow)
    }

    fn counts<W: Write>(
        &mut self,
        packets: &mut Packets<W>,
        ts_ns: u64,
        [queues, cp_queues, processes]: [u32; 3],
    ) -> io::Result<()> {
        self.queues.count(packets, ts_ns, queues)?;
        self.cp_queues.count(packets, ts_ns, cp_queues)?;
        self.processes.count(packets, ts_ns, processes)
    }

    fn oversubscription<W: Write>(
        &mut self,
        packets: &mut Packets<W>,
        ts_ns: u64,
        now: bool,
        args: &Args,
    ) -> io::Result<()> {
        match (now, self.oversubscribed.is_open()) {
            (true, false) => {
                self.oversubscribed
                    .begin(packets, ts_ns, &"oversubscribed".into(), args)
            }
            (false, true) => self.oversubscribed.end(packets, ts_ns),
            _ => Ok(()),
        }
    }

    /// No queue is left: no runlist follows that would say so.
    pub(super) fn emptied<W: Write>(
        &mut self,
        packets: &mut Packets<W>,
        ts_ns: u64,
    ) -> io::Result<()> {
        self.oversubscribed.end(packets, ts_ns)
    }

    pub(super) fn reset<W: Write>(
        &mut self,
        packets: &mut Packets<W>,
        happening: &Happening,
        phase: ResetPhase,
    ) -> io::Result<()> {
        let name = match phase {
            ResetPhase::Hang => "scheduler hangs",
            ResetPhase::Pre => "reset begins",
            ResetPhase::Post => "reset is over",
            ResetPhase::Unknown => "reset",
        };
        let args = Args::new()
            .text("phase", phase.name())
            .uint("total_ns", happening.total_ns);
        self.resets
            .instant(packets, happening.ts_ns, &name.into(), &args)
    }

    /// The last word about it.
    pub(super) fn close<W: Write>(
        &mut self,
        packets: &mut Packets<W>,
        ts_ns: u64,
    ) -> io::Result<()> {
        self.pending = None;
        self.oversubscribed.end(packets, ts_ns)
    }
}

/// Whether the call that submits a runlist for this cause has a record of its own, which comes after the runlist's.
pub(super) fn is_told(cause: Cause) -> bool {
    match cause {
        Cause::CreateQueue
        | Cause::DestroyQueue
        | Cause::UpdateQueue
        | Cause::Evict
        | Cause::Restore
        | Cause::Suspend
        | Cause::Resume
        | Cause::Hold
        | Cause::Release
        | Cause::Reserve => true,
        Cause::ProcessExit
        | Cause::DebugTrap
        | Cause::Criu
        | Cause::Reset
        | Cause::Scheduler
        | Cause::Other => false,
    }
}

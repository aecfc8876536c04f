// SPDX-License-Identifier: MIT OR Apache-2.0
//! The last column: what is particular to a record.

use super::cell::{process, Style};
use super::row::Part;
use crate::event::{Cause, Comm, HoldCause, Pid, ResetPhase, UnmapFilter};
use crate::sink::record::{errno_name, DriverState, QueueOp, Record};
use crate::sink::units::{Bytes, Nanos};

/// Below this a lock wait is the way to the lock, not a wait.
const LOCK_WAIT_SHOWN_NS: u64 = 1_000;

pub(super) fn of(record: &Record, wide: bool) -> Vec<Part> {
    let mut d = Details(Vec::with_capacity(6));
    match record {
        Record::Startup(_) | Record::Summary(_) => {}
        Record::ProcessAttached(r) => {
            if let Some(ns_pid) = r.ns_pid.filter(|ns| r.pid.map(|pid| pid.0) != Some(*ns)) {
                d.say(format!("pid {ns_pid} in its namespace"));
            }
            if let Some(cgroup) = r.cgroup.as_ref().filter(|path| &***path != "/") {
                d.faint(format!("cgroup {cgroup}"));
            }
        }
        Record::ProcessExited(r) => {
            if let Some(lifetime) = r.lifetime_ns {
                d.say(format!("after {}", Nanos(lifetime)));
            }
        }
        Record::QueueExisting(r) => d.say(format!(
            "{} ring {}",
            r.queue_type.name(),
            Bytes(r.ring_bytes)
        )),
        Record::QueueCreated(r) => {
            d.say(format!(
                "{} {} {}",
                r.queue_type.name(),
                r.format.name(),
                Bytes(r.ring_bytes)
            ));
            d.say(format!("prio {}", r.priority));
            if r.percent != 100 {
                d.attention(format!("{}%", r.percent));
            }
            if r.evicted {
                d.attention("evicted");
            }
            if r.cause == Cause::Criu {
                d.say("restored checkpoint");
            }
            if wide {
                d.faint(format!("doorbell {:#x}", r.doorbell));
            }
        }
        Record::QueueUpdated(r) => {
            d.say(format!("prio {} {}%", r.priority, r.percent));
            if r.active {
                d.say("active");
            } else {
                d.attention("not active");
            }
        }
        Record::QueueDestroyed(r) => {
            if let Some(lifetime) = r.lifetime_ns {
                d.say(format!("after {}", Nanos(lifetime)));
            }
            if !matches!(r.cause, Cause::DestroyQueue | Cause::Other) {
                d.say(format!("by {}", cause(r.cause)));
            }
        }
        Record::QueueRejected(r) => {
            let op = match r.op {
                QueueOp::Create => "create",
                QueueOp::Update => "update",
                QueueOp::Destroy => "destroy",
                QueueOp::Other => "other",
            };
            d.say(format!("{op}:"));
            d.bad(r.errno.clone());
        }
        Record::RunlistUnmapped(r) => {
            d.say(format!("{}:", cause(r.cause)));
            d.failed(r.status);
            d.waits(r.fence_ns, r.lock_wait_ns);
            match r.filter {
                UnmapFilter::Dynamic => {}
                UnmapFilter::All => d.say("static queues too"),
                UnmapFilter::ByPasid => d.say("of one process"),
                UnmapFilter::Unknown => d.say("unknown filter"),
            }
        }
        Record::RunlistMapped(r) => {
            d.say(format!("{}:", cause(r.cause)));
            d.failed(r.status);
            let processes = if r.processes == 1 {
                "process"
            } else {
                "processes"
            };
            d.say(format!(
                "{}, {} {processes}",
                count(r.queues, "queue"),
                r.processes
            ));
            if r.oversubscribed {
                d.attention("oversubscribed");
            }
        }
        Record::ProcessEvicted(r) => {
            d.say(r.reason.name().replace('_', " "));
            d.failed(r.status);
            if r.depth > 1 {
                d.say(format!("{} evictions in force", r.depth));
            }
            if wide {
                d.by(r.actor_comm, r.actor_pid, r.pid);
            }
        }
        Record::ProcessRestored(r) => {
            d.failed(r.status);
            if let Some(evicted) = r.evicted_ns {
                d.say(format!("after {}", Nanos(evicted)));
            }
            if let Some(reason) = r.reason {
                d.say(format!("({})", reason.name().replace('_', " ")));
            }
            if r.depth > 0 {
                d.attention(format!("{} more in force", r.depth));
            }
            if wide {
                d.by(r.actor_comm, r.actor_pid, r.pid);
            }
        }
        Record::QueuesSuspended(r) => {
            d.failed(r.status.min(0));
            d.changed(r.count, r.requested);
            d.by(r.actor_comm, r.actor_pid, r.pid);
        }
        Record::QueuesResumed(r) => {
            d.failed(r.status.min(0));
            d.changed(r.count, r.requested);
            d.by(r.actor_comm, r.actor_pid, r.pid);
        }
        Record::GpuReset(r) => d.bad(match r.phase {
            ResetPhase::Hang => "hang: hardware scheduler stopped",
            ResetPhase::Pre => "begins: every process evicted",
            ResetPhase::Post => "over: no process restored",
            ResetPhase::Unknown => "unknown phase",
        }),
        Record::QueuesHeld(r) => {
            d.failed(r.status);
            d.say(count(r.count, "queue"));
            d.hold_cause(r.cause);
            d.by(r.owner_comm, r.owner_pid.unwrap_or(Pid(0)), None);
            if wide {
                d.waits(r.hw_ns, r.lock_wait_ns);
            }
        }
        Record::QueuesReleased(r) => {
            d.failed(r.status);
            d.say(count(r.count, "queue"));
            if let Some(held) = r.held_ns {
                d.say(format!("after {}", Nanos(held)));
            }
            d.hold_cause(r.cause);
            if wide {
                d.by(r.owner_comm, r.owner_pid.unwrap_or(Pid(0)), None);
                d.waits(r.hw_ns, r.lock_wait_ns);
            }
        }
        Record::Lost(r) => {
            d.bad(format!("{} lost here,", count_u64(r.count, "record")));
            d.say(format!("{} in all", r.total));
        }
        Record::Driver(r) => match r.state {
            DriverState::Gone => d.bad("gone: waiting for it"),
            DriverState::Loaded => {
                let module = r.module.as_deref().unwrap_or("driver");
                d.say(format!(
                    "{module} loaded, {} probes",
                    r.probes_attached.unwrap_or(0)
                ));
            }
        },
    }
    d.0
}

struct Details(Vec<Part>);

impl Details {
    fn push(&mut self, text: impl Into<String>, style: Style) {
        self.0.push(Part {
            text: text.into(),
            style,
        });
    }

    fn say(&mut self, text: impl Into<String>) {
        self.push(text, Style::Plain);
    }

    fn faint(&mut self, text: impl Into<String>) {
        self.push(text, Style::Faint);
    }

    fn attention(&mut self, text: impl Into<String>) {
        self.push(text, Style::Attention);
    }

    fn bad(&mut self, text: impl Into<String>) {
        self.push(text, Style::Bad);
    }

    fn failed(&mut self, status: i32) {
        if status != 0 {
            self.bad(errno_name(status));
        }
    }

    /// `2 of 3 queues`; fewer than asked for is worth a look.
    fn changed(&mut self, done: u32, requested: u32) {
        if requested == 0 {
            self.say(count(done, "queue"));
        } else {
            let style = if done < requested {
                Style::Attention
            } else {
                Style::Plain
            };
            self.push(format!("{done} of {}", count(requested, "queue")), style);
        }
    }

    /// What the hardware took, and the wait for the lock if there was one.
    fn waits(&mut self, fence_ns: u64, lock_wait_ns: u64) {
        if fence_ns > 0 {
            self.say(format!("fence {}", Nanos(fence_ns)));
        }
        if lock_wait_ns >= LOCK_WAIT_SHOWN_NS {
            self.say(format!("lock {}", Nanos(lock_wait_ns)));
        }
    }

    /// Why, unless it is the owner's own call.
    fn hold_cause(&mut self, cause: HoldCause) {
        match cause {
            HoldCause::Ioctl => {}
            HoldCause::Force => self.attention("by force"),
            HoldCause::Lease => self.attention("lease over"),
            HoldCause::FdClose => self.say("file closed"),
            HoldCause::OwnerExit => self.attention("owner gone"),
            HoldCause::Reservation => self.say("reservation"),
            HoldCause::Inherit => self.say("created held"),
            HoldCause::Unknown => self.say("unknown cause"),
        }
    }

    fn by(&mut self, comm: Option<Comm>, actor: Pid, about: Option<Pid>) {
        if Some(actor) == about || actor.0 == 0 {
            return;
        }
        let comm = comm.map_or_else(|| "?".to_owned(), |comm| comm.to_string());
        self.say(format!("by {}", process(&comm, actor.0, 24)));
    }
}

/// Causes in the words of the event column.
fn cause(cause: Cause) -> &'static str {
    match cause {
        Cause::CreateQueue => "create",
        Cause::DestroyQueue => "destroy",
        Cause::UpdateQueue => "update",
        Cause::ProcessExit => "exit",
        Cause::DebugTrap => "debug",
        Cause::Scheduler => "sched",
        Cause::Evict
        | Cause::Restore
        | Cause::Suspend
        | Cause::Resume
        | Cause::Criu
        | Cause::Reset
        | Cause::Hold
        | Cause::Release
        | Cause::Reserve
        | Cause::Other => cause.name(),
    }
}

fn count(n: u32, what: &str) -> String {
    count_u64(u64::from(n), what)
}

fn count_u64(n: u64, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! Evidence by events: the probes that see runlists change and who changed them, and nothing else. A separate `watch` does
//! not matter: each has programs and a ring of its own.

use super::Action;
use crate::event::{decode, Cause, Event, GpuId, Happening, Pid};
use crate::kfd::{boottime_ns, Root};
use crate::source::{Live, LiveOptions, ProbeSet};

/// Two thousand changes of runlists, with all that other processes cause meanwhile.
const RING_BYTES: u32 = 256 << 10;

/// Functions without which nothing is seen.
const NEEDED: [&str; 4] = [
    "unmap_queues_cpsch",
    "pm_send_unmap_queue",
    "map_queues_cpsch",
    "pm_send_runlist",
];

/// Which half of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallKind {
    /// The queues of a node were taken off the hardware (`unmap_queues_cpsch`).
    Unmapped,
    /// The queues of a node were submitted to the hardware scheduler (`map_queues_cpsch`).
    Mapped,
}

/// A change of a node's runlist that was made for us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// CLOCK_BOOTTIME when it was over.
    pub ts_ns: u64,
    /// Which half.
    pub kind: CallKind,
    /// Node.
    pub gpu_id: GpuId,
    /// Why.
    pub cause: Cause,
    /// Whose queues: the target, or for a patched driver ourselves, because one change serves all targets.
    pub pid: Option<Pid>,
    /// Wait for the lock of the node's scheduler. Of a change only its first half waits.
    pub lock_wait_ns: u64,
    /// Time that the hardware scheduler took; 0 for [`CallKind::Mapped`], which does not wait for it.
    pub hw_ns: u64,
    /// The whole function.
    pub total_ns: u64,
    /// 0, or a negative error number.
    pub status: i32,
}

/// Probes, and what they saw since [`Events::begin`].
pub(super) struct Events {
    live: Live,
    own_pid: Pid,
    since_ns: u64,
    calls: Vec<Call>,
}

impl Events {
    /// Loads and attaches the programs; the reason if that cannot be.
    pub(super) fn open(root: &Root) -> Result<Self, String> {
        if !root.is_real() {
            return Err("no events of a machine that is not the running one".to_owned());
        }
        let options = LiveOptions {
            probes: ProbeSet::Control,
            ring_bytes: RING_BYTES,
            profile: None,
        };
        let live = Live::start(&options).map_err(|error| format!("no events: {error}"))?;
        let lacking: Vec<_> = live
            .startup()
            .probes
            .iter()
            .filter(|probe| !probe.attached && NEEDED.contains(&probe.function.as_str()))
            .map(|probe| probe.function.as_str())
            .collect();
        if !lacking.is_empty() {
            return Err(format!(
                "no events: {} cannot be probed",
                lacking.join(", ")
            ));
        }
        let own_pid = Pid(live.own_pid());
        let mut events = Self {
            live,
            own_pid,
            since_ns: 0,
            calls: Vec::new(),
        };
        events.begin();
        Ok(events)
    }

    /// Forgets everything until now.
    pub(super) fn begin(&mut self) {
        self.live.drain(&mut |_| {});
        self.calls.clear();
        self.since_ns = boottime_ns();
    }

    /// Takes in what is in the ring.
    pub(super) fn take(&mut self) {
        let (own_pid, since_ns, calls) = (self.own_pid, self.since_ns, &mut self.calls);
        self.live.drain(&mut |bytes| {
            let Ok(happening) = decode(bytes) else { return };
            if happening.ts_ns >= since_ns {
                calls.extend(ours(&happening, own_pid));
            }
        });
    }

    /// Whether this process was stopped or restarted on this node.
    pub(super) fn saw(&self, action: Action, pid: Pid, gpu_id: GpuId) -> bool {
        self.calls
            .iter()
            .any(|call| proves(call, action, pid, gpu_id, self.own_pid))
    }

    /// What was seen, in order of time.
    pub(super) fn calls(&self) -> &[Call] {
        &self.calls
    }
}

/// A change of a runlist, if it was made for us: by one of our threads, or by a worker of the driver for a hold of ours.
pub(super) fn ours(happening: &Happening, own_pid: Pid) -> Option<Call> {
    let by_us = match happening.cause {
        // The process of these is the owner of the hold, whichever thread carries them out.
        Cause::Hold | Cause::Release | Cause::Reserve => happening.pid == Some(own_pid),
        Cause::Suspend | Cause::Resume | Cause::Evict | Cause::Restore => {
            happening.actor_pid == own_pid
        }
        _ => false,
    };
    let (kind, gpu_id, lock_wait_ns, hw_ns) = match happening.event {
        Event::RunlistUnmapped {
            gpu_id,
            lock_wait_ns,
            fence_ns,
            ..
        } => (CallKind::Unmapped, gpu_id, lock_wait_ns, fence_ns),
        Event::RunlistMapped { gpu_id, .. } => (CallKind::Mapped, gpu_id, 0, 0),
        _ => return None,
    };
    by_us.then_some(Call {
        ts_ns: happening.ts_ns,
        kind,
        gpu_id,
        cause: happening.cause,
        pid: happening.pid,
        lock_wait_ns,
        hw_ns,
        total_ns: happening.total_ns,
        status: happening.status,
    })
}

/// Whether a change is evidence for one process on one node. One change of a patched driver serves every target of the
/// call; the stock driver's means serve one process each.
pub(super) fn proves(call: &Call, action: Action, pid: Pid, gpu_id: GpuId, own_pid: Pid) -> bool {
    let of = match call.cause {
        Cause::Hold | Cause::Release | Cause::Reserve => own_pid,
        _ => pid,
    };
    let fits = match action {
        Action::Stopped => {
            call.kind == CallKind::Unmapped
                && matches!(
                    call.cause,
                    Cause::Hold | Cause::Reserve | Cause::Suspend | Cause::Evict
                )
        }
        Action::Running => {
            call.kind == CallKind::Mapped
                && matches!(
                    call.cause,
                    Cause::Release | Cause::Reserve | Cause::Resume | Cause::Restore
                )
        }
    };
    fits && call.status == 0 && call.gpu_id == gpu_id && call.pid == Some(of)
}

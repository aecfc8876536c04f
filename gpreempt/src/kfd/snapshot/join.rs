// SPDX-License-Identifier: MIT OR Apache-2.0
//! A queue of sysfs and what the other sources say of the same one: the driver's struct by (pid, gpu_id, queue_id), which has the
//! doorbell; the runlist entry, the descriptor and the hardware slots by doorbell, unique on a device.
//!
//! Without the driver's structs nothing names a queue by its id. Then a descriptor is a queue's only if it can be no other's.

use super::files::{Entry, Files};
use super::{Queue, Slot, State};
use crate::event::QueueType;
use crate::kfd::hqds::SlotKind;
use crate::kfd::mqds::{Image, MqdKind, QueueMqd};
use crate::kfd::queues::SysfsQueue;
use crate::kfd::states::{hold, QueueState};

/// A queue of the picture; without the owner's indices.
pub(super) fn queue(queue: &SysfsQueue, files: &Files) -> Queue {
    let state = files.state(queue);
    let mqd = mqd(queue, state, files);
    let image = mqd.and_then(|mqd| mqd.images.first());
    // Members of a copy queue's descriptor are others.
    let compute = image.filter(|_| !is_sdma(queue));
    let doorbell = state
        .and_then(|state| state.doorbell)
        .or_else(|| mqd.and_then(QueueMqd::doorbell));
    let (stands, reason) = stand(listed(queue, doorbell, files), state, files.has_states());
    let ticks = |of: fn(&Image) -> Option<(u64, u64)>| -> Vec<(u64, u64)> {
        let images = mqd.into_iter().flat_map(|mqd| &mqd.images);
        let ticks: Vec<_> = images.filter_map(of).collect();
        match ticks.iter().any(|ticks| *ticks != (0, 0)) && !is_sdma(queue) {
            true => ticks,
            false => Vec::new(),
        }
    };
    Queue {
        pid: queue.pid,
        gpu_id: queue.gpu_id,
        queue_id: queue.queue_id,
        queue_type: QueueType::from_raw(queue.queue_type),
        ring_bytes: queue.ring_bytes,
        state: stands,
        reason,
        priority: state
            .and_then(|state| state.priority)
            .or_else(|| compute.and_then(Image::priority)),
        percent: state.and_then(|state| state.percent),
        aql: match state.and_then(|state| state.format) {
            Some(format) => Some(format == 1),
            None => compute.and_then(Image::is_aql),
        },
        doorbell,
        mqd_address: state
            .and_then(|state| state.mqd_address)
            .or_else(|| compute.and_then(Image::mqd_address)),
        wptr_address: state
            .and_then(|state| state.wptr_address)
            .or_else(|| compute.and_then(Image::wptr_address)),
        rptr_address: state
            .and_then(|state| state.rptr_address)
            .or_else(|| compute.and_then(Image::rptr_address)),
        write_index: None,
        read_index: None,
        slots: slots(queue, doorbell, stands, mqd, files),
        saves: ticks(Image::save_ticks),
        restores: ticks(Image::restore_ticks),
    }
}

fn is_sdma(queue: &SysfsQueue) -> bool {
    QueueType::from_raw(queue.queue_type).is_sdma()
}

fn mqd<'a>(
    queue: &SysfsQueue,
    state: Option<&QueueState>,
    files: &'a Files,
) -> Option<&'a QueueMqd> {
    let sdma = is_sdma(queue);
    let of_kind = |mqd: &&QueueMqd| (mqd.kind == MqdKind::Sdma) == sdma;
    let mut candidates = files.mqds(queue.pid, queue.gpu_id).filter(of_kind);
    if let Some(doorbell) = state.and_then(|state| state.doorbell) {
        return candidates.find(|mqd| mqd.doorbell() == Some(doorbell));
    }
    // A compute ring's size is in the descriptor, too.
    let could_be = |mqd: &&QueueMqd| {
        sdma || mqd.images.first().and_then(Image::ring_bytes) == Some(queue.ring_bytes)
    };
    let alike = |other: &&SysfsQueue| {
        (other.pid, other.gpu_id, is_sdma(other)) == (queue.pid, queue.gpu_id, sdma)
            && (sdma || other.ring_bytes == queue.ring_bytes)
    };
    let mut candidates = candidates.filter(could_be);
    let only = candidates.next()?;
    let unique = candidates.next().is_none() && files.queues.iter().filter(alike).count() == 1;
    unique.then_some(only)
}

/// Whether it is in the runlist; `None`: that cannot be told.
fn listed(queue: &SysfsQueue, doorbell: Option<u32>, files: &Files) -> Option<bool> {
    let entries = files.listed(queue.gpu_id)?;
    let sdma = is_sdma(queue);
    let has = |doorbell: u32| {
        entries
            .iter()
            .any(|entry: &Entry| entry.doorbell == doorbell && entry.sdma == sdma)
    };
    if let Some(doorbell) = doorbell {
        return Some(has(doorbell));
    }
    if entries.is_empty() {
        return Some(false);
    }
    // Not which one it is, but perhaps that all of its kind are listed, or none.
    let mut alike = files
        .mqds(queue.pid, queue.gpu_id)
        .filter(|mqd| (mqd.kind == MqdKind::Sdma) == sdma)
        .filter_map(QueueMqd::doorbell)
        .map(has);
    let first = alike.next()?;
    alike.all(|other| other == first).then_some(first)
}

/// Where a queue stands, and what more there is to say.
fn stand(
    listed: Option<bool>,
    state: Option<&QueueState>,
    has_states: bool,
) -> (State, Option<String>) {
    let Some(state) = state else {
        return match listed {
            Some(true) => (State::Mapped, None),
            Some(false) => (
                State::Unmapped,
                Some("the driver's structs were not read".to_owned()),
            ),
            None if has_states => (
                State::Unknown,
                Some("it was just created or destroyed".to_owned()),
            ),
            None => (State::Unknown, None),
        };
    };
    let held = |bit: u8| state.hold.is_some_and(|hold| hold & bit != 0);
    let evictions = state.evictions.unwrap_or(0);
    let off: Vec<(State, String)> = [
        (held(hold::USER), State::Held, "held".to_owned()),
        (
            held(hold::CAP),
            State::Parked,
            "parked by a reservation".to_owned(),
        ),
        (
            state.suspended == Some(true),
            State::Suspended,
            "suspended by a debugger".to_owned(),
        ),
        (
            state.evicted == Some(true) || evictions > 0,
            State::Evicted,
            match evictions {
                0 | 1 => "its process is evicted".to_owned(),
                n => format!("its process is evicted {n} times"),
            },
        ),
        (state.percent == Some(0), State::Disabled, "0 %".to_owned()),
        (
            state.ring_address == Some(0) || state.ring_bytes == Some(0),
            State::Disabled,
            "no ring".to_owned(),
        ),
        (
            state.being_destroyed == Some(true),
            State::Unmapped,
            "being destroyed".to_owned(),
        ),
    ]
    .into_iter()
    .filter(|(applies, ..)| *applies)
    .map(|(_, state, why)| (state, why))
    .collect();
    let why = || off.iter().map(|(_, why)| why.as_str()).collect::<Vec<_>>();
    let joined = || (!off.is_empty()).then(|| why().join(", "));
    // A node without runlist has what is active on the hardware.
    match (listed.or(state.active), off.first()) {
        (Some(true), _) => (State::Mapped, joined()),
        (Some(false), Some((first, _))) => (*first, joined()),
        (Some(false), None) => (
            State::Unmapped,
            (state.active == Some(true)).then(|| "active, but not in the runlist".to_owned()),
        ),
        (None, Some((first, _))) => (*first, joined()),
        (None, None) => (State::Unknown, None),
    }
}

fn slots(
    queue: &SysfsQueue,
    doorbell: Option<u32>,
    stands: State,
    mqd: Option<&QueueMqd>,
    files: &Files,
) -> Vec<Slot> {
    let (Some(node), Some(doorbell)) = (files.hqds(queue.gpu_id), doorbell) else {
        return Vec::new();
    };
    let sdma = is_sdma(queue);
    let addresses: Vec<u64> = mqd
        .into_iter()
        .flat_map(|mqd| &mqd.images)
        .filter_map(Image::mqd_address)
        .collect();
    node.slots
        .iter()
        .filter(|slot| slot.is_active() && slot.doorbell() == Some(doorbell))
        .filter_map(|slot| match slot.kind {
            SlotKind::Compute { pipe, queue } if !sdma => {
                // One descriptor for each XCC: another queue's can have been at this doorbell before.
                let own = addresses.is_empty() || addresses.contains(&slot.mqd_address());
                own.then(|| Slot {
                    xcc: slot.xcc,
                    pipe,
                    queue,
                    vmid: slot.vmid(),
                })
            }
            // Nothing in the registers tells that a copy queue left.
            SlotKind::Sdma { engine, rlc } if sdma && stands == State::Mapped => Some(Slot {
                xcc: 0,
                pipe: engine,
                queue: rlc,
                vmid: 0,
            }),
            _ => None,
        })
        .collect()
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! Completion signals: a counter that the packet processor decrements, an event that it raises.

use std::rc::Rc;

use nix::errno::Errno;

use crate::device::{Buffer, Device, Kind};
use crate::failure::CallError;
use crate::uapi::{EventData, SIGNAL_EVENT_LIMIT};

/// Size of `amd_signal_t`.
pub const SIGNAL_BYTES: usize = 64;
const VALUE_AT: usize = 8;
const MAILBOX_AT: usize = 16;
const EVENT_ID_AT: usize = 24;
/// `AMD_SIGNAL_KIND_USER`.
const KIND_USER: u64 = 1;

/// The page of event slots. A packet processor writes an event's id into its slot before the interrupt; the driver only
/// believes interrupts whose slot was written (`kfd_signal_event_interrupt()`).
#[derive(Debug)]
pub struct EventPage {
    device: Rc<Device>,
    buffer: Buffer,
    created_any: bool,
}

impl EventPage {
    /// Allocates the page, owned by the first GPU and mapped on all, as ROCr does.
    pub fn new(device: &Rc<Device>) -> anyhow::Result<Self> {
        let mut buffer = Buffer::new(device, 0, Kind::Gtt, SIGNAL_EVENT_LIMIT * 8)?;
        buffer.keep();
        Ok(Self {
            device: Rc::clone(device),
            buffer,
            created_any: false,
        })
    }

    /// A new event.
    pub fn create(&mut self) -> anyhow::Result<Event> {
        let page = if self.created_any {
            None
        } else {
            Some(self.buffer.handle)
        };
        let (id, slot) = self.device.kfd.create_signal_event(page)?;
        self.created_any = true;
        let mailbox = self.buffer.address() + 8 * u64::from(slot);
        Ok(Event {
            device: Rc::clone(&self.device),
            id,
            mailbox,
        })
    }
}

/// An event that wakes waiters.
#[derive(Debug)]
pub struct Event {
    device: Rc<Device>,
    pub id: u32,
    /// GPU address of the event's slot.
    pub mailbox: u64,
}

impl Drop for Event {
    fn drop(&mut self) {
        // A failure leaves the event to process exit.
        let _ = self.device.kfd.destroy_event(self.id);
    }
}

/// Sleeps until one of `event_ids` fires, a signal handler runs or `timeout_ms` passes.
pub fn wait_any(device: &Device, event_ids: &[u32], timeout_ms: u32) -> Result<(), CallError> {
    let mut data: Vec<EventData> = event_ids
        .iter()
        .map(|&event_id| EventData {
            event_id,
            ..Default::default()
        })
        .collect();
    match device.kfd.wait_any(&mut data, timeout_ms) {
        // EIO: the driver cancelled the wait because it resets a GPU; the caller looks again.
        Err(error) if matches!(error.errno, Errno::EINTR | Errno::EAGAIN | Errno::EIO) => Ok(()),
        result => result.map(drop),
    }
}

/// `count` completion signals that share one event.
#[derive(Debug)]
pub struct Signals {
    pub event: Event,
    buffer: Buffer,
    count: usize,
}

impl Signals {
    /// Allocates `count` signals owned by GPU `owner`.
    pub fn new(
        device: &Rc<Device>,
        page: &mut EventPage,
        owner: usize,
        count: usize,
    ) -> anyhow::Result<Self> {
        let event = page.create()?;
        let buffer = Buffer::new(device, owner, Kind::User, count * SIGNAL_BYTES)?;
        Ok(Self {
            event,
            buffer,
            count,
        })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Sets signal `index` to 1, so that one completion brings it to 0. Returns its address for a packet.
    pub fn arm(&self, index: usize) -> u64 {
        let base = index * SIGNAL_BYTES;
        let region = self.buffer.region();
        region.store_u64(base, KIND_USER);
        region.store_u64(base + MAILBOX_AT, self.event.mailbox);
        region.store_u64(base + EVENT_ID_AT, u64::from(self.event.id));
        region.store_u64(base + VALUE_AT, 1);
        region.address() + base as u64
    }

    /// Address of the value of signal `index`, for engines that write it instead of decrementing.
    pub fn value_address(&self, index: usize) -> u64 {
        self.buffer.address() + (index * SIGNAL_BYTES + VALUE_AT) as u64
    }

    /// Whether signal `index` was completed.
    pub fn is_done(&self, index: usize) -> bool {
        self.buffer
            .region()
            .load_u64(index * SIGNAL_BYTES + VALUE_AT)
            .cast_signed()
            <= 0
    }
}

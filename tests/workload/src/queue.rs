// SPDX-License-Identifier: MIT OR Apache-2.0
//! A user queue: its buffers, its life by ioctl, and packets into its ring.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Instant;

use anyhow::Context;

use crate::aql::{self, Packet};
use crate::device::{Buffer, Device, Kind, DOORBELL_SLICE_BYTES};
use crate::failure::CallError;
use crate::memory::PAGE_BYTES;
use crate::uapi::*;

/// Priority that ROCr gives compute queues (`HSA_QUEUE_PRIORITY_NORMAL`).
pub const COMPUTE_PRIORITY: u32 = 7;
/// Priority that ROCr gives copy queues.
pub const SDMA_PRIORITY: u32 = 15;
/// Packets in a compute ring.
const COMPUTE_PACKETS: usize = 256;
const SDMA_RING_BYTES: usize = 64 * 1024;
const EOP_BYTES: usize = 4096;
/// `write_dispatch_id` and `read_dispatch_id` in `amd_queue_t`: the packet processor knows the struct around them.
const WRITE_INDEX_AT: usize = 0x38;
const READ_INDEX_AT: usize = 0x80;

/// What consumes a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    Compute,
    Sdma,
}

impl Engine {
    /// The word used in reports.
    pub fn name(self) -> &'static str {
        match self {
            Engine::Compute => "compute",
            Engine::Sdma => "sdma",
        }
    }

    fn priority(self) -> u32 {
        match self {
            Engine::Compute => COMPUTE_PRIORITY,
            Engine::Sdma => SDMA_PRIORITY,
        }
    }
}

/// The memory behind one queue; may serve one queue after another.
#[derive(Debug)]
pub struct QueueBuffers {
    device: Rc<Device>,
    gpu: usize,
    engine: Engine,
    ring: Buffer,
    indices: Buffer,
    /// End-of-pipe buffer and context save area, compute only.
    compute: Option<(Buffer, Buffer)>,
}

impl QueueBuffers {
    /// Allocates for a queue on the GPU with index `gpu`.
    pub fn new(device: &Rc<Device>, gpu: usize, engine: Engine) -> anyhow::Result<Self> {
        let ring_bytes = match engine {
            Engine::Compute => COMPUTE_PACKETS * aql::PACKET_BYTES,
            Engine::Sdma => SDMA_RING_BYTES,
        };
        let ring = Buffer::new(device, gpu, Kind::UserExecutable, ring_bytes).context("ring")?;
        let indices = Buffer::new(device, gpu, Kind::User, PAGE_BYTES).context("queue indices")?;
        let compute = match engine {
            Engine::Compute => {
                let eop = Buffer::new(device, gpu, Kind::User, EOP_BYTES)
                    .context("end-of-pipe buffer")?;
                let bytes = device.gpus[gpu].node.save_area_bytes();
                let save = Buffer::new(device, gpu, Kind::UserExecutable, bytes)
                    .context("context save area")?;
                write_save_area_headers(device, gpu, &save);
                Some((eop, save))
            }
            Engine::Sdma => None,
        };
        Ok(Self {
            device: Rc::clone(device),
            gpu,
            engine,
            ring,
            indices,
            compute,
        })
    }

    fn create_args(&self, percent: u32) -> CreateQueueArgs {
        let node = &self.device.gpus[self.gpu].node;
        let mut args = CreateQueueArgs {
            ring_base_address: self.ring.address(),
            write_pointer_address: self.indices.address() + WRITE_INDEX_AT as u64,
            read_pointer_address: self.indices.address() + READ_INDEX_AT as u64,
            ring_size: self.ring.region().bytes() as u32,
            gpu_id: node.gpu_id,
            queue_type: match self.engine {
                Engine::Compute => QUEUE_TYPE_COMPUTE_AQL,
                Engine::Sdma => QUEUE_TYPE_SDMA,
            },
            queue_percentage: percent,
            queue_priority: self.engine.priority(),
            ..Default::default()
        };
        if let Some((eop, save)) = &self.compute {
            args.eop_buffer_address = eop.address();
            args.eop_buffer_size = EOP_BYTES as u64;
            args.ctx_save_restore_address = save.address();
            args.ctx_save_restore_size = node.cwsr_bytes;
            args.ctl_stack_size = node.ctl_stack_bytes;
        }
        args
    }

    /// Empties ring and indices for a new queue.
    fn reset(&self) {
        self.indices.region().store_u64(WRITE_INDEX_AT, 0);
        self.indices.region().store_u64(READ_INDEX_AT, 0);
        if self.engine == Engine::Compute {
            for slot in 0..COMPUTE_PACKETS {
                self.ring
                    .region()
                    .store_u32(slot * aql::PACKET_BYTES, Packet::invalid_header());
            }
        }
    }
}

/// Tells a debugger where its part of each XCC's save area is (`struct kfd_context_save_area_header`); the driver fills
/// in the rest when it suspends the queue.
fn write_save_area_headers(device: &Device, gpu: usize, save: &Buffer) {
    const DEBUG_OFFSET_AT: usize = 16;
    let node = &device.gpus[gpu].node;
    for xcc in 0..node.num_xcc {
        let start = xcc * node.cwsr_bytes;
        let offset = (node.num_xcc - xcc) * node.cwsr_bytes + xcc * node.debug_bytes;
        save.region().store_words(
            start as usize + DEBUG_OFFSET_AT,
            &[offset, node.debug_bytes],
        );
    }
}

/// A live queue. Dropping it destroys it.
#[derive(Debug)]
pub struct Queue {
    buffers: Rc<QueueBuffers>,
    pub id: u32,
    /// What `CREATE_QUEUE` returned: mmap offset of the doorbell slice plus the doorbell's byte offset in it.
    pub doorbell_offset: u64,
    pub percent: u32,
    pub priority: u32,
    /// User space's time for `CREATE_QUEUE`: an upper bound of the kernel's.
    pub create_ns: u64,
    /// Packets (compute) or bytes (SDMA) submitted.
    written: Cell<u64>,
    destroyed: bool,
}

impl Queue {
    /// `CREATE_QUEUE` at 100 % on empty buffers.
    pub fn create(buffers: &Rc<QueueBuffers>) -> anyhow::Result<Self> {
        buffers.reset();
        let mut args = buffers.create_args(100);
        let started = Instant::now();
        buffers
            .device
            .kfd
            .create_queue(&mut args)
            .with_context(|| {
                let node = &buffers.device.gpus[buffers.gpu].node;
                format!("{} queue on GPU {}", buffers.engine.name(), node.gpu_id)
            })?;
        let create_ns = elapsed_ns(started);
        Ok(Self {
            id: args.queue_id,
            doorbell_offset: args.doorbell_offset,
            percent: args.queue_percentage,
            priority: args.queue_priority,
            create_ns,
            written: Cell::new(0),
            destroyed: false,
            buffers: Rc::clone(buffers),
        })
    }

    pub fn engine(&self) -> Engine {
        self.buffers.engine
    }

    /// The packet format, in the word used in reports.
    pub fn format_name(&self) -> &'static str {
        match self.buffers.engine {
            Engine::Compute => "aql",
            Engine::Sdma => "pm4",
        }
    }

    /// Index of the GPU that it runs on.
    pub fn gpu(&self) -> usize {
        self.buffers.gpu
    }

    pub fn ring_bytes(&self) -> u32 {
        self.buffers.ring.region().bytes() as u32
    }

    /// Byte offset of the doorbell in the process's slice.
    pub fn doorbell_in_slice(&self) -> u64 {
        self.doorbell_offset % DOORBELL_SLICE_BYTES as u64
    }

    /// `UPDATE_QUEUE`: 0 % takes the queue off the hardware, more puts it back. Returns user space's time for the call.
    pub fn update(&mut self, percent: u32, priority: u32) -> Result<u64, CallError> {
        // Ring and size must be repeated: the driver stores what it gets (pqm_update_queue_properties()).
        let args = UpdateQueueArgs {
            ring_base_address: self.buffers.ring.address(),
            queue_id: self.id,
            ring_size: self.ring_bytes(),
            queue_percentage: percent,
            queue_priority: priority,
        };
        let started = Instant::now();
        self.buffers.device.kfd.update_queue(&args)?;
        let spent_ns = elapsed_ns(started);
        (self.percent, self.priority) = (percent, priority);
        Ok(spent_ns)
    }

    /// `DESTROY_QUEUE`. Returns user space's time for the call.
    pub fn destroy(&mut self) -> Result<u64, CallError> {
        let started = Instant::now();
        self.buffers.device.kfd.destroy_queue(self.id)?;
        let spent_ns = elapsed_ns(started);
        self.destroyed = true;
        // The next queue may get this doorbell: leave it as it was found.
        if self.written.get() > 0 {
            let device = &self.buffers.device;
            if let Ok(doorbells) =
                device.gpus[self.buffers.gpu].doorbells(&device.kfd, self.doorbell_offset)
            {
                doorbells.store_u64(self.doorbell_in_slice() as usize, 0);
            }
        }
        Ok(spent_ns)
    }

    /// Gives back a page that the driver watches and whose content nobody needs, as the kernel may when memory is short.
    /// The driver stops the queues of this process until it has pages again. A copy queue has none such.
    pub fn disturb(&self) -> Result<(), CallError> {
        match &self.buffers.compute {
            Some((eop, _)) => eop.region().discard(),
            None => Ok(()),
        }
    }

    /// Packets (compute) or bytes (SDMA) submitted so far.
    pub fn write_index(&self) -> u64 {
        self.written.get()
    }

    /// How far the GPU has read.
    pub fn read_index(&self) -> u64 {
        self.buffers.indices.region().load_u64(READ_INDEX_AT)
    }

    /// Whether `packets` more fit into the compute ring.
    pub fn has_room(&self, packets: usize) -> bool {
        self.written.get() + packets as u64 <= self.read_index() + COMPUTE_PACKETS as u64
    }

    /// Writes packets into a compute queue and rings its doorbell once. The caller checked [`Queue::has_room`].
    pub fn submit(&self, packets: &[Packet]) -> anyhow::Result<()> {
        let ring = self.buffers.ring.region();
        let first = self.written.get();
        let next = first + packets.len() as u64;
        // As the standard wants it: reserve, fill, publish each header last, ring.
        self.buffers
            .indices
            .region()
            .store_u64(WRITE_INDEX_AT, next);
        for (index, packet) in (first..next).zip(packets) {
            let slot = (index % COMPUTE_PACKETS as u64) as usize * aql::PACKET_BYTES;
            ring.store_words(slot + 4, &packet.0[1..]);
            ring.store_u32(slot, packet.0[0]);
        }
        self.written.set(next);
        self.ring_doorbell(next - 1)
    }

    /// Writes words into a copy queue, padding with NOPs at the ring's end, and rings its doorbell.
    pub fn submit_words(&self, words: &[u32]) -> anyhow::Result<()> {
        let ring = self.buffers.ring.region();
        let bytes = words.len() as u64 * 4;
        let mut start = self.written.get();
        let left = SDMA_RING_BYTES as u64 - start % SDMA_RING_BYTES as u64;
        if left < bytes {
            // A zero word is a one-word NOP.
            ring.store_words(
                (start % SDMA_RING_BYTES as u64) as usize,
                &vec![0; left as usize / 4],
            );
            start += left;
        }
        ring.store_words((start % SDMA_RING_BYTES as u64) as usize, words);
        let next = start + bytes;
        self.buffers
            .indices
            .region()
            .store_u64(WRITE_INDEX_AT, next);
        self.written.set(next);
        self.ring_doorbell(next)
    }

    fn ring_doorbell(&self, value: u64) -> anyhow::Result<()> {
        let device = &self.buffers.device;
        let doorbells =
            device.gpus[self.buffers.gpu].doorbells(&device.kfd, self.doorbell_offset)?;
        doorbells.store_u64(self.doorbell_in_slice() as usize, value);
        Ok(())
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        if !self.destroyed {
            // Best effort; process exit destroys what is left.
            let _ = self.destroy();
        }
    }
}

fn elapsed_ns(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

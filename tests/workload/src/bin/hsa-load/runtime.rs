// SPDX-License-Identifier: MIT OR Apache-2.0
//! The HSA runtime behind safe methods.

use std::ffi::{c_void, CStr};
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use workload::aql::{Packet, PACKET_BYTES};
use workload::failure::Unavailable;

use crate::ffi::*;

/// Packets in a queue's ring.
const QUEUE_PACKETS: u32 = 1024;
/// `private_segment_size` and `group_segment_size`: no hint.
const NO_HINT: u32 = u32::MAX;

/// A failed call of the runtime.
#[derive(Debug, thiserror::Error)]
#[error("{call}: {message} ({status:#x})")]
pub(crate) struct HsaError {
    call: &'static str,
    message: String,
    status: Status,
}

/// The initialised runtime; shut down on drop.
pub(crate) struct Runtime {
    functions: Functions,
}

/// Calls a function that returns a status.
macro_rules! call {
    ($runtime:expr, $name:ident($($argument:expr),*)) => {{
        // SAFETY: the arguments have the types of the header, and pointers are to live values of the sizes it demands.
        let status = unsafe { ($runtime.functions.$name)($($argument),*) };
        $runtime.check(stringify!($name), status)
    }};
}

impl Runtime {
    /// Loads `library` and calls `hsa_init`.
    ///
    /// # Errors
    /// [`Unavailable`] if there is no library or the runtime finds no driver.
    pub(crate) fn start(library: &str) -> anyhow::Result<Rc<Self>> {
        let functions = Functions::load(library).map_err(|error| {
            Unavailable::NoRuntime(format!(
                "cannot load {library}: {error}; install libhsa-runtime64-1 or ROCm"
            ))
        })?;
        let runtime = Self { functions };
        if let Err(error) = call!(runtime, hsa_init()) {
            // Nothing to shut down.
            std::mem::forget(runtime);
            return Err(
                Unavailable::NoRuntime(format!("{error}; is the amdgpu driver loaded?")).into(),
            );
        }
        Ok(Rc::new(runtime))
    }

    fn check(&self, call: &'static str, status: Status) -> Result<(), HsaError> {
        if status == SUCCESS {
            return Ok(());
        }
        let mut text = std::ptr::null();
        // SAFETY: fills a pointer to a static string or leaves it null.
        unsafe { (self.functions.hsa_status_string)(status, &mut text) };
        let message = if text.is_null() {
            "unknown status".to_owned()
        } else {
            // SAFETY: the runtime's static string, NUL-terminated.
            unsafe { CStr::from_ptr(text) }
                .to_string_lossy()
                .into_owned()
        };
        Err(HsaError {
            call,
            message,
            status,
        })
    }

    /// All agents of a device type.
    pub(crate) fn agents(&self, device_type: u32) -> anyhow::Result<Vec<Agent>> {
        unsafe extern "C" fn collect(agent: Agent, data: *mut c_void) -> Status {
            // SAFETY: `data` is the vector that agents() passes and nothing else uses during the iteration.
            unsafe { &mut *data.cast::<Vec<Agent>>() }.push(agent);
            SUCCESS
        }
        let mut all: Vec<Agent> = Vec::new();
        call!(
            self,
            hsa_iterate_agents(collect, std::ptr::from_mut(&mut all).cast())
        )?;
        let mut matching = Vec::new();
        for agent in all {
            let mut kind = u32::MAX;
            call!(
                self,
                hsa_agent_get_info(
                    agent,
                    AGENT_INFO_DEVICE,
                    std::ptr::from_mut(&mut kind).cast()
                )
            )?;
            if kind == device_type {
                matching.push(agent);
            }
        }
        Ok(matching)
    }

    /// An agent's name, e.g. gfx942.
    pub(crate) fn name(&self, agent: Agent) -> Result<String, HsaError> {
        // The attribute is char[64].
        let mut name = [0_u8; 65];
        call!(
            self,
            hsa_agent_get_info(agent, AGENT_INFO_NAME, name.as_mut_ptr().cast())
        )?;
        let end = name
            .iter()
            .position(|&byte| byte == 0)
            .unwrap_or(name.len());
        Ok(String::from_utf8_lossy(&name[..end]).into_owned())
    }

    /// KFD's id of a GPU agent.
    pub(crate) fn gpu_id(&self, agent: Agent) -> Result<u32, HsaError> {
        let mut id = 0_u32;
        call!(
            self,
            hsa_agent_get_info(
                agent,
                AGENT_INFO_DRIVER_UID,
                std::ptr::from_mut(&mut id).cast()
            )
        )?;
        Ok(id)
    }

    fn pools(&self, agent: Agent) -> Result<Vec<Pool>, HsaError> {
        unsafe extern "C" fn collect(pool: Pool, data: *mut c_void) -> Status {
            // SAFETY: `data` is the vector that pools() passes and nothing else uses during the iteration.
            unsafe { &mut *data.cast::<Vec<Pool>>() }.push(pool);
            SUCCESS
        }
        let mut pools: Vec<Pool> = Vec::new();
        call!(
            self,
            hsa_amd_agent_iterate_memory_pools(
                agent,
                collect,
                std::ptr::from_mut(&mut pools).cast()
            )
        )?;
        Ok(pools)
    }

    /// A global pool of `agent` that allows allocation and has one of `flags`.
    pub(crate) fn pool(&self, agent: Agent, flags: u32) -> anyhow::Result<Pool> {
        for pool in self.pools(agent)? {
            let (mut segment, mut allowed, mut found) = (u32::MAX, 0_u8, 0_u32);
            call!(
                self,
                hsa_amd_memory_pool_get_info(
                    pool,
                    POOL_INFO_SEGMENT,
                    std::ptr::from_mut(&mut segment).cast()
                )
            )?;
            let at = std::ptr::from_mut(&mut allowed).cast();
            call!(
                self,
                hsa_amd_memory_pool_get_info(pool, POOL_INFO_ALLOC_ALLOWED, at)
            )?;
            if segment != SEGMENT_GLOBAL || allowed == 0 {
                continue;
            }
            call!(
                self,
                hsa_amd_memory_pool_get_info(
                    pool,
                    POOL_INFO_GLOBAL_FLAGS,
                    std::ptr::from_mut(&mut found).cast()
                )
            )?;
            if found & flags != 0 {
                return Ok(pool);
            }
        }
        anyhow::bail!("an agent has no memory pool with flags {flags:#x}")
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        if let Err(error) = call!(self, hsa_shut_down()) {
            eprintln!("hsa-load: {error}");
        }
    }
}

/// A completion signal.
pub(crate) struct OwnedSignal {
    runtime: Rc<Runtime>,
    signal: Signal,
}

impl OwnedSignal {
    pub(crate) fn new(runtime: &Rc<Runtime>) -> Result<Self, HsaError> {
        let mut signal = Signal { handle: 0 };
        call!(
            runtime,
            hsa_signal_create(0, 0, std::ptr::null(), &mut signal)
        )?;
        Ok(Self {
            runtime: Rc::clone(runtime),
            signal,
        })
    }

    /// Sets it to 1, so that one completion brings it to 0. Returns the handle that goes into a packet.
    pub(crate) fn arm(&self) -> u64 {
        // SAFETY: the signal lives as long as self.
        unsafe { (self.runtime.functions.hsa_signal_store_screlease)(self.signal, 1) };
        self.signal.handle
    }

    /// Sleeps in the driver until completion or for about `limit`. True = complete.
    pub(crate) fn wait(&self, limit: Duration) -> bool {
        // The hint counts in the system clock, which the runtime runs at 1 GHz.
        let hint = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX);
        let functions = &self.runtime.functions;
        // SAFETY: the signal lives as long as self.
        unsafe {
            (functions.hsa_signal_wait_scacquire)(
                self.signal,
                CONDITION_LT,
                1,
                hint,
                WAIT_STATE_BLOCKED,
            ) < 1
        }
    }
}

impl Drop for OwnedSignal {
    fn drop(&mut self) {
        // A failure leaves the signal to the runtime's end.
        let _ = call!(self.runtime, hsa_signal_destroy(self.signal));
    }
}

/// A user queue of the runtime.
pub(crate) struct OwnedQueue {
    runtime: Rc<Runtime>,
    queue: *mut Queue,
    pub(crate) create_ns: u64,
}

impl OwnedQueue {
    pub(crate) fn new(runtime: &Rc<Runtime>, agent: Agent) -> Result<Self, HsaError> {
        let mut queue = std::ptr::null_mut();
        let started = Instant::now();
        let no_data = std::ptr::null_mut();
        call!(
            runtime,
            hsa_queue_create(
                agent,
                QUEUE_PACKETS,
                QUEUE_TYPE_MULTI,
                None,
                no_data,
                NO_HINT,
                NO_HINT,
                &mut queue
            )
        )?;
        let create_ns = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        Ok(Self {
            runtime: Rc::clone(runtime),
            queue,
            create_ns,
        })
    }

    fn header(&self) -> &Queue {
        // SAFETY: hsa_queue_create returned it, it lives until hsa_queue_destroy, and its fields never change.
        unsafe { &*self.queue }
    }

    /// The runtime's own number of the queue; KFD numbers differently.
    pub(crate) fn id(&self) -> u64 {
        self.header().id
    }

    pub(crate) fn ring_bytes(&self) -> u64 {
        u64::from(self.header().size) * PACKET_BYTES as u64
    }

    /// Writes packets into the ring and rings the doorbell once.
    ///
    /// # Errors
    /// If the ring is full.
    pub(crate) fn submit(&self, packets: &[Packet]) -> anyhow::Result<()> {
        let functions = &self.runtime.functions;
        let (count, size) = (packets.len() as u64, u64::from(self.header().size));
        // SAFETY: a live queue.
        let first = unsafe { (functions.hsa_queue_add_write_index_scacq_screl)(self.queue, count) };
        // SAFETY: a live queue.
        let read = unsafe { (functions.hsa_queue_load_read_index_scacquire)(self.queue) };
        anyhow::ensure!(first + count <= read + size, "queue {} is full", self.id());
        for (index, packet) in (first..).zip(packets) {
            let offset = (index % size) as usize * PACKET_BYTES;
            // SAFETY: the ring has `size` packets of 64 bytes, aligned to 64; this slot belongs to the writer until its
            // header is valid, and is accessed atomically as the packet processor reads it.
            unsafe {
                let slot = self.header().base_address.add(offset).cast::<u32>();
                for (word, value) in packet.0.iter().enumerate().skip(1) {
                    AtomicU32::from_ptr(slot.add(word)).store(*value, Ordering::Relaxed);
                }
                AtomicU32::from_ptr(slot).store(packet.0[0], Ordering::Release);
            }
        }
        let last = (first + count - 1).cast_signed();
        // SAFETY: the doorbell of a live queue.
        unsafe { (functions.hsa_signal_store_screlease)(self.header().doorbell_signal, last) };
        Ok(())
    }
}

impl Drop for OwnedQueue {
    fn drop(&mut self) {
        if let Err(error) = call!(self.runtime, hsa_queue_destroy(self.queue)) {
            eprintln!("hsa-load: {error}");
        }
    }
}

/// Memory from a pool, accessed by the CPU only if the pool is in system memory.
pub(crate) struct Memory {
    runtime: Rc<Runtime>,
    start: *mut c_void,
    bytes: usize,
    agent: Agent,
}

impl Memory {
    /// Allocates `bytes` from a pool of `agent` with one of `flags`, accessible to `others` too.
    pub(crate) fn new(
        runtime: &Rc<Runtime>,
        agent: Agent,
        flags: u32,
        bytes: usize,
        others: &[Agent],
    ) -> anyhow::Result<Self> {
        let pool = runtime.pool(agent, flags)?;
        let mut start = std::ptr::null_mut();
        call!(
            runtime,
            hsa_amd_memory_pool_allocate(pool, bytes, 0, &mut start)
        )?;
        let memory = Self {
            runtime: Rc::clone(runtime),
            start,
            bytes,
            agent,
        };
        if !others.is_empty() {
            let count = others.len() as u32;
            call!(
                runtime,
                hsa_amd_agents_allow_access(count, others.as_ptr(), std::ptr::null(), start)
            )?;
        }
        Ok(memory)
    }

    /// The CPU's view. Only for memory of a CPU agent.
    pub(crate) fn words(&self) -> &[AtomicU64] {
        // SAFETY: page-aligned memory of `bytes` in system memory (the caller's promise), living as long as self; a copy
        // engine may write it, hence atomics.
        unsafe { std::slice::from_raw_parts(self.start.cast::<AtomicU64>(), self.bytes / 8) }
    }

    /// Starts a copy of all of `from` into this.
    pub(crate) fn start_copy(&self, from: &Memory, done: &OwnedSignal) -> Result<(), HsaError> {
        done.arm();
        let bytes = self.bytes.min(from.bytes);
        let (to_agent, from_agent) = (self.agent, from.agent);
        call!(
            self.runtime,
            hsa_amd_memory_async_copy(
                self.start,
                to_agent,
                from.start,
                from_agent,
                bytes,
                0,
                std::ptr::null(),
                done.signal
            )
        )
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // A failure leaves the memory to the runtime's end.
        let _ = call!(self.runtime, hsa_amd_memory_pool_free(self.start));
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! What `hsa-load` needs of the HSA runtime's C interface (HSA Runtime Programmer's Reference 1.2, AMD extensions 1.0),
//! loaded at run time so that nothing has to be installed to build.

use std::ffi::{c_char, c_void};

use libloading::{Library, Symbol};

pub(crate) type Status = u32;
pub(crate) const SUCCESS: Status = 0;

pub(crate) const AGENT_INFO_NAME: u32 = 0;
pub(crate) const AGENT_INFO_DEVICE: u32 = 17;
/// `HSA_AMD_AGENT_INFO_DRIVER_UID`: KFD's gpu_id, u32.
pub(crate) const AGENT_INFO_DRIVER_UID: u32 = 0xa112;
pub(crate) const DEVICE_TYPE_CPU: u32 = 0;
pub(crate) const DEVICE_TYPE_GPU: u32 = 1;
pub(crate) const QUEUE_TYPE_MULTI: u32 = 0;
pub(crate) const CONDITION_LT: u32 = 2;
pub(crate) const WAIT_STATE_BLOCKED: u32 = 0;
pub(crate) const POOL_INFO_SEGMENT: u32 = 0;
pub(crate) const POOL_INFO_GLOBAL_FLAGS: u32 = 1;
pub(crate) const POOL_INFO_ALLOC_ALLOWED: u32 = 5;
pub(crate) const SEGMENT_GLOBAL: u32 = 0;
pub(crate) const GLOBAL_FLAG_FINE_GRAINED: u32 = 2;
pub(crate) const GLOBAL_FLAG_COARSE_GRAINED: u32 = 4;

#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Agent {
    pub(crate) handle: u64,
}

#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Signal {
    pub(crate) handle: u64,
}

#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pool {
    pub(crate) handle: u64,
}

/// `hsa_queue_t` on a 64-bit machine.
#[repr(C)]
pub(crate) struct Queue {
    pub(crate) kind: u32,
    pub(crate) features: u32,
    pub(crate) base_address: *mut u8,
    pub(crate) doorbell_signal: Signal,
    /// In packets.
    pub(crate) size: u32,
    pub(crate) reserved1: u32,
    pub(crate) id: u64,
}

const _: () = {
    assert!(size_of::<Queue>() == 40);
    assert!(std::mem::offset_of!(Queue, doorbell_signal) == 16);
    assert!(std::mem::offset_of!(Queue, id) == 32);
};

pub(crate) type AgentCallback = unsafe extern "C" fn(Agent, *mut c_void) -> Status;
pub(crate) type PoolCallback = unsafe extern "C" fn(Pool, *mut c_void) -> Status;
pub(crate) type QueueCallback = unsafe extern "C" fn(Status, *mut Queue, *mut c_void);

/// Declares the table of functions and how to fill it from a library.
macro_rules! functions {
    ($($name:ident: fn($($argument:ty),*) $(-> $result:ty)?;)*) => {
        /// The functions, valid as long as the library is loaded.
        pub(crate) struct Functions {
            $(pub(crate) $name: unsafe extern "C" fn($($argument),*) $(-> $result)?,)*
            _library: Library,
        }

        impl Functions {
            /// Loads the library and resolves every function.
            pub(crate) fn load(path: &str) -> Result<Self, libloading::Error> {
                // SAFETY: loading the ROCm runtime runs its initialisers, which is what the caller wants.
                let library = unsafe { Library::new(path) }?;
                $(
                    // SAFETY: the type is the one of the public header; the copy of the pointer is kept beside the library.
                    let $name = *unsafe {
                        let symbol: Symbol<unsafe extern "C" fn($($argument),*) $(-> $result)?> =
                            library.get(stringify!($name).as_bytes())?;
                        symbol
                    };
                )*
                Ok(Self { $($name,)* _library: library })
            }
        }
    };
}

functions! {
    hsa_init: fn() -> Status;
    hsa_shut_down: fn() -> Status;
    hsa_status_string: fn(Status, *mut *const c_char) -> Status;
    hsa_iterate_agents: fn(AgentCallback, *mut c_void) -> Status;
    hsa_agent_get_info: fn(Agent, u32, *mut c_void) -> Status;
    hsa_queue_create: fn(Agent, u32, u32, Option<QueueCallback>, *mut c_void, u32, u32, *mut *mut Queue) -> Status;
    hsa_queue_destroy: fn(*mut Queue) -> Status;
    hsa_queue_load_read_index_scacquire: fn(*const Queue) -> u64;
    hsa_queue_add_write_index_scacq_screl: fn(*const Queue, u64) -> u64;
    hsa_signal_create: fn(i64, u32, *const Agent, *mut Signal) -> Status;
    hsa_signal_destroy: fn(Signal) -> Status;
    hsa_signal_store_screlease: fn(Signal, i64);
    hsa_signal_wait_scacquire: fn(Signal, u32, i64, u64, u32) -> i64;
    hsa_amd_agent_iterate_memory_pools: fn(Agent, PoolCallback, *mut c_void) -> Status;
    hsa_amd_memory_pool_get_info: fn(Pool, u32, *mut c_void) -> Status;
    hsa_amd_memory_pool_allocate: fn(Pool, usize, u32, *mut *mut c_void) -> Status;
    hsa_amd_memory_pool_free: fn(*mut c_void) -> Status;
    hsa_amd_agents_allow_access: fn(u32, *const Agent, *const u32, *const c_void) -> Status;
    hsa_amd_memory_async_copy: fn(*mut c_void, Agent, *const c_void, Agent, usize, u32, *const Signal, Signal) -> Status;
}

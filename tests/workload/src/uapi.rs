// SPDX-License-Identifier: MIT OR Apache-2.0
//! The structs of `include/uapi/linux/kfd_ioctl.h` (1.17, Linux 6.12) that a compute process needs.
//!
//! Every field keeps the header's name. The ioctl number encodes the size of its struct, so the size assertions at the
//! end of this file and the numbers in `ioctl.rs` cannot disagree with the kernel without `ENOTTY` or `EINVAL`.

/// `queue_type` of `CREATE_QUEUE`: PM4 packets.
pub const QUEUE_TYPE_COMPUTE: u32 = 0;
/// `queue_type` of `CREATE_QUEUE`: copy engine.
pub const QUEUE_TYPE_SDMA: u32 = 1;
/// `queue_type` of `CREATE_QUEUE`: AQL packets, what ROCm uses.
pub const QUEUE_TYPE_COMPUTE_AQL: u32 = 2;

/// Event that a packet processor signals.
pub const EVENT_SIGNAL: u32 = 0;
/// `wait_result` of `WAIT_EVENTS`: the deadline passed first.
pub const WAIT_RESULT_TIMEOUT: u32 = 1;
/// Most signal events of one process; the event page holds one 64-bit slot for each.
pub const SIGNAL_EVENT_LIMIT: usize = 4096;

pub const ALLOC_VRAM: u32 = 1 << 0;
pub const ALLOC_GTT: u32 = 1 << 1;
pub const ALLOC_USERPTR: u32 = 1 << 2;
pub const ALLOC_COHERENT: u32 = 1 << 26;
pub const ALLOC_UNCACHED: u32 = 1 << 25;
pub const ALLOC_NO_SUBSTITUTE: u32 = 1 << 28;
pub const ALLOC_PUBLIC: u32 = 1 << 29;
pub const ALLOC_EXECUTABLE: u32 = 1 << 30;
pub const ALLOC_WRITABLE: u32 = 1 << 31;

/// `mode_mask` of `RUNTIME_ENABLE`: a debugger may suspend this process's queues.
pub const RUNTIME_ENABLE_MODE_ENABLE: u32 = 1;

pub const DBG_TRAP_ENABLE: u32 = 0;
pub const DBG_TRAP_DISABLE: u32 = 1;
pub const DBG_TRAP_SUSPEND_QUEUES: u32 = 6;
pub const DBG_TRAP_RESUME_QUEUES: u32 = 7;
pub const DBG_TRAP_GET_QUEUE_SNAPSHOT: u32 = 13;
/// Set in a queue id by suspend and resume: the hardware refused.
pub const DBG_QUEUE_ERROR_MASK: u32 = 1 << 30;
/// Set in a queue id by suspend and resume: no such queue, or it is still marked new.
pub const DBG_QUEUE_INVALID_MASK: u32 = 1 << 31;
/// `EC_QUEUE_NEW` as a mask: queues are born with it, and `suspend_single_queue` refuses them until it is cleared.
pub const EC_QUEUE_NEW_MASK: u64 = 1 << 30;

pub const CRIU_OP_PROCESS_INFO: u32 = 0;
pub const CRIU_OP_UNPAUSE: u32 = 2;

#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
pub struct GetVersionArgs {
    pub major_version: u32,
    pub minor_version: u32,
}

#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
pub struct CreateQueueArgs {
    pub ring_base_address: u64,
    pub write_pointer_address: u64,
    pub read_pointer_address: u64,
    pub doorbell_offset: u64,
    pub ring_size: u32,
    pub gpu_id: u32,
    pub queue_type: u32,
    pub queue_percentage: u32,
    pub queue_priority: u32,
    pub queue_id: u32,
    pub eop_buffer_address: u64,
    pub eop_buffer_size: u64,
    pub ctx_save_restore_address: u64,
    pub ctx_save_restore_size: u32,
    pub ctl_stack_size: u32,
    pub sdma_engine_id: u32,
    pub pad: u32,
}

/// `CREATE_QUEUE` before UAPI 1.17 ended at `ctl_stack_size`. The kernel copies as many bytes as the number encodes and
/// zeroes the rest, so the long form works on old kernels too.
pub const CREATE_QUEUE_ARGS_BYTES_BEFORE_1_17: usize = 88;

#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
pub struct DestroyQueueArgs {
    pub queue_id: u32,
    pub pad: u32,
}

#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
pub struct UpdateQueueArgs {
    pub ring_base_address: u64,
    pub queue_id: u32,
    pub ring_size: u32,
    pub queue_percentage: u32,
    pub queue_priority: u32,
}

#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
pub struct ProcessDeviceApertures {
    pub lds_base: u64,
    pub lds_limit: u64,
    pub scratch_base: u64,
    pub scratch_limit: u64,
    pub gpuvm_base: u64,
    pub gpuvm_limit: u64,
    pub gpu_id: u32,
    pub pad: u32,
}

#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
pub struct GetProcessAperturesNewArgs {
    pub kfd_process_device_apertures_ptr: u64,
    pub num_of_nodes: u32,
    pub pad: u32,
}

#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
pub struct CreateEventArgs {
    pub event_page_offset: u64,
    pub event_trigger_data: u32,
    pub event_type: u32,
    pub auto_reset: u32,
    pub node_id: u32,
    pub event_id: u32,
    pub event_slot_index: u32,
}

#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
pub struct DestroyEventArgs {
    pub event_id: u32,
    pub pad: u32,
}

/// `struct kfd_event_data`: the union is 32 bytes, its first u64 is `last_event_age` of a signal event.
#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
pub struct EventData {
    pub last_event_age: u64,
    pub union_rest: [u64; 3],
    pub kfd_event_data_ext: u64,
    pub event_id: u32,
    pub pad: u32,
}

#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
pub struct WaitEventsArgs {
    pub events_ptr: u64,
    pub num_events: u32,
    pub wait_for_all: u32,
    pub timeout: u32,
    pub wait_result: u32,
}

#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
pub struct AcquireVmArgs {
    pub drm_fd: u32,
    pub gpu_id: u32,
}

#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
pub struct AllocMemoryOfGpuArgs {
    pub va_addr: u64,
    pub size: u64,
    pub handle: u64,
    pub mmap_offset: u64,
    pub gpu_id: u32,
    pub flags: u32,
}

#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
pub struct FreeMemoryOfGpuArgs {
    pub handle: u64,
}

/// Arguments of both `MAP_MEMORY_TO_GPU` and `UNMAP_MEMORY_FROM_GPU`.
#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
pub struct MapMemoryArgs {
    pub handle: u64,
    pub device_ids_array_ptr: u64,
    pub n_devices: u32,
    pub n_success: u32,
}

#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
pub struct CriuArgs {
    pub devices: u64,
    pub bos: u64,
    pub priv_data: u64,
    pub priv_data_size: u64,
    pub num_devices: u32,
    pub num_bos: u32,
    pub num_objects: u32,
    pub pid: u32,
    pub op: u32,
    pub pad: u32,
}

#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
pub struct RuntimeEnableArgs {
    pub r_debug: u64,
    pub mode_mask: u32,
    pub capabilities_mask: u32,
}

#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
pub struct RuntimeInfo {
    pub r_debug: u64,
    pub runtime_state: u32,
    pub ttmp_setup: u32,
}

#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
pub struct QueueSnapshotEntry {
    pub exception_status: u64,
    pub ring_base_address: u64,
    pub write_pointer_address: u64,
    pub read_pointer_address: u64,
    pub ctx_save_restore_address: u64,
    pub queue_id: u32,
    pub gpu_id: u32,
    pub ring_size: u32,
    pub queue_type: u32,
    pub ctx_save_restore_area_size: u32,
    pub reserved: u32,
}

/// `struct kfd_ioctl_dbg_trap_args` with its 24-byte union as three words; the constructors know the member layouts.
#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
pub struct DbgTrapArgs {
    pub pid: u32,
    pub op: u32,
    pub words: [u64; 3],
}

impl DbgTrapArgs {
    /// `kfd_ioctl_dbg_trap_enable_args`: exception_mask, rinfo_ptr, rinfo_size, dbg_fd.
    pub fn enable(
        pid: u32,
        exception_mask: u64,
        rinfo_ptr: u64,
        rinfo_size: u32,
        dbg_fd: u32,
    ) -> Self {
        Self {
            pid,
            op: DBG_TRAP_ENABLE,
            words: [exception_mask, rinfo_ptr, pair(rinfo_size, dbg_fd)],
        }
    }

    /// `DISABLE` has no arguments.
    pub fn disable(pid: u32) -> Self {
        Self {
            pid,
            op: DBG_TRAP_DISABLE,
            words: [0; 3],
        }
    }

    /// `kfd_ioctl_dbg_trap_suspend_queues_args`: exception_mask, queue_array_ptr, num_queues, grace_period.
    pub fn suspend(pid: u32, queue_array_ptr: u64, num_queues: u32, grace_period: u32) -> Self {
        Self {
            pid,
            op: DBG_TRAP_SUSPEND_QUEUES,
            words: [0, queue_array_ptr, pair(num_queues, grace_period)],
        }
    }

    /// `kfd_ioctl_dbg_trap_resume_queues_args`: queue_array_ptr, num_queues.
    pub fn resume(pid: u32, queue_array_ptr: u64, num_queues: u32) -> Self {
        Self {
            pid,
            op: DBG_TRAP_RESUME_QUEUES,
            words: [queue_array_ptr, pair(num_queues, 0), 0],
        }
    }

    /// `kfd_ioctl_dbg_trap_queue_snapshot_args`: exception_mask to clear, snapshot_buf_ptr, num_queues, entry_size.
    pub fn snapshot(
        pid: u32,
        exception_mask: u64,
        snapshot_buf_ptr: u64,
        num_queues: u32,
        entry_size: u32,
    ) -> Self {
        Self {
            pid,
            op: DBG_TRAP_GET_QUEUE_SNAPSHOT,
            words: [
                exception_mask,
                snapshot_buf_ptr,
                pair(num_queues, entry_size),
            ],
        }
    }

    /// `num_queues` that the kernel wrote back into the snapshot arguments.
    pub fn snapshot_num_queues(&self) -> u32 {
        (self.words[2] & 0xffff_ffff) as u32
    }
}

/// Two neighbouring u32 fields as the u64 that covers them (the GPU drivers of this UAPI run on little-endian here).
fn pair(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

#[cfg(target_endian = "big")]
compile_error!("DbgTrapArgs packs u32 pairs in little-endian order");

const _: () = {
    use std::mem::{offset_of, size_of};
    assert!(size_of::<GetVersionArgs>() == 8);
    assert!(size_of::<CreateQueueArgs>() == 96);
    assert!(offset_of!(CreateQueueArgs, sdma_engine_id) == CREATE_QUEUE_ARGS_BYTES_BEFORE_1_17);
    assert!(offset_of!(CreateQueueArgs, queue_id) == 52);
    assert!(offset_of!(CreateQueueArgs, ctl_stack_size) == 84);
    assert!(size_of::<DestroyQueueArgs>() == 8);
    assert!(size_of::<UpdateQueueArgs>() == 24);
    assert!(size_of::<ProcessDeviceApertures>() == 56);
    assert!(size_of::<GetProcessAperturesNewArgs>() == 16);
    assert!(size_of::<CreateEventArgs>() == 32);
    assert!(size_of::<DestroyEventArgs>() == 8);
    assert!(size_of::<EventData>() == 48);
    assert!(offset_of!(EventData, event_id) == 40);
    assert!(size_of::<WaitEventsArgs>() == 24);
    assert!(size_of::<AcquireVmArgs>() == 8);
    assert!(size_of::<AllocMemoryOfGpuArgs>() == 40);
    assert!(size_of::<FreeMemoryOfGpuArgs>() == 8);
    assert!(size_of::<MapMemoryArgs>() == 24);
    assert!(size_of::<CriuArgs>() == 56);
    assert!(size_of::<RuntimeEnableArgs>() == 16);
    assert!(size_of::<RuntimeInfo>() == 16);
    assert!(size_of::<QueueSnapshotEntry>() == 64);
    assert!(size_of::<DbgTrapArgs>() == 32);
};

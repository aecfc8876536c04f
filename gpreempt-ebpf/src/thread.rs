// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! What is known of the calling thread between entry and return.
//!
//! A thread's entry stays in the map after its first call, so a call costs one look-up at entry and one at return. Calls of
//! one kind never nest in a thread, calls of different kinds do: each kind has a slot of its own. What the kernel does on
//! one thread happens in order, so no slot needs a lock.

use aya_ebpf::{
    helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_boot_ns},
    macros::map,
    maps::LruHashMap,
};
use gpreempt_common::{
    counters::Counter,
    record::{cause, QueueCreated, COMM_BYTES},
};

use crate::ring::count;

/// By thread id. User space sets the size by the number of CPUs: the kernel lends each CPU up to 128 free entries, and
/// an entry must not be recycled while its thread is in a call.
#[map]
static THREADS: LruHashMap<u32, Thread> = LruHashMap::with_max_entries(4096, 0);

/// What a new entry starts as; in .rodata, because it is too much for the 512 bytes of stack.
static NEW: Thread = Thread {
    cause: Cause {
        pid: 0,
        cause: cause::OTHER,
        reserved: 0,
    },
    scheduler_entry_ns: 0,
    ioctl: Frame::NONE,
    ioctl_found: FOUND_NOTHING,
    evict_trigger: 0,
    queue: Queue {
        pid: 0,
        active: 0,
        created: QueueCreated {
            ring_bytes: 0,
            gpu_id: 0,
            queue_id: 0,
            queue_type: 0,
            format: 0,
            priority: 0,
            percent: 0,
            doorbell: 0,
            evicted: 0,
            comm: [0; COMM_BYTES],
        },
    },
    updated_queue: 0,
    debug: Frame::NONE,
    process: Frame::NONE,
    node: Frame::NONE,
    node_dqm: 0,
    node_qpd: 0,
    group: Frame::NONE,
    group_requested: 0,
    scheduler: Frame::NONE,
    reset: Frame::NONE,
    reset_device: 0,
    unmap: Unmap {
        start_ns: 0,
        dqm: 0,
        lock_wait_ns: 0,
        fence_start_ns: 0,
        fence_ns: 0,
        filter: 0,
        sent: 0,
    },
    map: MapCall {
        start_ns: 0,
        dqm: 0,
        packet_manager: 0,
    },
};

/// The ioctl in progress has neither made nor removed nor changed a queue yet.
pub const FOUND_NOTHING: u32 = 0;
/// `Thread.queue` holds the queue that the ioctl in progress concerns.
pub const FOUND_QUEUE: u32 = 1;

/// Why, and on whose behalf.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Cause {
    pub pid: u32,
    pub cause: u16,
    pub reserved: u16,
}

/// A call in progress that names a cause, and the cause that it hides.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Frame {
    /// 0 = not in such a call.
    pub start_ns: u64,
    pub outer: Cause,
}

impl Frame {
    const NONE: Self = Self {
        start_ns: 0,
        outer: Cause {
            pid: 0,
            cause: cause::OTHER,
            reserved: 0,
        },
    };
}

/// A queue as it was when `kfd_procfs_add_queue`, `kfd_procfs_del_queue` or `update_queue` had it.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Queue {
    pub pid: u32,
    pub active: u32,
    pub created: QueueCreated,
}

/// An `unmap_queues_cpsch` in progress.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Unmap {
    pub start_ns: u64,
    pub dqm: u64,
    pub lock_wait_ns: u64,
    pub fence_start_ns: u64,
    pub fence_ns: u64,
    pub filter: u32,
    /// `pm_send_unmap_queue` was called.
    pub sent: u32,
}

/// A `map_queues_cpsch` in progress.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct MapCall {
    pub start_ns: u64,
    pub dqm: u64,
    /// Argument of `pm_send_runlist`; 0 = it was not called.
    pub packet_manager: u64,
}

/// One thread.
#[repr(C)]
pub struct Thread {
    /// In force now: of the innermost call that names one.
    pub cause: Cause,
    /// Entry of the scheduler function in progress whose unmap has not begun yet.
    pub scheduler_entry_ns: u64,
    /// kfd_ioctl_{create,destroy,update}_queue, _criu, _set_debug_trap: one at a time.
    pub ioctl: Frame,
    pub ioctl_found: u32,
    /// Trigger of the `kfd_process_evict_queues` in progress, plus one.
    pub evict_trigger: u32,
    pub queue: Queue,
    /// Argument of the `update_queue` in progress.
    pub updated_queue: u64,
    /// kfd_dbg_trap_disable.
    pub debug: Frame,
    /// kfd_process_evict_queues, kfd_process_restore_queues.
    pub process: Frame,
    /// evict_process_queues_cpsch, restore_process_queues_cpsch.
    pub node: Frame,
    pub node_dqm: u64,
    pub node_qpd: u64,
    /// suspend_queues, resume_queues, kfd_gpreempt_apply_node: none of them calls another.
    pub group: Frame,
    pub group_requested: u64,
    /// process_termination_cpsch, start_cpsch, stop_cpsch.
    pub scheduler: Frame,
    /// kgd2kfd_pre_reset, kgd2kfd_post_reset.
    pub reset: Frame,
    pub reset_device: u64,
    pub unmap: Unmap,
    pub map: MapCall,
}

/// Who runs this program, and when.
pub struct Now {
    pub ns: u64,
    pid_tgid: u64,
}

impl Now {
    #[inline(always)]
    pub fn read() -> Self {
        Self {
            // SAFETY: a helper without arguments.
            ns: unsafe { bpf_ktime_get_boot_ns() },
            pid_tgid: bpf_get_current_pid_tgid(),
        }
    }

    /// What user space calls the process id.
    #[inline(always)]
    pub fn pid(&self) -> u32 {
        (self.pid_tgid >> 32) as u32
    }

    /// What user space calls the thread id.
    #[inline(always)]
    pub fn tid(&self) -> u32 {
        self.pid_tgid as u32
    }

    /// The calling thread, if it was seen before.
    #[inline(always)]
    pub fn known_thread(&self) -> Option<&'static mut Thread> {
        look_up(self.tid())
    }

    /// The calling thread. `None` only when the map is full of threads, which user space sees as unmatched returns.
    #[inline(always)]
    pub fn thread(&self) -> Option<&'static mut Thread> {
        if let Some(thread) = self.known_thread() {
            return Some(thread);
        }
        let _ = THREADS.insert(self.tid(), &NEW, 0);
        self.known_thread()
    }
}

#[inline(always)]
fn look_up(tid: u32) -> Option<&'static mut Thread> {
    let thread = THREADS.get_ptr_mut(tid)?;
    // SAFETY: the entry belongs to the calling thread, and eBPF programs of one thread never run at the same time.
    Some(unsafe { &mut *thread })
}

/// The calling thread, if it was seen before, for programs that need no time.
#[inline(always)]
pub fn known_thread() -> Option<&'static mut Thread> {
    look_up(bpf_get_current_pid_tgid() as u32)
}

/// Begins a call that names a cause. A frame still open here lost its return: that is counted, and its start forgotten.
#[inline(always)]
pub fn enter(frame: &mut Frame, in_force: &mut Cause, now: &Now, cause: u16, pid: u32) {
    if frame.start_ns == 0 {
        frame.outer = *in_force;
    } else {
        count(Counter::Unmatched);
    }
    frame.start_ns = now.ns;
    *in_force = Cause {
        pid,
        cause,
        reserved: 0,
    };
}

/// Ends a call that named a cause: its duration, or `None` where the entry was not seen.
#[inline(always)]
pub fn leave(frame: &mut Frame, in_force: &mut Cause, now: &Now) -> Option<u64> {
    let start_ns = frame.start_ns;
    if start_ns == 0 {
        count(Counter::Unmatched);
        return None;
    }
    frame.start_ns = 0;
    *in_force = frame.outer;
    Some(now.ns - start_ns)
}

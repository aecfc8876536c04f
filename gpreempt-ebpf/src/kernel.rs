// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! Reads of kernel structs through the offset table. Nothing else in these programs knows where a member is.

use core::{ffi::c_void, mem::MaybeUninit};

use aya_ebpf::helpers::generated;
use gpreempt_common::{
    counters::Counter,
    offsets::{Offsets, UNKNOWN},
    record::COMM_BYTES,
};

use crate::ring::count;

/// Filled in by user space before the programs are loaded, read-only from then on.
#[unsafe(no_mangle)]
pub static OFFSETS: Offsets = Offsets::NONE;

/// The offset that user space wrote: a volatile read, because the compiler believes the initial value.
macro_rules! offset {
    ($field:ident) => {
        // SAFETY: a reference to an initialised static.
        unsafe { core::ptr::read_volatile(&raw const $crate::kernel::OFFSETS.$field) }
    };
}
pub(crate) use offset;

/// A plain number or an array of them: every bit pattern is a value.
trait Plain: Copy {
    const ZERO: Self;
}

macro_rules! plain {
    ($( $ty:ty = $zero:expr, )+) => { $( impl Plain for $ty { const ZERO: Self = $zero; } )+ };
}
plain! { u8 = 0, u32 = 0, u64 = 0, [u8; COMM_BYTES] = [0; COMM_BYTES], }

/// Reads a `T` at `base + offset`: zero and a count where it cannot be read, zero alone where the kernel has no such member.
///
/// The value is the same on both ways through the error check, so that the verifier can merge them: with a value of its own
/// on each, a program of 13 reads had 2^13 ways (Linux 6.1).
#[inline(always)]
fn read<T: Plain>(base: u64, offset: u32) -> T {
    if offset == UNKNOWN {
        return T::ZERO;
    }
    let mut value = MaybeUninit::<T>::uninit();
    let source = base.wrapping_add(u64::from(offset)) as *const c_void;
    // SAFETY: the helper copes with any source, and always writes all of the destination: zeros where it cannot read.
    let (value, result) = unsafe {
        let result = generated::bpf_probe_read_kernel(
            value.as_mut_ptr().cast(),
            size_of::<T>() as u32,
            source.cast(),
        );
        (value.assume_init(), result)
    };
    if result != 0 {
        count(Counter::ReadFault);
    }
    value
}

#[inline(always)]
pub fn u8_at(base: u64, offset: u32) -> u8 {
    read(base, offset)
}

#[inline(always)]
pub fn u32_at(base: u64, offset: u32) -> u32 {
    read(base, offset)
}

#[inline(always)]
pub fn u64_at(base: u64, offset: u32) -> u64 {
    read(base, offset)
}

/// Group leader of a `kfd_process`.
#[inline(always)]
pub fn lead_thread(process: u64) -> u64 {
    u64_at(process, offset!(process_lead_thread))
}

/// Pid of a `kfd_process` in the initial pid namespace.
#[inline(always)]
pub fn process_pid(process: u64) -> u32 {
    u32_at(lead_thread(process), offset!(task_tgid))
}

/// `kfd_process` of a `qcm_process_device`, which is a member of `kfd_process_device`.
#[inline(always)]
pub fn qpd_process(qpd: u64) -> u64 {
    let pdd = qpd.wrapping_sub(u64::from(offset!(pdd_qpd)));
    u64_at(pdd, offset!(pdd_process))
}

/// `kfd_node.id` of the node that a `device_queue_manager` schedules.
#[inline(always)]
pub fn dqm_gpu_id(dqm: u64) -> u32 {
    u32_at(u64_at(dqm, offset!(dqm_dev)), offset!(node_id))
}

/// `task_struct.comm`.
#[inline(always)]
pub fn comm(task: u64) -> [u8; COMM_BYTES] {
    read(task, offset!(task_comm))
}

/// Pid of a task in its own pid namespace: `task->thread_pid->numbers[level].nr`; 0 = unknown or detached.
#[inline(always)]
pub fn ns_pid(task: u64) -> u32 {
    let (level, numbers) = (offset!(pid_level), offset!(pid_numbers));
    let (nr, bytes) = (offset!(upid_nr), offset!(upid_bytes));
    if level == UNKNOWN || numbers == UNKNOWN || nr == UNKNOWN || bytes == UNKNOWN {
        return 0;
    }
    let pid = u64_at(task, offset!(task_thread_pid));
    if pid == 0 {
        return 0;
    }
    // MAX_PID_NS_LEVEL is 32 (linux/pid_namespace.h): more means that this is not a struct pid.
    let level = u32_at(pid, level);
    if level > 32 {
        count(Counter::ReadFault);
        return 0;
    }
    let upid = pid + u64::from(numbers) + u64::from(level) * u64::from(bytes);
    u32_at(upid, nr)
}

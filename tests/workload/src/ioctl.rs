// SPDX-License-Identifier: MIT OR Apache-2.0
//! The ioctls of `/dev/kfd`, one method each. All `unsafe` of the KFD interface is here.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;

use crate::failure::{CallError, Unavailable};
use crate::topology;
use crate::uapi::*;

mod raw {
    //! Numbers as in `kfd_ioctl.h`; the macros add direction and size.
    use crate::uapi::*;
    nix::ioctl_read!(get_version, b'K', 0x01, GetVersionArgs);
    nix::ioctl_readwrite!(create_queue, b'K', 0x02, CreateQueueArgs);
    nix::ioctl_readwrite!(destroy_queue, b'K', 0x03, DestroyQueueArgs);
    nix::ioctl_write_ptr!(update_queue, b'K', 0x07, UpdateQueueArgs);
    nix::ioctl_readwrite!(create_event, b'K', 0x08, CreateEventArgs);
    nix::ioctl_write_ptr!(destroy_event, b'K', 0x09, DestroyEventArgs);
    nix::ioctl_readwrite!(wait_events, b'K', 0x0c, WaitEventsArgs);
    nix::ioctl_readwrite!(
        get_process_apertures_new,
        b'K',
        0x14,
        GetProcessAperturesNewArgs
    );
    nix::ioctl_write_ptr!(acquire_vm, b'K', 0x15, AcquireVmArgs);
    nix::ioctl_readwrite!(alloc_memory_of_gpu, b'K', 0x16, AllocMemoryOfGpuArgs);
    nix::ioctl_write_ptr!(free_memory_of_gpu, b'K', 0x17, FreeMemoryOfGpuArgs);
    nix::ioctl_readwrite!(map_memory_to_gpu, b'K', 0x18, MapMemoryArgs);
    nix::ioctl_readwrite!(unmap_memory_from_gpu, b'K', 0x19, MapMemoryArgs);
    nix::ioctl_readwrite!(criu_op, b'K', 0x22, CriuArgs);
    nix::ioctl_readwrite!(runtime_enable, b'K', 0x25, RuntimeEnableArgs);
    nix::ioctl_readwrite!(dbg_trap, b'K', 0x26, DbgTrapArgs);
}

/// Calls one ioctl with a pointer to its argument struct, naming it in the error.
macro_rules! call {
    ($self:ident, $name:ident, $args:expr) => {
        // SAFETY: the struct has the size that the number encodes, and lives through the call. Addresses inside it are
        // GPU addresses that the driver checks, or come from the borrowed slices of the calling method.
        unsafe { raw::$name($self.fd(), $args) }.map_err(|errno| CallError::new(stringify!($name), errno))
    };
}

/// An open `/dev/kfd`. Opening it makes this process a KFD process.
#[derive(Debug)]
pub struct KfdFile {
    file: File,
}

impl KfdFile {
    /// Opens the device.
    ///
    /// # Errors
    /// [`Unavailable`] if there is no driver or no permission.
    pub fn open() -> anyhow::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/kfd")
            .map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => anyhow::Error::from(Unavailable::NoDriver),
                io::ErrorKind::PermissionDenied => Unavailable::NoPermission {
                    path: "/dev/kfd".into(),
                }
                .into(),
                // Without a GPU, kfd_create_process() of 7.3 refuses every process so. Older kernels let it open.
                _ if error.raw_os_error() == Some(nix::libc::EINVAL)
                    && topology::gpus().is_ok_and(|gpus| gpus.is_empty()) =>
                {
                    Unavailable::NoGpu.into()
                }
                _ => anyhow::Error::from(error).context("open /dev/kfd"),
            })?;
        Ok(Self { file })
    }

    /// The same device through a descriptor fetched from another process.
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self { file: fd.into() }
    }

    fn fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// The file, to map doorbells and to hand over in tests.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// `GET_VERSION`: major, minor.
    pub fn version(&self) -> Result<(u32, u32), CallError> {
        let mut args = GetVersionArgs::default();
        call!(self, get_version, &mut args)?;
        Ok((args.major_version, args.minor_version))
    }

    /// `GET_PROCESS_APERTURES_NEW`: one entry for each GPU that this process may use.
    pub fn apertures(&self) -> Result<Vec<ProcessDeviceApertures>, CallError> {
        let mut args = GetProcessAperturesNewArgs::default();
        call!(self, get_process_apertures_new, &mut args)?;
        let mut entries = vec![ProcessDeviceApertures::default(); args.num_of_nodes as usize];
        if entries.is_empty() {
            return Ok(entries);
        }
        args.kfd_process_device_apertures_ptr = entries.as_mut_ptr() as u64;
        call!(self, get_process_apertures_new, &mut args)?;
        entries.truncate(args.num_of_nodes as usize);
        Ok(entries)
    }

    /// `ACQUIRE_VM`: this process's address space on one GPU, bound to the file of its render node.
    pub fn acquire_vm(&self, gpu_id: u32, render: &File) -> Result<(), CallError> {
        let args = AcquireVmArgs {
            drm_fd: render.as_raw_fd() as u32,
            gpu_id,
        };
        call!(self, acquire_vm, &args).map(drop)
    }

    /// `RUNTIME_ENABLE`: says that a debugger may suspend this process's queues. Before the first queue.
    pub fn runtime_enable(&self) -> Result<(), CallError> {
        let mut args = RuntimeEnableArgs {
            mode_mask: RUNTIME_ENABLE_MODE_ENABLE,
            ..Default::default()
        };
        call!(self, runtime_enable, &mut args).map(drop)
    }

    /// `CREATE_QUEUE`; the kernel fills `queue_id` and `doorbell_offset`.
    pub fn create_queue(&self, args: &mut CreateQueueArgs) -> Result<(), CallError> {
        call!(self, create_queue, args).map(drop)
    }

    /// `DESTROY_QUEUE`.
    pub fn destroy_queue(&self, queue_id: u32) -> Result<(), CallError> {
        let mut args = DestroyQueueArgs { queue_id, pad: 0 };
        call!(self, destroy_queue, &mut args).map(drop)
    }

    /// `UPDATE_QUEUE`.
    pub fn update_queue(&self, args: &UpdateQueueArgs) -> Result<(), CallError> {
        call!(self, update_queue, args).map(drop)
    }

    /// `CREATE_EVENT` of a signal event that resets itself when a wait returns. `event_page` is the handle of the buffer
    /// that holds the slots, for the first event of the process only. Returns id and slot.
    pub fn create_signal_event(&self, event_page: Option<u64>) -> Result<(u32, u32), CallError> {
        let mut args = CreateEventArgs {
            event_page_offset: event_page.unwrap_or(0),
            event_type: EVENT_SIGNAL,
            auto_reset: 1,
            ..Default::default()
        };
        call!(self, create_event, &mut args)?;
        Ok((args.event_id, args.event_slot_index))
    }

    /// `DESTROY_EVENT`.
    pub fn destroy_event(&self, event_id: u32) -> Result<(), CallError> {
        call!(self, destroy_event, &DestroyEventArgs { event_id, pad: 0 }).map(drop)
    }

    /// `WAIT_EVENTS` until any of `events` fires; false when `timeout_ms` passed first.
    ///
    /// # Errors
    /// `EINTR` when a signal handler ran.
    pub fn wait_any(&self, events: &mut [EventData], timeout_ms: u32) -> Result<bool, CallError> {
        let mut args = WaitEventsArgs {
            events_ptr: events.as_mut_ptr() as u64,
            num_events: events.len() as u32,
            timeout: timeout_ms,
            ..Default::default()
        };
        call!(self, wait_events, &mut args)?;
        Ok(args.wait_result != WAIT_RESULT_TIMEOUT)
    }

    /// `ALLOC_MEMORY_OF_GPU`; the kernel fills `handle` and `mmap_offset`.
    pub fn alloc_memory(&self, args: &mut AllocMemoryOfGpuArgs) -> Result<(), CallError> {
        call!(self, alloc_memory_of_gpu, args).map(drop)
    }

    /// `FREE_MEMORY_OF_GPU`.
    pub fn free_memory(&self, handle: u64) -> Result<(), CallError> {
        call!(self, free_memory_of_gpu, &FreeMemoryOfGpuArgs { handle }).map(drop)
    }

    /// `MAP_MEMORY_TO_GPU` on each of `gpu_ids`.
    pub fn map_memory(&self, handle: u64, gpu_ids: &[u32]) -> Result<(), CallError> {
        let mut args = map_args(handle, gpu_ids);
        call!(self, map_memory_to_gpu, &mut args).map(drop)
    }

    /// `UNMAP_MEMORY_FROM_GPU` from each of `gpu_ids`.
    pub fn unmap_memory(&self, handle: u64, gpu_ids: &[u32]) -> Result<(), CallError> {
        let mut args = map_args(handle, gpu_ids);
        call!(self, unmap_memory_from_gpu, &mut args).map(drop)
    }

    /// `CRIU_OP`; only with a file of the target process.
    pub fn criu(&self, op: u32) -> Result<CriuArgs, CallError> {
        let mut args = CriuArgs {
            op,
            ..Default::default()
        };
        call!(self, criu_op, &mut args)?;
        Ok(args)
    }

    /// `DBG_TRAP` enable. `notify` receives exception bytes and must be a file or pipe; an eventfd is refused by
    /// `kernel_write()`.
    pub fn debug_enable(&self, pid: u32, notify: &File) -> Result<RuntimeInfo, CallError> {
        let mut info = RuntimeInfo::default();
        let size = size_of::<RuntimeInfo>() as u32;
        let mut args = DbgTrapArgs::enable(
            pid,
            0,
            std::ptr::from_mut(&mut info) as u64,
            size,
            notify.as_raw_fd() as u32,
        );
        call!(self, dbg_trap, &mut args)?;
        Ok(info)
    }

    /// `DBG_TRAP` disable: everything suspended through it resumes.
    pub fn debug_disable(&self, pid: u32) -> Result<(), CallError> {
        call!(self, dbg_trap, &mut DbgTrapArgs::disable(pid)).map(drop)
    }

    /// `DBG_TRAP` queue snapshot, clearing the bits of `clear` in each queue's exception status.
    pub fn debug_snapshot(
        &self,
        pid: u32,
        clear: u64,
    ) -> Result<Vec<QueueSnapshotEntry>, CallError> {
        // 255 is the most queues that a process may have.
        let mut entries = vec![QueueSnapshotEntry::default(); 256];
        let mut args = DbgTrapArgs::snapshot(
            pid,
            clear,
            entries.as_mut_ptr() as u64,
            entries.len() as u32,
            size_of::<QueueSnapshotEntry>() as u32,
        );
        call!(self, dbg_trap, &mut args)?;
        entries.truncate(args.snapshot_num_queues() as usize);
        Ok(entries)
    }

    /// `DBG_TRAP` suspend. Returns how many were suspended; refused queues carry mask bits in `queue_ids`.
    pub fn debug_suspend(&self, pid: u32, queue_ids: &mut [u32]) -> Result<u32, CallError> {
        let mut args = DbgTrapArgs::suspend(
            pid,
            queue_ids.as_mut_ptr() as u64,
            queue_ids.len() as u32,
            0,
        );
        call!(self, dbg_trap, &mut args).map(|count| count as u32)
    }

    /// `DBG_TRAP` resume. Returns how many were resumed.
    pub fn debug_resume(&self, pid: u32, queue_ids: &mut [u32]) -> Result<u32, CallError> {
        let mut args =
            DbgTrapArgs::resume(pid, queue_ids.as_mut_ptr() as u64, queue_ids.len() as u32);
        call!(self, dbg_trap, &mut args).map(|count| count as u32)
    }
}

fn map_args(handle: u64, gpu_ids: &[u32]) -> MapMemoryArgs {
    MapMemoryArgs {
        handle,
        device_ids_array_ptr: gpu_ids.as_ptr() as u64,
        n_devices: gpu_ids.len() as u32,
        n_success: 0,
    }
}

/// A pidfd of a process.
pub fn pidfd_open(pid: u32) -> Result<OwnedFd, CallError> {
    // SAFETY: the call takes two integers.
    let result = unsafe { nix::libc::syscall(nix::libc::SYS_pidfd_open, pid, 0) };
    owned_fd("pidfd_open", result)
}

/// A copy of descriptor `fd` of the process behind `pidfd`; needs the right to ptrace it.
pub fn pidfd_getfd(pidfd: &OwnedFd, fd: RawFd) -> Result<OwnedFd, CallError> {
    // SAFETY: the call takes three integers.
    let result =
        unsafe { nix::libc::syscall(nix::libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), fd, 0) };
    owned_fd("pidfd_getfd", result)
}

fn owned_fd(call: &'static str, result: nix::libc::c_long) -> Result<OwnedFd, CallError> {
    match Errno::result(result) {
        // SAFETY: the kernel just made this descriptor for us.
        Ok(fd) => Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) }),
        Err(errno) => Err(CallError::new(call, errno)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The whole numbers as they appear in traces of the real runtime: direction, size, type and number in one word.
    #[test]
    fn numbers_are_those_of_the_header() {
        const READ_WRITE: u64 = 3;
        const WRITE: u64 = 1;
        let number = |direction: u64, nr: u64, size: usize| {
            direction << 30 | (size as u64) << 16 | 0x4b << 8 | nr
        };
        assert_eq!(
            number(WRITE, 0x07, size_of::<UpdateQueueArgs>()),
            0x4018_4b07
        );
        assert_eq!(number(READ_WRITE, 0x22, size_of::<CriuArgs>()), 0xc038_4b22);
        assert_eq!(
            number(READ_WRITE, 0x26, size_of::<DbgTrapArgs>()),
            0xc020_4b26
        );
        assert_eq!(
            number(READ_WRITE, 0x02, size_of::<CreateQueueArgs>()),
            0xc060_4b02
        );
    }

    #[test]
    fn debug_arguments_lie_where_the_header_puts_them() {
        let enable = DbgTrapArgs::enable(7, 1, 2, 16, 5);
        assert_eq!(enable.words, [1, 2, 16 | 5 << 32]);
        let snapshot = DbgTrapArgs::snapshot(7, EC_QUEUE_NEW_MASK, 3, 256, 64);
        assert_eq!(snapshot.snapshot_num_queues(), 256);
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! The three calls of `/dev/kfd` that concern queues, as `include/uapi/linux/kfd_ioctl.h` has them, and the C library's `ioctl`.

use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::raw::{c_int, c_ulong, c_void};
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

/// `AMDKFD_IOC_CREATE_QUEUE`, `_DESTROY_QUEUE`, `_UPDATE_QUEUE`: type and number of the request. Sizes differ between versions.
const KFD: c_ulong = b'K' as c_ulong;
const CREATE: c_ulong = 0x02;
const DESTROY: c_ulong = 0x03;
const UPDATE: c_ulong = 0x07;
/// `_IOW('K', 0x07, struct kfd_ioctl_update_queue_args)`.
const UPDATE_QUEUE: c_ulong = 0x4018_4b07;

/// Bits of `queue_percentage` that are one; the next eight are the XCC that PM4 packets go to.
pub(crate) const PERCENT: u32 = 0xff;

/// `KFD_IOC_QUEUE_TYPE_SDMA`, `_SDMA_XGMI`, `_SDMA_BY_ENG_ID`.
pub(crate) const SDMA_TYPES: [u32; 3] = [1, 3, 4];

/// The members of `struct kfd_ioctl_create_queue_args` up to the last that matters here; more may follow.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct Create {
    pub(crate) ring_base_address: u64,
    write_pointer_address: u64,
    read_pointer_address: u64,
    doorbell_offset: u64,
    pub(crate) ring_size: u32,
    gpu_id: u32,
    pub(crate) queue_type: u32,
    pub(crate) queue_percentage: u32,
    pub(crate) queue_priority: u32,
    pub(crate) queue_id: u32,
}

/// `struct kfd_ioctl_update_queue_args`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Update {
    pub(crate) ring_base_address: u64,
    pub(crate) queue_id: u32,
    pub(crate) ring_size: u32,
    pub(crate) queue_percentage: u32,
    pub(crate) queue_priority: u32,
}

/// A call that concerns a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum QueueCall {
    Create,
    Destroy,
    Update,
}

impl QueueCall {
    /// Of a request number; `None` for all others. Some terminal requests have the same type, but no argument struct.
    pub(crate) fn of(request: c_ulong) -> Option<Self> {
        // Programs pass it as int, so that it may come with its sign extended.
        let request = request & 0xffff_ffff;
        let (size, kind, number) = (request >> 16 & 0x3fff, request >> 8 & 0xff, request & 0xff);
        let (call, least) = match number {
            CREATE => (Self::Create, size_of::<Create>()),
            DESTROY => (Self::Destroy, size_of::<u32>()),
            UPDATE => (Self::Update, size_of::<Update>()),
            _ => return None,
        };
        (kind == KFD && size as usize >= least).then_some(call)
    }
}

/// Whether a descriptor is `/dev/kfd`.
pub(crate) fn is_kfd(fd: RawFd) -> bool {
    /// 0 = not known yet.
    static DEVICE: AtomicU64 = AtomicU64::new(0);
    let device = match DEVICE.load(Ordering::Relaxed) {
        0 => {
            let mut found = MaybeUninit::uninit();
            // SAFETY: a C string and room for a stat.
            if unsafe { libc::stat(c"/dev/kfd".as_ptr(), found.as_mut_ptr()) } != 0 {
                return false;
            }
            // SAFETY: stat succeeded.
            let device = unsafe { found.assume_init() }.st_rdev;
            DEVICE.store(device, Ordering::Relaxed);
            device
        }
        device => device,
    };
    stat(fd).is_some_and(|of| of.st_mode & libc::S_IFMT == libc::S_IFCHR && of.st_rdev == device)
}

/// What a descriptor is.
pub(crate) fn stat(fd: RawFd) -> Option<libc::stat> {
    let mut found = MaybeUninit::uninit();
    // SAFETY: room for a stat.
    if unsafe { libc::fstat(fd, found.as_mut_ptr()) } != 0 {
        return None;
    }
    // SAFETY: fstat succeeded.
    Some(unsafe { found.assume_init() })
}

/// Another descriptor of the same device, which the process does not know and cannot close by its number by accident.
pub(crate) fn duplicate(fd: RawFd) -> Option<OwnedFd> {
    /// Out of the way of programs that count on low numbers.
    const FROM: c_int = 500;
    for from in [FROM, 3] {
        // SAFETY: makes a new descriptor, which is owned by what is returned.
        let new = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, from) };
        if new >= 0 {
            // SAFETY: nobody else has it.
            return Some(unsafe { OwnedFd::from_raw_fd(new) });
        }
    }
    None
}

/// `AMDKFD_IOC_UPDATE_QUEUE`; the error number if it fails.
pub(crate) fn update(kfd: &OwnedFd, args: &Update) -> Result<(), i32> {
    let mut args = *args;
    loop {
        // SAFETY: the struct is the request's, and lives through the call.
        let result = unsafe {
            libc::syscall(
                libc::SYS_ioctl,
                kfd.as_raw_fd(),
                UPDATE_QUEUE,
                &raw mut args,
            )
        };
        if result == 0 {
            return Ok(());
        }
        match errno() {
            libc::EINTR => {}
            error => return Err(error),
        }
    }
}

fn errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

type Ioctl = unsafe extern "C" fn(c_int, c_ulong, *mut c_void) -> c_int;

/// The `ioctl` that the process would have called without this library.
///
/// # Safety
/// As ioctl(2).
pub(crate) unsafe fn next_ioctl(fd: c_int, request: c_ulong, argument: *mut c_void) -> c_int {
    static NEXT: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());
    let mut next = NEXT.load(Ordering::Relaxed);
    if next.is_null() {
        // SAFETY: a C string.
        next = unsafe { libc::dlsym(libc::RTLD_NEXT, c"ioctl".as_ptr()) };
        NEXT.store(next, Ordering::Relaxed);
    }
    if next.is_null() {
        // SAFETY: the same call, without the C library.
        return unsafe { libc::syscall(libc::SYS_ioctl, fd, request, argument) as c_int };
    }
    // SAFETY: the C library's `ioctl` has this type; see `crate::ioctl` for its `...`.
    let next: Ioctl = unsafe { std::mem::transmute::<*mut c_void, Ioctl>(next) };
    // SAFETY: the caller's promise.
    unsafe { next(fd, request, argument) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_told_apart() {
        let of = |dir: u32, kind: u8, number: u32, size: u32| {
            QueueCall::of((dir << 30 | size << 16 | u32::from(kind) << 8 | number).into())
        };
        assert_eq!(of(3, b'K', 2, 0x58), Some(QueueCall::Create));
        assert_eq!(of(3, b'K', 2, 0x60), Some(QueueCall::Create));
        assert_eq!(of(3, b'K', 3, 8), Some(QueueCall::Destroy));
        assert_eq!(of(1, b'K', 7, 24), Some(QueueCall::Update));
        assert_eq!(of(3, b'd', 2, 0x58), None);
        assert_eq!(of(3, b'K', 4, 0x58), None);
        // KDMKTONE and the like of terminals.
        assert_eq!(of(0, b'K', 2, 0), None);
        let as_int = 0xc058_4b02_u32 as i32;
        assert_eq!(QueueCall::of(as_int as c_ulong), Some(QueueCall::Create));
    }

    #[test]
    fn the_layout_is_the_drivers() {
        assert_eq!(size_of::<Update>(), 24);
        assert_eq!(UPDATE_QUEUE >> 16 & 0x3fff, 24);
        assert_eq!(std::mem::offset_of!(Create, ring_size), 32);
        assert_eq!(std::mem::offset_of!(Create, queue_percentage), 44);
        assert_eq!(std::mem::offset_of!(Create, queue_id), 52);
    }

    #[test]
    fn other_files_are_not_the_device() {
        let null = std::fs::File::open("/dev/null").unwrap();
        assert!(!is_kfd(null.as_raw_fd()));
        assert!(!is_kfd(-1));
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! The three ioctls of a patched driver, called as they are: no retry, no check of what is passed.

use std::fs::{File, OpenOptions};
use std::num::NonZeroUsize;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::NonNull;

use anyhow::Context;
use gpreempt::kfd::uapi::gpreempt::{request, BatchArgs, Entry, ReserveArgs};
use nix::errno::Errno;
use nix::libc::{self, c_void};
use nix::sys::mman::{mmap_anonymous, mprotect, MapFlags, ProtFlags};

const DEVICE: &str = "/dev/kfd";

/// An open `/dev/kfd`.
#[derive(Debug)]
pub(crate) struct GpreemptFd {
    file: File,
}

impl GpreemptFd {
    /// Opens the device, which makes this process a KFD process until it ends.
    pub(crate) fn open() -> anyhow::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(DEVICE)
            .with_context(|| format!("open {DEVICE}"))?;
        Ok(Self { file })
    }

    /// The same file under another descriptor.
    pub(crate) fn duplicate(&self) -> anyhow::Result<Self> {
        let file = self.file.try_clone().context("dup")?;
        Ok(Self { file })
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// `BATCH_UNMAP_QUEUES`, or `FAST_REMAP` if `release`, with the addresses and sizes of `entries`.
    pub(crate) fn batch(
        &self,
        release: bool,
        mut args: BatchArgs,
        entries: &mut [Entry],
    ) -> Result<BatchArgs, Errno> {
        args.entries_ptr = entries.as_mut_ptr() as u64;
        args.num_entries = entries.len() as u32;
        args.entry_size = size_of::<Entry>() as u32;
        let number = if release {
            request::FAST_REMAP
        } else {
            request::BATCH_UNMAP_QUEUES
        };
        // SAFETY: the number encodes the size of the struct, the struct describes a slice that nobody else uses meanwhile.
        unsafe { self.call(number, std::ptr::from_mut(&mut args).cast()) }?;
        Ok(args)
    }

    /// `SET_HQD_RESERVATION` with the addresses and sizes of `entries`.
    pub(crate) fn reservation(
        &self,
        mut args: ReserveArgs,
        entries: &mut [Entry],
    ) -> Result<ReserveArgs, Errno> {
        args.entries_ptr = entries.as_mut_ptr() as u64;
        args.num_entries = entries.len() as u32;
        args.entry_size = size_of::<Entry>() as u32;
        // SAFETY: as in batch().
        unsafe {
            self.call(
                request::SET_HQD_RESERVATION,
                std::ptr::from_mut(&mut args).cast(),
            )
        }?;
        Ok(args)
    }

    /// Any ioctl with arguments in an arena. The driver finds only numbers and addresses in them, so what it writes
    /// elsewhere is up to those addresses: see [`Arena::is_harmless`].
    pub(crate) fn raw(&self, number: u64, arena: &Arena, offset: usize) -> Result<i32, Errno> {
        let bytes = (number >> 16 & 0x3fff) as usize;
        assert!(
            offset + bytes <= arena.bytes,
            "arguments end beyond the arena"
        );
        // SAFETY: the arguments lie in the arena, which holds no Rust object. Whoever wrote addresses into them asked
        // is_harmless().
        unsafe { self.call(number, arena.start.as_ptr().cast::<u8>().add(offset).cast()) }
    }

    /// # Safety
    /// `args` and what it points to must be what the number says, or memory that holds no Rust object.
    unsafe fn call(&self, number: u64, args: *mut c_void) -> Result<i32, Errno> {
        // SAFETY: the caller's promise.
        let result = unsafe { libc::ioctl(self.file.as_raw_fd(), number, args) };
        Errno::result(result)
    }
}

impl From<OwnedFd> for GpreemptFd {
    fn from(fd: OwnedFd) -> Self {
        Self { file: fd.into() }
    }
}

/// Memory that the driver may do anything to: writable pages, then one that only can be read, then one that cannot.
#[derive(Debug)]
pub(crate) struct Arena {
    start: NonNull<c_void>,
    /// Writable and readable, without the page that cannot be touched.
    bytes: usize,
}

const PAGE: usize = 4096;

impl Arena {
    /// `pages` of writable memory.
    pub(crate) fn new(pages: usize) -> anyhow::Result<Self> {
        let whole = NonZeroUsize::new((pages + 2) * PAGE).context("no pages")?;
        let flags = MapFlags::MAP_PRIVATE;
        // SAFETY: a fresh mapping at an address that the kernel chooses.
        let start = unsafe { mmap_anonymous(None, whole, ProtFlags::PROT_NONE, flags) }
            .context("map the arena")?;
        let arena = Self {
            start,
            bytes: (pages + 1) * PAGE,
        };
        arena.protect(
            0,
            pages * PAGE,
            ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
        )?;
        arena.protect(pages * PAGE, PAGE, ProtFlags::PROT_READ)?;
        Ok(arena)
    }

    fn protect(&self, offset: usize, bytes: usize, access: ProtFlags) -> anyhow::Result<()> {
        // SAFETY: a part of this arena, into which there are no references.
        unsafe { mprotect(self.start.byte_add(offset), bytes, access) }.context("mprotect")
    }

    /// Puts `bytes` at `offset` of the page that can only be read.
    pub(crate) fn write_read_only(&self, offset: usize, bytes: &[u8]) -> anyhow::Result<()> {
        let page = self.read_only_at();
        assert!(offset + bytes.len() <= PAGE, "beyond the page");
        self.protect(page, PAGE, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE)?;
        self.store(page + offset, bytes);
        self.protect(page, PAGE, ProtFlags::PROT_READ)
    }

    /// Offset of the page that can only be read.
    pub(crate) fn read_only_at(&self) -> usize {
        self.bytes - PAGE
    }

    /// Puts `bytes` at `offset` of the writable pages.
    pub(crate) fn write(&self, offset: usize, bytes: &[u8]) {
        assert!(
            offset + bytes.len() <= self.read_only_at(),
            "beyond the writable pages"
        );
        self.store(offset, bytes);
    }

    fn store(&self, offset: usize, bytes: &[u8]) {
        for (index, byte) in bytes.iter().enumerate() {
            // SAFETY: in bounds, checked by the callers, and writable now.
            unsafe {
                self.start
                    .as_ptr()
                    .cast::<u8>()
                    .add(offset + index)
                    .write_volatile(*byte);
            }
        }
    }

    /// What is at `offset`.
    pub(crate) fn read(&self, offset: usize, bytes: usize) -> Vec<u8> {
        assert!(offset + bytes <= self.bytes, "beyond the arena");
        (offset..offset + bytes)
            // SAFETY: in bounds and readable.
            .map(|at| unsafe { self.start.as_ptr().cast::<u8>().add(at).read_volatile() })
            .collect()
    }

    /// Address of `offset`.
    pub(crate) fn address(&self, offset: usize) -> u64 {
        self.start.as_ptr() as u64 + offset as u64
    }

    /// Whether the driver may get this as an address to write a little to: in the arena, or none that this process can
    /// have anything at.
    pub(crate) fn is_harmless(&self, address: u64) -> bool {
        let start = self.address(0);
        !(0x1_0000..1 << 47).contains(&address)
            || (start..start + (self.bytes + PAGE) as u64).contains(&address)
    }
}

// SAFETY: an arena is plain memory without Rust objects, accessed by volatile operations only.
unsafe impl Sync for Arena {}
// SAFETY: as above.
unsafe impl Send for Arena {}

/// Parts this process in two, of which the caller says what the child does; the child never returns.
///
/// # Errors
/// If the kernel refuses.
pub(crate) fn fork_child(child: impl FnOnce()) -> anyhow::Result<u32> {
    // SAFETY: the caller's process has one thread, so nothing is locked in the child.
    match unsafe { nix::unistd::fork() }.context("fork")? {
        nix::unistd::ForkResult::Parent { child } => Ok(child.as_raw().cast_unsigned()),
        nix::unistd::ForkResult::Child => {
            child();
            std::process::exit(0)
        }
    }
}

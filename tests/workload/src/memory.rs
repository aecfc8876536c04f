// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory shared with a GPU: mapped regions and the atomic accesses to them. All raw pointer work is here.

use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use nix::libc::c_void;
use nix::sys::mman::{self, MapFlags, MmapAdvise, ProtFlags};

use crate::failure::CallError;

/// Page size that KFD rounds to.
pub const PAGE_BYTES: usize = 4096;

/// A mapped region. GPUs may write to it at any time, so it is only accessed by atomic or volatile operations.
#[derive(Debug)]
pub struct Region {
    start: NonNull<c_void>,
    bytes: NonZeroUsize,
    /// Inaccessible bytes behind it.
    guard_bytes: usize,
}

impl Region {
    /// Zeroed private memory that is populated on first touch and not inherited over fork: the driver pins pages of this
    /// process, and copy-on-write would part the two.
    ///
    /// A guard page keeps the kernel from merging it with its neighbour: unmapping a part of a merged mapping splits it,
    /// and `__split_huge_pmd()` (6.12) then invalidates the 2 MiB around the edge, huge page or not. The driver takes that
    /// for a loss of the neighbour's pages and evicts the process.
    pub fn anonymous(bytes: usize) -> Result<Self, CallError> {
        let whole = nonzero(bytes.saturating_add(PAGE_BYTES))?;
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
        // SAFETY: a fresh mapping at an address that the kernel chooses.
        let start = unsafe { mman::mmap_anonymous(None, whole, ProtFlags::PROT_NONE, flags) }
            .map_err(|errno| CallError::new("mmap", errno))?;
        let region = Self {
            start,
            bytes: nonzero(bytes)?,
            guard_bytes: PAGE_BYTES,
        };
        // SAFETY: the range lies in the mapping made above.
        unsafe { mman::mprotect(start, bytes, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE) }
            .map_err(|errno| CallError::new("mprotect", errno))?;
        // SAFETY: as above.
        unsafe { mman::madvise(start, bytes, MmapAdvise::MADV_DONTFORK) }
            .map_err(|errno| CallError::new("madvise", errno))?;
        Ok(region)
    }

    /// Addresses without memory, to be filled by [`Region::map_over`].
    pub fn reserve(bytes: usize) -> Result<Self, CallError> {
        let bytes = nonzero(bytes)?;
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
        // SAFETY: a fresh mapping at an address that the kernel chooses.
        let start = unsafe { mman::mmap_anonymous(None, bytes, ProtFlags::PROT_NONE, flags) }
            .map_err(|errno| CallError::new("mmap", errno))?;
        Ok(Self {
            start,
            bytes,
            guard_bytes: 0,
        })
    }

    /// Maps `offset` of a device file over the whole reserved region.
    pub fn map_over(&mut self, device: impl AsFd, offset: u64) -> Result<(), CallError> {
        let address = NonZeroUsize::new(self.start.as_ptr() as usize);
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: MAP_FIXED replaces exactly the pages that this region owns; nobody holds references into them.
        unsafe {
            mman::mmap(
                address,
                self.bytes,
                protection,
                MapFlags::MAP_SHARED | MapFlags::MAP_FIXED,
                device,
                offset as i64,
            )
        }
        .map_err(|errno| CallError::new("mmap of a device", errno))?;
        Ok(())
    }

    /// Maps `bytes` of a device file at `offset`.
    pub fn device(device: impl AsFd, bytes: usize, offset: u64) -> Result<Self, CallError> {
        let bytes = nonzero(bytes)?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a fresh mapping at an address that the kernel chooses.
        let start = unsafe {
            mman::mmap(
                None,
                bytes,
                protection,
                MapFlags::MAP_SHARED,
                device,
                offset as i64,
            )
        }
        .map_err(|errno| CallError::new("mmap of a device", errno))?;
        Ok(Self {
            start,
            bytes,
            guard_bytes: 0,
        })
    }

    /// Gives the pages back; the next access finds zeroes.
    pub fn discard(&self) -> Result<(), CallError> {
        // SAFETY: the range is this region's mapping; its content is only ever accessed atomically, and zero is a value.
        unsafe { mman::madvise(self.start, self.bytes.get(), MmapAdvise::MADV_DONTNEED) }
            .map_err(|errno| CallError::new("madvise", errno))
    }

    /// Start address, the same for CPU and GPU.
    pub fn address(&self) -> u64 {
        self.start.as_ptr() as u64
    }

    /// Length in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes.get()
    }

    fn word_at(&self, offset: usize) -> &AtomicU64 {
        assert!(
            offset.is_multiple_of(8) && offset + 8 <= self.bytes.get(),
            "u64 at {offset} of {} bytes",
            self.bytes
        );
        // SAFETY: in bounds and aligned (checked above; mappings are page-aligned), mapped as long as self lives, and only
        // ever accessed atomically.
        unsafe { AtomicU64::from_ptr(self.start.as_ptr().cast::<u8>().add(offset).cast()) }
    }

    fn half_at(&self, offset: usize) -> &AtomicU32 {
        assert!(
            offset.is_multiple_of(4) && offset + 4 <= self.bytes.get(),
            "u32 at {offset} of {} bytes",
            self.bytes
        );
        // SAFETY: as in word_at.
        unsafe { AtomicU32::from_ptr(self.start.as_ptr().cast::<u8>().add(offset).cast()) }
    }

    /// Reads a u64 after everything that its writer wrote before it.
    pub fn load_u64(&self, offset: usize) -> u64 {
        self.word_at(offset).load(Ordering::Acquire)
    }

    /// Writes a u64 after everything written before it.
    pub fn store_u64(&self, offset: usize, value: u64) {
        self.word_at(offset).store(value, Ordering::Release);
    }

    /// Writes a u32 after everything written before it.
    pub fn store_u32(&self, offset: usize, value: u32) {
        self.half_at(offset).store(value, Ordering::Release);
    }

    /// Writes little-endian words starting at `offset`.
    pub fn store_words(&self, offset: usize, words: &[u32]) {
        for (index, word) in words.iter().enumerate() {
            self.half_at(offset + 4 * index)
                .store(*word, Ordering::Relaxed);
        }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: the range is exactly this region's mapping with its guard, and no reference outlives self. A failure would leave the
        // mapping to process exit.
        let _ = unsafe { mman::munmap(self.start, self.bytes.get() + self.guard_bytes) };
    }
}

fn nonzero(bytes: usize) -> Result<NonZeroUsize, CallError> {
    NonZeroUsize::new(bytes).ok_or(CallError::new("mmap of nothing", nix::errno::Errno::EINVAL))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_holds_what_was_stored() {
        let region = Region::anonymous(2 * PAGE_BYTES).unwrap();
        region.store_u64(PAGE_BYTES, 7);
        region.store_words(16, &[1, 2]);
        assert_eq!(region.load_u64(PAGE_BYTES), 7);
        assert_eq!(region.load_u64(16), 1 | 2 << 32);
    }

    #[test]
    #[should_panic(expected = "u64 at 4096")]
    fn an_access_beyond_the_end_is_refused() {
        Region::anonymous(PAGE_BYTES).unwrap().load_u64(PAGE_BYTES);
    }
}

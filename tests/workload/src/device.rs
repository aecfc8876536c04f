// SPDX-License-Identifier: MIT OR Apache-2.0
//! A compute process's view of its GPUs: opened devices, GPU memory, doorbells.

use std::cell::OnceCell;
use std::fs::{File, OpenOptions};
use std::io;
use std::rc::Rc;

use anyhow::Context;
use nix::errno::Errno;

use crate::failure::Unavailable;
use crate::ioctl::KfdFile;
use crate::memory::{Region, PAGE_BYTES};
use crate::topology::{self, Node};
use crate::uapi::*;

/// A process's doorbells on one GPU: 1024 of 8 bytes on every GPU since gfx9 (`kfd_doorbell_process_slice()`).
pub const DOORBELL_SLICE_BYTES: usize = 8192;

/// One GPU that this process has an address space on.
#[derive(Debug)]
pub struct Gpu {
    pub node: Node,
    render: File,
    doorbells: OnceCell<Region>,
}

impl Gpu {
    /// The mapped doorbells. The driver allocates them with the process's first queue on this GPU, so not before that.
    pub fn doorbells(&self, kfd: &KfdFile, doorbell_offset: u64) -> anyhow::Result<&Region> {
        if self.doorbells.get().is_none() {
            let slice = doorbell_offset & !(DOORBELL_SLICE_BYTES as u64 - 1);
            let region =
                Region::device(kfd.file(), DOORBELL_SLICE_BYTES, slice).context("map doorbells")?;
            let _ = self.doorbells.set(region);
        }
        self.doorbells.get().context("doorbells are not mapped")
    }
}

/// An open KFD process. Field order matters: memory goes before the file.
#[derive(Debug)]
pub struct Device {
    pub gpus: Vec<Gpu>,
    pub kfd: KfdFile,
    pub version: (u32, u32),
    memory: Memory,
}

/// Where what a queue needs is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Memory {
    /// In the process's own pages, as ROCr does it. The driver stops the queues when those go, e.g. at exit.
    Own,
    /// In memory of the driver (GTT).
    Driver,
}

impl Device {
    /// Opens the first `count` GPUs (0 = all), keeping queues in `memory`, in the order that ROCr uses: version, apertures, render nodes,
    /// `ACQUIRE_VM`, then `RUNTIME_ENABLE` before any queue.
    ///
    /// # Errors
    /// [`Unavailable`] if there is no driver, permission or GPU.
    pub fn open(count: usize, memory: Memory) -> anyhow::Result<Rc<Self>> {
        let device = Self::open_undebuggable(count, memory)?;
        match device.kfd.runtime_enable() {
            // Not there before UAPI 1.13: then there is no debugger to enable it for.
            Err(error) if matches!(error.errno, Errno::ENOTTY | Errno::EINVAL) => {}
            result => result?,
        }
        Ok(device)
    }

    /// Same without `RUNTIME_ENABLE`: no debugger can suspend the queues.
    ///
    /// # Errors
    /// As [`Device::open`].
    pub fn open_undebuggable(count: usize, memory: Memory) -> anyhow::Result<Rc<Self>> {
        let kfd = KfdFile::open()?;
        let version = kfd.version()?;
        let mut nodes = topology::gpus()?;
        if nodes.is_empty() {
            return Err(Unavailable::NoGpu.into());
        }
        if count > nodes.len() {
            return Err(Unavailable::TooFewGpus {
                wanted: count,
                found: nodes.len(),
            }
            .into());
        }
        if count > 0 {
            nodes.truncate(count);
        }
        let apertures = kfd.apertures()?;
        let mut gpus = Vec::new();
        for node in nodes {
            if !apertures
                .iter()
                .any(|aperture| aperture.gpu_id == node.gpu_id)
            {
                anyhow::bail!(
                    "GPU {} is in sysfs but GET_PROCESS_APERTURES_NEW does not list it",
                    node.gpu_id
                );
            }
            let render = open_render_node(node.render_minor)?;
            kfd.acquire_vm(node.gpu_id, &render)
                .with_context(|| format!("GPU {}", node.gpu_id))?;
            gpus.push(Gpu {
                node,
                render,
                doorbells: OnceCell::new(),
            });
        }
        Ok(Rc::new(Self {
            gpus,
            kfd,
            version,
            memory,
        }))
    }

    fn gpu_ids(&self) -> Vec<u32> {
        self.gpus.iter().map(|gpu| gpu.node.gpu_id).collect()
    }
}

fn open_render_node(minor: u32) -> anyhow::Result<File> {
    let path = format!("/dev/dri/renderD{minor}");
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => Unavailable::NoPermission { path }.into(),
            _ => anyhow::Error::from(error).context(format!("open {path}")),
        })
}

/// Where a buffer's pages come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// This process's own pages.
    User,
    /// This process's own pages, executable on the GPU: rings.
    UserExecutable,
    /// System memory of the driver, cached nowhere: the event page.
    Gtt,
    /// Memory of the GPU, visible to the CPU through a large BAR.
    Vram,
}

/// Memory that every GPU of the process sees at its CPU address.
#[derive(Debug)]
pub struct Buffer {
    device: Rc<Device>,
    /// Needed by the driver's own users of the buffer, e.g. the event page.
    pub handle: u64,
    region: Region,
    /// The driver keeps it to the end of the process.
    kept_by_driver: bool,
}

impl Buffer {
    /// Allocates and maps `bytes`, rounded up to pages; `owner` is the index of the GPU that owns the memory.
    pub fn new(
        device: &Rc<Device>,
        owner: usize,
        kind: Kind,
        bytes: usize,
    ) -> anyhow::Result<Self> {
        let bytes = bytes.next_multiple_of(PAGE_BYTES);
        let kind = match (device.memory, kind) {
            (Memory::Driver, Kind::User | Kind::UserExecutable) => Kind::Gtt,
            _ => kind,
        };
        let shared = ALLOC_WRITABLE | ALLOC_NO_SUBSTITUTE;
        let (mut region, flags) = match kind {
            Kind::User => (
                Region::anonymous(bytes)?,
                shared | ALLOC_COHERENT | ALLOC_UNCACHED | ALLOC_USERPTR,
            ),
            Kind::UserExecutable => (
                Region::anonymous(bytes)?,
                shared | ALLOC_COHERENT | ALLOC_EXECUTABLE | ALLOC_USERPTR,
            ),
            Kind::Gtt => (
                Region::reserve(bytes)?,
                shared | ALLOC_COHERENT | ALLOC_UNCACHED | ALLOC_EXECUTABLE | ALLOC_GTT,
            ),
            Kind::Vram => (
                Region::reserve(bytes)?,
                ALLOC_WRITABLE | ALLOC_PUBLIC | ALLOC_VRAM,
            ),
        };
        let gpu = &device.gpus[owner];
        let user_address = if flags & ALLOC_USERPTR != 0 {
            region.address()
        } else {
            0
        };
        let mut args = AllocMemoryOfGpuArgs {
            va_addr: region.address(),
            size: bytes as u64,
            mmap_offset: user_address,
            gpu_id: gpu.node.gpu_id,
            flags,
            ..Default::default()
        };
        device
            .kfd
            .alloc_memory(&mut args)
            .with_context(|| format!("{bytes} bytes of {kind:?} memory"))?;
        let map = device.kfd.map_memory(args.handle, &device.gpu_ids());
        if let Err(error) = map {
            let _ = device.kfd.free_memory(args.handle);
            return Err(
                anyhow::Error::from(error).context(format!("{bytes} bytes of {kind:?} memory"))
            );
        }
        if user_address == 0 {
            region
                .map_over(&gpu.render, args.mmap_offset)
                .context("map a buffer of the render node")?;
        }
        Ok(Self {
            device: Rc::clone(device),
            handle: args.handle,
            region,
            kept_by_driver: false,
        })
    }

    /// The driver will use it until the process ends and refuse to free it: do not try.
    pub fn keep(&mut self) {
        self.kept_by_driver = true;
    }

    /// The CPU's side of the memory.
    pub fn region(&self) -> &Region {
        &self.region
    }

    /// Address for CPU and GPU.
    pub fn address(&self) -> u64 {
        self.region.address()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // Refused while a queue uses it; the driver frees it with the process then.
        if !self.kept_by_driver
            && self
                .device
                .kfd
                .unmap_memory(self.handle, &self.device.gpu_ids())
                .is_ok()
        {
            let _ = self.device.kfd.free_memory(self.handle);
        }
    }
}

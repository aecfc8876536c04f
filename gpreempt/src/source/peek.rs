// SPDX-License-Identifier: MIT OR Apache-2.0
//! A look at kernel memory without /dev/kfd or a debugger: an eBPF program that is run on request copies bytes at an address.
//! A bad address is an error, never a fault: the kernel's own `bpf_probe_read_kernel` copies.
//!
//! Kernel support: Linux 5.10 (BPF_PROG_TEST_RUN of raw tracepoint programs).

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
};

use aya::maps::{Array, MapData};
use gpreempt_common::{offsets::Offsets, peek::PEEK_BYTES};

use super::{
    live,
    programs::Code,
    symbols,
    sys::{self, ProgramKind},
    LiveError,
};

/// The program, loaded.
pub struct Peek {
    program: OwnedFd,
    peeked: Array<MapData, [u8; PEEK_BYTES]>,
}

/// A [`Peek`], the offsets of the driver's structs, and where its objects are.
pub struct Opened {
    /// For the memory.
    pub peek: Peek,
    /// Where members are.
    pub offsets: Offsets,
    /// Module that carries amdkfd.
    pub module: String,
}

impl Opened {
    /// Loads the program and resolves the offsets, by BTF or by a profile.
    ///
    /// # Errors
    /// See [`LiveError`].
    pub fn open(profile: Option<&Path>) -> Result<Self, LiveError> {
        let (_, symbols) = live::ready()?;
        let offsets = live::offsets(profile, &symbols)?;
        Ok(Self {
            peek: Peek::open()?,
            offsets,
            module: symbols.module,
        })
    }

    /// Where a variable of the driver is.
    ///
    /// # Errors
    /// When the kernel does not say; the message ends with what the user can do.
    pub fn locate(&self, variable: &str) -> Result<symbols::Object, LiveError> {
        match symbols::locate(&self.module, variable)? {
            None => Err(LiveError::BpfUnsupported(format!(
                "/proc/kallsyms does not list {variable} of {}: it takes a kernel with CONFIG_KALLSYMS_ALL",
                self.module
            ))),
            Some(symbols::Object { address: 0, .. }) => Err(LiveError::NoPermission {
                capability: "addresses in /proc/kallsyms (CAP_SYSLOG, and kernel.kptr_restrict below 2)".to_owned(),
            }),
            Some(object) => Ok(object),
        }
    }
}

impl Peek {
    fn open() -> Result<Self, LiveError> {
        let load = || -> anyhow::Result<Self> {
            let mut code = Code::of_program("peek", "PEEKED")?;
            let program = code.load("peek", ProgramKind::RawTracepoint)?;
            let peeked = Array::try_from(code.take("PEEKED")?)?;
            Ok(Self { program, peeked })
        };
        load().map_err(|error| live::from_kernel(error.context("loading the program peek")))
    }

    /// Copies kernel memory at `address`.
    ///
    /// # Errors
    /// Where nothing is mapped, and for more than [`PEEK_BYTES`].
    pub fn read(&self, address: u64, into: &mut [u8]) -> io::Result<()> {
        if sys::run_with(self.program.as_fd(), [address, into.len() as u64])? != 0 {
            return Err(io::Error::from_raw_os_error(libc::EFAULT));
        }
        let bytes = self.peeked.get(&0, 0).map_err(io::Error::other)?;
        let length = into.len();
        into.copy_from_slice(bytes.get(..length).ok_or(io::ErrorKind::InvalidInput)?);
        Ok(())
    }
}

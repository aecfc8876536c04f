// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a guest is to consist of.

use std::path::PathBuf;

use clap::ValueEnum;
use guest::plan::Background;

use crate::setup::kernels::Kernel;

/// Which `amdgpu` module a guest loads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Driver {
    /// The unmodified amdkfd on the simulated GPU.
    Sim,
    /// The amdkfd with the project's patch series on the simulated GPU.
    Patched,
    /// The distribution's unmodified driver, which finds no GPU.
    Stock,
    /// None.
    None,
}

impl Driver {
    /// Whether it runs on the simulated GPU.
    pub(crate) fn is_simulated(self) -> bool {
        match self {
            Self::Sim | Self::Patched => true,
            Self::Stock | Self::None => false,
        }
    }
}

/// How fast, how large, how exact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hardware {
    pub(crate) memory_mb: u32,
    pub(crate) cpus: u32,
    /// The guest's clock counts instructions: slower, one processor, and the same in every run.
    pub(crate) icount: bool,
}

impl Default for Hardware {
    fn default() -> Self {
        Self {
            memory_mb: 2048,
            cpus: 2,
            icount: false,
        }
    }
}

/// A guest to boot.
#[derive(Debug, Clone)]
pub(crate) struct Guest {
    pub(crate) kernel: Kernel,
    pub(crate) driver: Driver,
    /// The simulated GPU's module, for drivers that run on it.
    pub(crate) sim_module: Option<PathBuf>,
    /// Module parameters of the driver, `key=value`.
    pub(crate) params: Vec<String>,
    /// PID 1.
    pub(crate) init: PathBuf,
    /// Files to put into the guest.
    pub(crate) files: Vec<GuestFile>,
    /// Root of an unpacked ROCm runtime.
    pub(crate) rocm: Option<PathBuf>,
    /// Root of an unpacked Debian, whose systemd is PID 1 in place of the project's.
    pub(crate) system: Option<PathBuf>,
    /// Root of an unpacked Python.
    pub(crate) python: Option<PathBuf>,
    /// Started when the driver is loaded.
    pub(crate) background: Vec<Background>,
    pub(crate) hardware: Hardware,
    /// Prefix of the console log's name.
    pub(crate) label: String,
}

/// A file of the host that the guest gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GuestFile {
    pub(crate) from: PathBuf,
    /// Absolute path in the guest.
    pub(crate) to: String,
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where records come from: bytes as the eBPF programs wrote them, not interpreted here.

pub mod attach;
mod backlog;
pub mod btf;
pub mod driver;
mod links;
pub mod live;
pub mod offsets;
pub mod peek;
pub mod permission;
pub mod plan;
pub mod profile;
pub mod programs;
pub mod symbols;
pub mod sys;
mod verify;

use serde::{Deserialize, Serialize};

pub use attach::Attach;
pub use driver::{driver, Driver};
pub use live::{Live, LiveError, LiveOptions};

/// What a live source found when it started; every field ends up in the `startup` record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Startup {
    /// `uname -r`.
    pub kernel: String,
    /// Module that carries amdkfd (`amdgpu`, or `vmlinux` when built in), and its version or srcversion if it has one.
    pub module: String,
    /// See `module`.
    pub module_version: Option<String>,
    /// Where the struct offsets came from: `btf` or `profile:PATH`.
    pub offsets: String,
    /// Every planned probe, attached or not.
    pub probes: Vec<Probe>,
    /// Bytes of the ring buffer.
    pub ring_bytes: u32,
}

/// One planned probe and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// The function as the plan names it.
    pub function: String,
    /// The symbol it was attached to (`execute_queues_cpsch.constprop.0`), if found.
    pub symbol: Option<String>,
    /// Entry and return, or entry only.
    pub attached: bool,
    /// Without it `watch` refuses to start.
    pub required: bool,
    /// False for a function that only a driver with this project's patches has, and this one is not patched: nothing is
    /// missing then.
    pub applies: bool,
    /// What is missing from the stream while it is not attached.
    pub lost_without: String,
    /// Why it is not attached: absent symbol, inlined here and what replaces it, kernel error.
    pub reason: Option<String>,
}

/// Sums of the per-CPU counters since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Records lost because the ring was full.
    pub ring_full: u64,
    /// Returns without a seen entry.
    pub unmatched: u64,
    /// Reads of kernel memory that failed.
    pub read_fault: u64,
    /// Records written.
    pub written: u64,
}

/// Which probes to attach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum ProbeSet {
    /// Life of processes and queues only.
    Minimal,
    /// Runlists, evictions, suspends and resets too.
    Full,
    /// What `control` needs to see that queues were stopped and restarted: runlists and who caused them.
    #[value(skip)]
    Control,
    /// What `serve` needs to know: life of processes and queues, and resets.
    #[value(skip)]
    Daemon,
}

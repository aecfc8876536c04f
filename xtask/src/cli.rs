// SPDX-License-Identifier: MIT OR Apache-2.0
//! Arguments.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::vm::config::Driver;

/// Sets up, builds, runs and tests this project. Every step does only what is still to be done.
#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    disable_version_flag = true
)]
pub(crate) struct Cli {
    /// Take Debian packages from this directory instead of a mirror [env: GPREEMPT_PACKAGES]
    #[arg(long, value_name = "DIR", global = true)]
    pub(crate) packages: Option<PathBuf>,

    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Fetch and build everything that is needed, without doing anything with it
    Setup,
    /// Build gpreempt with its eBPF programs and print where it is
    Build,
    /// Build Debian packages and the Python wheel, and print where they are
    Package(PackageArgs),
    /// Run gpreempt: on this machine's driver, else in a guest with a simulated GPU
    Run(RunArgs),
    /// Run a command, or a shell, in a guest
    Vm(VmArgs),
    /// Run all tests, on the host and in guests
    Test(TestArgs),
    /// Compare the driver on the simulated GPU with the distribution's
    Fidelity,
    /// Search for input that breaks a parser
    Fuzz(FuzzArgs),
    /// Measure, on this machine and in guests
    Bench(BenchArgs),
    /// The patch series of the driver: check it, list it, apply it to a kernel tree
    #[command(subcommand)]
    Patch(PatchVerb),
}

/// What to do with the patch series.
#[derive(Debug, Subcommand)]
pub(crate) enum PatchVerb {
    /// Apply, build and lint patch by patch, then load the result in a guest
    Check(SeriesArgs),
    /// Name the patches and what they touch
    List(SeriesArgs),
    /// Apply the series to the source tree of a kernel
    Apply(PatchApplyArgs),
}

/// Which series.
#[derive(Debug, Clone, Args)]
pub(crate) struct SeriesArgs {
    /// Kernel of tests/kernels.toml [default: the one with the simulated GPU]
    #[arg(long, value_name = "NAME")]
    pub(crate) kernel: Option<String>,

    /// The series of this directory instead of kernel-patch/<kernel>
    #[arg(long, value_name = "DIR")]
    pub(crate) series: Option<PathBuf>,
}

/// Where to apply which series.
#[derive(Debug, Args)]
pub(crate) struct PatchApplyArgs {
    #[command(flatten)]
    pub(crate) series: SeriesArgs,

    /// Root of a kernel's source tree
    #[arg(value_name = "DIR")]
    pub(crate) tree: PathBuf,
}

/// Where packages go.
#[derive(Debug, Args)]
pub(crate) struct PackageArgs {
    /// Into this directory [default: target/package]
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
}

/// Where and how to run gpreempt.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// On this machine, whatever driver it has
    #[arg(long, conflicts_with = "vm")]
    pub(crate) native: bool,

    /// In a guest, even if this machine has a driver
    #[arg(long)]
    pub(crate) vm: bool,

    /// In a guest with this driver
    #[arg(long, value_enum, conflicts_with = "native")]
    pub(crate) driver: Option<Driver>,

    /// Arguments of gpreempt
    #[arg(last = true, required = true, value_name = "ARGS")]
    pub(crate) arguments: Vec<String>,
}

/// Which tests to run.
#[derive(Debug, Args)]
pub(crate) struct TestArgs {
    /// Only tests whose name contains this
    #[arg(long, value_name = "TEXT")]
    pub(crate) filter: Option<String>,

    /// Only what needs no guest
    #[arg(long, conflicts_with = "vm_only")]
    pub(crate) host_only: bool,

    /// Only what runs in guests
    #[arg(long)]
    pub(crate) vm_only: bool,

    /// Only this group of tests/vm/groups.toml, or several
    #[arg(long = "group", value_name = "NAME")]
    pub(crate) groups: Vec<String>,
}

/// What to fuzz, and for how long.
#[derive(Debug, Args)]
pub(crate) struct FuzzArgs {
    /// Only this target of fuzz/fuzz_targets
    pub(crate) target: Option<String>,

    /// For each target
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) seconds: u64,
}

/// What to measure.
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// What to measure
    #[arg(value_enum)]
    pub(crate) what: Bench,

    /// Also write the page to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) write: Option<PathBuf>,

    /// Leave out what needs a guest, and say so: with `understand` and `react`
    #[arg(long)]
    pub(crate) no_vm: bool,
}

/// A measurement.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(crate) enum Bench {
    /// What watching costs: instructions per call, time per cycle, losses, memory
    Overhead,
    /// What stopping and restarting queues costs, by every means
    Preempt,
    /// A training job and a service on one GPU, without the daemon and with it, and preemptions one after the other
    Scenario,
    /// How fast the daemon reacts: from a message to the call, idle, with a thousand queues, hints of the C library
    React,
    /// How fast gpreempt itself is: decoding, replay, queues, top, memory
    Understand,
}

/// A guest and what to run in it.
#[derive(Debug, Args)]
pub(crate) struct VmArgs {
    #[command(flatten)]
    pub(crate) guest: GuestArgs,

    /// Run this in the guest instead of a shell
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<String>,
}

/// What a guest consists of.
#[derive(Debug, Clone, Args)]
pub(crate) struct GuestArgs {
    /// Which amdgpu module: the simulated GPU's, the same with the patch series, the distribution's, none
    #[arg(long, value_enum, default_value_t = Driver::Sim)]
    pub(crate) driver: Driver,

    /// Kernel of tests/kernels.toml [default: the one with the simulated GPU]
    #[arg(long, value_name = "NAME")]
    pub(crate) kernel: Option<String>,

    /// Simulated GPUs
    #[arg(long, value_name = "N")]
    pub(crate) gpus: Option<u32>,

    /// XCCs of each simulated GPU
    #[arg(long, value_name = "N")]
    pub(crate) xccs: Option<u32>,

    /// Put the ROCm runtime and hsa-load into the guest
    #[arg(long)]
    pub(crate) rocm: bool,

    /// Boot Debian with systemd instead of a minimal system; the packages of `cargo xtask package` are in /root, not installed
    #[arg(long, conflicts_with_all = ["rocm", "bare"])]
    pub(crate) systemd: bool,
    /// Put Python and the project's package into the guest
    #[arg(long)]
    pub(crate) python: bool,

    /// Module parameter of the driver
    #[arg(long = "param", value_name = "KEY=VALUE")]
    pub(crate) params: Vec<String>,

    /// Memory of the guest
    #[arg(long, value_name = "MB", default_value_t = 2048)]
    pub(crate) memory: u32,

    /// Processors of the guest
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub(crate) smp: u32,

    /// Count instructions instead of time: slow, one processor, exactly repeatable
    #[arg(long)]
    pub(crate) icount: bool,

    /// End the guest after this many seconds [default: 900, a shell 28800]
    #[arg(long, value_name = "SECONDS")]
    pub(crate) deadline: Option<u64>,

    /// Put a file into the guest, by default into /bin
    #[arg(long = "add", value_name = "FILE[:PATH]")]
    pub(crate) add: Vec<String>,

    /// Leave the project's programs out: only busybox, and what --add names
    #[arg(long)]
    pub(crate) bare: bool,

    /// Load this module as the simulated GPU's instead of building it
    #[arg(long, value_name = "FILE")]
    pub(crate) module: Option<PathBuf>,

    /// With --driver patched: apply the series of this directory instead of kernel-patch/<kernel>
    #[arg(long, value_name = "DIR", conflicts_with = "module")]
    pub(crate) series: Option<PathBuf>,
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! Arguments of `kfd-load`.

use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use serde::Serialize;
use workload::device::{Device, Memory};
use workload::profile::Profile;
use workload::report::print;
use workload::worker::Plan;

/// Use AMD GPUs through /dev/kfd the way machine-learning processes do, without ROCm
///
/// Without a verb: create the queues of a profile and keep them busy. Every line on standard output is a JSON object. On a
/// real GPU only barrier packets and copies are submitted, because there is no kernel to run. Exit codes: 0 ok, 1 failed,
/// 2 usage, 69 no GPU or driver, 77 no permission.
#[derive(Debug, Parser)]
#[command(name = "kfd-load", version, args_conflicts_with_subcommands = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) verb: Option<Verb>,
    #[command(flatten)]
    pub(crate) load: Load,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Load {
    /// Kind of process
    #[arg(long, value_enum, default_value_t = Profile::Simple)]
    pub(crate) profile: Profile,
    /// Compute queues on each GPU, instead of the profile's number
    #[arg(long)]
    pub(crate) queues: Option<usize>,
    /// Copy queues on each GPU, instead of the profile's number
    #[arg(long)]
    pub(crate) sdma_queues: Option<usize>,
    /// Use only the first N GPUs (0 = all)
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub(crate) gpus: usize,
    /// Dispatches (inference: requests, churn: cycles) per second and GPU; 0 = as many as possible
    #[arg(long)]
    pub(crate) rate: Option<f64>,
    /// GPU time of a dispatch; 0 = the simulated GPU's default
    #[arg(long)]
    pub(crate) dispatch_us: Option<u64>,
    /// End after this long; default: run until SIGINT or SIGTERM
    #[arg(long)]
    pub(crate) seconds: Option<f64>,
    /// Run this many such processes
    #[arg(long, default_value_t = 1, value_name = "P", value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(crate) processes: u32,
    /// Seed of the random arrivals
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Time between reports
    #[arg(long, default_value_t = 500)]
    pub(crate) report_ms: u64,
    /// Keep queues in memory of the driver instead of this process's own pages
    #[arg(long)]
    pub(crate) gtt: bool,
    /// Keep queues at the same addresses as every other process started so
    #[arg(long)]
    pub(crate) same_addresses: bool,
    /// Do not let debuggers suspend the queues: leave out RUNTIME_ENABLE, which ROCm's runtime calls
    #[arg(long)]
    pub(crate) undebuggable: bool,
    /// Take this name (`comm`): bytes in hexadecimal, to see what becomes of hostile ones
    #[arg(long, value_name = "HEX", value_parser = parse_hex)]
    pub(crate) name_hex: Option<Name>,
    /// Obey commands on standard input: create compute|sdma [GPU], destroy QUEUE, update QUEUE PERCENT [PRIORITY],
    /// disturb, exec, reject, report, stop, exit, abort
    #[arg(long)]
    pub(crate) control: bool,
}

/// A process name of any bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Name(pub(crate) Vec<u8>);

fn parse_hex(text: &str) -> Result<Name, String> {
    let digits: Vec<char> = text.chars().collect();
    if digits.is_empty() || !digits.len().is_multiple_of(2) {
        return Err("an even number of hexadecimal digits".into());
    }
    let bytes = digits.chunks(2).map(|pair| {
        let pair: String = pair.iter().collect();
        u8::from_str_radix(&pair, 16).map_err(|_| format!("not hexadecimal: {pair:?}"))
    });
    bytes.collect::<Result<_, _>>().map(Name)
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Print what sysfs says of the GPUs
    Info,
    /// Make the driver refuse a CREATE_QUEUE (zeroed arguments); needs no GPU
    Reject {
        #[arg(long, default_value_t = 1)]
        count: u64,
    },
    /// Create queues, then replace this program by COMMAND while they exist
    Exec {
        /// Leave /dev/kfd open in COMMAND
        #[arg(long)]
        keep_fd: bool,
        /// Time between creating the queues and exec
        #[arg(long, default_value_t = 100)]
        after_ms: u64,
        #[command(flatten)]
        load: Load,
        /// Program and arguments
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Suspend another process's queues through the debugger interface, then resume them
    Suspend {
        #[arg(long)]
        pid: u32,
        /// How long
        #[arg(long, default_value_t = 200)]
        ms: u64,
    },
    /// Evict another process's queues through the checkpoint interface, then restore them
    CriuPause {
        #[arg(long)]
        pid: u32,
        /// How long
        #[arg(long, default_value_t = 200)]
        ms: u64,
    },
    /// Time a CREATE_QUEUE that fails early
    BenchReject {
        #[arg(long, default_value_t = 10_000)]
        count: u64,
    },
    /// Time creating, updating and destroying a queue
    BenchCycle {
        #[arg(long, default_value_t = 200)]
        count: usize,
        /// Print every sample
        #[arg(long)]
        raw: bool,
    },
}

impl Load {
    /// The profile with what the arguments change.
    pub(crate) fn plan(&self) -> Plan {
        let mut shape = self.profile.shape();
        if let Some(queues) = self.queues {
            shape.compute_queues = queues;
        }
        if let Some(queues) = self.sdma_queues {
            shape.sdma_queues = queues;
        }
        let dispatch_us = self.dispatch_us.unwrap_or(shape.dispatch_us);
        Plan {
            profile: self.profile,
            shape,
            gpus: self.gpus,
            rate: self.rate.unwrap_or(shape.rate),
            dispatch_ns: dispatch_us * 1000,
            duration: self.seconds.map(Duration::from_secs_f64),
            report_every: Duration::from_millis(self.report_ms),
            seed: self.seed,
            control: self.control,
            debuggable: !self.undebuggable,
            memory: if self.gtt {
                Memory::Driver
            } else {
                Memory::Own
            },
        }
    }
}

#[derive(Debug, Serialize)]
struct Info<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    kfd_version: String,
    gpu_id: u32,
    gfx_target_version: u32,
    num_xcc: u32,
    render_minor: u32,
    cwsr_bytes: u32,
    num_sdma_engines: u32,
    simulated: &'a bool,
}

/// Prints one line for each GPU.
pub(crate) fn info() -> anyhow::Result<()> {
    let device = Device::open(0, Memory::Own)?;
    for gpu in &device.gpus {
        print(&Info {
            kind: "gpu",
            kfd_version: format!("{}.{}", device.version.0, device.version.1),
            gpu_id: gpu.node.gpu_id,
            gfx_target_version: gpu.node.gfx_target_version,
            num_xcc: gpu.node.num_xcc,
            render_minor: gpu.node.render_minor,
            cwsr_bytes: gpu.node.cwsr_bytes,
            num_sdma_engines: gpu.node.num_sdma_engines,
            simulated: &workload::topology::simulated(),
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn names_are_bytes() {
        assert_eq!(parse_hex("1b5bff"), Ok(Name(vec![0x1b, 0x5b, 0xff])));
        assert!(parse_hex("1").is_err());
        assert!(parse_hex("zz").is_err());
    }

    #[test]
    fn arguments_override_the_profile() {
        let cli = Cli::parse_from([
            "kfd-load",
            "--profile",
            "llm-worker",
            "--queues",
            "3",
            "--rate",
            "0",
        ]);
        let plan = cli.load.plan();
        assert_eq!((plan.shape.compute_queues, plan.shape.sdma_queues), (3, 2));
        assert_eq!(plan.shape.requests_per_second(plan.rate), 0.0);
    }
}

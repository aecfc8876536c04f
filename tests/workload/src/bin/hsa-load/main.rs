// SPDX-License-Identifier: MIT OR Apache-2.0
//! `hsa-load`: the load of a small compute process through the unmodified ROCm runtime.

mod ffi;
mod load;
mod runtime;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use workload::{failure, stop};

/// Use AMD GPUs through the ROCm runtime: queues, barrier and dispatch packets, asynchronous copies
///
/// Every line on standard output is a JSON object. On a real GPU only barrier packets and copies are submitted, because
/// there is no kernel to run. Exit codes: 0 ok, 1 failed, 2 usage, 69 no runtime, driver or GPU.
#[derive(Debug, Parser)]
#[command(name = "hsa-load", version)]
struct Cli {
    /// Queues on each GPU
    #[arg(long, default_value_t = 1)]
    queues: usize,
    /// Use only the first N GPUs (0 = all)
    #[arg(long, default_value_t = 0, value_name = "N")]
    gpus: usize,
    /// Requests (a barrier and a dispatch) per second and queue; 0 = one after the other
    #[arg(long, default_value_t = 50.0)]
    rate: f64,
    /// GPU time of a dispatch; 0 = the simulated GPU's default
    #[arg(long, default_value_t = 100)]
    dispatch_us: u64,
    /// Copies to the GPU and back after this many rounds of requests; 0 = none
    #[arg(long, default_value_t = 10)]
    copy_every: u64,
    /// End after this long; default: run until SIGINT or SIGTERM
    #[arg(long)]
    seconds: Option<f64>,
    /// Time between reports
    #[arg(long, default_value_t = 500)]
    report_ms: u64,
    /// The runtime's library
    #[arg(long, default_value = "libhsa-runtime64.so.1")]
    library: String,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let plan = load::Plan {
        queues: cli.queues,
        gpus: cli.gpus,
        rate: cli.rate,
        dispatch_ns: cli.dispatch_us * 1000,
        copy_every: cli.copy_every,
        duration: cli.seconds.map(Duration::from_secs_f64),
        report_every: Duration::from_millis(cli.report_ms),
    };
    let outcome = stop::catch_signals()
        .map_err(anyhow::Error::from)
        .and_then(|()| load::run(&plan, &cli.library));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hsa-load: {error:#}");
            ExitCode::from(failure::exit_code(&error))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn arguments_are_consistent() {
        Cli::command().debug_assert();
    }
}

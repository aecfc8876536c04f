// SPDX-License-Identifier: MIT OR Apache-2.0
//! `kfd-load`: uses AMD GPUs through `/dev/kfd` the way machine-learning processes do, without ROCm.

mod cli;
mod family;

use std::os::unix::process::CommandExt;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use workload::failure;
use workload::profile::Profile;
use workload::worker::Worker;
use workload::{addresses, bench, churn, stop, tracer};

use cli::{Cli, Load, Verb};

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kfd-load: {error:#}");
            ExitCode::from(failure::exit_code(&error))
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    stop::catch_signals()?;
    match cli.verb {
        None => load(&cli.load),
        Some(Verb::Info) => cli::info(),
        Some(Verb::Reject { count }) => bench::rejects("reject", count),
        Some(Verb::Exec {
            keep_fd,
            after_ms,
            load,
            command,
        }) => exec(&load, keep_fd, after_ms, &command),
        Some(Verb::Suspend { pid, ms }) => tracer::suspend(pid, Duration::from_millis(ms)),
        Some(Verb::CriuPause { pid, ms }) => tracer::criu_pause(pid, Duration::from_millis(ms)),
        Some(Verb::BenchReject { count }) => bench::rejects("bench_reject", count),
        Some(Verb::BenchCycle { count, raw }) => bench::cycles(count, raw),
    }
}

fn load(load: &Load) -> anyhow::Result<()> {
    if load.same_addresses {
        addresses::make_equal()?;
    }
    if let Some(name) = &load.name_hex {
        stop::set_name(&name.0)?;
    }
    if load.processes > 1 {
        return family::run(load);
    }
    let plan = load.plan();
    if plan.profile == Profile::Churn {
        return churn::run(&plan);
    }
    Worker::start(plan)?.run()
}

/// Creates queues and replaces this program while they exist.
fn exec(load: &Load, keep_fd: bool, after_ms: u64, command: &[String]) -> anyhow::Result<()> {
    let mut plan = load.plan();
    plan.duration = Some(Duration::from_millis(after_ms));
    let worker = Worker::start(plan)?;
    if keep_fd {
        stop::keep_open_over_exec(worker.device().kfd.file())?;
    }
    std::thread::sleep(Duration::from_millis(after_ms));
    let (program, arguments) = command.split_first().context("no command")?;
    // Returns only on failure; the queues are still open then and `worker` destroys them.
    let error = std::process::Command::new(program).args(arguments).exec();
    Err(error).with_context(|| format!("exec {program}"))
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .any(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

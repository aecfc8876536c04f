// SPDX-License-Identifier: MIT OR Apache-2.0
//! `--processes`: one parent without a GPU, several workers.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Context;
use clap::ValueEnum;
use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;
use workload::stop;

use crate::cli::Load;

/// Starts the workers, passes their lines on whole, ends them on SIGINT or SIGTERM.
///
/// # Errors
/// If a worker failed.
pub(crate) fn run(load: &Load) -> anyhow::Result<()> {
    anyhow::ensure!(
        !load.control,
        "--control steers one process: leave --processes away"
    );
    let mut workers = Vec::new();
    let mut readers = Vec::new();
    for index in 0..load.processes {
        let mut worker = spawn(load, index).with_context(|| format!("start worker {index}"))?;
        let lines = worker.stdout.take().context("worker has no output")?;
        // One reader each: lines longer than PIPE_BUF would interleave if the workers shared a pipe.
        readers.push(std::thread::spawn(move || {
            for line in BufReader::new(lines).split(b'\n') {
                let mut line = line?;
                line.push(b'\n');
                let mut out = std::io::stdout().lock();
                out.write_all(&line)?;
                out.flush()?;
            }
            Ok::<(), std::io::Error>(())
        }));
        workers.push(worker);
    }
    let mut told = false;
    let mut failed = Vec::new();
    while !workers.is_empty() {
        if stop::requested() && !told {
            told = true;
            workers.iter().for_each(terminate);
        }
        let mut running = Vec::new();
        for mut worker in workers {
            match worker.try_wait().context("wait for a worker")? {
                None => running.push(worker),
                Some(status) if status.success() => {}
                Some(status) => failed.push((worker.id(), status)),
            }
        }
        workers = running;
        std::thread::sleep(Duration::from_millis(10));
    }
    for reader in readers {
        reader
            .join()
            .map_err(|_| anyhow::anyhow!("a reader of worker output panicked"))??;
    }
    match failed.first() {
        None => Ok(()),
        Some((pid, status)) => anyhow::bail!(
            "{} of {} workers failed, e.g. {pid}: {status}",
            failed.len(),
            load.processes
        ),
    }
}

fn spawn(load: &Load, index: u32) -> anyhow::Result<Child> {
    let profile = load
        .profile
        .to_possible_value()
        .context("profile without a name")?;
    let mut command = Command::new("/proc/self/exe");
    command.args(["--profile", profile.get_name()]);
    let mut option = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            command.args([name, &value]);
        }
    };
    option("--queues", load.queues.map(|value| value.to_string()));
    option(
        "--sdma-queues",
        load.sdma_queues.map(|value| value.to_string()),
    );
    option("--gpus", Some(load.gpus.to_string()));
    option("--rate", load.rate.map(|value| value.to_string()));
    option(
        "--dispatch-us",
        load.dispatch_us.map(|value| value.to_string()),
    );
    option("--seconds", load.seconds.map(|value| value.to_string()));
    option(
        "--seed",
        Some(load.seed.wrapping_add(1000 * u64::from(index)).to_string()),
    );
    option("--report-ms", Some(load.report_ms.to_string()));
    if load.gtt {
        command.arg("--gtt");
    }
    if load.undebuggable {
        command.arg("--undebuggable");
    }
    if load.same_addresses {
        command.arg("--same-addresses");
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    Ok(stop::die_with_parent(&mut command).spawn()?)
}

fn terminate(worker: &Child) {
    // It may have ended already; try_wait() tells.
    let _ = kill(Pid::from_raw(worker.id().cast_signed()), Signal::SIGTERM);
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! `serve --demo`: an online service and an offline job share a GPU, first without the daemon, then with it; what that does to both
//! is measured by the service itself.
//!
//! The jobs are `kfd-load`, the project's own load, which needs no ROCm. Requests of the service arrive independently of each
//! other; their latency counts from when they were due.

use std::fmt::Write as _;
use std::io::{self, BufRead as _, BufReader, Lines, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{anyhow, ensure, Context as _, Result};
use serde::Deserialize;

use super::api::{JobInfo, Status};
use super::client::Client;
use crate::sink::table::{strong, Layout};
use crate::sink::units::Nanos;

const LOAD: &str = "kfd-load";

/// Comes before the first measurement of a phase: what was queued before it must be through.
const SETTLE: Duration = Duration::from_secs(2);

/// A daemon attaches probes before it is ready.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// The service counts as online for 50 ms after its last packet, which bridges most pauses between its requests.
const CONFIG: &str = r#"
[policy]
name = "priority"
[policy.priority]
linger = "50ms"
[guards]
preemptions = 100
min_run = "10ms"
pause_share = 0.9
[[rule]]
comm = "demo-online"
class = "online"
[[rule]]
comm = "demo-offline"
class = "offline"
"#;

/// What one phase came to.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Measured {
    requests: u64,
    p50_us: f64,
    p90_us: f64,
    p99_us: f64,
    max_us: f64,
    /// Dispatches of the offline job in a second.
    offline_rate: f64,
}

/// Runs it, each phase for so long.
///
/// # Errors
/// There is no `kfd-load`, or no GPU that it can use; the daemon does not start.
pub fn run(each: Duration, layout: Layout) -> Result<()> {
    let online_args = [
        "--profile",
        "inference",
        "--queues",
        "1",
        "--rate",
        "20",
        "--dispatch-us",
        "500",
    ];
    let offline_args = [
        "--profile",
        "simple",
        "--queues",
        "8",
        "--rate",
        "0",
        "--dispatch-us",
        "4000",
    ];
    let mut online = Load::start("demo-online", &online_args)?;
    let alone = phase("the service alone", &mut online, None, None, each)?;
    let mut offline = Load::start("demo-offline", &offline_args)?;
    let shared = phase(
        "with an offline job",
        &mut online,
        Some(&mut offline),
        None,
        each,
    )?;
    let mut daemon = Daemon::start()?;
    let served = phase(
        "with the daemon",
        &mut online,
        Some(&mut offline),
        Some(&mut daemon),
        each,
    )?;
    let status: Status = daemon.client.get("/v1/status")?;
    let jobs: Vec<JobInfo> = daemon.client.get("/v1/jobs")?;
    daemon.stop()?;
    drop((online, offline));
    let rows = [
        ("alone", alone),
        ("shared", shared),
        ("with gpreempt", served),
    ];
    let mut out = io::stdout().lock();
    out.write_all(table(&rows, layout).as_bytes())?;
    let held = jobs.iter().find(|job| job.holds > 0);
    if let Some(job) = held {
        let all = job.run_ns + job.paused_ns;
        let share = 100.0 * job.paused_ns as f64 / all.max(1) as f64;
        let stop = status.hold_latency_ns.map_or_else(String::new, |ns| {
            format!("; a stop takes {} (median)", Nanos(ns))
        });
        writeln!(
            out,
            "\nThe offline job was held {} times, {share:.0} % of the time, by {}{stop}.",
            job.holds,
            status.backend.map_or("no backend", |kind| kind.name())
        )?;
    }
    ensure!(held.is_some(), "the daemon never held the offline job");
    Ok(())
}

/// One phase: settles, then measures.
fn phase(
    name: &str,
    online: &mut Load,
    mut offline: Option<&mut Load>,
    mut daemon: Option<&mut Daemon>,
    each: Duration,
) -> Result<Measured> {
    super::say(&format!("{name}, for {} s", each.as_secs()));
    std::thread::sleep(SETTLE);
    online.report()?;
    let before = offline.as_mut().map(|load| load.report()).transpose()?;
    let started = Instant::now();
    while started.elapsed() < each {
        std::thread::sleep(Duration::from_secs(1).min(each));
        if let Some(daemon) = &mut daemon {
            let status: Status = daemon.client.get("/v1/status")?;
            super::say(&format!(
                "  {} jobs held now, {} holds, {} releases, {} denied by guards",
                status.jobs_held, status.holds_total, status.releases_total, status.denials_total
            ));
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    let report = online.report()?;
    let after = offline.as_mut().map(|load| load.report()).transpose()?;
    let done = |report: &Option<Report>| report.as_ref().map_or(0, Report::dispatches);
    let of = |value: Option<f64>| value.context("no request of the service was complete");
    let latency = &report.latency_us;
    Ok(Measured {
        requests: latency.count,
        p50_us: of(latency.p50)?,
        p90_us: of(latency.p90)?,
        p99_us: of(latency.p99)?,
        max_us: of(latency.max)?,
        offline_rate: done(&after).saturating_sub(done(&before)) as f64 / seconds,
    })
}

fn table(rows: &[(&str, Measured)], layout: Layout) -> String {
    let head = format!(
        "{:14} {:>8} {:>8} {:>8} {:>8} {:>8} {:>12}",
        "ONLINE", "REQUESTS", "P50", "P90", "P99", "MAX", "OFFLINE/S"
    );
    let mut text = strong(&head, layout) + "\n";
    let us = |us: f64| Nanos((us * 1000.0) as u64).to_string();
    for (name, of) in rows {
        // Writing to a String does not fail.
        let _ = writeln!(
            text,
            "{name:14} {:>8} {:>8} {:>8} {:>8} {:>8} {:>12.1}",
            of.requests,
            us(of.p50_us),
            us(of.p90_us),
            us(of.p99_us),
            us(of.max_us),
            of.offline_rate
        );
    }
    text
}

/// What `kfd-load` reports of a GPU.
#[derive(Debug, Deserialize)]
struct Report {
    queues: Vec<QueueReport>,
    latency_us: Latency,
}

#[derive(Debug, Deserialize)]
struct QueueReport {
    read_index: u64,
}

#[derive(Debug, Deserialize)]
struct Latency {
    count: u64,
    p50: Option<f64>,
    p90: Option<f64>,
    p99: Option<f64>,
    max: Option<f64>,
}

impl Report {
    fn dispatches(&self) -> u64 {
        self.queues.iter().map(|queue| queue.read_index).sum()
    }
}

/// A running `kfd-load`. Dropping it ends it.
struct Load {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Load {
    fn start(name: &str, args: &[&str]) -> Result<Self> {
        let hex: String = name.bytes().map(|byte| format!("{byte:02x}")).collect();
        let mut child = Command::new(LOAD)
            .args(args)
            // Nobody reads reports that nobody asked for.
            .args(["--control", "--report-ms", "3600000", "--name-hex", &hex])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| match e.kind() {
                io::ErrorKind::NotFound => anyhow!(
                    "there is no {LOAD}, the load of this demo: `cargo xtask run -- serve --demo` has it"
                ),
                _ => anyhow!("cannot run {LOAD}: {e}"),
            })?;
        let stdout = child.stdout.take().context("no stdout")?;
        let mut load = Self {
            child,
            lines: BufReader::new(stdout).lines(),
        };
        load.line("created")?;
        Ok(load)
    }

    fn report(&mut self) -> Result<Report> {
        let stdin = self.child.stdin.as_mut().context("no stdin")?;
        stdin.write_all(b"report\n").and_then(|()| stdin.flush())?;
        let report = self.line("report")?;
        serde_json::from_value(report).context("a report of kfd-load")
    }

    /// The next line of that kind.
    fn line(&mut self, wanted: &str) -> Result<serde_json::Value> {
        for line in self.lines.by_ref() {
            let line: serde_json::Value = serde_json::from_str(&line?)?;
            if line["type"] == wanted {
                return Ok(line);
            }
        }
        Err(anyhow!("{LOAD} ended"))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A running daemon: this program again.
struct Daemon {
    child: Child,
    client: Client,
    _dir: tempfile::TempDir,
}

impl Daemon {
    fn start() -> Result<Self> {
        let dir = tempfile::tempdir().context("a directory for the demo")?;
        let (config, socket) = (dir.path().join("gpreempt.toml"), dir.path().join("socket"));
        std::fs::write(&config, CONFIG).context("write the demo's configuration")?;
        let child = Command::new("/proc/self/exe")
            .arg("serve")
            .arg("--config")
            .arg(&config)
            .arg("--socket")
            .arg(&socket)
            .stdin(Stdio::null())
            .spawn()
            .context("start the daemon")?;
        let mut daemon = Self {
            child,
            client: Client::new(Path::new(&socket))?,
            _dir: dir,
        };
        let until = Instant::now() + READY_WITHIN;
        while !daemon
            .client
            .get::<Status>("/v1/status")
            .is_ok_and(|status| status.events)
        {
            ensure!(
                daemon.child.try_wait()?.is_none(),
                "the daemon ended: see above"
            );
            // Without events it works too, later.
            if Instant::now() > until {
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(daemon)
    }

    /// As a service manager does.
    fn stop(&mut self) -> Result<()> {
        let pid = i32::try_from(self.child.id()).context("pid")?;
        let pid = nix::unistd::Pid::from_raw(pid);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM)?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_of_the_demo_is_one() {
        let config = crate::policy::Config::parse(CONFIG).unwrap();
        assert_eq!(config.rules.len(), 2);
    }

    #[test]
    fn rows_are_aligned() {
        let measured = Measured {
            requests: 120,
            p50_us: 2500.0,
            p90_us: 9000.0,
            p99_us: 20_000.0,
            max_us: 21_500.0,
            offline_rate: 812.25,
        };
        let text = table(
            &[("alone", measured), ("with gpreempt", measured)],
            Layout::default(),
        );
        let mut widths: Vec<usize> = text.lines().map(|line| line.chars().count()).collect();
        widths.dedup();
        assert_eq!(widths.len(), 1, "{text}");
        assert!(text.contains("2.50ms") && text.contains("812.2"), "{text}");
    }
}

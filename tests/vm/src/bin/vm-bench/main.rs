// SPDX-License-Identifier: MIT OR Apache-2.0
//! Measurements that run inside the guest and print one JSON object a line; `cargo xtask bench` boots the
//! guest, collects the lines and makes the table.
//!
//! Nothing is judged here. What is compared runs interleaved in one boot.

mod population;
mod preempt;

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};
use gpreempt::source::live::{Live, LiveOptions};
use gpreempt::source::ProbeSet;
use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;
use serde_json::{json, Value};

/// Where `watch` writes its records while it is measured: memory, not the channel to the host.
const STREAM: &str = "/tmp/watch.json";
const TRACING: &str = "/sys/kernel/tracing";
const PROBED: &str = "kfd_ioctl_create_queue";

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    match (args.next().as_deref(), args.next()) {
        (Some("calls"), None) => calls(),
        (Some("cycles"), None) => cycles(),
        (Some("burst"), None) => burst(),
        (Some("memory"), None) => memory(),
        (Some("programs"), None) => programs(),
        (Some("preempt"), None) => preempt::one_gpu(),
        (Some("nodes"), None) => preempt::nodes(),
        (Some("worker"), Some(gpus)) => population::serve(std::iter::once(gpus).chain(args)),
        _ => bail!("usage: vm-bench calls|cycles|burst|memory|programs|preempt|nodes"),
    }
}

/// Who traces while a call is measured.
#[derive(Clone, Copy)]
enum Tracer {
    Nobody,
    Watch(&'static [&'static str]),
    Ftrace { on_return: bool },
}

impl Tracer {
    const ALL: [(&'static str, Self); 6] = [
        ("none", Self::Nobody),
        ("watch_minimal", Self::Watch(&["--probes", "minimal"])),
        ("watch_full", Self::Watch(&["--probes", "full"])),
        ("watch_kprobe", Self::Watch(&["--attach", "kprobe"])),
        ("ftrace_entry", Self::Ftrace { on_return: false }),
        ("ftrace_pair", Self::Ftrace { on_return: true }),
    ];

    fn start(self) -> Result<Running> {
        Ok(match self {
            Self::Nobody => Running::Nobody,
            Self::Watch(arguments) => Running::Watch(Watch::start(arguments)?),
            Self::Ftrace { on_return } => {
                let mut events = format!("p:gpreempt_bench/entry amdgpu:{PROBED}\n");
                if on_return {
                    events.push_str(&format!("r:gpreempt_bench/return amdgpu:{PROBED}\n"));
                }
                for event in events.lines() {
                    append(&format!("{TRACING}/kprobe_events"), event)?;
                }
                write(&format!("{TRACING}/events/gpreempt_bench/enable"), "1")?;
                Running::Ftrace
            }
        })
    }
}

enum Running {
    Nobody,
    Watch(Watch),
    Ftrace,
}

impl Running {
    fn stop(self) -> Result<()> {
        match self {
            Self::Nobody => Ok(()),
            Self::Watch(watch) => watch.stop().map(drop),
            Self::Ftrace => {
                write(&format!("{TRACING}/events/gpreempt_bench/enable"), "0")?;
                write(&format!("{TRACING}/trace"), "")?;
                write(&format!("{TRACING}/kprobe_events"), "")
            }
        }
    }
}

/// Cost of one early-failing CREATE_QUEUE under every tracer. Under instruction counting a nanosecond of guest
/// time is an instruction, and a loop that never waits takes the same number every time.
fn calls() -> Result<()> {
    const ROUNDS: usize = 3;
    for round in 0..ROUNDS {
        for (name, tracer) in Tracer::ALL {
            let running = tracer.start()?;
            // Real-time, or the reader of the ring would be measured too whenever it wakes up.
            let result = real_time().and_then(|_guard| load(&["bench-reject", "--count", "2000"]));
            running.stop()?;
            emit(&json!({"bench": "calls", "tracer": name, "round": round, "result": result?}));
        }
    }
    Ok(())
}

/// Time of a create / update / destroy cycle with and without `watch`, interleaved.
fn cycles() -> Result<()> {
    const ROUNDS: usize = 10;
    for round in 0..ROUNDS {
        for (name, tracer) in [
            ("none", Tracer::Nobody),
            ("watch_full", Tracer::Watch(&["--probes", "full"])),
        ] {
            let running = tracer.start()?;
            let result = load(&["bench-cycle", "--count", "40"]);
            running.stop()?;
            emit(&json!({"bench": "cycles", "tracer": name, "round": round, "result": result?}));
        }
    }
    Ok(())
}

/// 200,000 events as fast as one thread can make them: with the default ring, then with the smallest one, where
/// written and lost together must be what was made. Memory of `watch` on the way.
fn burst() -> Result<()> {
    const EVENTS: u64 = 200_000;
    for (name, extra) in [
        ("default", &[][..]),
        ("tiny", &["--ring-bytes", "4096"][..]),
    ] {
        let watch = Watch::start(extra)?;
        let idle = watch.memory()?;
        load(&["bench-reject", "--count", &EVENTS.to_string()])?;
        // The process also attached and exited.
        let made = EVENTS + 2;
        let busy = watch.memory()?;
        let (seen, lost) = watch.stop()?;
        emit(
            &json!({"bench": "burst", "ring": name, "made": made, "seen": seen, "lost": lost,
            "idle_rss_bytes": idle.0, "peak_rss_bytes": busy.1}),
        );
    }
    Ok(())
}

/// Memory of a `watch` while a load runs.
fn memory() -> Result<()> {
    const ROUNDS: usize = 3;
    for round in 0..ROUNDS {
        for profile in ["model", "llm-worker", "churn"] {
            let watch = Watch::start(&[])?;
            load(&["--profile", profile, "--seconds", "3"])?;
            let (rss_bytes, peak_rss_bytes) = watch.memory()?;
            let (seen, lost) = watch.stop()?;
            ensure!(seen > 0, "watch saw nothing of {profile}");
            emit(
                &json!({"bench": "memory", "load": profile, "round": round, "rss_bytes": rss_bytes,
                "peak_rss_bytes": peak_rss_bytes, "lost": lost}),
            );
        }
    }
    Ok(())
}

/// What the verifier walked through to accept each program.
fn programs() -> Result<()> {
    for (name, probes) in [("minimal", ProbeSet::Minimal), ("full", ProbeSet::Full)] {
        let live = Live::start(&LiveOptions {
            probes,
            ..LiveOptions::default()
        })?;
        let costs = live.costs();
        live.stop();
        emit(&json!({"bench": "programs", "probes": name, "programs": costs}));
    }
    Ok(())
}

/// A `gpreempt watch --format json` whose records go to a file in memory.
struct Watch {
    child: Child,
}

impl Watch {
    fn start(extra: &[&str]) -> Result<Self> {
        let child = Command::new("gpreempt")
            .args(["watch", "--format", "json"])
            .args(extra)
            .stdout(File::create(STREAM)?)
            .stderr(Stdio::inherit())
            .spawn()
            .context("gpreempt watch")?;
        let mut watch = Self { child };
        let deadline = Instant::now() + Duration::from_secs(60);
        while !fs::read_to_string(STREAM)?.contains(r#""type":"startup""#) {
            if let Some(status) = watch.child.try_wait()? {
                bail!("watch ended at its start: {status}");
            }
            ensure!(Instant::now() < deadline, "watch did not start within 60 s");
            thread::sleep(Duration::from_millis(50));
        }
        Ok(watch)
    }

    /// Resident memory in bytes: now, and the most so far (`VmRSS`, `VmHWM` of /proc/PID/status).
    fn memory(&self) -> Result<(u64, u64)> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let bytes = |key: &str| {
            status
                .lines()
                .find_map(|line| {
                    line.strip_prefix(key)?
                        .trim()
                        .strip_suffix(" kB")?
                        .trim()
                        .parse::<u64>()
                        .ok()
                })
                .map(|kib| kib * 1024)
                .with_context(|| format!("no {key} in /proc/PID/status"))
        };
        Ok((bytes("VmRSS:")?, bytes("VmHWM:")?))
    }

    /// Ends it as a person would; returns how many events its stream shows and its loss count.
    fn stop(mut self) -> Result<(u64, u64)> {
        kill(
            Pid::from_raw(i32::try_from(self.child.id())?),
            Signal::SIGINT,
        )?;
        let status = self.child.wait()?;
        ensure!(status.code() == Some(130), "watch ended with {status}");
        detached()?;
        let (mut seen, mut lost) = (0, None);
        for line in BufReader::new(File::open(STREAM)?).lines() {
            let line = line?;
            let is = |kind: &str| line.starts_with(&format!(r#"{{"type":"{kind}""#));
            if is("queue_rejected") || is("process_attached") || is("process_exited") {
                seen += 1;
            } else if line.starts_with(r#"{"type":"summary""#) {
                let summary: Value = serde_json::from_str(&line)?;
                lost = summary["data"]["lost"].as_u64();
            }
        }
        fs::remove_file(STREAM)?;
        Ok((seen, lost.context("watch printed no summary")?))
    }
}

/// Waits until the kernel has detached every program: `watch` leaves that to a process of its own, and what is measured
/// next would pay for it.
fn detached() -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(120);
    let detaching = || -> Result<bool> {
        for entry in fs::read_dir("/proc")? {
            let comm = fs::read_to_string(entry?.path().join("comm")).unwrap_or_default();
            if comm.trim_end() == "gpreempt-detach" {
                return Ok(true);
            }
        }
        Ok(false)
    };
    while detaching()? {
        ensure!(
            Instant::now() < deadline,
            "programs are still attached after 120 s"
        );
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Gives this thread, and what it starts, SCHED_FIFO until the guard is dropped.
fn real_time() -> Result<RealTime> {
    schedule(libc::SCHED_FIFO, 1)?;
    Ok(RealTime)
}

struct RealTime;

impl Drop for RealTime {
    fn drop(&mut self) {
        if let Err(error) = schedule(libc::SCHED_OTHER, 0) {
            eprintln!("vm-bench: still real-time: {error:#}");
        }
    }
}

fn schedule(policy: libc::c_int, priority: libc::c_int) -> Result<()> {
    let param = libc::sched_param {
        sched_priority: priority,
    };
    // SAFETY: reads `param`, which outlives the call; 0 is the calling thread.
    let result = unsafe { libc::sched_setscheduler(0, policy, &raw const param) };
    nix::errno::Errno::result(result)
        .map(drop)
        .context("sched_setscheduler")
}

/// Runs `kfd-load` and returns the JSON object of its last line.
fn load(args: &[&str]) -> Result<Value> {
    let output = Command::new("kfd-load")
        .args(args)
        .stderr(Stdio::inherit())
        .output()
        .context("kfd-load")?;
    ensure!(
        output.status.success(),
        "kfd-load {args:?} ended with {}",
        output.status
    );
    let text = String::from_utf8(output.stdout)?;
    serde_json::from_str(text.lines().last().context("kfd-load printed nothing")?)
        .context("output of kfd-load")
}

fn emit(line: &Value) {
    println!("{line}");
}

fn write(path: &str, text: &str) -> Result<()> {
    fs::write(Path::new(path), text).with_context(|| path.to_owned())
}

fn append(path: &str, text: &str) -> Result<()> {
    use std::io::Write;
    let mut file = fs::OpenOptions::new()
        .append(true)
        .open(path)
        .with_context(|| path.to_owned())?;
    writeln!(file, "{text}").with_context(|| format!("{path}: {text}"))
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! A training job and a service on one GPU, with and without the daemon. `cargo xtask bench scenario` runs this in a guest and makes
//! a page of the lines that it prints; nothing is judged here. The test of the same name runs parts of it.

pub(crate) mod react;
pub(crate) mod series;
pub(crate) mod service;
mod slots;

use std::time::{Duration, Instant};

use anyhow::Context;
use clap::ValueEnum;
use gpreempt::control::BackendKind;
use gpreempt::serve::AuditRecord;
use serde_json::{json, Value};

use crate::daemon::{Daemon, NO_GUARDS, RULES};
use crate::gpu::Job;
use crate::guest;
use service::{Manner, Service};

/// First argument that makes `vm-tests` run this: `scenario BACKEND=PREEMPTIONS...`.
pub(crate) const VERB: &str = "scenario";

const ROUNDS: usize = 6;

/// Requests of the service in each phase.
const REQUESTS: usize = 30;

/// Comes before a phase: what was begun before it must be through.
const SETTLE: Duration = Duration::from_millis(500);

/// Preemptions of the short series, which comes before the long one.
const FEW: usize = 20;

/// What the daemon runs by, beside rules and guards. Its first line belongs to `[serve]`.
const POLICY: &str =
    "poll_idle = \"2ms\"\n[policy]\nname = \"priority\"\n[policy.priority]\nlinger = \"2ms\"\n";

/// The job: five compute queues that always have work, two copy queues.
const TRAINING: [&str; 4] = ["--profile", "llm-worker", "--name-hex", "6f66666c696e65"];

/// The job of the scenario.
pub(crate) fn training() -> anyhow::Result<Job> {
    Job::busy(&TRAINING)
}

/// A daemon of the scenario.
pub(crate) fn daemon(kind: BackendKind) -> anyhow::Result<Daemon> {
    Daemon::start(kind, &format!("{POLICY}{NO_GUARDS}{RULES}"))
}

/// Packets that the GPU has taken from the compute queues of a job.
pub(crate) fn progress(job: &mut Job) -> anyhow::Result<u64> {
    let mut packets = 0;
    for report in job.load.reports()? {
        for queue in report.list("queues")? {
            if queue.text("type")? == "compute" {
                packets += queue.number("read_index")?;
            }
        }
    }
    Ok(packets)
}

/// Runs all of it.
pub(crate) fn run() -> anyhow::Result<()> {
    let mut plans = Vec::new();
    for word in std::env::args().skip(2) {
        let (name, count) = word.split_once('=').context("BACKEND=PREEMPTIONS")?;
        let kind = BackendKind::from_str(name, false).map_err(|error| anyhow::anyhow!(error))?;
        plans.push((kind, count.parse::<usize>().context("preemptions")?));
    }
    emit(&json!({
        "line": "about", "config": format!("[serve]\n{POLICY}{NO_GUARDS}{RULES}"),
        "requests": REQUESTS, "rounds": ROUNDS, "every_ms": service::EVERY.as_millis() as u64,
        "request_ms": service::DISPATCHES as f64 * service::DISPATCH_NS as f64 / 1e6,
    }));
    let mut service = Service::start()?;
    for round in 0..ROUNDS {
        phases(round, &mut service, &plans).with_context(|| format!("round {round}"))?;
    }
    drop(service);
    for (kind, many) in plans {
        preemptions(kind, many).with_context(|| kind.name().to_owned())?;
    }
    Ok(())
}

/// Every phase once. What comes first is another one in every round.
fn phases(
    round: usize,
    service: &mut Service,
    plans: &[(BackendKind, usize)],
) -> anyhow::Result<()> {
    let alone = |service: &mut Service| {
        Phase::new(round, "alone").run(service, None, Some(Manner::Quiet), None)
    };
    if round.is_multiple_of(2) {
        alone(service)?;
    }
    let mut job = training()?;
    for turn in 0..plans.len() + 2 {
        match (round + turn) % (plans.len() + 2) {
            0 => Phase::new(round, "offline").run(service, Some(&mut job), None, None)?,
            1 => {
                let manner = Some(Manner::Quiet);
                Phase::new(round, "shared").run(service, Some(&mut job), manner, None)?;
            }
            other => {
                let kind = plans[other - 2].0;
                with_daemon(round, kind, service, &mut job).context(kind.name())?;
            }
        }
    }
    job.load.stop()?;
    if !round.is_multiple_of(2) {
        alone(service)?;
    }
    Ok(())
}

fn with_daemon(
    round: usize,
    kind: BackendKind,
    service: &mut Service,
    job: &mut Job,
) -> anyhow::Result<()> {
    let mut daemon = daemon(kind)?;
    let mut manners = [Manner::Hints, Manner::Quiet];
    manners.rotate_left(round % 2);
    for manner in manners {
        let name = match manner {
            Manner::Hints => "hints",
            Manner::Quiet => "packets",
        };
        let phase = Phase {
            backend: Some(kind),
            ..Phase::new(round, name)
        };
        phase.run(service, Some(job), Some(manner), Some(&mut daemon))?;
    }
    daemon.stop()?;
    detached()
}

/// One phase.
struct Phase {
    round: usize,
    name: &'static str,
    backend: Option<BackendKind>,
}

impl Phase {
    fn new(round: usize, name: &'static str) -> Self {
        Self {
            round,
            name,
            backend: None,
        }
    }

    fn run(
        &self,
        service: &mut Service,
        mut job: Option<&mut Job>,
        manner: Option<Manner>,
        daemon: Option<&mut Daemon>,
    ) -> anyhow::Result<()> {
        std::thread::sleep(SETTLE);
        let before = job.as_mut().map(|job| progress(job)).transpose()?;
        let log = daemon.as_ref().map(|daemon| daemon.audit()).transpose()?;
        let watcher = slots::Watcher::start(service.pid());
        let started = Instant::now();
        let latencies_ns = match manner {
            Some(manner) => service.serve(REQUESTS, manner)?,
            None => {
                std::thread::sleep(service::EVERY * u32::try_from(REQUESTS)?);
                Vec::new()
            }
        };
        let after = job.as_mut().map(|job| progress(job)).transpose()?;
        let seconds = started.elapsed().as_secs_f64();
        let looks = watcher.stop()?;
        anyhow::ensure!(
            job.is_none() || self.backend.is_some() || looks.iter().any(slots::Look::has_offline),
            "no queue of the job was seen in a slot"
        );
        let since = log.map_or(0, |log| log.len());
        let log = daemon.map(|daemon| daemon.audit()).transpose()?;
        let of = |wanted: fn(&AuditRecord) -> bool| {
            let new = log.iter().flatten().skip(since);
            new.filter(|record| wanted(record)).count()
        };
        emit(&json!({
            "line": "phase", "round": self.round, "phase": self.name, "backend": self.backend.map(BackendKind::name),
            "latencies_ns": latencies_ns, "seconds": seconds,
            "offline": after.zip(before).map(|(after, before)| after - before), "looks": looks,
            "holds": of(|record| matches!(record, AuditRecord::Held(_))),
            "refused": of(|record| matches!(record, AuditRecord::Refused(_) | AuditRecord::Denied(_) | AuditRecord::Lost(_))),
        }));
        Ok(())
    }
}

/// A few preemptions, then many.
fn preemptions(kind: BackendKind, many: usize) -> anyhow::Result<()> {
    let mut job = training()?;
    let mut daemon = daemon(kind)?;
    for count in [FEW, many] {
        let before = progress(&mut job)?;
        for one in series::run(&mut daemon, &job, count)? {
            emit(&json!({
                "line": "preemption", "backend": kind.name(), "series": count, "good": one.is_good(),
                "stop_ns": one.held.as_ref().map(|held| held.latency_ns),
                "restart_ns": one.released.as_ref().map(|released| released.latency_ns),
                "begin_ns": one.begin_ns, "end_ns": one.end_ns,
                "observed": one.held.and_then(|held| held.observed),
                "restart_observed": one.released.and_then(|released| released.observed),
            }));
        }
        let after = progress(&mut job)?;
        anyhow::ensure!(after > before, "the job made no progress meanwhile");
    }
    daemon.stop()?;
    job.load.stop()?;
    detached()
}

/// Waits until the kernel has detached every probe of a daemon that ended: what is measured next would pay for it.
fn detached() -> anyhow::Result<()> {
    guest::eventually("probes to be detached", || {
        for entry in std::fs::read_dir("/proc")? {
            let comm = std::fs::read_to_string(entry?.path().join("comm")).unwrap_or_default();
            if comm.trim_end() == "gpreempt-detach" {
                return Ok(None);
            }
        }
        Ok(Some(()))
    })
}

fn emit(line: &Value) {
    println!("{line}");
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! The load: rounds of one request on every queue, now and then a copy, lines about both.

use std::fs;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::Context;
use hdrhistogram::Histogram;
use serde::Serialize;
use workload::aql::Packet;
use workload::failure::Unavailable;
use workload::pace::{Arrival, Pace};
use workload::report::{histogram, print, Latency};
use workload::{stop, topology};

use crate::ffi::{
    Agent, DEVICE_TYPE_CPU, DEVICE_TYPE_GPU, GLOBAL_FLAG_COARSE_GRAINED, GLOBAL_FLAG_FINE_GRAINED,
};
use crate::runtime::{Memory, OwnedQueue, OwnedSignal, Runtime};

/// Bytes of one copy: large enough that the runtime uses a copy engine.
const COPY_BYTES: usize = 1 << 20;
/// How long a packet or copy may take before the load gives up.
const DEADLINE: Duration = Duration::from_secs(60);

/// What to run.
pub(crate) struct Plan {
    pub(crate) queues: usize,
    pub(crate) gpus: usize,
    pub(crate) rate: f64,
    pub(crate) dispatch_ns: u64,
    pub(crate) copy_every: u64,
    pub(crate) duration: Option<Duration>,
    pub(crate) report_every: Duration,
}

#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Line {
    Created {
        pid: u32,
        gpu_id: u32,
        agent: String,
        queues: Vec<Born>,
        kfd_queues: Vec<KfdQueue>,
    },
    Report {
        pid: u32,
        gpu_id: u32,
        requests: u64,
        copies: u64,
        latency_us: Latency,
    },
    Done {
        pid: u32,
        reason: &'static str,
        requests: u64,
        copies: u64,
        latency_us: Latency,
        kfd_queues: Vec<KfdQueue>,
    },
}

#[derive(Debug, Serialize)]
struct Born {
    hsa_queue_id: u64,
    ring_bytes: u64,
    create_ns: u64,
}

/// A queue of this process as the driver lists it in sysfs: also the runtime's internal ones.
#[derive(Debug, Serialize)]
struct KfdQueue {
    queue_id: u32,
    gpu_id: u32,
    #[serde(rename = "type")]
    engine: &'static str,
    ring_bytes: u64,
}

struct Lane {
    queue: OwnedQueue,
    signal: OwnedSignal,
    due: Option<Instant>,
}

struct Gpu {
    gpu_id: u32,
    lanes: Vec<Lane>,
    copies: Copies,
    requests: u64,
    copied: u64,
    recent: Histogram<u64>,
}

struct Copies {
    to_gpu: Memory,
    on_gpu: Memory,
    back: Memory,
    signal: OwnedSignal,
    stamp: u64,
}

/// Runs the load until time or signal ends it.
pub(crate) fn run(plan: &Plan, library: &str) -> anyhow::Result<()> {
    let runtime = Runtime::start(library)?;
    let mut agents = runtime.agents(DEVICE_TYPE_GPU)?;
    let cpu = *runtime
        .agents(DEVICE_TYPE_CPU)?
        .first()
        .context("the runtime lists no CPU")?;
    if agents.is_empty() {
        return Err(Unavailable::NoGpu.into());
    }
    if plan.gpus > agents.len() {
        return Err(Unavailable::TooFewGpus {
            wanted: plan.gpus,
            found: agents.len(),
        }
        .into());
    }
    if plan.gpus > 0 {
        agents.truncate(plan.gpus);
    }
    let mut gpus = Vec::new();
    for agent in agents {
        gpus.push(Gpu::new(&runtime, cpu, agent, plan.queues)?);
    }
    let mut total: Histogram<u64> = histogram()?;
    let started = Instant::now();
    let mut pace = Pace::new(Arrival::Steady, plan.rate, 0, started);
    let mut next_report = started + plan.report_every;
    let mut rounds = 0;
    let reason = loop {
        if stop::requested() {
            break "signal";
        }
        let now = Instant::now();
        if plan
            .duration
            .is_some_and(|duration| now >= started + duration)
        {
            break "time";
        }
        if pace.due(now).is_none() {
            let left = pace.next().unwrap_or(now).saturating_duration_since(now);
            std::thread::sleep(left.min(Duration::from_millis(100)));
            continue;
        }
        for gpu in &mut gpus {
            gpu.start_round(plan.dispatch_ns)?;
        }
        for gpu in &mut gpus {
            gpu.finish_round(&mut total)?;
        }
        rounds += 1;
        if plan.copy_every > 0 && rounds % plan.copy_every == 0 {
            gpus.iter_mut().try_for_each(Gpu::copy)?;
        }
        pace.started(Instant::now());
        if Instant::now() >= next_report {
            gpus.iter_mut().try_for_each(Gpu::report)?;
            next_report = Instant::now() + plan.report_every;
        }
    };
    print(&Line::Done {
        pid: std::process::id(),
        reason,
        requests: gpus.iter().map(|gpu| gpu.requests).sum(),
        copies: gpus.iter().map(|gpu| gpu.copied).sum(),
        latency_us: Latency::of(&total),
        kfd_queues: kfd_queues()?,
    })?;
    Ok(())
}

impl Gpu {
    fn new(runtime: &Rc<Runtime>, cpu: Agent, agent: Agent, queues: usize) -> anyhow::Result<Self> {
        let gpu_id = runtime.gpu_id(agent)?;
        let mut lanes = Vec::new();
        for _ in 0..queues {
            let queue = OwnedQueue::new(runtime, agent)?;
            lanes.push(Lane {
                queue,
                signal: OwnedSignal::new(runtime)?,
                due: None,
            });
        }
        print(&Line::Created {
            pid: std::process::id(),
            gpu_id,
            agent: runtime.name(agent)?,
            queues: lanes
                .iter()
                .map(|lane| Born {
                    hsa_queue_id: lane.queue.id(),
                    ring_bytes: lane.queue.ring_bytes(),
                    create_ns: lane.queue.create_ns,
                })
                .collect(),
            kfd_queues: kfd_queues()?,
        })?;
        let copies = Copies {
            to_gpu: Memory::new(runtime, cpu, GLOBAL_FLAG_FINE_GRAINED, COPY_BYTES, &[agent])?,
            on_gpu: Memory::new(runtime, agent, GLOBAL_FLAG_COARSE_GRAINED, COPY_BYTES, &[])?,
            back: Memory::new(runtime, cpu, GLOBAL_FLAG_FINE_GRAINED, COPY_BYTES, &[agent])?,
            signal: OwnedSignal::new(runtime)?,
            stamp: 0,
        };
        let recent = histogram()?;
        Ok(Self {
            gpu_id,
            lanes,
            copies,
            requests: 0,
            copied: 0,
            recent,
        })
    }

    /// One request on every queue: a barrier, then a dispatch that completes it.
    fn start_round(&mut self, dispatch_ns: u64) -> anyhow::Result<()> {
        for lane in &mut self.lanes {
            let signal = lane.signal.arm();
            let last = if topology::simulated() {
                Packet::dispatch(dispatch_ns, signal, true)
            } else {
                Packet::barrier(signal)
            };
            lane.due = Some(Instant::now());
            lane.queue.submit(&[Packet::barrier(0), last])?;
        }
        Ok(())
    }

    fn finish_round(&mut self, total: &mut Histogram<u64>) -> anyhow::Result<()> {
        for lane in &mut self.lanes {
            let Some(due) = lane.due.take() else { continue };
            wait(&lane.signal).with_context(|| format!("queue {}", lane.queue.id()))?;
            let latency_ns = u64::try_from(due.elapsed().as_nanos()).unwrap_or(u64::MAX);
            self.recent.saturating_record(latency_ns);
            total.saturating_record(latency_ns);
            self.requests += 1;
        }
        Ok(())
    }

    /// Copies to the GPU and back and compares.
    fn copy(&mut self) -> anyhow::Result<()> {
        let copies = &mut self.copies;
        copies.stamp += 1;
        for (index, word) in copies.to_gpu.words().iter().enumerate() {
            word.store(copies.stamp << 32 | index as u64, Ordering::Relaxed);
        }
        copies
            .back
            .words()
            .iter()
            .for_each(|word| word.store(0, Ordering::Relaxed));
        copies.on_gpu.start_copy(&copies.to_gpu, &copies.signal)?;
        wait(&copies.signal).context("copy to the GPU")?;
        copies.back.start_copy(&copies.on_gpu, &copies.signal)?;
        wait(&copies.signal).context("copy from the GPU")?;
        for (index, (sent, arrived)) in copies
            .to_gpu
            .words()
            .iter()
            .zip(copies.back.words())
            .enumerate()
        {
            let (sent, arrived) = (
                sent.load(Ordering::Relaxed),
                arrived.load(Ordering::Relaxed),
            );
            anyhow::ensure!(
                sent == arrived,
                "copy differs at byte {}: {sent:#x} sent, {arrived:#x} arrived",
                8 * index
            );
        }
        self.copied += 2;
        Ok(())
    }

    fn report(&mut self) -> anyhow::Result<()> {
        print(&Line::Report {
            pid: std::process::id(),
            gpu_id: self.gpu_id,
            requests: self.requests,
            copies: self.copied,
            latency_us: Latency::of(&self.recent),
        })?;
        self.recent.reset();
        Ok(())
    }
}

/// Waits for a completion; a lost one is an error, not a hang.
fn wait(signal: &OwnedSignal) -> anyhow::Result<()> {
    let started = Instant::now();
    while !signal.wait(Duration::from_millis(100)) {
        anyhow::ensure!(
            started.elapsed() < DEADLINE,
            "no completion within {DEADLINE:?}"
        );
    }
    Ok(())
}

/// This process's queues by sysfs, in order of id.
fn kfd_queues() -> anyhow::Result<Vec<KfdQueue>> {
    let folder = format!("/sys/class/kfd/kfd/proc/{}/queues", std::process::id());
    let mut queues = Vec::new();
    let Ok(entries) = fs::read_dir(&folder) else {
        return Ok(queues);
    };
    for entry in entries {
        let entry = entry.with_context(|| format!("read {folder}"))?;
        let number = |file: &str| -> anyhow::Result<u64> {
            let path = entry.path().join(file);
            let text =
                fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
            text.trim()
                .parse()
                .with_context(|| format!("{}: {text:?}", path.display()))
        };
        let Some(queue_id) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        queues.push(KfdQueue {
            queue_id,
            gpu_id: u32::try_from(number("gpuid")?).context("gpuid")?,
            engine: if number("type")? == 0 {
                "compute"
            } else {
                "sdma"
            },
            ring_bytes: number("size")?,
        });
    }
    queues.sort_unstable_by_key(|queue| queue.queue_id);
    Ok(queues)
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! The churn profile: queues that come and go.

use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::aql::Packet;
use crate::device::Device;
use crate::event::{self, EventPage};
use crate::pace::Pace;
use crate::queue::{Engine, Queue, QueueBuffers};
use crate::report::{gpu_id, histogram, print, Created, Done, Latency, Line, QueueBorn, Report};
use crate::worker::{Plan, LONGEST_WAIT};
use crate::{stop, topology};

/// Creates, updates and destroys queues in cycles at the plan's rate.
pub fn run(plan: &Plan) -> anyhow::Result<()> {
    let device = plan.open_device()?;
    let mut page = EventPage::new(&device)?;
    let signals = event::Signals::new(&device, &mut page, 0, 1)?;
    let started = Instant::now();
    let mut pace = Pace::new(plan.shape.arrival, plan.rate, plan.seed, started);
    let mut sets: Vec<Vec<Rc<QueueBuffers>>> = Vec::new();
    for gpu in 0..device.gpus.len() {
        let buffers = (0..plan.shape.compute_queues)
            .map(|_| QueueBuffers::new(&device, gpu, Engine::Compute).map(Rc::new));
        sets.push(buffers.collect::<anyhow::Result<_>>()?);
    }
    let mut latency = histogram()?;
    let (mut creates, mut updates, mut destroys) = (0, 0, 0);
    let mut cycles = 0;
    let mut next_report = started + plan.report_every;
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
            let until = pace.next().unwrap_or(now).saturating_duration_since(now);
            std::thread::sleep(until.min(LONGEST_WAIT));
            continue;
        }
        for (gpu, buffers) in sets.iter().enumerate() {
            let mut queues = buffers
                .iter()
                .map(Queue::create)
                .collect::<anyhow::Result<Vec<_>>>()?;
            creates += queues.len() as u64;
            if cycles == 0 {
                print(&Line::Created(Created {
                    pid: std::process::id(),
                    gpu_id: gpu_id(&device, gpu),
                    profile: plan.profile.name(),
                    queues: queues.iter().map(QueueBorn::of).collect(),
                }))?;
            }
            for queue in &mut queues {
                queue.update(0, queue.priority)?;
                queue.update(100, queue.priority)?;
                updates += 2;
            }
            if let Some(queue) = queues.first() {
                run_one(&device, queue, &signals, plan.dispatch_ns)?;
            }
            for queue in &mut queues {
                queue.destroy()?;
                destroys += 1;
            }
        }
        cycles += 1;
        latency.saturating_record(u64::try_from(now.elapsed().as_nanos()).unwrap_or(u64::MAX));
        pace.started(now);
        if Instant::now() >= next_report {
            for gpu in 0..device.gpus.len() {
                print(&Line::Report(Report {
                    pid: std::process::id(),
                    gpu_id: gpu_id(&device, gpu),
                    queues: Vec::new(),
                    requests: cycles,
                    copies: 0,
                    in_flight: 0,
                    latency_us: Latency::of(&latency),
                }))?;
            }
            next_report = Instant::now() + plan.report_every;
        }
    };
    print(&Line::Done(Done {
        pid: std::process::id(),
        reason,
        creates,
        updates,
        destroys,
        requests: cycles,
        copies: 0,
        in_flight: 0,
        latency_us: Latency::of(&latency),
        destroyed: Vec::new(),
    }))?;
    Ok(())
}

/// Runs one packet to its end, so that a churned queue was really used.
fn run_one(
    device: &Device,
    queue: &Queue,
    signals: &event::Signals,
    work_ns: u64,
) -> anyhow::Result<()> {
    const DEADLINE: Duration = Duration::from_secs(20);
    let signal = signals.arm(0);
    let packet = if topology::simulated() {
        Packet::dispatch(work_ns, signal, true)
    } else {
        Packet::barrier(signal)
    };
    queue.submit(&[packet])?;
    let started = Instant::now();
    while !signals.is_done(0) {
        anyhow::ensure!(
            started.elapsed() < DEADLINE,
            "queue {} did not finish a packet in {DEADLINE:?}",
            queue.id
        );
        event::wait_any(device, &[signals.event.id], 100)?;
    }
    Ok(())
}

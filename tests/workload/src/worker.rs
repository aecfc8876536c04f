// SPDX-License-Identifier: MIT OR Apache-2.0
//! One process under load: makes its queues, keeps them busy, reports, cleans up.

use std::os::unix::process::CommandExt;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::control::{self, Command, Input};
use crate::device::{Device, Memory};
use crate::event::{self, EventPage};
use crate::failure::CallError;
use crate::pace::Pace;
use crate::profile::{Profile, Shape};
use crate::report::{
    gpu_id, histogram, print, Ack, Created, Done, Latency, Line, QueueBorn, QueueGone, QueueState,
    Report,
};
use crate::stop;
use crate::stream::{Request, Stream};
use crate::topology;
use crate::uapi::CreateQueueArgs;

/// Longest sleep, so that a signal that came between check and wait is seen soon.
pub(crate) const LONGEST_WAIT: Duration = Duration::from_millis(100);
/// Longest sleep while somebody may type commands.
const LONGEST_WAIT_WITH_CONTROL: Duration = Duration::from_millis(10);

/// What to run.
#[derive(Debug, Clone)]
pub struct Plan {
    pub profile: Profile,
    pub shape: Shape,
    /// GPUs to use, 0 = all.
    pub gpus: usize,
    /// As given by `--rate`.
    pub rate: f64,
    /// GPU time of a dispatch; 0 = the simulated GPU's default.
    pub dispatch_ns: u64,
    /// None = until stopped.
    pub duration: Option<Duration>,
    pub report_every: Duration,
    pub seed: u64,
    pub control: bool,
    pub memory: Memory,
    /// Let debuggers suspend the queues, as ROCm's runtime does.
    pub debuggable: bool,
}

impl Plan {
    /// Opens the GPUs that the plan says, as it says.
    pub(crate) fn open_device(&self) -> anyhow::Result<Rc<Device>> {
        if self.debuggable {
            Device::open(self.gpus, self.memory)
        } else {
            Device::open_undebuggable(self.gpus, self.memory)
        }
    }
}

/// Counts for the last line.
#[derive(Debug, Default)]
struct Tally {
    creates: u64,
    updates: u64,
    destroys: u64,
    destroyed: Vec<QueueGone>,
}

/// A process with its queues.
pub struct Worker {
    plan: Plan,
    device: Rc<Device>,
    page: EventPage,
    streams: Vec<Stream>,
    tally: Tally,
    started: Instant,
}

impl Worker {
    /// Opens the GPUs, creates all queues and prints a `created` line for each GPU.
    pub fn start(plan: Plan) -> anyhow::Result<Self> {
        let device = plan.open_device()?;
        let mut page = EventPage::new(&device)?;
        let barriers_only = !topology::simulated();
        let request = Request {
            dispatches: plan.shape.dispatches_per_request,
            work_ns: plan.dispatch_ns,
            barriers_only,
        };
        let mut streams = Vec::new();
        for gpu in 0..device.gpus.len() {
            let per_second = plan.shape.requests_per_second(plan.rate);
            let seed = plan.seed.wrapping_add(gpu as u64);
            let pace = Pace::new(plan.shape.arrival, per_second, seed, Instant::now());
            streams.push(Stream::new(
                &device, &mut page, gpu, plan.shape, request, pace,
            )?);
        }
        let worker = Self {
            plan,
            device,
            page,
            streams,
            tally: Tally::default(),
            started: Instant::now(),
        };
        for stream in &worker.streams {
            print(&Line::Created(Created {
                pid: std::process::id(),
                gpu_id: gpu_id(&worker.device, stream.gpu),
                profile: worker.plan.profile.name(),
                queues: stream
                    .lanes
                    .iter()
                    .map(|lane| QueueBorn::of(&lane.queue))
                    .collect(),
            }))?;
        }
        Ok(worker)
    }

    /// The device, for what a caller does beside the load.
    pub fn device(&self) -> &Rc<Device> {
        &self.device
    }

    /// Keeps the queues busy until time, signal or command ends it.
    pub fn run(&mut self) -> anyhow::Result<()> {
        let mut input = Input::default();
        self.tally.creates = self
            .streams
            .iter()
            .map(|stream| stream.lanes.len() as u64)
            .sum();
        let mut next_report = self.started + self.plan.report_every;
        let reason = loop {
            if stop::requested() {
                break "signal";
            }
            let now = Instant::now();
            if self
                .plan
                .duration
                .is_some_and(|duration| now >= self.started + duration)
            {
                break "time";
            }
            for stream in &mut self.streams {
                stream.reap(now)?;
                stream.start_due(now)?;
            }
            if self.plan.control {
                let lines = input.lines().context("read commands")?;
                if lines
                    .iter()
                    .map(|line| self.obey(line))
                    .collect::<anyhow::Result<Vec<_>>>()?
                    .contains(&true)
                {
                    break "stopped";
                }
                // The writer is gone and nobody else will end this process.
                if input.ended() && self.plan.duration.is_none() {
                    break "stopped";
                }
            }
            if now >= next_report {
                self.report()?;
                next_report = now + self.plan.report_every;
            }
            self.sleep(next_report)?;
        };
        self.finish(reason)
    }

    /// Sleeps until a completion, the next due request or the next report.
    fn sleep(&self, next_report: Instant) -> anyhow::Result<()> {
        let now = Instant::now();
        let longest = if self.plan.control {
            LONGEST_WAIT_WITH_CONTROL
        } else {
            LONGEST_WAIT
        };
        let mut until = (now + longest).min(next_report);
        if let Some(duration) = self.plan.duration {
            until = until.min(self.started + duration);
        }
        for stream in self.streams.iter().filter(|stream| stream.has_room()) {
            until = until.min(stream.next_due().unwrap_or(now));
        }
        let left = until.saturating_duration_since(now);
        if left.is_zero() {
            return Ok(());
        }
        let busy = self.streams.iter().any(|stream| stream.in_flight() > 0);
        // WAIT_EVENTS counts in milliseconds; below one, a completion may be seen that much late.
        if busy && left >= Duration::from_millis(1) {
            let ids: Vec<u32> = self.streams.iter().flat_map(Stream::event_ids).collect();
            event::wait_any(&self.device, &ids, left.as_millis() as u32)?;
        } else {
            std::thread::sleep(left.min(if busy {
                Duration::from_micros(200)
            } else {
                left
            }));
        }
        Ok(())
    }

    fn report(&mut self) -> anyhow::Result<()> {
        for stream in &mut self.streams {
            print(&Line::Report(Report {
                pid: std::process::id(),
                gpu_id: gpu_id(&self.device, stream.gpu),
                queues: stream
                    .lanes
                    .iter()
                    .map(|lane| QueueState::of(&lane.queue))
                    .collect(),
                requests: stream.requests,
                copies: stream.copies,
                in_flight: stream.in_flight(),
                latency_us: Latency::of(&stream.recent),
            }))?;
            stream.recent.reset();
        }
        Ok(())
    }

    /// Carries out one command and answers it. True = stop.
    fn obey(&mut self, line: &str) -> anyhow::Result<bool> {
        let mut ack = Ack {
            pid: std::process::id(),
            command: line.to_owned(),
            ok: true,
            error: None,
            errno: None,
            queue: None,
            spent_ns: None,
        };
        let mut stop = false;
        let outcome = match control::parse(line) {
            Ok(Command::Stop) => {
                stop = true;
                Ok(())
            }
            Ok(command) => self.carry_out(command, &mut ack),
            Err(message) => Err(anyhow::anyhow!(message)),
        };
        if let Err(error) = outcome {
            ack.ok = false;
            ack.errno = error
                .chain()
                .find_map(|cause| cause.downcast_ref::<CallError>())
                .map(|call| format!("{:?}", call.errno));
            ack.error = Some(format!("{error:#}"));
        }
        print(&Line::Ack(ack))?;
        Ok(stop)
    }

    fn carry_out(&mut self, command: Command, ack: &mut Ack) -> anyhow::Result<()> {
        match command {
            Command::Create { engine, gpu } => {
                let stream = self
                    .streams
                    .get_mut(gpu)
                    .with_context(|| format!("no GPU with index {gpu}"))?;
                ack.queue = Some(QueueBorn::of(stream.add_queue(&mut self.page, engine)?));
                self.tally.creates += 1;
            }
            Command::Destroy { queue_id } => {
                let stream = self
                    .streams
                    .iter_mut()
                    .find(|stream| stream.lanes.iter().any(|lane| lane.queue.id == queue_id))
                    .with_context(|| format!("no queue {queue_id}"))?;
                let index = stream
                    .lanes
                    .iter()
                    .position(|lane| lane.queue.id == queue_id)
                    .unwrap_or_default();
                let destroy_ns = stream.lanes[index].queue.destroy()?;
                let gpu_id = gpu_id(&self.device, stream.gpu);
                stream.lanes.remove(index);
                self.tally.destroys += 1;
                self.tally.destroyed.push(QueueGone {
                    gpu_id,
                    queue_id,
                    destroy_ns,
                });
                ack.spent_ns = Some(destroy_ns);
            }
            Command::Update {
                queue_id,
                percent,
                priority,
            } => {
                let queue = self
                    .streams
                    .iter_mut()
                    .flat_map(|stream| &mut stream.lanes)
                    .map(|lane| &mut lane.queue)
                    .find(|queue| queue.id == queue_id)
                    .with_context(|| format!("no queue {queue_id}"))?;
                ack.spent_ns = Some(queue.update(percent, priority.unwrap_or(queue.priority))?);
                ack.queue = Some(QueueBorn::of(queue));
                self.tally.updates += 1;
            }
            Command::Disturb => {
                for lane in self.streams.iter().flat_map(|stream| &stream.lanes) {
                    lane.queue.disturb()?;
                }
            }
            // Returns only on failure.
            Command::Exec => {
                return Err(std::process::Command::new("sleep").arg("3600").exec()).context("exec")
            }
            Command::Reject => self
                .device
                .kfd
                .create_queue(&mut CreateQueueArgs::default())?,
            Command::Report => self.report()?,
            Command::Exit => std::process::exit(0),
            Command::Abort => std::process::abort(),
            Command::Stop => {}
        }
        Ok(())
    }

    fn finish(&mut self, reason: &'static str) -> anyhow::Result<()> {
        let mut total = histogram()?;
        let (mut requests, mut copies, mut in_flight) = (0, 0, 0);
        for stream in &mut self.streams {
            stream.reap(Instant::now())?;
            total.add(&stream.total).context("histograms differ")?;
            requests += stream.requests;
            copies += stream.copies;
            in_flight += stream.in_flight();
            for mut lane in std::mem::take(&mut stream.lanes) {
                let destroy_ns = lane
                    .queue
                    .destroy()
                    .with_context(|| format!("queue {}", lane.queue.id))?;
                self.tally.destroys += 1;
                self.tally.destroyed.push(QueueGone {
                    gpu_id: gpu_id(&self.device, stream.gpu),
                    queue_id: lane.queue.id,
                    destroy_ns,
                });
            }
        }
        let tally = std::mem::take(&mut self.tally);
        print(&Line::Done(Done {
            pid: std::process::id(),
            reason,
            creates: tally.creates,
            updates: tally.updates,
            destroys: tally.destroys,
            requests,
            copies,
            in_flight,
            latency_us: Latency::of(&total),
            destroyed: tally.destroyed,
        }))?;
        Ok(())
    }
}

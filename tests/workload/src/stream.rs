// SPDX-License-Identifier: MIT OR Apache-2.0
//! Work in flight on one GPU: requests on compute queues, copies on copy queues.

use std::rc::Rc;
use std::time::Instant;

use anyhow::Context;
use hdrhistogram::Histogram;

use crate::aql::Packet;
use crate::device::{Buffer, Device, Kind};
use crate::event::{EventPage, Signals};
use crate::pace::Pace;
use crate::profile::Shape;
use crate::queue::{Engine, Queue, QueueBuffers};
use crate::{report, sdma};

/// Bytes of one copy.
const COPY_BYTES: usize = 16 * 1024;

/// A queue with what it has in flight: one entry for each signal.
#[derive(Debug)]
pub struct Lane {
    pub queue: Queue,
    signals: Signals,
    /// When the request of this signal was due; None = free.
    in_flight: Vec<Option<Instant>>,
    copies: Option<Copies>,
}

#[derive(Debug)]
struct Copies {
    from: Buffer,
    to: Buffer,
    stamp: u64,
}

impl Lane {
    fn new(
        device: &Rc<Device>,
        page: &mut EventPage,
        gpu: usize,
        engine: Engine,
        window: usize,
    ) -> anyhow::Result<Self> {
        let signals = Signals::new(device, page, gpu, window)?;
        let copies = match engine {
            Engine::Compute => None,
            Engine::Sdma => {
                let bytes = window * COPY_BYTES;
                let from = Buffer::new(device, gpu, Kind::User, bytes)?;
                // A small BAR cannot show device memory to the CPU: copy within system memory then.
                let to = Buffer::new(device, gpu, Kind::Vram, bytes)
                    .or_else(|_| Buffer::new(device, gpu, Kind::User, bytes))?;
                Some(Copies { from, to, stamp: 0 })
            }
        };
        let queue = Queue::create(&Rc::new(QueueBuffers::new(device, gpu, engine)?))?;
        Ok(Self {
            queue,
            signals,
            in_flight: vec![None; window],
            copies,
        })
    }

    fn free_signal(&self) -> Option<usize> {
        self.in_flight.iter().position(Option::is_none)
    }
}

/// What one request consists of.
#[derive(Debug, Clone, Copy)]
pub struct Request {
    pub dispatches: usize,
    /// GPU time of each dispatch; 0 = the simulated GPU's default.
    pub work_ns: u64,
    /// Barrier packets instead of dispatches: the GPU is real and has no kernel to run.
    pub barriers_only: bool,
}

/// All queues of this process on one GPU and the work on them.
#[derive(Debug)]
pub struct Stream {
    device: Rc<Device>,
    pub gpu: usize,
    pub lanes: Vec<Lane>,
    shape: Shape,
    request: Request,
    pace: Pace,
    next_lane: usize,
    requests_started: u64,
    pub requests: u64,
    pub copies: u64,
    /// Since the report before.
    pub recent: Histogram<u64>,
    pub total: Histogram<u64>,
}

impl Stream {
    /// Creates the queues that `shape` says.
    pub fn new(
        device: &Rc<Device>,
        page: &mut EventPage,
        gpu: usize,
        shape: Shape,
        request: Request,
        pace: Pace,
    ) -> anyhow::Result<Self> {
        let mut stream = Self {
            device: Rc::clone(device),
            gpu,
            lanes: Vec::new(),
            shape,
            request,
            pace,
            next_lane: 0,
            requests_started: 0,
            requests: 0,
            copies: 0,
            recent: report::histogram()?,
            total: report::histogram()?,
        };
        for _ in 0..shape.compute_queues {
            stream.add_queue(page, Engine::Compute)?;
        }
        for _ in 0..shape.sdma_queues {
            stream.add_queue(page, Engine::Sdma)?;
        }
        Ok(stream)
    }

    /// Creates one more queue.
    pub fn add_queue(&mut self, page: &mut EventPage, engine: Engine) -> anyhow::Result<&Queue> {
        let lane = Lane::new(&self.device, page, self.gpu, engine, self.shape.window)?;
        self.lanes.push(lane);
        Ok(&self.lanes[self.lanes.len() - 1].queue)
    }

    /// Ids of the events that completions raise.
    pub fn event_ids(&self) -> impl Iterator<Item = u32> + '_ {
        self.lanes.iter().map(|lane| lane.signals.event.id)
    }

    /// Requests and copies that are not complete.
    pub fn in_flight(&self) -> usize {
        self.lanes
            .iter()
            .map(|lane| lane.in_flight.iter().flatten().count())
            .sum()
    }

    /// When the next request is due; None = at once.
    pub fn next_due(&self) -> Option<Instant> {
        self.pace.next()
    }

    /// Whether a request could start if one were due.
    pub fn has_room(&self) -> bool {
        self.find_lane().is_some()
    }

    /// Starts all due requests that have room. Returns how many.
    pub fn start_due(&mut self, now: Instant) -> anyhow::Result<usize> {
        let mut started = 0;
        while let Some(due) = self.pace.due(now) {
            let Some(lane) = self.find_lane() else { break };
            self.start_request(lane, due)?;
            self.pace.started(now);
            started += 1;
        }
        Ok(started)
    }

    /// The next compute queue in turn that has a free signal and room in its ring.
    fn find_lane(&self) -> Option<usize> {
        (0..self.lanes.len())
            .map(|step| (self.next_lane + step) % self.lanes.len())
            .find(|&index| {
                let lane = &self.lanes[index];
                lane.queue.engine() == Engine::Compute
                    && lane.free_signal().is_some()
                    && lane.queue.has_room(self.request.dispatches)
            })
    }

    fn start_request(&mut self, index: usize, due: Instant) -> anyhow::Result<()> {
        let lane = &mut self.lanes[index];
        let Some(slot) = lane.free_signal() else {
            return Ok(());
        };
        let signal = lane.signals.arm(slot);
        let Request {
            dispatches,
            work_ns,
            barriers_only,
        } = self.request;
        let packets: Vec<Packet> = (1..=dispatches)
            .map(|number| {
                let last = number == dispatches;
                let signal = if last { signal } else { 0 };
                if barriers_only {
                    Packet::barrier(signal)
                } else {
                    Packet::dispatch(work_ns, signal, last)
                }
            })
            .collect();
        lane.in_flight[slot] = Some(due);
        lane.queue.submit(&packets)?;
        self.next_lane = index + 1;
        self.requests_started += 1;
        let every = self.shape.requests_per_copy;
        if every > 0 && self.requests_started.is_multiple_of(every) {
            self.start_copies()?;
        }
        Ok(())
    }

    fn start_copies(&mut self) -> anyhow::Result<()> {
        for lane in &mut self.lanes {
            let Some(slot) = lane.free_signal() else {
                continue;
            };
            let Some(copies) = &mut lane.copies else {
                continue;
            };
            copies.stamp += 1;
            let offset = slot * COPY_BYTES;
            for word in 0..COPY_BYTES / 8 {
                copies
                    .from
                    .region()
                    .store_u64(offset + 8 * word, pattern(copies.stamp, word));
                copies.to.region().store_u64(offset + 8 * word, 0);
            }
            lane.signals.arm(slot);
            let done = sdma::Completion {
                value_address: lane.signals.value_address(slot),
                mailbox: lane.signals.event.mailbox,
                event_id: lane.signals.event.id,
            };
            let (from, to) = (
                copies.from.address() + offset as u64,
                copies.to.address() + offset as u64,
            );
            lane.in_flight[slot] = Some(Instant::now());
            lane.queue
                .submit_words(&sdma::copy_and_signal(from, to, COPY_BYTES as u32, done))?;
        }
        Ok(())
    }

    /// Takes note of everything that completed.
    ///
    /// # Errors
    /// If a copy did not arrive as it was sent.
    pub fn reap(&mut self, now: Instant) -> anyhow::Result<()> {
        for lane in &mut self.lanes {
            for slot in 0..lane.signals.count() {
                let Some(due) = lane.in_flight[slot] else {
                    continue;
                };
                if !lane.signals.is_done(slot) {
                    continue;
                }
                lane.in_flight[slot] = None;
                if let Some(copies) = &lane.copies {
                    copies
                        .compare(slot)
                        .with_context(|| format!("sdma queue {}", lane.queue.id))?;
                    self.copies += 1;
                } else {
                    let latency_ns = u64::try_from(now.saturating_duration_since(due).as_nanos())
                        .unwrap_or(u64::MAX);
                    self.recent.saturating_record(latency_ns);
                    self.total.saturating_record(latency_ns);
                    self.requests += 1;
                }
            }
        }
        Ok(())
    }
}

impl Copies {
    fn compare(&self, slot: usize) -> anyhow::Result<()> {
        for word in 0..COPY_BYTES / 8 {
            let offset = slot * COPY_BYTES + 8 * word;
            let (sent, arrived) = (
                self.from.region().load_u64(offset),
                self.to.region().load_u64(offset),
            );
            anyhow::ensure!(
                sent == arrived,
                "copy differs at byte {}: {sent:#x} sent, {arrived:#x} arrived",
                8 * word
            );
        }
        Ok(())
    }
}

fn pattern(stamp: u64, word: usize) -> u64 {
    (stamp << 32 | word as u64) ^ 0x5a5a_0000_0000_a5a5
}

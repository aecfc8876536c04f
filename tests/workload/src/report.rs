// SPDX-License-Identifier: MIT OR Apache-2.0
//! The lines on standard output: one JSON object each, told apart by `type`.

use std::io::{self, Write};

use anyhow::Context;
use hdrhistogram::Histogram;
use serde::Serialize;

use crate::device::Device;
use crate::queue::Queue;

/// A line.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Line {
    /// A process's queues on one GPU exist.
    Created(Created),
    /// What happened on one GPU since the report before.
    Report(Report),
    /// Answer to a line on standard input.
    Ack(Ack),
    /// The last line of a process.
    Done(Done),
}

#[derive(Debug, Serialize)]
pub struct Created {
    pub pid: u32,
    pub gpu_id: u32,
    pub profile: &'static str,
    pub queues: Vec<QueueBorn>,
}

#[derive(Debug, Serialize)]
pub struct QueueBorn {
    pub queue_id: u32,
    #[serde(rename = "type")]
    pub engine: &'static str,
    pub format: &'static str,
    pub ring_bytes: u32,
    pub priority: u32,
    pub percent: u32,
    /// Byte offset in the process's doorbell slice.
    pub doorbell_in_slice: u64,
    /// User space's time for the ioctl: an upper bound of the kernel's.
    pub create_ns: u64,
}

#[derive(Debug, Serialize)]
pub struct Report {
    pub pid: u32,
    pub gpu_id: u32,
    pub queues: Vec<QueueState>,
    /// Requests completed since the start.
    pub requests: u64,
    /// Copies completed and compared equal since the start.
    pub copies: u64,
    pub in_flight: usize,
    /// Of the requests completed since the report before.
    pub latency_us: Latency,
}

#[derive(Debug, Serialize)]
pub struct QueueState {
    pub queue_id: u32,
    #[serde(rename = "type")]
    pub engine: &'static str,
    pub percent: u32,
    /// Packets (compute) or bytes (sdma) submitted.
    pub write_index: u64,
    pub read_index: u64,
}

/// A histogram of nanoseconds up to an hour, to three digits.
pub fn histogram() -> anyhow::Result<Histogram<u64>> {
    const HOUR_NS: u64 = 3_600_000_000_000;
    Histogram::new_with_bounds(1, HOUR_NS, 3).context("histogram")
}

/// Time from when a request was due to when its completion was seen. Null without requests.
#[derive(Debug, Serialize)]
pub struct Latency {
    pub count: u64,
    pub p50: Option<f64>,
    pub p90: Option<f64>,
    pub p99: Option<f64>,
    pub max: Option<f64>,
}

impl Latency {
    /// Summary of a histogram of nanoseconds.
    pub fn of(histogram: &Histogram<u64>) -> Self {
        let quantile = |q: f64| {
            (!histogram.is_empty()).then(|| histogram.value_at_quantile(q) as f64 / 1000.0)
        };
        Self {
            count: histogram.len(),
            p50: quantile(0.5),
            p90: quantile(0.9),
            p99: quantile(0.99),
            max: (!histogram.is_empty()).then(|| histogram.max() as f64 / 1000.0),
        }
    }
}

#[derive(Debug, Serialize)]
pub struct Ack {
    pub pid: u32,
    pub command: String,
    pub ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub errno: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<QueueBorn>,
    /// User space's time for the ioctl.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spent_ns: Option<u64>,
}

#[derive(Debug, Serialize)]
pub struct Done {
    pub pid: u32,
    /// What ended it: `time`, `signal`, `stopped` (by a line on standard input).
    pub reason: &'static str,
    pub creates: u64,
    pub updates: u64,
    pub destroys: u64,
    pub requests: u64,
    pub copies: u64,
    /// Submitted but not completed when it ended.
    pub in_flight: usize,
    pub latency_us: Latency,
    /// In the order in which they were destroyed.
    pub destroyed: Vec<QueueGone>,
}

#[derive(Debug, Serialize)]
pub struct QueueGone {
    pub gpu_id: u32,
    pub queue_id: u32,
    pub destroy_ns: u64,
}

impl QueueBorn {
    pub fn of(queue: &Queue) -> Self {
        Self {
            queue_id: queue.id,
            engine: queue.engine().name(),
            format: queue.format_name(),
            ring_bytes: queue.ring_bytes(),
            priority: queue.priority,
            percent: queue.percent,
            doorbell_in_slice: queue.doorbell_in_slice(),
            create_ns: queue.create_ns,
        }
    }
}

impl QueueState {
    pub fn of(queue: &Queue) -> Self {
        Self {
            queue_id: queue.id,
            engine: queue.engine().name(),
            percent: queue.percent,
            write_index: queue.write_index(),
            read_index: queue.read_index(),
        }
    }
}

/// `gpu_id` of the GPU with this index.
pub fn gpu_id(device: &Device, gpu: usize) -> u32 {
    device.gpus[gpu].node.gpu_id
}

/// Prints one line at once. A reader that went away is reported as an error of kind `BrokenPipe`.
pub fn print(line: &impl Serialize) -> io::Result<()> {
    let mut text = serde_json::to_vec(line)?;
    text.push(b'\n');
    let mut out = io::stdout().lock();
    out.write_all(&text)?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latency_is_in_microseconds() {
        let mut samples = histogram().unwrap();
        for us in 1..=100 {
            samples.saturating_record(us * 1000);
        }
        let latency = Latency::of(&samples);
        assert_eq!(latency.count, 100);
        assert!((latency.p50.unwrap() - 50.0).abs() < 0.1, "{latency:?}");
        assert!((latency.max.unwrap() - 100.0).abs() < 0.2, "{latency:?}");
        assert!(Latency::of(&histogram().unwrap()).p50.is_none());
    }
}

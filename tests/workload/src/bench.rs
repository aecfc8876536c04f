// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tight loops around single ioctls, for measuring what observing them costs.

use std::rc::Rc;
use std::time::Instant;

use nix::errno::Errno;
use serde::Serialize;

use crate::device::{Device, Memory};
use crate::ioctl::KfdFile;
use crate::queue::{Engine, Queue, QueueBuffers};
use crate::report::print;
use crate::uapi::CreateQueueArgs;

#[derive(Debug, Serialize)]
struct Rejects {
    #[serde(rename = "type")]
    kind: &'static str,
    pid: u32,
    count: u64,
    errno: String,
    total_ns: u64,
    per_call_ns: f64,
}

#[derive(Debug, Serialize)]
struct Cycles {
    #[serde(rename = "type")]
    kind: &'static str,
    pid: u32,
    gpu_id: u32,
    count: usize,
    create_ns: Summary,
    /// `UPDATE_QUEUE` to 0 %: unmaps.
    update_off_ns: Summary,
    /// `UPDATE_QUEUE` back to 100 %: maps.
    update_on_ns: Summary,
    destroy_ns: Summary,
}

#[derive(Debug, Serialize)]
struct Summary {
    min: u64,
    median: u64,
    p90: u64,
    max: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    raw: Option<Vec<u64>>,
}

impl Summary {
    fn of(samples: &[u64], raw: bool) -> Self {
        let mut sorted = samples.to_vec();
        sorted.sort_unstable();
        // Nearest rank.
        let at = |percent: usize| sorted[(sorted.len() * percent).div_ceil(100).max(1) - 1];
        Self {
            min: at(0),
            median: at(50),
            p90: at(90),
            max: at(100),
            raw: raw.then(|| samples.to_vec()),
        }
    }
}

/// `CREATE_QUEUE` with zeroed arguments, `count` times: fails before it touches hardware, on any machine with the driver.
/// Prints one line for the whole loop.
pub fn rejects(kind: &'static str, count: u64) -> anyhow::Result<()> {
    anyhow::ensure!(count > 0, "--count must be at least 1");
    let kfd = KfdFile::open()?;
    let mut errno = None;
    let started = Instant::now();
    for _ in 0..count {
        match kfd.create_queue(&mut CreateQueueArgs::default()) {
            Err(error) => errno = Some(error.errno),
            Ok(()) => anyhow::bail!("the driver accepted a CREATE_QUEUE without a GPU"),
        }
    }
    let total_ns = elapsed_ns(started);
    print(&Rejects {
        kind,
        pid: std::process::id(),
        count,
        errno: format!("{:?}", errno.unwrap_or(Errno::UnknownErrno)),
        total_ns,
        per_call_ns: total_ns as f64 / count as f64,
    })?;
    Ok(())
}

/// Create, unmap, map and destroy one queue `count` times, timing each ioctl.
pub fn cycles(count: usize, raw: bool) -> anyhow::Result<()> {
    anyhow::ensure!(count > 0, "--count must be at least 1");
    let device = Device::open(1, Memory::Own)?;
    let buffers = Rc::new(QueueBuffers::new(&device, 0, Engine::Compute)?);
    let mut samples: [Vec<u64>; 4] = Default::default();
    // One cycle to warm caches and, under emulation, translate the code.
    for round in 0..=count {
        let mut queue = Queue::create(&buffers)?;
        let create_ns = queue.create_ns;
        let off_ns = queue.update(0, queue.priority)?;
        let on_ns = queue.update(100, queue.priority)?;
        let destroy_ns = queue.destroy()?;
        if round > 0 {
            for (list, sample) in samples
                .iter_mut()
                .zip([create_ns, off_ns, on_ns, destroy_ns])
            {
                list.push(sample);
            }
        }
    }
    let [create, off, on, destroy] = &samples;
    print(&Cycles {
        kind: "bench_cycle",
        pid: std::process::id(),
        gpu_id: device.gpus[0].node.gpu_id,
        count,
        create_ns: Summary::of(create, raw),
        update_off_ns: Summary::of(off, raw),
        update_on_ns: Summary::of(on, raw),
        destroy_ns: Summary::of(destroy, raw),
    })?;
    Ok(())
}

fn elapsed_ns(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_nearest_rank() {
        let samples: Vec<u64> = (1..=10).rev().collect();
        let summary = Summary::of(&samples, true);
        assert_eq!(
            (summary.min, summary.median, summary.p90, summary.max),
            (1, 5, 9, 10)
        );
        assert_eq!(summary.raw.unwrap(), samples);
        assert_eq!(Summary::of(&[7], false).median, 7);
    }
}

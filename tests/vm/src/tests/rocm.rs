// SPDX-License-Identifier: MIT OR Apache-2.0
//! The unmodified ROCm runtime on the simulated GPU.

use std::process::Command;

use anyhow::Context;

use super::List;
use crate::check::{self, ensure_eq};
use crate::guest;
use crate::json_child::JsonChild;
use crate::watch::Watch;

pub(super) const TESTS: List = &[
    (&["rocm"], "rocminfo_lists_the_gpu", rocminfo),
    (&["rocm"], "runtime_queues_are_seen", queues),
    (&["rocm"], "copies_use_copy_queues", copies),
];

/// Ring of the runtime's internal "utility" queue: 64 packets of 64 bytes.
const UTILITY_RING_BYTES: u64 = 64 * 64;
/// `HSA_QUEUE_PRIORITY_NORMAL` as the runtime passes it to the driver.
const COMPUTE_PRIORITY: u64 = 7;
const SDMA_PRIORITY: u64 = 15;

fn rocminfo() -> anyhow::Result<()> {
    let output = Command::new("rocminfo")
        .output()
        .context("start rocminfo")?;
    let text = String::from_utf8_lossy(&output.stdout);
    anyhow::ensure!(
        output.status.success(),
        "rocminfo: {}: {text}",
        output.status
    );
    anyhow::ensure!(
        text.contains("gfx942"),
        "rocminfo does not list gfx942: {text}"
    );
    Ok(())
}

/// Runs hsa-load to its end under watch.
fn run(args: &[&str]) -> anyhow::Result<(crate::watch::Seen, Vec<crate::record::Record>, u32)> {
    let watch = Watch::start(&[])?;
    let mut command = Command::new("hsa-load");
    command.args(args);
    let mut child = JsonChild::start(command)?;
    let pid = child.pid();
    let status = child.wait_exit()?;
    anyhow::ensure!(
        status.success(),
        "hsa-load: {status}; stderr: {:?}",
        child.errors()
    );
    watch.wait_for_exit_of(pid)?;
    let seen = watch.stop_lossless()?;
    Ok((seen, child.records(), pid))
}

fn queues() -> anyhow::Result<()> {
    let (seen, lines, pid) = run(&["--queues", "2", "--seconds", "2", "--copy-every", "0"])?;
    let done = lines.last().context("no output")?;
    anyhow::ensure!(
        done.number("requests")? > 0,
        "no request completed: {}",
        done.data
    );
    let created = seen.of("queue_created", pid);
    let mut rings = Vec::new();
    for queue in &created {
        ensure_eq!(queue.text("queue_type")?, "compute", "queue_type");
        ensure_eq!(queue.text("format")?, "aql", "format");
        ensure_eq!(queue.number("priority")?, COMPUTE_PRIORITY, "priority");
        rings.push(queue.number("ring_bytes")?);
    }
    // The runtime makes its own small queue before the first of the user.
    ensure_eq!(
        rings,
        [UTILITY_RING_BYTES, 1024 * 64, 1024 * 64],
        "rings in order of creation"
    );
    // What the driver lists in sysfs and what the stream told are the same queues.
    let listed = lines[0].list("kfd_queues")?;
    let listed: Vec<u64> = listed
        .iter()
        .map(|queue| queue.number("queue_id"))
        .collect::<anyhow::Result<_>>()?;
    ensure_eq!(check::queue_ids(&created)?, listed, "queue ids");
    check::every_queue_is_destroyed(&seen, pid)
}

fn copies() -> anyhow::Result<()> {
    let (seen, lines, pid) = run(&["--seconds", "3", "--copy-every", "2"])?;
    let done = lines.last().context("no output")?;
    anyhow::ensure!(
        done.number("copies")? > 0,
        "no copy completed: {}",
        done.data
    );
    let created = seen.of("queue_created", pid);
    let sdma: Vec<_> = created
        .into_iter()
        .filter(|queue| queue.data["queue_type"] == "sdma")
        .collect();
    anyhow::ensure!(!sdma.is_empty(), "no copy queue was created");
    for queue in sdma {
        ensure_eq!(
            queue.number("priority")?,
            SDMA_PRIORITY,
            "priority of a copy queue"
        );
    }
    check::every_queue_is_destroyed(&seen, pid)?;
    guest::check_kernel_log()
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! Durations fit into each other.

use super::List;
use crate::check;
use crate::guest::Parameter;
use crate::load::Load;
use crate::watch::Watch;

pub(super) const TESTS: List = &[
    (&["basic"], "durations_nest", durations_nest),
    (
        &["basic"],
        "unmap_time_follows_the_hardware",
        unmap_time_follows_the_hardware,
    ),
];

fn durations_nest() -> anyhow::Result<()> {
    let watch = Watch::start(&[])?;
    let mut load = Load::start(&["--profile", "model"])?;
    let pid = load.pid();
    for queue in load.queue_ids()? {
        load.command(&format!("update {queue} 0"))?;
        load.command(&format!("update {queue} 100"))?;
    }
    load.stop()?;
    watch.wait_for_exit_of(pid)?;
    let seen = watch.stop_lossless()?;

    let unmaps = seen.kind("runlist_unmapped");
    anyhow::ensure!(!unmaps.is_empty(), "no runlist_unmapped");
    for unmap in &unmaps {
        let (fence_ns, total_ns) = (unmap.number("fence_ns")?, unmap.number("total_ns")?);
        anyhow::ensure!(
            unmap.signed("status")? == 0,
            "an unmap failed: {}",
            unmap.data
        );
        anyhow::ensure!(
            fence_ns > 0,
            "an unmap that waited for no fence: {}",
            unmap.data
        );
        anyhow::ensure!(
            fence_ns <= total_ns,
            "fence_ns exceeds total_ns: {}",
            unmap.data
        );
    }
    let maps = seen.kind("runlist_mapped");
    anyhow::ensure!(!maps.is_empty(), "no runlist_mapped");
    for map in &maps {
        anyhow::ensure!(map.number("total_ns")? > 0, "total_ns is 0: {}", map.data);
    }

    // Each operation of the process contains its own unmap and map.
    let mut with_unmap = 0;
    for kind in ["queue_created", "queue_updated", "queue_destroyed"] {
        for operation in seen.of(kind, pid) {
            let inside = check::runlists_inside(&seen, operation)?;
            let mut parts_ns = 0;
            for record in &inside {
                parts_ns += record.number("total_ns")?;
            }
            let total_ns = operation.number("total_ns")?;
            anyhow::ensure!(
                parts_ns <= total_ns,
                "{kind} took {total_ns} ns, its unmaps and maps {parts_ns} ns"
            );
            with_unmap += usize::from(
                inside
                    .iter()
                    .any(|record| record.kind == "runlist_unmapped"),
            );
        }
    }
    anyhow::ensure!(with_unmap > 0, "no operation contains an unmap");
    Ok(())
}

/// The simulated hardware takes 20 ms to unmap a queue: no fence can be faster, and it must show as fence time.
fn unmap_time_follows_the_hardware() -> anyhow::Result<()> {
    const UNMAP_US: u64 = 20_000;
    let watch = Watch::start(&[])?;
    let mut load = Load::start(&["--profile", "simple"])?;
    let pid = load.pid();
    let queue = load.queue_ids()?[0];
    {
        let _slow = Parameter::set("sim_unmap_us", &UNMAP_US.to_string())?;
        load.command(&format!("update {queue} 0"))?;
    }
    load.stop()?;
    watch.wait_for_exit_of(pid)?;
    let seen = watch.stop_lossless()?;
    let update = seen.of("queue_updated", pid)[0];
    let inside = check::runlists_inside(&seen, update)?;
    let unmap = inside
        .iter()
        .find(|record| record.kind == "runlist_unmapped");
    let fence_ns = unmap.map(|record| record.number("fence_ns")).transpose()?;
    // Two queues were mapped.
    let least_ns = 2 * UNMAP_US * 1000;
    anyhow::ensure!(
        fence_ns.is_some_and(|ns| ns >= least_ns),
        "fence_ns {fence_ns:?}, the hardware took {least_ns}"
    );
    Ok(())
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! Two GPUs of four XCCs each.

use std::collections::BTreeSet;

use super::List;
use crate::check::{self, ensure_eq};
use crate::guest;
use crate::load::Load;
use crate::watch::Watch;

pub(super) const TESTS: List = &[
    (&["multi"], "startup_lists_both_gpus", startup),
    (&["multi"], "queues_are_told_per_gpu", per_gpu),
    (&["multi"], "an_update_disturbs_its_own_gpu_only", own_gpu),
    (&["multi"], "gpu_filter_shows_one_of_two", filter),
    (&["multi"], "eviction_is_told_per_gpu", eviction),
];

const GPUS: usize = 2;

fn gpu_ids(load: &Load) -> anyhow::Result<Vec<u64>> {
    load.created()
        .iter()
        .map(|line| line.number("gpu_id"))
        .collect()
}

fn startup() -> anyhow::Result<()> {
    let load = Load::start_on(GPUS, &["--gpus", "2"])?;
    let ids: BTreeSet<u64> = gpu_ids(&load)?.into_iter().collect();
    let watch = Watch::start(&[])?;
    let startup = watch.wait_for("startup", |record| record.kind == "startup")?;
    load.stop()?;
    watch.stop_lossless()?;
    let mut listed = BTreeSet::new();
    for gpu in startup.list("gpus")? {
        listed.insert(gpu.number("gpu_id")?);
        ensure_eq!(gpu.number("num_xcc")?, 4, "num_xcc");
        ensure_eq!(gpu.text("gfx")?, "gfx942", "gfx");
    }
    ensure_eq!(listed, ids, "GPUs in startup");
    Ok(())
}

fn per_gpu() -> anyhow::Result<()> {
    let watch = Watch::start(&[])?;
    let load = Load::start_on(GPUS, &["--gpus", "2", "--profile", "model"])?;
    let pid = load.pid();
    let ids = gpu_ids(&load)?;
    anyhow::ensure!(ids[0] != ids[1], "both GPUs have the id {}", ids[0]);
    load.stop()?;
    watch.wait_for_exit_of(pid)?;
    let seen = watch.stop_lossless()?;
    check::every_queue_is_destroyed(&seen, pid)?;
    for id in ids {
        for kind in ["queue_created", "queue_destroyed"] {
            let here = seen
                .of(kind, pid)
                .into_iter()
                .filter(|record| record.try_number("gpu_id") == Some(id))
                .count();
            ensure_eq!(here, 3, "{kind} records on GPU {id}");
        }
        for kind in ["runlist_unmapped", "runlist_mapped"] {
            let here = seen
                .kind(kind)
                .into_iter()
                .filter(|record| record.try_number("gpu_id") == Some(id))
                .count();
            anyhow::ensure!(here > 0, "no {kind} on GPU {id}");
        }
    }
    Ok(())
}

fn own_gpu() -> anyhow::Result<()> {
    let watch = Watch::start(&[])?;
    let mut load = Load::start_on(GPUS, &["--gpus", "2", "--profile", "simple"])?;
    let pid = load.pid();
    let lines = load.created();
    for line in &lines {
        let queue = line.list("queues")?[0].number("queue_id")?;
        load.command(&format!("update {queue} 0"))?;
    }
    load.stop()?;
    watch.wait_for_exit_of(pid)?;
    let seen = watch.stop_lossless()?;
    let updates = seen.of("queue_updated", pid);
    ensure_eq!(updates.len(), lines.len(), "queue_updated records");
    for (update, line) in updates.iter().zip(&lines) {
        let id = line.number("gpu_id")?;
        ensure_eq!(update.number("gpu_id")?, id, "gpu_id of queue_updated");
        let runlists = check::runlists_inside(&seen, update)?;
        anyhow::ensure!(!runlists.is_empty(), "an update without runlist records");
        for record in runlists {
            ensure_eq!(record.number("gpu_id")?, id, "gpu_id of {}", record.kind);
        }
    }
    Ok(())
}

fn filter() -> anyhow::Result<()> {
    let load = Load::start_on(GPUS, &["--gpus", "2", "--profile", "simple"])?;
    let pid = load.pid();
    let id = gpu_ids(&load)?[1];
    let watch = Watch::start(&["--gpu", &id.to_string()])?;
    load.stop()?;
    watch.wait_for_count("queue_destroyed", 2, |record| {
        record.kind == "queue_destroyed" && record.is_of(pid)
    })?;
    let seen = watch.stop_lossless()?;
    for record in &seen.records {
        if record.kind == "startup" || record.kind == "summary" {
            continue;
        }
        ensure_eq!(record.number("gpu_id")?, id, "gpu_id of {}", record.kind);
    }
    Ok(())
}

fn eviction() -> anyhow::Result<()> {
    let watch = Watch::start(&[])?;
    let load = Load::start_on(GPUS, &["--gpus", "2", "--profile", "simple"])?;
    let pid = load.pid();
    let ids = gpu_ids(&load)?;
    guest::evict(pid)?;
    watch.wait_for_count("process_restored", GPUS, |record| {
        record.kind == "process_restored" && record.is_of(pid)
    })?;
    load.stop()?;
    watch.wait_for_exit_of(pid)?;
    let seen = watch.stop_lossless()?;
    for id in ids {
        for kind in ["process_evicted", "process_restored"] {
            let here = seen
                .of(kind, pid)
                .into_iter()
                .filter(|record| record.try_number("gpu_id") == Some(id))
                .count();
            ensure_eq!(here, 1, "{kind} records on GPU {id}");
        }
    }
    guest::check_kernel_log()
}

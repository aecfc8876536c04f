// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a run is on, read from the machine.

use std::collections::BTreeMap;
use std::time::SystemTime;

use super::record::{Gpu, Process};
use crate::control::Target;
use crate::event::GpuId;
use crate::kfd::{module, topology, Root};

const PARAMETERS: &str = "/sys/module/amdgpu/parameters";

/// Parameters of the simulated GPU, if the driver runs on that.
#[must_use]
pub fn simulation(root: &Root) -> Option<BTreeMap<String, String>> {
    if !module::is_simulated(root) {
        return None;
    }
    let entries = std::fs::read_dir(root.path(PARAMETERS)).ok()?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    Some(
        names
            .filter(|name| name.starts_with("sim_"))
            .filter_map(|name| {
                let value = module::parameter(root, &name)?;
                Some((name, value))
            })
            .collect(),
    )
}

/// The GPU nodes.
#[must_use]
pub fn gpus(root: &Root) -> Vec<Gpu> {
    topology::read(root)
        .iter()
        .map(|node| Gpu {
            gpu_id: node.gpu_id,
            gfx: node.gfx(),
            num_xcc: node.num_xcc(),
            num_cp_queues: node.num_cp_queues(),
        })
        .collect()
}

/// Processes as the report names them.
#[must_use]
pub fn processes(targets: &[Target]) -> Vec<Process> {
    targets
        .iter()
        .map(|target| Process {
            pid: target.pid,
            comm: target.comm,
            queues: target.queues.len(),
            gpus: on(std::slice::from_ref(target)),
        })
        .collect()
}

/// GPUs on which any of the targets has queues.
#[must_use]
pub fn on(targets: &[Target]) -> Vec<GpuId> {
    let queues = targets.iter().flat_map(|target| &target.queues);
    let mut gpus: Vec<GpuId> = queues.map(|queue| queue.gpu_id).collect();
    gpus.sort_unstable();
    gpus.dedup();
    gpus
}

/// The time of day in UTC, `2026-01-31T12:00:00Z`.
#[must_use]
pub fn now() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now()).to_string()
}

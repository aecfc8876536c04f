// SPDX-License-Identifier: MIT OR Apache-2.0
//! What sysfs says of a GPU, and the buffer sizes that follow from it.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use anyhow::Context;

use crate::memory::PAGE_BYTES;

const NODES: &str = "/sys/class/kfd/kfd/topology/nodes";

/// The properties of one GPU node that creating queues needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub gpu_id: u32,
    pub render_minor: u32,
    /// `GC_HWIP` version as major * 10000 + minor * 100 + step, e.g. 90402.
    pub gfx_target_version: u32,
    pub num_xcc: u32,
    /// Context save area of one XCC without the debugger's part.
    pub cwsr_bytes: u32,
    pub ctl_stack_bytes: u32,
    /// The debugger's part of the save area of one XCC.
    pub debug_bytes: u32,
    pub num_sdma_engines: u32,
}

impl Node {
    /// Size of a queue's context save area. `kfd_queue_acquire_buffers()` (6.12) demands a mapping of exactly this size.
    pub fn save_area_bytes(&self) -> usize {
        ((self.cwsr_bytes + self.debug_bytes) as usize * self.num_xcc as usize)
            .next_multiple_of(PAGE_BYTES)
    }
}

/// All GPU nodes, in topology order. Empty when the driver is loaded but found no GPU.
pub fn gpus() -> anyhow::Result<Vec<Node>> {
    let mut numbers: Vec<u32> = match fs::read_dir(NODES) {
        Ok(entries) => entries
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .collect(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error).with_context(|| format!("read {NODES}")),
    };
    numbers.sort_unstable();
    let mut nodes = Vec::new();
    for number in numbers {
        let folder = Path::new(NODES).join(number.to_string());
        // EPERM: hidden from this device cgroup. A CPU node has gpu_id 0.
        let Ok(gpu_id) = fs::read_to_string(folder.join("gpu_id")) else {
            continue;
        };
        let gpu_id: u32 = gpu_id
            .trim()
            .parse()
            .with_context(|| format!("gpu_id of node {number}: {gpu_id:?}"))?;
        if gpu_id == 0 {
            continue;
        }
        let properties = fs::read_to_string(folder.join("properties"))
            .with_context(|| format!("read properties of node {number}"))?;
        nodes.push(
            parse(gpu_id, &properties).with_context(|| format!("properties of node {number}"))?,
        );
    }
    Ok(nodes)
}

fn parse(gpu_id: u32, properties: &str) -> anyhow::Result<Node> {
    let values: HashMap<&str, u64> = properties
        .lines()
        .filter_map(|line| {
            let (key, value) = line.split_once(' ')?;
            Some((key, value.trim().parse().ok()?))
        })
        .collect();
    let get = |key: &str| -> anyhow::Result<u32> {
        let value = *values
            .get(key)
            .with_context(|| format!("no {key}: this kernel is older than 6.12"))?;
        u32::try_from(value).with_context(|| format!("{key} {value} is out of range"))
    };
    let num_xcc = get("num_xcc")?.max(1);
    let gfx_target_version = get("gfx_target_version")?;
    let cus_per_xcc = get("simd_count")? / get("simd_per_cu")?.max(1) / num_xcc;
    // kfd_queue_ctx_save_restore_size(), 6.12; the debugger's share is not in sysfs.
    let waves = if gfx_target_version < 100_100 {
        let arrays = get("array_count")? / get("simd_arrays_per_engine")?.max(1);
        (cus_per_xcc * 40).min(arrays * 512)
    } else {
        cus_per_xcc * 32
    };
    Ok(Node {
        gpu_id,
        render_minor: get("drm_render_minor")?,
        gfx_target_version,
        num_xcc,
        cwsr_bytes: get("cwsr_size")?,
        ctl_stack_bytes: get("ctl_stack_size")?,
        debug_bytes: (waves * 32).next_multiple_of(64),
        num_sdma_engines: get("num_sdma_engines")? + get("num_sdma_xgmi_engines")?,
    })
}

/// Whether the GPU is simulated: only then may a dispatch name no kernel.
pub fn simulated() -> bool {
    Path::new("/sys/module/amdgpu/parameters/sim_gpus").exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOUR_XCCS: &str = "cpu_cores_count 0\nsimd_count 128\nmax_waves_per_simd 8\narray_count 8\n\
        simd_arrays_per_engine 1\nsimd_per_cu 4\ngfx_target_version 90402\ndrm_render_minor 129\n\
        num_sdma_engines 4\nnum_sdma_xgmi_engines 0\ncwsr_size 4886528\nctl_stack_size 4096\nnum_xcc 4\n\
        unique_id 18446744073709551615\n";

    #[test]
    fn save_area_covers_every_xcc() {
        let node = parse(53017, FOUR_XCCS).unwrap();
        assert_eq!(
            (node.num_xcc, node.render_minor, node.debug_bytes),
            (4, 129, 320 * 32)
        );
        assert_eq!(node.save_area_bytes(), 4 * (4_886_528 + 10_240));
        assert_eq!(node.save_area_bytes() % PAGE_BYTES, 0);
    }

    #[test]
    fn a_missing_property_is_named() {
        let error = parse(1, "simd_count 4\n").unwrap_err();
        assert!(error.to_string().contains("num_xcc"), "{error}");
    }
}

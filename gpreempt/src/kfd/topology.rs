// SPDX-License-Identifier: MIT OR Apache-2.0
//! The KFD topology in sysfs: one directory per node, of which those with a `gpu_id` are GPUs or partitions of one.
//! Written by kfd_topology.c (`node_show`), Linux 6.1 to 7.3.

use std::collections::BTreeMap;

use super::Root;
use crate::event::GpuId;

const NODES: &str = "/sys/class/kfd/kfd/topology/nodes";

/// First graphics IP that schedules through MES, one queue at a time and without runlist (kfd_device_queue_manager.c, Linux 6.12).
const FIRST_MES_MAJOR: u64 = 11;

/// A GPU, or one partition of a GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GpuNode {
    /// Number of the node.
    pub node: u32,
    /// Its id, unique on the machine, stable for one partition mode.
    pub gpu_id: GpuId,
    /// Marketing or code name, if the driver gives one.
    pub name: String,
    /// Every `key value` line of `properties`.
    pub properties: BTreeMap<String, u64>,
}

impl GpuNode {
    /// A property, 0 where the driver does not tell it.
    #[must_use]
    pub fn property(&self, key: &str) -> u64 {
        self.properties.get(key).copied().unwrap_or(0)
    }

    /// Instruction set in the compiler's words, `gfx942`. The driver gives 90402: major 9, minor 4, stepping 2.
    #[must_use]
    pub fn gfx(&self) -> String {
        let version = self.property("gfx_target_version");
        format!(
            "gfx{}{:x}{:x}",
            version / 10_000,
            version / 100 % 100,
            version % 100
        )
    }

    /// Major number of the graphics IP: 9 for MI200 and MI300, 11 and up schedule through MES.
    #[must_use]
    pub fn gfx_major(&self) -> u64 {
        self.property("gfx_target_version") / 10_000
    }

    /// Whether its queues are mapped one by one, by MES, and not by a runlist.
    #[must_use]
    pub fn has_mes(&self) -> bool {
        self.gfx_major() >= FIRST_MES_MAJOR
    }

    /// Accelerator complex dies of the node; 1 where the driver does not tell.
    #[must_use]
    pub fn num_xcc(&self) -> u64 {
        self.property("num_xcc").max(1)
    }

    /// Compute queue slots per XCC that the driver leaves to user queues.
    #[must_use]
    pub fn num_cp_queues(&self) -> u64 {
        self.property("num_cp_queues")
    }

    /// PCI address of the device. All partitions of a GPU share bus and device; the function number of `location_id`
    /// then counts partitions (kfd_topology_add_device, Linux 6.12).
    #[must_use]
    pub fn pci(&self) -> String {
        let location = self.property("location_id");
        format!(
            "{:04x}:{:02x}:{:02x}.0",
            self.property("domain"),
            location >> 8 & 0xff,
            location >> 3 & 0x1f
        )
    }

    /// Device-wide id, the same for all partitions of a GPU; 0 where there is none.
    #[must_use]
    pub fn unique_id(&self) -> u64 {
        self.property("unique_id")
    }
}

/// All GPU nodes, by node number. Nodes that the device cgroup hides (they read as an error or as gpu_id 0) are left out.
#[must_use]
pub fn read(root: &Root) -> Vec<GpuNode> {
    let mut nodes: Vec<GpuNode> = root
        .names(NODES)
        .unwrap_or_default()
        .iter()
        .filter_map(|name| {
            let node: u32 = name.parse().ok()?;
            let gpu_id: u32 = root
                .text(&format!("{NODES}/{node}/gpu_id"))
                .ok()?
                .parse()
                .ok()?;
            let properties = root.text(&format!("{NODES}/{node}/properties")).ok()?;
            (gpu_id != 0).then(|| GpuNode {
                node,
                gpu_id: GpuId(gpu_id),
                name: root
                    .text(&format!("{NODES}/{node}/name"))
                    .unwrap_or_default(),
                properties: parse_properties(&properties),
            })
        })
        .collect();
    nodes.sort_by_key(|node| node.node);
    nodes
}

fn parse_properties(text: &str) -> BTreeMap<String, u64> {
    text.lines()
        .filter_map(|line| {
            let (key, value) = line.split_once(' ')?;
            Some((key.to_owned(), value.trim().parse().ok()?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(properties: &str) -> GpuNode {
        GpuNode {
            node: 2,
            gpu_id: GpuId(1),
            name: String::new(),
            properties: parse_properties(properties),
        }
    }

    #[test]
    fn names_as_the_compiler_does() {
        for (version, gfx) in [
            (90402, "gfx942"),
            (90010, "gfx90a"),
            (110000, "gfx1100"),
            (120001, "gfx1201"),
        ] {
            assert_eq!(node(&format!("gfx_target_version {version}\n")).gfx(), gfx);
        }
    }

    #[test]
    fn the_pci_address_of_a_partition_is_the_device() {
        let text = "location_id 2563\ndomain 1\nnum_cp_queues 24\nunique_id 18446744073709551615\n";
        let node = node(text);
        assert_eq!(node.pci(), "0001:0a:00.0");
        assert_eq!(node.unique_id(), u64::MAX);
        assert_eq!((node.num_xcc(), node.num_cp_queues()), (1, 24));
    }

    #[test]
    fn no_topology_is_no_gpu() {
        assert!(read(&Root::at("/nonexistent".into())).is_empty());
    }
}

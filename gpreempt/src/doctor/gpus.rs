// SPDX-License-Identifier: MIT OR Apache-2.0
//! GPUs and the module parameters that decide how their queues are scheduled.

use std::collections::BTreeMap;

use super::{Check, Status};
use crate::findings::{self, Evidence, Kind};
use crate::kfd::snapshot::Snapshot;
use crate::kfd::topology::GpuNode;
use crate::kfd::{module, Root};

/// Slots of a micro engine: 4 pipes of 8 queues on gfx9 and later.
const SLOTS: u64 = 32;

/// Queues that the driver keeps for itself when `num_kcq` is out of range (amdgpu_gfx_compute_mqd_sw_init).
const DEFAULT_NUM_KCQ: i64 = 8;

/// Below this a queue that is slow to let go resets the GPU.
const LEAST_TIMEOUT_MS: i64 = 3000;

pub(super) fn gpus(nodes: &[GpuNode]) -> Check {
    if nodes.is_empty() {
        return Check::warn(
            "gpus",
            "the driver is loaded but has no GPU that computes",
            "look for amdgpu and kfd in the kernel log; in a container, pass /dev/kfd and /dev/dri",
        );
    }
    let list: Vec<String> = nodes
        .iter()
        .map(|node| {
            let xcc = if node.num_xcc() == 1 {
                "1 XCC".to_owned()
            } else {
                format!("{} XCCs", node.num_xcc())
            };
            format!(
                "{} {} at {}, {xcc}, {} compute slots per XCC",
                node.gpu_id,
                node.gfx(),
                node.pci(),
                node.num_cp_queues()
            )
        })
        .collect();
    Check::ok("gpus", list.join("; "))
}

pub(super) fn partitions(nodes: &[GpuNode]) -> Option<Check> {
    let mut devices: BTreeMap<(u64, String), usize> = BTreeMap::new();
    for node in nodes {
        *devices.entry((node.unique_id(), node.pci())).or_default() += 1;
    }
    if nodes.is_empty() {
        return None;
    }
    let split: Vec<String> = devices
        .iter()
        .filter(|(_, nodes)| **nodes > 1)
        .map(|((_, pci), nodes)| format!("{pci} is {nodes} nodes"))
        .collect();
    Some(if split.is_empty() {
        Check::ok("partitions", "every GPU is one node")
    } else {
        let evidence = format!(
            "{}: each has its own runlist, a reset hits all of them",
            split.join(", ")
        );
        Check::new("partitions", Status::Ok, evidence)
    })
}

pub(super) fn scheduler(root: &Root, nodes: &[GpuNode]) -> Check {
    let policy = module::parameter(root, "sched_policy");
    let mes = nodes.iter().filter(|node| node.has_mes()).count();
    match policy.as_deref() {
        Some("2") => Check::warn(
            "scheduler",
            "sched_policy 2: no hardware scheduler; there is no runlist, so no runlist_* events",
            "load amdgpu without sched_policy=2",
        ),
        _ if mes > 0 && mes == nodes.len() => Check::warn(
            "scheduler",
            "MES: queues are mapped one by one, so there are no runlist_* events",
            "nothing to fix: these GPUs have no runlist",
        ),
        Some("0") if mes == 0 => {
            Check::ok("scheduler", "sched_policy 0: hardware scheduler; every change takes all queues of the node off")
        }
        Some("1") if mes == 0 => Check::ok(
            "scheduler",
            "sched_policy 1: hardware scheduler without oversubscription; queues beyond the slots are refused",
        ),
        Some(policy) if mes > 0 => {
            Check::ok("scheduler", format!("sched_policy {policy}; {mes} nodes by MES, without runlist_* events"))
        }
        Some(policy) => {
            let fix = "load amdgpu with sched_policy=0";
            Check::warn("scheduler", format!("sched_policy {policy} is unknown"), fix)
        }
        None => Check::skip("scheduler", "/sys/module/amdgpu/parameters/sched_policy cannot be read"),
    }
}

pub(super) fn kernel_queues(root: &Root, nodes: &[GpuNode]) -> Check {
    let Some(set) = module::parameter(root, "num_kcq").and_then(|text| text.parse::<i64>().ok())
    else {
        return Check::skip(
            "num_kcq",
            "/sys/module/amdgpu/parameters/num_kcq cannot be read",
        );
    };
    let kept = if (0..=DEFAULT_NUM_KCQ).contains(&set) {
        set
    } else {
        DEFAULT_NUM_KCQ
    };
    let left = SLOTS.saturating_sub(kept.unsigned_abs());
    let told: Vec<u64> = nodes
        .iter()
        .map(GpuNode::num_cp_queues)
        .filter(|n| *n > 0)
        .collect();
    let evidence = format!(
        "{set}: the driver keeps {kept} compute queues, {left} of {SLOTS} slots per XCC are left"
    );
    if told.iter().any(|n| *n != left) {
        let told: Vec<String> = told.iter().map(u64::to_string).collect();
        return Check::ok(
            "num_kcq",
            format!("{evidence}; the topology says {}", told.join(", ")),
        );
    }
    Check::ok("num_kcq", evidence)
}

/// Whether more is mapped than the hardware holds, where debugfs tells it.
pub(super) fn runlists(snapshot: &Snapshot) -> Vec<Check> {
    if snapshot.gpus.iter().all(|gpu| gpu.runlist.is_none()) {
        return Vec::new();
    }
    let findings = findings::find(&Evidence {
        now: Some((snapshot, snapshot.ts_ns)),
        ..Evidence::default()
    });
    let over: Vec<Check> = findings
        .into_iter()
        .filter(|finding| finding.kind == Kind::Oversubscribed)
        .map(|finding| {
            let gpu = finding
                .gpu_id
                .map_or_else(String::new, |id| format!("{id} "));
            Check::warn(
                "runlist",
                format!("{gpu}{}", finding.evidence),
                finding.advice,
            )
        })
        .collect();
    match over.is_empty() {
        true => vec![Check::ok("runlist", "no GPU is oversubscribed")],
        false => over,
    }
}

pub(super) fn cwsr(root: &Root) -> Check {
    match module::parameter(root, "cwsr_enable").as_deref() {
        Some("0") => Check::warn(
            "cwsr_enable",
            "0: running waves cannot be saved; preemption waits for them, and a kernel that outlasts the timeout resets the GPU",
            "load amdgpu without cwsr_enable=0",
        ),
        Some(set) => Check::ok("cwsr_enable", format!("{set}: running waves are saved when their queue is taken off")),
        None => Check::skip("cwsr_enable", "/sys/module/amdgpu/parameters/cwsr_enable cannot be read"),
    }
}

pub(super) fn preemption_timeout(root: &Root) -> Option<Check> {
    let ms: i64 = module::parameter(root, "queue_preemption_timeout_ms")?
        .parse()
        .ok()?;
    let evidence = format!(
        "queue_preemption_timeout_ms {ms}: then a queue that does not let go resets the GPU"
    );
    Some(if ms < LEAST_TIMEOUT_MS {
        let fix = "set it to 9000: a reset ends every job on every GPU of the machine";
        Check::warn("timeout", format!("{evidence}; that is short"), fix)
    } else {
        Check::ok("timeout", evidence)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kfd::snapshot::{Gpu, Runlist};

    fn snapshot(runlist: Option<Runlist>) -> Snapshot {
        Snapshot {
            gpus: vec![Gpu {
                node: GpuNode {
                    node: 1,
                    gpu_id: crate::event::GpuId(0x52a1),
                    name: String::new(),
                    properties: BTreeMap::new(),
                },
                runlist,
                slots_total: 24,
                slots_used: None,
            }],
            ..Snapshot::default()
        }
    }

    #[test]
    fn oversubscription_is_a_warning_where_it_is_told() {
        assert!(runlists(&snapshot(None)).is_empty());
        let mut runlist = Runlist {
            compute_queues: 24,
            ..Runlist::default()
        };
        assert_eq!(runlists(&snapshot(Some(runlist)))[0].status, Status::Ok);
        runlist.compute_queues = 30;
        runlist.oversubscribed = true;
        let checks = runlists(&snapshot(Some(runlist)));
        assert_eq!(checks[0].status, Status::Warn);
        assert_eq!(
            checks[0].evidence,
            "52a1 now: 30 compute queues for 24 slots"
        );
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! Evidence by the runlist: debugfs `kfd/rls` lists what is mapped, by doorbell and descriptor; `kfd/mqds` tells whose these
//! are. The latter takes the mutex of every KFD process, and waits for calls of theirs that hold it, so it is read only where
//! it is needed.

use std::collections::{BTreeMap, HashMap};
use std::io;

use crate::event::{GpuId, Pid, QueueType};
use crate::kfd::mqds::{MqdKind, ProcessMqds, QueueMqd};
use crate::kfd::rls::{NodeRunlist, Packet};
use crate::kfd::{mqds, queues, rls, Root};

const RLS: &str = "/sys/kernel/debug/kfd/rls";
const MQDS: &str = "/sys/kernel/debug/kfd/mqds";

/// What a queue runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Engine {
    /// Command processor.
    Compute,
    /// Copy engine.
    Sdma,
}

impl Engine {
    pub(super) fn of(queue_type: QueueType) -> Self {
        match queue_type.is_sdma() {
            true => Self::Sdma,
            false => Self::Compute,
        }
    }
}

/// Queues of one process on one node and engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// All.
    pub(super) queues: usize,
    /// In the runlist.
    pub(super) listed: usize,
}

/// Whose queues are in the runlists.
#[derive(Clone, Debug)]
pub(super) struct Runlists {
    /// Nodes, and whether anything is in their runlist.
    nodes: HashMap<GpuId, bool>,
    counts: BTreeMap<(Pid, GpuId, Engine), Counts>,
}

/// Whether there is anything to read; the reason if not.
pub(super) fn readable(root: &Root) -> Result<(), String> {
    let advice = "run as root with debugfs mounted on /sys/kernel/debug";
    for path in [RLS, MQDS] {
        match std::fs::File::open(root.path(path)) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(format!("{path} is not there: {advice}"))
            }
            Err(error) => return Err(format!("{path}: {error}: {advice}")),
        }
    }
    Ok(())
}

fn read_rls(root: &Root) -> Result<Vec<NodeRunlist>, String> {
    let text = root.text(RLS).map_err(|error| error.to_string())?;
    rls::parse(&text).map_err(|error| format!("{RLS}: {error}"))
}

/// Whether nothing at all is in the runlists of these nodes.
pub(super) fn idle(root: &Root, of: impl IntoIterator<Item = GpuId>) -> Result<bool, String> {
    let nodes = read_rls(root)?;
    for gpu_id in of {
        let node = nodes.iter().find(|node| node.gpu_id == gpu_id);
        if maps_queues(node.ok_or_else(|| format!("{RLS} has no node {gpu_id}"))?) {
            return Ok(false);
        }
    }
    Ok(true)
}

impl Runlists {
    /// Reads both files.
    pub(super) fn read(root: &Root) -> Result<Self, String> {
        let nodes = read_rls(root)?;
        let processes = root.text(MQDS).map_err(|error| error.to_string())?;
        let processes = mqds::parse(&processes).map_err(|error| format!("{MQDS}: {error}"))?;
        Self::join(&nodes, &processes)
    }

    /// Finds each packet's queue. What matches nothing at all is an error: this driver prints something else.
    fn join(nodes: &[NodeRunlist], processes: &[ProcessMqds]) -> Result<Self, String> {
        let mut counts: BTreeMap<(Pid, GpuId, Engine), Counts> = BTreeMap::new();
        for process in processes {
            for queue in &process.queues {
                let engine = match queue.kind {
                    MqdKind::Compute => Engine::Compute,
                    MqdKind::Sdma => Engine::Sdma,
                    MqdKind::Diq => continue,
                };
                let node = nodes.iter().find(|node| node.gpu_id == queue.gpu_id);
                let node = node.ok_or_else(|| {
                    format!(
                        "{RLS} has no node {}, on which {MQDS} has queues",
                        queue.gpu_id
                    )
                })?;
                let entry = counts
                    .entry((process.pid, queue.gpu_id, engine))
                    .or_default();
                entry.queues += 1;
                entry.listed += usize::from(lists(node, queue)?);
            }
        }
        for node in nodes {
            let found = counts
                .iter()
                .any(|((_, gpu_id, _), counts)| *gpu_id == node.gpu_id && counts.listed > 0);
            if maps_queues(node) && !found {
                return Err(format!(
                    "{RLS} lists queues of node {}, but {MQDS} has none of them",
                    node.gpu_id
                ));
            }
        }
        Ok(Self {
            nodes: nodes
                .iter()
                .map(|node| (node.gpu_id, maps_queues(node)))
                .collect(),
            counts,
        })
    }

    /// Queues of a process on a node; `None` for a process that is no longer there, or has none there any more.
    pub(super) fn counts(
        &self,
        root: &Root,
        pid: Pid,
        gpu_id: GpuId,
        engine: Engine,
    ) -> Result<Option<Counts>, String> {
        if let Some(counts) = self.counts.get(&(pid, gpu_id, engine)) {
            return Ok(Some(*counts));
        }
        if !self.nodes.contains_key(&gpu_id) {
            return Err(format!("{RLS} has no node {gpu_id}"));
        }
        let has_queues = queues::read(root).unwrap_or_default().iter().any(|queue| {
            queue.pid == pid
                && queue.gpu_id == gpu_id
                && Engine::of(QueueType::from_raw(queue.queue_type)) == engine
        });
        if has_queues {
            return Err(format!(
                "{MQDS} has no queue of process {pid} on node {gpu_id}, but sysfs has"
            ));
        }
        Ok(None)
    }
}

fn maps_queues(node: &NodeRunlist) -> bool {
    node.packets
        .iter()
        .flatten()
        .any(|packet| matches!(packet, Packet::MapQueue { .. }))
}

/// Whether a queue is in the runlist: by its doorbell, which no other queue of the GPU has, or by the address of its
/// descriptor.
fn lists(node: &NodeRunlist, queue: &QueueMqd) -> Result<bool, String> {
    let (Some(own_doorbell), Some(image)) = (queue.doorbell(), queue.images.first()) else {
        return Err(format!(
            "{MQDS} has a queue on node {} without descriptor",
            queue.gpu_id
        ));
    };
    let own_address = match queue.kind {
        MqdKind::Compute => image.mqd_address().filter(|address| *address != 0),
        _ => None,
    };
    Ok(node.packets.iter().flatten().any(|packet| match packet {
        Packet::MapQueue {
            doorbell,
            mqd_address,
            ..
        } => *doorbell == own_doorbell || own_address == Some(*mqd_address),
        _ => false,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kfd::mqds::Image;
    use crate::kfd::rls;

    const GPU: GpuId = GpuId(0x52a1);

    fn queue(kind: MqdKind, doorbell: u32, address: u64) -> QueueMqd {
        let mut words = vec![0; 512];
        match kind {
            MqdKind::Compute => {
                words[128] = address as u32;
                words[129] = (address >> 32) as u32;
                words[143] = doorbell << 2;
            }
            _ => words[22] = doorbell << 2,
        }
        QueueMqd {
            kind,
            gpu_id: GPU,
            images: vec![Image::of(&words)],
        }
    }

    fn process(pid: u32, queues: Vec<QueueMqd>) -> ProcessMqds {
        ProcessMqds {
            pid: Pid(pid),
            pasid: 0x8000,
            queues,
        }
    }

    fn map(doorbell: u32, mqd_address: u64) -> Packet {
        Packet::MapQueue {
            engine: rls::Engine::Compute,
            doorbell,
            mqd_address,
            wptr_address: 0,
        }
    }

    fn node(packets: Option<Vec<Packet>>) -> NodeRunlist {
        NodeRunlist {
            node: 1,
            gpu_id: GPU,
            packets,
        }
    }

    fn counts(runlists: &Runlists, pid: u32, engine: Engine) -> Option<Counts> {
        let nowhere = Root::at("/nonexistent".into());
        runlists.counts(&nowhere, Pid(pid), GPU, engine).unwrap()
    }

    #[test]
    fn queues_are_found_by_doorbell_and_by_descriptor() {
        let processes = [
            process(
                7,
                vec![
                    queue(MqdKind::Compute, 0x1000, 0x1_0000),
                    queue(MqdKind::Compute, 0x1002, 0x2_0000),
                    queue(MqdKind::Sdma, 0x1200, 0),
                ],
            ),
            process(8, vec![queue(MqdKind::Compute, 0x2000, 0x3_0000)]),
            process(9, vec![]),
        ];
        let packets = vec![map(0x1000, 0x9999), map(0x7777, 0x3_0000), map(0x1200, 0)];
        let runlists = Runlists::join(&[node(Some(packets))], &processes).unwrap();
        let of = |queues, listed| Some(Counts { queues, listed });
        assert_eq!(counts(&runlists, 7, Engine::Compute), of(2, 1));
        assert_eq!(counts(&runlists, 7, Engine::Sdma), of(1, 1));
        assert_eq!(counts(&runlists, 8, Engine::Compute), of(1, 1));
        assert_eq!(counts(&runlists, 9, Engine::Compute), None);
    }

    #[test]
    fn an_empty_runlist_lists_nothing() {
        let processes = [process(7, vec![queue(MqdKind::Compute, 0x1000, 1)])];
        let runlists = Runlists::join(&[node(None)], &processes).unwrap();
        assert_eq!(
            counts(&runlists, 7, Engine::Compute),
            Some(Counts {
                queues: 1,
                listed: 0
            })
        );
    }

    #[test]
    fn what_cannot_be_joined_is_an_error() {
        let processes = [process(7, vec![queue(MqdKind::Compute, 0x1000, 1)])];
        let nothing_matches = node(Some(vec![map(0x5, 0x5)]));
        let error = Runlists::join(&[nothing_matches], &processes).unwrap_err();
        assert!(error.contains("has none of them"), "{error}");
        let error = Runlists::join(&[], &processes).unwrap_err();
        assert!(error.contains("no node 52a1"), "{error}");
        let bare = QueueMqd {
            images: Vec::new(),
            ..queue(MqdKind::Compute, 0, 0)
        };
        let error = Runlists::join(&[node(None)], &[process(7, vec![bare])]).unwrap_err();
        assert!(error.contains("without descriptor"), "{error}");
    }
}

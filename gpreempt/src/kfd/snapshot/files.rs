// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a picture is made of, read and parsed; and what of it is lacking, told once.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::thread::sleep;
use std::time::Duration;

use super::{Gpu, Lack, ReadStates, Runlist, Want};
use crate::event::{GpuId, Pid, QueueId};
use crate::kfd::hqds::{NodeHqds, SlotKind};
use crate::kfd::mqds::{MqdKind, ProcessMqds, QueueMqd};
use crate::kfd::queues::SysfsQueue;
use crate::kfd::rls::{Engine, NodeRunlist, Packet};
use crate::kfd::states::{QueueState, States};
use crate::kfd::topology::GpuNode;
use crate::kfd::{hqds, module, mqds, queues, rls, ParseError, Root};

const RLS: &str = "/sys/kernel/debug/kfd/rls";
const HQDS: &str = "/sys/kernel/debug/kfd/hqds";

/// What a recording knows the driver's structs by.
const STATES: &str = "/sys/class/kfd/kfd#queues";

/// How often files that do not fit each other are read anew: the runlist is rewritten at every change, and shown half written.
const TRIES: u32 = 4;
const PAUSE: Duration = Duration::from_millis(2);

/// What could not be found out.
#[derive(Debug, Default)]
pub(super) struct Lacks(pub(super) Vec<Lack>);

impl Lacks {
    pub(super) fn add(&mut self, lack: Lack) {
        if !self.0.contains(&lack) {
            self.0.push(lack);
        }
    }
}

/// A queue in a runlist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) sdma: bool,
    pub(super) doorbell: u32,
    pub(super) mqd_address: u64,
}

/// Everything that was read.
#[derive(Debug, Default)]
pub(super) struct Files {
    pub(super) pids: Vec<Pid>,
    pub(super) queues: Vec<SysfsQueue>,
    nodes: HashMap<GpuId, u32>,
    states: Option<HashMap<(Pid, GpuId, QueueId), QueueState>>,
    /// By node, the queues in its runlist. Nodes without runlist (MES, no scheduler) have no entry.
    listed: Option<HashMap<GpuId, Vec<Entry>>>,
    runlists: HashMap<GpuId, Runlist>,
    mqds: Arc<Vec<ProcessMqds>>,
    /// Where in it the processes are.
    in_mqds: HashMap<Pid, Vec<usize>>,
    hqds: Vec<NodeHqds>,
}

impl Files {
    pub(super) fn read(
        root: &Root,
        want: Want,
        nodes: &[GpuNode],
        states: ReadStates<'_>,
        lacks: &mut Lacks,
    ) -> Self {
        let mut files = Self {
            nodes: nodes.iter().map(|node| (node.gpu_id, node.node)).collect(),
            ..Self::default()
        };
        let scheduled = scheduled_by_runlist(root, nodes);
        for attempt in 1.. {
            let mut found = Lacks::default();
            files.pids = queues::processes(root).unwrap_or_else(|error| {
                found.add(no_sysfs(&error));
                Vec::new()
            });
            files.queues = queues::of(root, &files.pids);
            files.read_states(root, states, &mut found);
            let whole = files.read_runlists(root, &scheduled, &mut found);
            let last = attempt == TRIES || !root.is_real();
            if last || (whole && files.agree()) {
                found.0.into_iter().for_each(|lack| lacks.add(lack));
                break;
            }
            sleep(PAUSE);
        }
        if !files.queues.is_empty() {
            files.read_mqds(root, lacks);
        }
        if want.hqds {
            files.read_hqds(root, lacks);
        }
        files
    }

    fn read_states(&mut self, root: &Root, states: ReadStates<'_>, lacks: &mut Lacks) {
        self.states = None;
        if self.queues.is_empty() {
            return;
        }
        let what = "state, priority, percentage and doorbell of queues";
        let lack = |why: String, fix: String| Lack {
            what: what.to_owned(),
            why,
            fix,
        };
        let read = root.derived(STATES, |path| match states() {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                let text = std::fs::read_to_string(path)?;
                text.parse::<States>().map_err(io::Error::other)
            }
            other => other,
        });
        match read {
            Ok(States::Known { queues, torn }) => {
                if torn > 0 {
                    lacks.add(lack(
                        format!("the queues of {torn} of the processes changed each time they were read"),
                        "try again".to_owned(),
                    ));
                }
                self.states = Some(queues.into_iter().map(|q| (q.key(), q)).collect());
            }
            Ok(States::Unknown { why, fix }) => lacks.add(lack(why, fix)),
            Err(error) => lacks.add(lack(
                error.to_string(),
                "look at the running machine, as root".to_owned(),
            )),
        }
    }

    /// Whether it could be read whole, or not at all.
    fn read_runlists(&mut self, root: &Root, scheduled: &[GpuId], lacks: &mut Lacks) -> bool {
        self.listed = None;
        self.runlists.clear();
        if scheduled.is_empty() {
            return true;
        }
        let what = "which queues are mapped";
        let nodes = match root.read_text(RLS, rls::parse) {
            Ok(Ok(nodes)) => nodes,
            Err(error) => {
                lacks.add(no_debugfs(what, &error));
                return true;
            }
            Ok(Err(error)) => {
                lacks.add(not_understood(what, RLS, &error));
                return false;
            }
        };
        let ours = || nodes.iter().filter(|node| scheduled.contains(&node.gpu_id));
        self.listed = Some(ours().map(|node| (node.gpu_id, entries(node))).collect());
        self.runlists = ours().map(|node| (node.gpu_id, sum(node))).collect();
        true
    }

    /// Whether the runlists hold the queues that the driver's structs say are active: else one was read before a change and the
    /// other after it.
    fn agree(&self) -> bool {
        let (Some(states), Some(listed)) = (&self.states, &self.listed) else {
            return true;
        };
        let active = states.values().filter(|state| {
            state.active == Some(true) && listed.contains_key(&GpuId(state.gpu_id))
        });
        let entries: usize = listed.values().map(Vec::len).sum();
        let found = active.clone().all(|state| {
            state.doorbell.is_none_or(|doorbell| {
                listed
                    .get(&GpuId(state.gpu_id))
                    .is_some_and(|entries| entries.iter().any(|e| e.doorbell == doorbell))
            })
        });
        let known = self
            .queues
            .iter()
            .all(|queue| states.contains_key(&(queue.pid, queue.gpu_id, queue.queue_id)));
        found && known && active.count() == entries
    }

    fn read_mqds(&mut self, root: &Root, lacks: &mut Lacks) {
        let what = "times of wave saves and restores";
        match root.mqds() {
            Err(error) => lacks.add(no_debugfs(what, &error)),
            Ok(Err(error)) => lacks.add(not_understood(what, mqds::PATH, &error)),
            Ok(Ok(processes)) => {
                for (at, process) in processes.iter().enumerate() {
                    self.in_mqds.entry(process.pid).or_default().push(at);
                }
                self.mqds = processes;
            }
        }
    }

    fn read_hqds(&mut self, root: &Root, lacks: &mut Lacks) {
        let what = "hardware slots of queues";
        match root.read_text(HQDS, hqds::parse) {
            Err(error) => lacks.add(no_debugfs(what, &error)),
            Ok(Err(error)) => lacks.add(not_understood(what, HQDS, &error)),
            Ok(Ok(nodes)) => self.hqds = nodes,
        }
    }

    pub(super) fn state(&self, queue: &SysfsQueue) -> Option<&QueueState> {
        self.states
            .as_ref()?
            .get(&(queue.pid, queue.gpu_id, queue.queue_id))
    }

    /// Whether the driver's structs could be read, be this or that queue in them or not.
    pub(super) fn has_states(&self) -> bool {
        self.states.is_some()
    }

    /// The runlist of a node; `None` where it has none or that cannot be read.
    pub(super) fn listed(&self, gpu_id: GpuId) -> Option<&[Entry]> {
        Some(self.listed.as_ref()?.get(&gpu_id)?)
    }

    /// Descriptors of the queues of a process on a node.
    pub(super) fn mqds(&self, pid: Pid, gpu_id: GpuId) -> impl Iterator<Item = &QueueMqd> {
        self.in_mqds
            .get(&pid)
            .into_iter()
            .flatten()
            .filter_map(|at| self.mqds.get(*at))
            .flat_map(|process| &process.queues)
            .filter(move |mqd| mqd.gpu_id == gpu_id && mqd.kind != MqdKind::Diq)
    }

    pub(super) fn hqds(&self, gpu_id: GpuId) -> Option<&NodeHqds> {
        self.hqds.iter().find(|node| node.gpu_id == gpu_id)
    }

    pub(super) fn node_number(&self, gpu_id: GpuId) -> u32 {
        self.nodes.get(&gpu_id).copied().unwrap_or(u32::MAX)
    }

    pub(super) fn gpu(&self, node: GpuNode) -> Gpu {
        let slots_used = self.hqds(node.gpu_id).and_then(|hqds| {
            let first = hqds
                .slots
                .iter()
                .filter(|slot| matches!(slot.kind, SlotKind::Compute { .. }))
                .map(|slot| slot.xcc)
                .min()?;
            u32::try_from(hqds.compute_slots(first).0).ok()
        });
        Gpu {
            runlist: self.runlists.get(&node.gpu_id).copied(),
            slots_total: u32::try_from(node.num_cp_queues()).unwrap_or(u32::MAX),
            slots_used,
            node,
        }
    }
}

/// Nodes that the driver schedules by runlists.
fn scheduled_by_runlist(root: &Root, nodes: &[GpuNode]) -> Vec<GpuId> {
    if module::is_without_hws(root) {
        return Vec::new();
    }
    nodes
        .iter()
        .filter(|node| !node.has_mes())
        .map(|node| node.gpu_id)
        .collect()
}

fn entries(node: &NodeRunlist) -> Vec<Entry> {
    node.packets
        .iter()
        .flatten()
        .filter_map(|packet| match *packet {
            Packet::MapQueue {
                engine,
                doorbell,
                mqd_address,
                ..
            } => Some(Entry {
                sdma: engine != Engine::Compute,
                doorbell,
                mqd_address,
            }),
            _ => None,
        })
        .collect()
}

fn sum(node: &NodeRunlist) -> Runlist {
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let compute = node.compute_queues();
    Runlist {
        compute_queues: count(compute),
        sdma_queues: count(entries(node).len() - compute),
        processes: count(node.processes()),
        oversubscribed: node.oversubscribed(),
    }
}

fn no_sysfs(error: &io::Error) -> Lack {
    Lack {
        what: "processes and queues".to_owned(),
        why: error.to_string(),
        fix: "mount sysfs on /sys".to_owned(),
    }
}

fn no_debugfs(what: &str, error: &io::Error) -> Lack {
    let why = match error.kind() {
        io::ErrorKind::PermissionDenied => "no permission to read debugfs".to_owned(),
        io::ErrorKind::NotFound if !error.to_string().contains("recording") => {
            "there is no /sys/kernel/debug/kfd".to_owned()
        }
        _ => error.to_string(),
    };
    Lack {
        what: what.to_owned(),
        why,
        fix: "run as root with debugfs mounted on /sys/kernel/debug".to_owned(),
    }
}

fn not_understood(what: &str, path: &str, error: &ParseError) -> Lack {
    Lack {
        what: what.to_owned(),
        why: format!("{path}: {error}"),
        fix: "update gpreempt, or report what this driver prints".to_owned(),
    }
}

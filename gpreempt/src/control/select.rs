// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whom to stop, as the user says it, and which processes and queues that is now.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use super::{ControlError, Target, TargetQueue};
use crate::event::{Comm, GpuId, Pid, QueueId, QueueType};
pub use crate::kfd::name::CgroupGlob;
use crate::kfd::name::{CommGlob, GpuArg};
use crate::kfd::queues::{self, SysfsQueue};
use crate::kfd::{module, process, task, topology, Root};

/// One way to name processes or a queue.
#[derive(Clone, Debug)]
pub enum Selector {
    /// A process.
    Pid(Pid),
    /// A queue.
    Queue(QueueArg),
    /// Every KFD process in, or below, a cgroup whose path matches.
    Cgroup(CgroupGlob),
    /// Every KFD process whose name matches.
    Comm(CommGlob),
}

/// A queue as the user names it: `PID:GPU:QID`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueArg {
    /// Its process.
    pub pid: Pid,
    /// Its node.
    pub gpu: GpuArg,
    /// Its id.
    pub queue_id: QueueId,
}

impl FromStr for QueueArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let expected = || "expected PID:GPU:QUEUE, as in 1234:52a1:0".to_owned();
        let mut parts = text.split(':');
        let (Some(pid), Some(gpu), Some(queue), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(expected());
        };
        Ok(Self {
            pid: pid_arg(pid).map_err(|_| expected())?,
            gpu: gpu.parse()?,
            queue_id: QueueId(queue.parse().map_err(|_| expected())?),
        })
    }
}

/// A pid on the command line: 1 to the highest that the kernel can have.
///
/// # Errors
/// What is expected instead.
pub fn pid_arg(text: &str) -> Result<Pid, String> {
    // PID_MAX_LIMIT is 2^22; whatever fits pid_t is left to the kernel to know or not.
    match text.parse::<i32>() {
        Ok(pid) if pid > 0 => u32::try_from(pid).map(Pid).map_err(|e| e.to_string()),
        _ => Err("expected a process id, 1 or more".to_owned()),
    }
}

/// Restricts what is selected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Only {
    /// Queues of this node.
    pub gpu: Option<GpuId>,
    /// No SDMA queues.
    pub no_sdma: bool,
}

impl Only {
    /// Whether a queue is meant.
    #[must_use]
    pub fn admits(&self, queue: &TargetQueue) -> bool {
        self.gpu.is_none_or(|gpu| gpu == queue.gpu_id)
            && !(self.no_sdma && queue.queue_type.is_sdma())
    }
}

/// Why a selector names nothing that can be acted on.
#[derive(Debug, thiserror::Error)]
pub enum SelectError {
    /// There is no driver, or this program cannot see the host's processes.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// No process has this pid.
    #[error("no process {pid}: `gpreempt watch` shows the processes that have queues")]
    NoProcess {
        /// Asked for.
        pid: Pid,
    },
    /// The pid is that of a thread.
    #[error("{pid} is a thread of process {group}: use that pid")]
    Thread {
        /// Asked for.
        pid: Pid,
        /// Its process.
        group: Pid,
    },
    /// The pid is one inside a container.
    #[error(
        "{}; in a container, {pid} is {}: use the pid of the host{}",
        .here.as_ref().map_or_else(
            || format!("no KFD process {pid} on the host"),
            |comm| format!("process {pid} ({comm}) of the host is not a KFD process")
        ),
        inside(.hosts),
        .hosts.first().filter(|_| .hosts.len() == 1).map_or_else(String::new, |(pid, _)| format!(" (--pid {pid})"))
    )]
    ContainerPid {
        /// Asked for.
        pid: Pid,
        /// Whom the host knows by that pid.
        here: Option<Comm>,
        /// Who has it in a pid namespace.
        hosts: Vec<(Pid, Comm)>,
    },
    /// The process does not use a GPU for computing.
    #[error("process {pid} ({comm}) is not a KFD process: it has not opened /dev/kfd (or is exiting), so it has no queues to stop")]
    NotKfd {
        /// Asked for.
        pid: Pid,
        /// Its name.
        comm: Comm,
    },
    /// No node has this id.
    #[error("no GPU {gpu}; there {}", gpus(.there))]
    NoGpu {
        /// Asked for.
        gpu: GpuArg,
        /// Those that are.
        there: Vec<GpuId>,
    },
    /// Two nodes fit, one read as decimal and one as hexadecimal.
    #[error(
        "GPU {gpu} is {first} in hexadecimal or {second} in decimal: write 0x{first} or 0x{second}"
    )]
    AmbiguousGpu {
        /// Asked for.
        gpu: GpuArg,
        /// One.
        first: GpuId,
        /// The other.
        second: GpuId,
    },
    /// The process has no such queue.
    #[error("process {pid} ({comm}) has no queue {queue_id} on GPU {gpu_id}; it has {}", queue_list(.has))]
    NoQueue {
        /// Its process.
        pid: Pid,
        /// The process's name.
        comm: Comm,
        /// Node asked for.
        gpu_id: GpuId,
        /// Id asked for.
        queue_id: QueueId,
        /// What it has.
        has: Vec<TargetQueue>,
    },
    /// A queue was named that the other options leave out.
    #[error("queue {queue_id} of process {pid} on GPU {gpu_id} is left out by {option}: give one or the other")]
    LeftOut {
        /// Its process.
        pid: Pid,
        /// Node.
        gpu_id: GpuId,
        /// Id.
        queue_id: QueueId,
        /// Which option.
        option: &'static str,
    },
    /// The selector names this program.
    #[error("{pid} is gpreempt itself")]
    Myself {
        /// Ours.
        pid: Pid,
    },
    /// No KFD process matches.
    #[error("no KFD process matches {option} '{}'; {}", crate::event::Escaped(.pattern.as_bytes()), candidates(.there))]
    NothingMatches {
        /// `--comm` or `--cgroup`.
        option: &'static str,
        /// The pattern.
        pattern: String,
        /// KFD processes there are.
        there: Vec<(Pid, Comm)>,
    },
}

fn inside(hosts: &[(Pid, Comm)]) -> String {
    let names: Vec<String> = hosts
        .iter()
        .map(|(pid, comm)| format!("{comm}, on the host {pid}"))
        .collect();
    names.join("; or ")
}

fn gpus(there: &[GpuId]) -> String {
    match there {
        [] => "is none: `gpreempt doctor` says why".to_owned(),
        [one] => format!("is {one}"),
        many => {
            let names: Vec<String> = many.iter().map(ToString::to_string).collect();
            format!("are {}", names.join(", "))
        }
    }
}

fn queue_list(queues: &[TargetQueue]) -> String {
    if queues.is_empty() {
        return "none now".to_owned();
    }
    let names: Vec<String> = queues
        .iter()
        .map(|queue| format!("{}:{}", queue.gpu_id, queue.queue_id))
        .collect();
    names.join(", ")
}

fn candidates(there: &[(Pid, Comm)]) -> String {
    const SHOWN: usize = 8;
    if there.is_empty() {
        return "no process has /dev/kfd open".to_owned();
    }
    let mut names: Vec<String> = there
        .iter()
        .take(SHOWN)
        .map(|(pid, comm)| format!("{comm}[{pid}]"))
        .collect();
    if there.len() > SHOWN {
        names.push(format!("{} more", there.len() - SHOWN));
    }
    format!("there are {}", names.join(", "))
}

/// A node by the name that the user gave it.
///
/// # Errors
/// No such node, or two.
pub fn gpu(root: &Root, arg: GpuArg) -> Result<GpuId, SelectError> {
    let there: Vec<GpuId> = topology::read(root)
        .into_iter()
        .map(|node| node.gpu_id)
        .collect();
    let mut fitting = there.iter().copied().filter(|id| arg.is(*id));
    match (fitting.next(), fitting.next()) {
        (Some(one), None) => Ok(one),
        (Some(first), Some(second)) => Err(SelectError::AmbiguousGpu {
            gpu: arg,
            first,
            second,
        }),
        _ => Err(SelectError::NoGpu { gpu: arg, there }),
    }
}

/// Says why nothing can be selected here at all.
///
/// # Errors
/// No driver, or a pid namespace of our own.
pub fn check_host(root: &Root) -> Result<(), ControlError> {
    if module::loaded(root).is_none() {
        let absent = module::absent(root);
        return Err(ControlError::Unavailable {
            what: absent.why,
            fix: absent.fix,
        });
    }
    if !process::sees_host_pids(root) {
        return Err(ControlError::Unavailable {
            what: "gpreempt runs in a pid namespace of its own, where the driver's pids mean nothing".to_owned(),
            fix: "run it on the host, or in a container with the host's pid namespace (docker run --pid=host)".to_owned(),
        });
    }
    Ok(())
}

/// The processes and queues that the selectors name now, by pid. The union of all: a process named as a whole and by a queue is
/// meant as a whole.
///
/// # Errors
/// The first selector that names nothing. So it is all of them or none.
pub fn resolve(
    root: &Root,
    selectors: &[Selector],
    only: Only,
) -> Result<Vec<Target>, SelectError> {
    check_host(root)?;
    let now = Now::read(root)?;
    let mut chosen: BTreeMap<Pid, Chosen> = BTreeMap::new();
    for selector in selectors {
        match selector {
            Selector::Pid(pid) => {
                now.process(root, *pid)?;
                chosen.insert(*pid, Chosen::Whole);
            }
            Selector::Queue(arg) => {
                let queue = now.queue(root, *arg, only)?;
                if let Chosen::Queues(queues) = chosen
                    .entry(arg.pid)
                    .or_insert_with(|| Chosen::Queues(BTreeSet::new()))
                {
                    queues.insert((queue.gpu_id, queue.queue_id));
                }
            }
            Selector::Cgroup(glob) => {
                let matching = now.matching(|pid, _| {
                    process::cgroups(root, pid)
                        .iter()
                        .any(|path| glob.matches(path))
                });
                let pids = now.some(matching, "--cgroup", &glob)?;
                chosen.extend(pids.into_iter().map(|pid| (pid, Chosen::Whole)));
            }
            Selector::Comm(glob) => {
                let matching = now.matching(|_, comm| glob.matches(comm));
                let pids = now.some(matching, "--comm", &glob)?;
                chosen.extend(pids.into_iter().map(|pid| (pid, Chosen::Whole)));
            }
        }
    }
    Ok(chosen
        .into_iter()
        .filter_map(|(pid, chosen)| now.target(root, pid, &chosen, only))
        .collect())
}

/// Every KFD process but this one, as a whole.
///
/// # Errors
/// No driver, or a pid namespace of our own.
pub fn everybody(root: &Root, only: Only) -> Result<Vec<Target>, SelectError> {
    check_host(root)?;
    let now = Now::read(root)?;
    Ok(now
        .processes
        .keys()
        .filter_map(|pid| now.target(root, *pid, &Chosen::Whole, only))
        .collect())
}

enum Chosen {
    Whole,
    Queues(BTreeSet<(GpuId, QueueId)>),
}

/// The KFD processes there are, but this one.
struct Now {
    processes: BTreeMap<Pid, Comm>,
    queues: Vec<SysfsQueue>,
}

impl Now {
    fn read(root: &Root) -> Result<Self, ControlError> {
        let failed = |e: std::io::Error| ControlError::Failed(e.into());
        // Queues first: a queue whose process then is gone is dropped, a process never lacks its queues.
        let queues = queues::read(root).map_err(failed)?;
        let processes = queues::processes(root)
            .map_err(failed)?
            .into_iter()
            .filter(|pid| pid.0 != std::process::id())
            .filter_map(|pid| Some((pid, task::comm(root, pid)?)))
            .collect();
        Ok(Self { processes, queues })
    }

    fn process(&self, root: &Root, pid: Pid) -> Result<Comm, SelectError> {
        if pid.0 == std::process::id() {
            return Err(SelectError::Myself { pid });
        }
        if let Some(comm) = self.processes.get(&pid) {
            return Ok(*comm);
        }
        let here = task::comm(root, pid);
        let hosts: Vec<(Pid, Comm)> = self
            .processes
            .iter()
            .filter(|(host, _)| {
                process::ns_pids(root, **host)
                    .iter()
                    .skip(1)
                    .any(|n| *n == pid.0)
            })
            .map(|(host, comm)| (*host, *comm))
            .collect();
        if !hosts.is_empty() {
            return Err(SelectError::ContainerPid { pid, here, hosts });
        }
        let Some(comm) = here else {
            return Err(SelectError::NoProcess { pid });
        };
        Err(match process::group_of(root, pid) {
            Some(group) if group != pid => SelectError::Thread { pid, group },
            _ => SelectError::NotKfd { pid, comm },
        })
    }

    fn queues_of(&self, pid: Pid) -> impl Iterator<Item = TargetQueue> + '_ {
        self.queues
            .iter()
            .filter(move |queue| queue.pid == pid)
            .map(|queue| TargetQueue {
                gpu_id: queue.gpu_id,
                queue_id: queue.queue_id,
                queue_type: QueueType::from_raw(queue.queue_type),
            })
    }

    fn queue(&self, root: &Root, arg: QueueArg, only: Only) -> Result<TargetQueue, SelectError> {
        let QueueArg { pid, queue_id, .. } = arg;
        let comm = self.process(root, pid)?;
        let gpu_id = gpu(root, arg.gpu)?;
        let Some(queue) = self
            .queues_of(pid)
            .find(|queue| queue.gpu_id == gpu_id && queue.queue_id == queue_id)
        else {
            return Err(SelectError::NoQueue {
                pid,
                comm,
                gpu_id,
                queue_id,
                has: self.queues_of(pid).collect(),
            });
        };
        if only.admits(&queue) {
            return Ok(queue);
        }
        let option = if only.gpu.is_some_and(|gpu| gpu != gpu_id) {
            "--gpu"
        } else {
            "--no-sdma"
        };
        Err(SelectError::LeftOut {
            pid,
            gpu_id,
            queue_id,
            option,
        })
    }

    fn matching(&self, fits: impl Fn(Pid, &Comm) -> bool) -> Vec<Pid> {
        self.processes
            .iter()
            .filter(|(pid, comm)| fits(**pid, comm))
            .map(|(pid, _)| *pid)
            .collect()
    }

    fn some(
        &self,
        pids: Vec<Pid>,
        option: &'static str,
        pattern: &impl fmt::Display,
    ) -> Result<Vec<Pid>, SelectError> {
        if pids.is_empty() {
            let there = self.processes.iter().map(|(pid, comm)| (*pid, *comm));
            return Err(SelectError::NothingMatches {
                option,
                pattern: pattern.to_string(),
                there: there.collect(),
            });
        }
        Ok(pids)
    }

    /// `None` if the process ended meanwhile.
    fn target(&self, root: &Root, pid: Pid, chosen: &Chosen, only: Only) -> Option<Target> {
        let meant = |queue: &TargetQueue| match chosen {
            Chosen::Whole => true,
            Chosen::Queues(queues) => queues.contains(&(queue.gpu_id, queue.queue_id)),
        };
        Some(Target {
            pid,
            start_ticks: process::start_ticks(root, pid)?,
            comm: *self.processes.get(&pid)?,
            queues: self
                .queues_of(pid)
                .filter(|queue| meant(queue) && only.admits(queue))
                .collect(),
            whole: matches!(chosen, Chosen::Whole),
        })
    }
}

#[cfg(test)]
mod tests;

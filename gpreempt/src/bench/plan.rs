// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is measured: sets of a job's queues, each stopped and restarted in one call and, where it has parts, one by one.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::Serialize;

use crate::control::{BackendKind, Target, TargetQueue};
use crate::event::{Pid, QueueType};

/// How many queues of the job are stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// That many.
    Queues(usize),
    /// Every queue of every process.
    All,
}

impl FromStr for Count {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse() {
            Ok(0) | Err(_) if text != "all" => Err("expected a number from 1, or all".to_owned()),
            Ok(n) => Ok(Self::Queues(n)),
            Err(_) => Ok(Self::All),
        }
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Queues(n) => n.fmt(f),
            Self::All => f.write_str("all"),
        }
    }
}

/// Into how many calls of the backend one stop is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Calls {
    /// All in one call of the backend, which may need several system calls for it.
    Batch,
    /// One after the other, a call for each process.
    PerProcess,
    /// One after the other, a call for each queue.
    PerQueue,
}

/// A set of queues and how it is stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// Number of the set. Cases of one set differ in [`Case::calls`] only.
    pub set: usize,
    /// Processes concerned.
    pub processes: usize,
    /// Queues concerned.
    pub queues: usize,
    /// Whether it is every queue of these processes.
    pub whole: bool,
    /// Calls.
    pub calls: Calls,
    /// Measured in every so manieth round: many calls take long, and a job stopped for long is no longer the same job.
    pub every: u32,
    /// What each call names.
    pub parts: Vec<Vec<Target>>,
}

impl Case {
    /// Every target, for looking whether all are stopped.
    #[must_use]
    pub fn targets(&self) -> Vec<Target> {
        self.parts.iter().flatten().cloned().collect()
    }

    /// Why a backend cannot do this.
    #[must_use]
    pub fn impossible_for(&self, backend: BackendKind) -> Option<&'static str> {
        (backend == BackendKind::Criu && (!self.whole || self.calls == Calls::PerQueue))
            .then_some("pauses whole processes only")
    }
}

/// `64 queues of 4 processes`, `all 18 queues of 1 process, a call each`.
impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = if self.whole { "all " } else { "" };
        if self.whole || self.processes > 1 {
            let of = plural(self.processes, "process", "es");
            write!(f, "{all}{} of {of}", plural(self.queues, "queue", "s"))?;
        } else {
            f.write_str(&plural(self.queues, "queue", "s"))?;
        }
        f.write_str(match self.calls {
            Calls::Batch => "",
            Calls::PerProcess => ", a call per process",
            Calls::PerQueue => ", a call per queue",
        })
    }
}

pub(super) fn plural(n: usize, what: &str, more: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { more })
}

/// What is measured and what of the wish cannot be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// In order of size.
    pub cases: Vec<Case>,
    /// What was asked for, and why it is not measured.
    pub left_out: Vec<(String, String)>,
}

/// As many processes as the comparison with one is about.
const SEVERAL: usize = 4;

impl Plan {
    /// For a job of these processes or queues of them.
    #[must_use]
    pub fn new(job: &[Target], counts: &[Count]) -> Self {
        let mut by_size: Vec<&Target> = job.iter().filter(|t| !t.queues.is_empty()).collect();
        by_size.sort_by_key(|target| (std::cmp::Reverse(target.queues.len()), target.pid));
        let total: usize = by_size.iter().map(|target| target.queues.len()).sum();

        let mut plan = Self::default();
        let mut sets: Vec<Vec<Target>> = Vec::new();
        for count in counts {
            match count {
                Count::All => sets.push(by_size.iter().copied().cloned().collect()),
                Count::Queues(n) if *n <= total => sets.push(some(&by_size, *n)),
                Count::Queues(n) => plan.left_out.push((
                    plural(*n, "queue", "s"),
                    format!("the job has {}", plural(total, "queue", "s")),
                )),
            }
        }
        sets.extend(by_size.first().map(|target| vec![(*target).clone()]));
        if by_size.len() >= SEVERAL {
            sets.push(by_size[..SEVERAL].iter().copied().cloned().collect());
        } else {
            plan.left_out.push((
                plural(SEVERAL, "process", "es"),
                format!("the job has {}", plural(by_size.len(), "process", "es")),
            ));
        }
        sets.sort_by_key(|set| (queues(set), set.len()));
        let mut seen = BTreeSet::new();
        sets.retain(|set| !set.is_empty() && seen.insert(names(set)));

        for (at, set) in sets.into_iter().enumerate() {
            plan.cases.extend(cases(at, set));
        }
        plan
    }
}

fn queues(set: &[Target]) -> usize {
    set.iter().map(|target| target.queues.len()).sum()
}

fn names(set: &[Target]) -> Vec<(Pid, TargetQueue)> {
    let mut names: Vec<_> = set
        .iter()
        .flat_map(|target| target.queues.iter().map(|queue| (target.pid, *queue)))
        .collect();
    names.sort_unstable();
    names
}

/// So many queues of as few processes as possible, compute queues first. A process that is needed to the last queue is
/// named as a whole.
fn some(by_size: &[&Target], n: usize) -> Vec<Target> {
    let mut set = Vec::new();
    let mut left = n;
    while left > 0 {
        let free = || {
            by_size
                .iter()
                .filter(|t| !set.iter().any(|s: &Target| s.pid == t.pid))
        };
        // The smallest that is enough, else the largest there is.
        let Some(target) = free()
            .rfind(|target| target.queues.len() >= left)
            .or_else(|| free().next())
        else {
            break;
        };
        let mut queues = target.queues.clone();
        queues.sort_by_key(|queue| (queue.queue_type != QueueType::Compute, *queue));
        queues.truncate(left);
        left -= queues.len();
        set.push(Target {
            whole: target.whole && queues.len() == target.queues.len(),
            queues,
            ..(*target).clone()
        });
    }
    set
}

fn cases(at: usize, set: Vec<Target>) -> Vec<Case> {
    let queues = queues(&set);
    let case = |calls, every, parts| Case {
        set: at,
        processes: set.len(),
        queues,
        whole: set.iter().all(|target| target.whole),
        calls,
        every,
        parts,
    };
    let mut cases = vec![case(Calls::Batch, 1, vec![set.clone()])];
    if set.len() > 1 {
        let parts = set.iter().map(|target| vec![target.clone()]).collect();
        cases.push(case(Calls::PerProcess, 1, parts));
    }
    if queues > 1 && queues > set.len() {
        let parts = set
            .iter()
            .flat_map(|target| {
                target.queues.iter().map(|queue| {
                    vec![Target {
                        queues: vec![*queue],
                        whole: false,
                        ..target.clone()
                    }]
                })
            })
            .collect();
        let every = u32::try_from(queues / 10).unwrap_or(u32::MAX).max(1);
        cases.push(case(Calls::PerQueue, every, parts));
    }
    cases
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Comm, GpuId, QueueId};

    fn job(sizes: &[usize]) -> Vec<Target> {
        (0u32..)
            .zip(sizes)
            .map(|(at, size)| Target {
                pid: Pid(100 + at),
                start_ticks: 1,
                comm: Comm::from_procfs(b"load\n"),
                queues: (0u32..)
                    .take(*size)
                    .map(|id| TargetQueue {
                        gpu_id: GpuId(0x52a1),
                        queue_id: QueueId(id),
                        queue_type: if id == 0 {
                            QueueType::Sdma
                        } else {
                            QueueType::Compute
                        },
                    })
                    .collect(),
                whole: true,
            })
            .collect()
    }

    fn shown(sizes: &[usize], counts: &str) -> (Vec<String>, Vec<String>) {
        let counts: Vec<Count> = counts.split(',').map(|c| c.parse().unwrap()).collect();
        let plan = Plan::new(&job(sizes), &counts);
        (
            plan.cases.iter().map(ToString::to_string).collect(),
            plan.left_out
                .iter()
                .map(|(what, why)| format!("{what}: {why}"))
                .collect(),
        )
    }

    #[test]
    fn four_processes_of_sixteen() {
        let (cases, left_out) = shown(&[16, 16, 16, 16], "1,10,64,all");
        assert_eq!(
            cases,
            [
                "1 queue",
                "10 queues",
                "10 queues, a call per queue",
                "all 16 queues of 1 process",
                "all 16 queues of 1 process, a call per queue",
                "all 64 queues of 4 processes",
                "all 64 queues of 4 processes, a call per process",
                "all 64 queues of 4 processes, a call per queue",
            ],
            "64, all and four processes are the same set"
        );
        assert!(left_out.is_empty());
    }

    #[test]
    fn what_the_job_does_not_have_is_said() {
        let (cases, left_out) = shown(&[2], "1,10,all");
        assert_eq!(
            cases,
            [
                "1 queue",
                "all 2 queues of 1 process",
                "all 2 queues of 1 process, a call per queue"
            ]
        );
        assert_eq!(
            left_out,
            [
                "10 queues: the job has 2 queues",
                "4 processes: the job has 1 process"
            ]
        );
        assert_eq!(shown(&[], "all").0, Vec::<String>::new());
    }

    #[test]
    fn queues_come_from_as_few_processes_as_can_be() {
        let plan = Plan::new(&job(&[2, 12, 11]), &[Count::Queues(10), Count::Queues(13)]);
        let sets: Vec<_> = plan
            .cases
            .iter()
            .filter(|case| case.calls == Calls::Batch)
            .map(|case| {
                let parts = case.targets();
                (
                    parts
                        .iter()
                        .map(|t| (t.pid.0, t.queues.len(), t.whole))
                        .collect::<Vec<_>>(),
                    case.whole,
                )
            })
            .collect();
        assert_eq!(
            sets,
            [
                (vec![(102, 10, false)], false),
                (vec![(101, 12, true)], true),
                (vec![(101, 12, true), (100, 1, false)], false),
            ]
        );
        let compute = &plan.cases[0].parts[0][0].queues;
        assert!(compute.iter().all(|q| q.queue_type == QueueType::Compute));
    }

    #[test]
    fn parts_are_the_same_queues() {
        for case in Plan::new(&job(&[16, 16, 3, 5]), &[Count::Queues(20), Count::All]).cases {
            assert_eq!(queues(&case.targets()), case.queues);
            let calls = match case.calls {
                Calls::Batch => 1,
                Calls::PerProcess => case.processes,
                Calls::PerQueue => case.queues,
            };
            assert_eq!(case.parts.len(), calls, "{case}");
        }
    }

    #[test]
    fn counts_are_numbers_or_all() {
        assert_eq!("all".parse(), Ok(Count::All));
        assert_eq!("64".parse(), Ok(Count::Queues(64)));
        assert!("0".parse::<Count>().is_err());
        assert!("-1".parse::<Count>().is_err());
        assert!("".parse::<Count>().is_err());
    }
}

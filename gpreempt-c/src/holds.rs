// SPDX-License-Identifier: MIT OR Apache-2.0
//! Queues of other processes that this handle holds, by the ioctls of a patched driver: there the kernel ends a hold with its
//! lease and with its holder. By other means it takes a supervisor that kills a holder which is late, and that a library must not
//! do to its program: on other drivers the daemon holds, and programs give it hints.

use std::collections::BTreeMap;
use std::time::Duration;

use gpreempt::control::patched::Patched;
use gpreempt::control::{
    select, Backend as _, ControlError, HoldOptions, Outcome, Target, TargetOutcome, TargetQueue,
};
use gpreempt::event::{Comm, GpuId, Pid, QueueId, QueueType};
use gpreempt::kfd::queues::{self, SysfsQueue};
use gpreempt::kfd::{process, task, Root};

use crate::abi::*;
use crate::error::{of_refusal, Error, Result};

pub(crate) struct Holds {
    root: Root,
    driver: Option<Patched>,
    /// Processes that are held as a whole, and when they started.
    whole: BTreeMap<Pid, u64>,
    /// A GPU did not answer: nothing more is stopped.
    hung: bool,
}

/// What became of a call: an element for each queue that was named, and of those that were refused the first.
pub(crate) struct Done {
    pub(crate) results: Vec<gpreempt_result>,
    pub(crate) error: Option<Error>,
}

/// What one element of the caller's array means.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Named {
    Whole,
    Queues(Vec<(GpuId, QueueId)>),
}

impl Holds {
    pub(crate) fn new(root: &Root) -> Self {
        Self {
            root: root.clone(),
            driver: None,
            whole: BTreeMap::new(),
            hung: false,
        }
    }

    /// Stops queues. Those that can be are stopped, whatever becomes of the others.
    pub(crate) fn hold(&mut self, asked: &[gpreempt_queue], lease_ms: u32) -> Result<Done> {
        check(asked)?;
        if !(1..=GPREEMPT_MAX_LEASE_MS).contains(&lease_ms) {
            return Err(Error::invalid(format!(
                "lease_ms is {lease_ms}: 1 to {GPREEMPT_MAX_LEASE_MS} can be"
            )));
        }
        if self.hung {
            return Err(Error::new(
                GPREEMPT_ETIME,
                "a GPU did not answer before: nothing more is stopped through this handle. Restart every GPU process of this \
                 host, and read the kernel log",
            ));
        }
        let options = HoldOptions {
            gpu: None,
            no_sdma: false,
            lease: Duration::from_millis(lease_ms.into()),
        };
        let named: Vec<Result<Named>> = asked.iter().map(|queue| self.named(*queue)).collect();
        let targets = self.targets(asked, &named);
        let outcome = self.driver()?.preempt(&targets, &options)?;
        if outcome.timed_out() {
            self.hung = true;
            // Every process of the host is lost; the refusal is what is told.
            let _ = self.release_all();
        }
        for target in targets.iter().filter(|target| target.whole && !self.hung) {
            let held = |of: &TargetOutcome| of.pid == target.pid && of.refusal.is_none();
            if outcome.targets.iter().any(held) {
                self.whole.insert(target.pid, target.start_ticks);
            }
        }
        Ok(judge(asked, named, &outcome))
    }

    /// Lets queues go. What this handle does not hold is passed over.
    pub(crate) fn release(&mut self, asked: &[gpreempt_queue]) -> Result<Done> {
        check(asked)?;
        if self.driver.is_none() {
            return Ok(nothing(asked.len()));
        }
        let named: Vec<Result<Named>> = asked
            .iter()
            .map(|queue| {
                let named = self.named(*queue)?;
                let pid = Pid(queue.pid.unsigned_abs());
                match named {
                    Named::Queues(_) if self.is_whole(pid) => Err(Error::invalid(format!(
                        "process {pid} is held as a whole and is let go as a whole: name GPREEMPT_ALL_QUEUES and GPREEMPT_ALL_GPUS"
                    ))),
                    named => Ok(named),
                }
            })
            // What has ended is not held any more.
            .map(|named| match named {
                Err(gone) if matches!(gone.code, GPREEMPT_ESRCH | GPREEMPT_ENOENT) => {
                    Ok(Named::Queues(Vec::new()))
                }
                named => named,
            })
            .collect();
        let targets = self.targets(asked, &named);
        let outcome = self.driver()?.resume(&targets)?;
        let whole = targets.iter().filter(|target| target.whole);
        for target in whole {
            let refused = |of: &TargetOutcome| of.pid == target.pid && of.refusal.is_some();
            if !outcome.targets.iter().any(refused) {
                self.whole.remove(&target.pid);
            }
        }
        Ok(judge(asked, named, &outcome))
    }

    /// Lets everything go.
    pub(crate) fn release_all(&mut self) -> Result<Done> {
        self.whole.clear();
        match &mut self.driver {
            None => Ok(nothing(0)),
            Some(driver) => {
                let outcome = driver.resume_all()?;
                Ok(Done {
                    results: Vec::new(),
                    error: outcome.targets.iter().find_map(refused),
                })
            }
        }
    }

    /// Begins the leases anew. What was let go meanwhile is not held again: then everything is let go.
    pub(crate) fn renew(&mut self) -> Result<()> {
        match &mut self.driver {
            None => Ok(()),
            Some(driver) => driver.renew().map_err(|error| {
                // Then nothing is held.
                self.whole.clear();
                error.into()
            }),
        }
    }

    fn is_whole(&self, pid: Pid) -> bool {
        let started = self.whole.get(&pid);
        started.is_some() && started == process::start_ticks(&self.root, pid).as_ref()
    }

    fn driver(&mut self) -> Result<&mut Patched> {
        if self.driver.is_none() {
            select::check_host(&self.root)?;
            let driver = Patched::new(&self.root).map_err(|error| match error {
                ControlError::Unavailable { what, .. } => Error::new(
                    GPREEMPT_ENOTSUP,
                    format!(
                        "{what}; a program can only hold queues itself with the patches of kernel-patch/: let the daemon do it \
                         (`gpreempt serve`) and give it hints"
                    ),
                ),
                other => other.into(),
            })?;
            self.driver = Some(driver);
        }
        // It was just put there.
        self.driver
            .as_mut()
            .ok_or_else(|| Error::new(GPREEMPT_EINTERNAL, "no driver"))
    }

    fn named(&self, asked: gpreempt_queue) -> Result<Named> {
        let pid = Pid(asked.pid.unsigned_abs());
        if process::start_ticks(&self.root, pid).is_none() {
            return Err(Error::new(
                GPREEMPT_ESRCH,
                format!("there is no process {pid}"),
            ));
        }
        let fits = |queue: &SysfsQueue| {
            (asked.gpu_id == GPREEMPT_ALL_GPUS || queue.gpu_id == GpuId(asked.gpu_id))
                && (asked.queue_id == GPREEMPT_ALL_QUEUES
                    || queue.queue_id == QueueId(asked.queue_id))
        };
        match (asked.gpu_id, asked.queue_id) {
            (GPREEMPT_ALL_GPUS, GPREEMPT_ALL_QUEUES) => Ok(Named::Whole),
            (gpu_id, GPREEMPT_ALL_QUEUES) | (gpu_id @ GPREEMPT_ALL_GPUS, _) => {
                let there = queues::of(&self.root, &[pid]);
                let found: Vec<_> = there
                    .iter()
                    .filter(|queue| fits(queue))
                    .map(|queue| (queue.gpu_id, queue.queue_id))
                    .collect();
                match found.is_empty() {
                    false => Ok(Named::Queues(found)),
                    true => Err(Error::new(
                        GPREEMPT_ENOENT,
                        format!(
                            "process {pid} has no such queue (gpu_id {gpu_id}, queue_id {:#x})",
                            asked.queue_id
                        ),
                    )),
                }
            }
            // The driver knows whether there is such a queue.
            (gpu_id, queue_id) => Ok(Named::Queues(vec![(GpuId(gpu_id), QueueId(queue_id))])),
        }
    }

    /// One for each process: one that is named as a whole and by a queue is meant as a whole.
    fn targets(&self, asked: &[gpreempt_queue], named: &[Result<Named>]) -> Vec<Target> {
        let mut all: BTreeMap<Pid, Named> = BTreeMap::new();
        for (queue, named) in asked.iter().zip(named) {
            let Ok(named) = named else { continue };
            let pid = Pid(queue.pid.unsigned_abs());
            match (all.get_mut(&pid), named) {
                (Some(Named::Whole), _) => {}
                (Some(Named::Queues(known)), Named::Queues(more)) => known.extend(more),
                (Some(_) | None, named) => {
                    all.insert(pid, named.clone());
                }
            }
        }
        let target = |(pid, named)| {
            let (whole, mut list) = match named {
                Named::Whole => (true, Vec::new()),
                Named::Queues(list) => (false, list),
            };
            list.sort_unstable();
            list.dedup();
            Some(Target {
                pid,
                start_ticks: process::start_ticks(&self.root, pid)?,
                comm: task::comm(&self.root, pid).unwrap_or_else(|| Comm::from_procfs(b"")),
                queues: list
                    .into_iter()
                    .map(|(gpu_id, queue_id)| TargetQueue {
                        gpu_id,
                        queue_id,
                        // Nobody asks on the way to the ioctl.
                        queue_type: QueueType::Compute,
                    })
                    .collect(),
                whole,
            })
        };
        all.into_iter().filter_map(target).collect()
    }
}

/// What can be told without looking.
fn check(asked: &[gpreempt_queue]) -> Result<()> {
    for (at, queue) in asked.iter().enumerate() {
        if queue.pid <= 0 {
            return Err(Error::invalid(format!(
                "queues[{at}].pid is {}: no process has that",
                queue.pid
            )));
        }
        if queue.pid.unsigned_abs() == std::process::id() {
            return Err(Error::invalid(format!(
                "queues[{at}] is this process itself, which could not let itself go"
            )));
        }
        if queue.reserved != 0 {
            return Err(Error::invalid(format!("queues[{at}].reserved is not 0")));
        }
    }
    Ok(())
}

fn nothing(count: usize) -> Done {
    Done {
        results: vec![gpreempt_result::default(); count],
        error: None,
    }
}

fn refused(outcome: &TargetOutcome) -> Option<Error> {
    let refusal = outcome.refusal.as_ref()?;
    Some(Error::new(
        of_refusal(refusal),
        format!("process {}: {refusal}", outcome.pid),
    ))
}

/// Says of each element what became of it, and of the call its worst.
fn judge(asked: &[gpreempt_queue], named: Vec<Result<Named>>, outcome: &Outcome) -> Done {
    let mut results = Vec::with_capacity(asked.len());
    let mut first: Option<Error> = None;
    for (queue, named) in asked.iter().zip(named) {
        let mut result = gpreempt_result::default();
        let mut error = None;
        match named {
            Err(refused) => error = Some(refused),
            Ok(named) => {
                for target in outcome.targets.iter().filter(|of| meant(queue, &named, of)) {
                    result.queues = result.queues.saturating_add(target.queues);
                    result.changed = result.changed.saturating_add(target.changed);
                    error = error.or_else(|| refused(target));
                }
            }
        }
        if let Some(error) = error {
            result.code = error.code;
            first.get_or_insert(error);
        }
        results.push(result);
    }
    let some_done = results.iter().any(|result| result.code == GPREEMPT_OK);
    if let Some(error) = &mut first {
        if outcome.timed_out() {
            error.code = GPREEMPT_ETIME;
        } else if some_done {
            error.code = GPREEMPT_EPARTIAL;
        }
    }
    Done {
        results,
        error: first,
    }
}

fn meant(asked: &gpreempt_queue, named: &Named, outcome: &TargetOutcome) -> bool {
    outcome.pid.0 == asked.pid.unsigned_abs()
        && match (outcome.queue, named) {
            (None, _) | (_, Named::Whole) => true,
            (Some(queue), Named::Queues(list)) => list.contains(&queue),
        }
}

#[cfg(test)]
mod tests {
    use gpreempt::control::Refusal;
    use nix::errno::Errno;

    use super::*;

    fn queue(pid: i32, gpu_id: u32, queue_id: u32) -> gpreempt_queue {
        gpreempt_queue {
            pid,
            gpu_id,
            queue_id,
            reserved: 0,
        }
    }

    fn outcome(pid: u32, queue: Option<(u32, u32)>, errno: Option<Errno>) -> TargetOutcome {
        TargetOutcome {
            pid: Pid(pid),
            queue: queue.map(|(gpu, id)| (GpuId(gpu), QueueId(id))),
            queues: u32::from(errno.is_none()),
            changed: u32::from(errno.is_none()),
            refusal: errno.map(|errno| Refusal {
                call: "call",
                errno: Some(errno),
                what: "what".to_owned(),
                fix: "fix".to_owned(),
            }),
            kept_off: None,
        }
    }

    #[test]
    fn each_queue_has_the_outcome_that_is_its_own() {
        let asked = [
            queue(5, 1, 2),
            queue(5, 1, 3),
            queue(6, 0, GPREEMPT_ALL_QUEUES),
        ];
        let named = vec![
            Ok(Named::Queues(vec![(GpuId(1), QueueId(2))])),
            Ok(Named::Queues(vec![(GpuId(1), QueueId(3))])),
            Ok(Named::Whole),
        ];
        let outcome = Outcome {
            targets: vec![
                outcome(5, Some((1, 2)), None),
                outcome(5, Some((1, 3)), Some(Errno::ENOENT)),
                outcome(6, None, Some(Errno::EPERM)),
            ],
            ..Outcome::default()
        };
        let done = judge(&asked, named, &outcome);
        let codes: Vec<i32> = done.results.iter().map(|result| result.code).collect();
        assert_eq!(codes, [GPREEMPT_OK, GPREEMPT_ENOENT, GPREEMPT_EPERM]);
        assert_eq!(done.results[0].queues, 1);
        let error = done.error.unwrap();
        assert_eq!(error.code, GPREEMPT_EPARTIAL);
        assert!(error.message.contains("process 5"), "{}", error.message);
    }

    #[test]
    fn a_call_of_which_nothing_was_done_has_the_code_of_the_first() {
        let asked = [queue(5, 0, GPREEMPT_ALL_QUEUES)];
        let refused = Outcome {
            targets: vec![outcome(5, None, Some(Errno::EBUSY))],
            ..Outcome::default()
        };
        let done = judge(&asked, vec![Ok(Named::Whole)], &refused);
        assert_eq!(done.error.unwrap().code, GPREEMPT_EBUSY);
    }

    #[test]
    fn a_gpu_that_does_not_answer_is_more_than_a_partial_result() {
        let asked = [
            queue(5, 0, GPREEMPT_ALL_QUEUES),
            queue(6, 0, GPREEMPT_ALL_QUEUES),
        ];
        let lost = Outcome {
            targets: vec![outcome(5, None, None), outcome(6, None, Some(Errno::ETIME))],
            ..Outcome::default()
        };
        let done = judge(&asked, vec![Ok(Named::Whole), Ok(Named::Whole)], &lost);
        assert_eq!(done.error.unwrap().code, GPREEMPT_ETIME);
    }

    #[test]
    fn a_process_named_twice_is_one_target() {
        let child = std::process::Command::new("sleep").arg("60").spawn();
        let mut child = child.unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let holds = Holds::new(&Root::real());
        let asked = [queue(pid, 1, 2), queue(pid, 1, 2), queue(pid, 1, 3)];
        let named: Vec<_> = asked.iter().map(|queue| holds.named(*queue)).collect();
        let targets = holds.targets(&asked, &named);
        assert_eq!(targets.len(), 1);
        assert_eq!((targets[0].queues.len(), targets[0].whole), (2, false));
        let asked = [queue(pid, 1, 2), queue(pid, 0, GPREEMPT_ALL_QUEUES)];
        let named: Vec<_> = asked.iter().map(|queue| holds.named(*queue)).collect();
        assert!(holds.targets(&asked, &named)[0].whole);
        // It has no queues.
        let none = holds.named(queue(pid, 0, 1)).unwrap_err();
        assert_eq!(none.code, GPREEMPT_ENOENT);
        child.kill().unwrap();
        child.wait().unwrap();
        let gone = holds.named(asked[0]).unwrap_err();
        assert_eq!(gone.code, GPREEMPT_ESRCH);
    }
}

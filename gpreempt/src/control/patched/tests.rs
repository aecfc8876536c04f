// SPDX-License-Identifier: MIT OR Apache-2.0
//! The backend on a driver of our own making.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use super::super::TargetQueue;
use super::*;
use crate::event::{Comm, QueueType};

/// Processes and their queues' holds, and what was called.
#[derive(Default)]
struct Fake {
    /// (pid, queue) -> held.
    queues: BTreeMap<(i32, u32), bool>,
    /// Status of holds of this pid.
    status: BTreeMap<i32, Errno>,
    /// Whole calls of this number fail.
    fail_call: Option<usize>,
    /// Queues of this pid stay in the runlist.
    stubborn: Option<i32>,
    /// Queues of this pid are evicted.
    evicted: Option<i32>,
    calls: Vec<(&'static str, BatchArgs, Vec<Entry>)>,
}

#[derive(Clone, Default)]
struct Driver(Arc<Mutex<Fake>>);

impl Driver {
    fn with(queues: &[(i32, u32)]) -> Self {
        let driver = Self::default();
        driver.0.lock().unwrap().queues = queues.iter().map(|key| (*key, false)).collect();
        driver
    }

    fn backend(&self) -> Patched {
        Patched::with(Box::new(self.clone()))
    }

    fn held(&self) -> Vec<(i32, u32)> {
        let fake = self.0.lock().unwrap();
        fake.queues
            .iter()
            .filter(|(_, held)| **held)
            .map(|(key, _)| *key)
            .collect()
    }

    fn call(
        &mut self,
        name: &'static str,
        mut args: BatchArgs,
        entries: &mut [Entry],
        hold: bool,
    ) -> nix::Result<BatchArgs> {
        let mut fake = self.0.lock().unwrap();
        let number = fake.calls.len();
        fake.calls.push((name, args, entries.to_vec()));
        if fake.fail_call == Some(number) {
            return Err(Errno::ENOMEM);
        }
        args.lock_wait_ns = 10 * (number as u64 + 1);
        args.hw_ns = 100;
        for entry in entries {
            let evicted = fake.evicted == Some(entry.pid);
            let refused = fake.status.get(&entry.pid).copied();
            if let Some(errno) = refused.filter(|_| hold) {
                entry.status = -(errno as i32);
                // Upstream of a reset the mark stays: the driver says so.
                if errno != Errno::EIO {
                    continue;
                }
            }
            let stubborn = fake.stubborn == Some(entry.pid);
            let mut matched = 0;
            for ((pid, queue), held) in &mut fake.queues {
                if *pid != entry.pid
                    || (entry.queue_id != abi::ALL_QUEUES && entry.queue_id != *queue)
                {
                    continue;
                }
                matched += 1;
                if *held != hold {
                    entry.n_changed += 1;
                    *held = hold;
                }
                entry.state |= match (*held, evicted) {
                    (true, _) => state::HELD,
                    (false, true) => state::EVICTED,
                    (false, false) => state::ACTIVE,
                };
            }
            if stubborn && hold {
                entry.state |= state::ACTIVE;
            }
            entry.n_matched = matched;
            if matched == 0 && entry.status == 0 {
                let gone = if entry.queue_id == abi::ALL_QUEUES {
                    Errno::ESRCH
                } else {
                    Errno::ENOENT
                };
                entry.status = -(gone as i32);
            }
        }
        Ok(args)
    }
}

impl Calls for Driver {
    fn hold(&mut self, args: BatchArgs, entries: &mut [Entry]) -> nix::Result<BatchArgs> {
        self.call("hold", args, entries, true)
    }

    fn release(&mut self, args: BatchArgs, entries: &mut [Entry]) -> nix::Result<BatchArgs> {
        self.call("release", args, entries, false)
    }
}

const OPTIONS: HoldOptions = HoldOptions {
    gpu: None,
    no_sdma: false,
    lease: Duration::from_secs(5),
};

fn whole(pid: u32) -> Target {
    Target {
        pid: Pid(pid),
        start_ticks: u64::from(pid) + 1000,
        comm: Comm::from_procfs(b"job"),
        queues: Vec::new(),
        whole: true,
    }
}

fn single(pid: u32, queues: &[u32]) -> Target {
    Target {
        queues: queues
            .iter()
            .map(|id| TargetQueue {
                gpu_id: GpuId(0x52a1),
                queue_id: QueueId(*id),
                queue_type: QueueType::Compute,
            })
            .collect(),
        whole: false,
        ..whole(pid)
    }
}

fn last(driver: &Driver) -> (&'static str, BatchArgs, Vec<Entry>) {
    driver.0.lock().unwrap().calls.last().cloned().unwrap()
}

#[test]
fn many_processes_are_one_call() {
    let driver = Driver::with(&[(1, 0), (1, 1), (2, 0)]);
    let mut backend = driver.backend();
    let options = HoldOptions {
        gpu: Some(GpuId(7)),
        no_sdma: true,
        ..OPTIONS
    };
    let outcome = backend.preempt(&[whole(1), whole(2)], &options).unwrap();
    assert!(outcome.complete());
    assert_eq!(
        outcome
            .targets
            .iter()
            .map(|t| (t.queues, t.changed))
            .collect::<Vec<_>>(),
        [(2, 2), (1, 1)]
    );
    assert_eq!((outcome.lock_wait_ns, outcome.hw_ns), (Some(10), Some(100)));
    let (name, args, entries) = last(&driver);
    assert_eq!((name, args.lease_ms, args.flags), ("hold", 5000, 0));
    assert_eq!(entries.len(), 2);
    let entry = entries[0];
    assert_eq!(
        (entry.pid, entry.gpu_id, entry.queue_id),
        (1, 7, abi::ALL_QUEUES)
    );
    assert_eq!(entry.flags, abi::INHERIT | abi::NO_SDMA);
    assert_eq!(entry.start_ticks, 1001);
}

#[test]
fn single_queues_do_not_inherit() {
    let driver = Driver::with(&[(1, 0), (1, 1), (1, 2)]);
    let mut backend = driver.backend();
    let outcome = backend.preempt(&[single(1, &[0, 2])], &OPTIONS).unwrap();
    assert_eq!(outcome.targets.len(), 2);
    assert_eq!(outcome.targets[1].queue, Some((GpuId(0x52a1), QueueId(2))));
    assert_eq!(driver.held(), [(1, 0), (1, 2)]);
    assert!(last(&driver).2.iter().all(|entry| entry.flags == 0));
    let one = backend.resume(&[single(1, &[2])]).unwrap();
    assert_eq!(one.targets.len(), 1);
    assert_eq!(driver.held(), [(1, 0)]);
}

#[test]
fn holding_twice_changes_nothing_and_releases_once() {
    let driver = Driver::with(&[(1, 0)]);
    let mut backend = driver.backend();
    backend.preempt(&[whole(1)], &OPTIONS).unwrap();
    let again = backend.preempt(&[whole(1)], &OPTIONS).unwrap();
    assert_eq!((again.targets[0].queues, again.targets[0].changed), (1, 0));
    let released = backend.resume_all().unwrap();
    assert_eq!(released.targets.len(), 1);
    assert!(driver.held().is_empty());
}

#[test]
fn more_entries_than_a_call_takes_are_several_calls() {
    let pids: Vec<(i32, u32)> = (1..=2500).map(|pid| (pid, 0)).collect();
    let driver = Driver::with(&pids);
    let mut backend = driver.backend();
    let targets: Vec<Target> = (1..=2500).map(whole).collect();
    let outcome = backend.preempt(&targets, &OPTIONS).unwrap();
    assert!(outcome.complete());
    assert_eq!(outcome.targets.len(), 2500);
    assert_eq!(outcome.lock_wait_ns, Some(30), "the longest");
    let sizes: Vec<usize> = driver
        .0
        .lock()
        .unwrap()
        .calls
        .iter()
        .map(|c| c.2.len())
        .collect();
    assert_eq!(sizes, [1024, 1024, 452]);
    drop(backend);
    assert!(driver.held().is_empty(), "dropping releases");
}

#[test]
fn a_call_that_fails_leaves_nothing_held() {
    let pids: Vec<(i32, u32)> = (1..=1500).map(|pid| (pid, 0)).collect();
    let driver = Driver::with(&pids);
    driver.0.lock().unwrap().fail_call = Some(1);
    let mut backend = driver.backend();
    let targets: Vec<Target> = (1..=1500).map(whole).collect();
    let error = backend.preempt(&targets, &OPTIONS).unwrap_err();
    assert!(
        error.to_string().contains("AMDKFD_IOC_BATCH_UNMAP_QUEUES"),
        "{error}"
    );
    assert!(driver.held().is_empty());
}

#[test]
fn what_is_refused_is_named_and_the_rest_is_held() {
    for (errno, words) in [
        (Errno::ESRCH, "has ended"),
        (Errno::ENXIO, "no GPU context"),
        (Errno::EPERM, "another user's"),
        (Errno::EBUSY, "somebody else holds"),
        (Errno::EOPNOTSUPP, "without a hardware scheduler"),
        (Errno::EIO, "being reset"),
        (Errno::ENOTRECOVERABLE, "lost in a reset"),
        (Errno::ETIME, "did not answer in time"),
    ] {
        let driver = Driver::with(&[(1, 0), (2, 0)]);
        driver.0.lock().unwrap().status.insert(2, errno);
        let mut backend = driver.backend();
        let outcome = backend.preempt(&[whole(1), whole(2)], &OPTIONS).unwrap();
        assert!(!outcome.complete());
        assert_eq!(outcome.timed_out(), errno == Errno::ETIME);
        let refusal = outcome.targets[1].refusal.as_ref().unwrap();
        assert!(refusal.what.contains(words), "{errno:?}: {refusal}");
        assert_eq!(refusal.errno, Some(errno));
        assert!(!refusal.fix.is_empty());
        assert_eq!(outcome.targets[1].queues, 0);
        assert_eq!(
            driver.held(),
            [(1, 0)],
            "{errno:?}: a mark that stayed is taken back"
        );
    }
}

#[test]
fn success_with_a_queue_in_the_runlist_is_none() {
    let driver = Driver::with(&[(1, 0)]);
    driver.0.lock().unwrap().stubborn = Some(1);
    let mut backend = driver.backend();
    let outcome = backend.preempt(&[whole(1)], &OPTIONS).unwrap();
    let refusal = outcome.targets[0].refusal.as_ref().unwrap();
    assert!(refusal.what.contains("still in the runlist"), "{refusal}");
    assert!(driver.held().is_empty());
}

#[test]
fn renewing_sends_the_hold_again() {
    let driver = Driver::with(&[(1, 0)]);
    let mut backend = driver.backend();
    backend.preempt(&[whole(1)], &OPTIONS).unwrap();
    backend.renew().unwrap();
    let (name, args, _) = last(&driver);
    assert_eq!((name, args.lease_ms), ("hold", 5000));
    // The lease ended in the kernel.
    driver.0.lock().unwrap().queues.insert((1, 0), false);
    let error = backend.renew().unwrap_err().to_string();
    assert!(error.contains("--lease"), "{error}");
    assert!(
        driver.held().is_empty(),
        "what had run is not stopped behind anybody's back"
    );
}

#[test]
fn renewing_forgets_who_ended() {
    let driver = Driver::with(&[(1, 0), (2, 0)]);
    let mut backend = driver.backend();
    backend.preempt(&[whole(1), whole(2)], &OPTIONS).unwrap();
    driver.0.lock().unwrap().queues.remove(&(1, 0));
    backend.renew().unwrap();
    backend.renew().unwrap();
    assert_eq!(last(&driver).2.len(), 1);
    let outcome = backend.resume_all().unwrap();
    assert!(outcome.complete());
}

#[test]
fn who_ended_meanwhile_is_released() {
    let driver = Driver::with(&[(1, 0)]);
    let mut backend = driver.backend();
    backend.preempt(&[whole(1)], &OPTIONS).unwrap();
    driver.0.lock().unwrap().queues.clear();
    let outcome = backend.resume(&[whole(1)]).unwrap();
    assert!(outcome.complete());
    assert_eq!(outcome.targets[0].queues, 0);
}

#[test]
fn what_else_keeps_released_queues_off_is_told() {
    let driver = Driver::with(&[(1, 0), (2, 0)]);
    let mut backend = driver.backend();
    backend.preempt(&[whole(1), whole(2)], &OPTIONS).unwrap();
    driver.0.lock().unwrap().evicted = Some(2);
    let outcome = backend.resume_all().unwrap();
    assert!(outcome.complete());
    assert_eq!(outcome.targets[0].kept_off, None);
    assert_eq!(outcome.targets[1].kept_off, Some("its memory is evicted"));
    assert!(driver.held().is_empty());
}

#[test]
fn force_releases_what_others_hold() {
    let driver = Driver::with(&[(1, 0)]);
    let mut other = driver.backend();
    other.preempt(&[whole(1)], &OPTIONS).unwrap();
    let outcome = driver.backend().force(&[whole(1)], None).unwrap();
    assert_eq!(outcome.targets[0].changed, 1);
    assert_eq!(last(&driver).1.flags, abi::FORCE);
    assert!(driver.held().is_empty());
}

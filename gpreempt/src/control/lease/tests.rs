// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every way in which a hold ends, on a backend and a guard of our own making.

use std::sync::{Arc, Mutex};

use nix::errno::Errno;

use super::super::{Refusal, TargetOutcome, TargetQueue};
use super::*;
use crate::event::{Comm, GpuId, QueueId, QueueType};

#[derive(Default)]
struct State {
    held: Vec<Pid>,
    watched: Vec<Pid>,
    log: Vec<String>,
    refuse: Option<(Pid, Errno)>,
    fail_preempt: bool,
    panic_in_preempt: bool,
    fail_renew: bool,
    guard_dead: bool,
}

#[derive(Clone, Default)]
struct Fake(Arc<Mutex<State>>);

impl Fake {
    fn log(&self, what: impl Into<String>) {
        // A panic of a test's making poisons it.
        let mut state = self
            .0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        state.log.push(what.into());
    }

    fn with<R>(&self, look: impl FnOnce(&mut State) -> R) -> R {
        look(
            &mut self
                .0
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner),
        )
    }

    fn take(&self, pids: &[u32]) -> Result<(Hold, Outcome), ControlError> {
        let targets = pids.iter().map(|pid| target(*pid)).collect();
        Hold::take(
            Box::new(self.clone()),
            Box::new(self.clone()),
            targets,
            &OPTIONS,
        )
    }

    fn held(&self) -> Vec<Pid> {
        self.with(|state| state.held.clone())
    }
}

const OPTIONS: HoldOptions = HoldOptions {
    gpu: None,
    no_sdma: false,
    lease: Duration::from_millis(300),
};

fn target(pid: u32) -> Target {
    Target {
        pid: Pid(pid),
        start_ticks: 1,
        comm: Comm::from_procfs(b"job"),
        queues: Vec::new(),
        whole: true,
    }
}

fn done(pid: Pid, refusal: Option<Refusal>) -> TargetOutcome {
    TargetOutcome {
        pid,
        queue: None,
        queues: 1,
        changed: 1,
        refusal,
        kept_off: None,
    }
}

impl Backend for Fake {
    fn kind(&self) -> BackendKind {
        BackendKind::Criu
    }

    fn preempt(&mut self, targets: &[Target], _: &HoldOptions) -> Result<Outcome, ControlError> {
        self.log("preempt");
        let (fail, panics, refuse) =
            self.with(|state| (state.fail_preempt, state.panic_in_preempt, state.refuse));
        if fail {
            return Err(ControlError::Failed(anyhow!("no")));
        }
        let mut outcome = Outcome::default();
        for target in targets {
            let refusal = refuse
                .filter(|(pid, _)| *pid == target.pid)
                .map(|(_, errno)| Refusal {
                    call: "fake",
                    errno: Some(errno),
                    what: "refused".to_owned(),
                    fix: "none".to_owned(),
                });
            if refusal.is_none() {
                self.with(|state| state.held.push(target.pid));
            }
            outcome.targets.push(done(target.pid, refusal));
        }
        assert!(!panics, "a panic of the test's making");
        Ok(outcome)
    }

    fn resume(&mut self, targets: &[Target]) -> Result<Outcome, ControlError> {
        self.log("resume");
        for target in targets {
            self.with(|state| state.held.retain(|pid| *pid != target.pid));
        }
        Ok(Outcome::default())
    }

    fn resume_all(&mut self) -> Result<Outcome, ControlError> {
        self.log("resume_all");
        let held = self.with(|state| std::mem::take(&mut state.held));
        Ok(Outcome {
            targets: held.into_iter().map(|pid| done(pid, None)).collect(),
            ..Outcome::default()
        })
    }

    fn renew(&mut self) -> Result<(), ControlError> {
        self.log("renew");
        if self.with(|state| state.fail_renew) {
            return Err(ControlError::Failed(anyhow!("gone")));
        }
        Ok(())
    }
}

impl Guard for Fake {
    fn watch(&mut self, pid: Pid, _: u64, _: BackendKind) -> Result<(), ControlError> {
        self.log("watch");
        if self.with(|state| state.guard_dead) {
            return Err(ControlError::Failed(anyhow!("the supervisor is gone")));
        }
        self.with(|state| state.watched.push(pid));
        Ok(())
    }

    fn forget(&mut self, pid: Pid) {
        self.with(|state| state.watched.retain(|watched| *watched != pid));
    }

    fn beat(&mut self) -> Result<(), ControlError> {
        if self.with(|state| state.guard_dead) {
            return Err(ControlError::Failed(anyhow!("the supervisor is gone")));
        }
        Ok(())
    }
}

#[test]
fn released_by_release() {
    let fake = Fake::default();
    let (mut hold, outcome) = fake.take(&[1, 2]).unwrap();
    assert!(outcome.complete());
    assert_eq!(fake.held(), [Pid(1), Pid(2)]);
    let released = hold.release();
    drop(hold);
    assert_eq!(released.outcome.unwrap().targets.len(), 2);
    assert!(fake.held().is_empty());
    assert!(fake.with(|state| state.watched.is_empty()));
    let releases = fake.with(|state| {
        state
            .log
            .iter()
            .filter(|what| *what == "resume_all")
            .count()
    });
    assert_eq!(releases, 1, "once, not again when it is dropped");
}

#[test]
fn released_by_drop() {
    let fake = Fake::default();
    drop(fake.take(&[1]).unwrap());
    assert!(fake.held().is_empty());
    assert!(fake.with(|state| state.watched.is_empty()));
}

#[test]
fn released_by_a_panic_of_the_holder() {
    let fake = Fake::default();
    let panicking = fake.clone();
    let result = std::panic::catch_unwind(move || {
        let _hold = panicking.take(&[1]).unwrap();
        panic!("of the test's making");
    });
    assert!(result.is_err());
    assert!(fake.held().is_empty());
}

#[test]
fn released_by_a_panic_in_the_middle_of_stopping() {
    let fake = Fake::default();
    fake.with(|state| state.panic_in_preempt = true);
    let panicking = fake.clone();
    assert!(std::panic::catch_unwind(move || panicking.take(&[1]).map(drop)).is_err());
    assert!(fake.held().is_empty());
}

#[test]
fn the_guard_knows_before_anything_is_stopped() {
    let fake = Fake::default();
    let _hold = fake.take(&[1, 2]).unwrap();
    assert_eq!(
        fake.with(|state| state.log.clone()),
        ["watch", "watch", "preempt"]
    );
}

#[test]
fn without_a_guard_nothing_is_stopped() {
    let fake = Fake::default();
    fake.with(|state| state.guard_dead = true);
    assert!(fake.take(&[1]).is_err());
    assert!(fake.with(|state| state.log.iter().all(|what| what != "preempt")));
}

#[test]
fn what_is_refused_is_not_watched() {
    let fake = Fake::default();
    fake.with(|state| state.refuse = Some((Pid(2), Errno::EPERM)));
    let (hold, outcome) = fake.take(&[1, 2]).unwrap();
    assert!(!outcome.complete());
    assert_eq!(
        hold.targets()
            .iter()
            .map(|target| target.pid)
            .collect::<Vec<_>>(),
        [Pid(1)]
    );
    assert_eq!(fake.with(|state| state.watched.clone()), [Pid(1)]);
}

#[test]
fn a_failed_call_holds_nothing() {
    let fake = Fake::default();
    fake.with(|state| state.fail_preempt = true);
    assert!(fake.take(&[1]).is_err());
    assert!(fake.held().is_empty());
    assert!(fake.with(|state| state.log.contains(&"resume_all".to_owned())));
}

#[test]
fn renewed_three_times_a_lease() {
    let fake = Fake::default();
    let (mut hold, _) = fake.take(&[1]).unwrap();
    let due = hold.renewal_due();
    assert!(due <= Instant::now() + OPTIONS.lease / 3);
    hold.renew().unwrap();
    assert!(hold.renewal_due() > due);
}

#[test]
fn a_dead_guard_or_a_lost_hold_is_told() {
    let fake = Fake::default();
    let (mut hold, _) = fake.take(&[1]).unwrap();
    fake.with(|state| state.fail_renew = true);
    assert!(hold.renew().is_err());
    fake.with(|state| (state.fail_renew, state.guard_dead) = (false, true));
    assert!(hold.renew().is_err());
    drop(hold);
    assert!(fake.held().is_empty());
}

#[test]
fn after_a_timeout_nothing_is_stopped_or_renewed() {
    let fake = Fake::default();
    fake.with(|state| state.refuse = Some((Pid(2), Errno::ETIME)));
    let (mut hold, outcome) = fake.take(&[1, 2]).unwrap();
    assert!(outcome.timed_out() && hold.timed_out());
    assert!(hold.renew().is_err());
    assert!(fake.with(|state| state.log.iter().all(|what| what != "renew")));
    drop(hold);
    assert!(fake.held().is_empty());
}

#[test]
fn some_can_be_let_go() {
    let fake = Fake::default();
    let (mut hold, _) = fake.take(&[1, 2]).unwrap();
    hold.let_go(&[target(1)]).unwrap();
    assert_eq!(fake.held(), [Pid(2)]);
    assert_eq!(fake.with(|state| state.watched.clone()), [Pid(2)]);
    assert_eq!(hold.targets().len(), 1);
}

#[test]
fn queues_of_a_process_can_be_let_go_one_by_one() {
    let fake = Fake::default();
    let queue = |id| TargetQueue {
        gpu_id: GpuId(1),
        queue_id: QueueId(id),
        queue_type: QueueType::Compute,
    };
    let of = |queues: &[TargetQueue]| Target {
        queues: queues.to_vec(),
        whole: false,
        ..target(1)
    };
    let targets = vec![of(&[queue(0), queue(1)])];
    let (mut hold, _) = Hold::take(
        Box::new(fake.clone()),
        Box::new(fake.clone()),
        targets,
        &OPTIONS,
    )
    .unwrap();
    hold.let_go(&[of(&[queue(0)])]).unwrap();
    assert_eq!(hold.targets(), [of(&[queue(1)])]);
    hold.let_go(&[of(&[queue(1)])]).unwrap();
    assert!(hold.targets().is_empty());
    assert!(fake.with(|state| state.watched.is_empty()));
}

#[test]
fn targets_that_ended_are_noticed() {
    let fake = Fake::default();
    let me = Pid(std::process::id());
    let started = process::start_ticks(&Root::real(), me).unwrap();
    let this = Target {
        start_ticks: started,
        ..target(me.0)
    };
    let other = Target {
        start_ticks: started + 1,
        ..target(me.0)
    };
    let take = |targets| {
        Hold::take(
            Box::new(fake.clone()),
            Box::new(KernelGuards),
            targets,
            &OPTIONS,
        )
        .unwrap()
        .0
    };
    assert!(take(vec![this.clone()]).any_alive(&Root::real()));
    assert!(!take(vec![other]).any_alive(&Root::real()));
}

// SPDX-License-Identifier: MIT OR Apache-2.0

use super::super::{HoldOptions, Target, TargetOutcome};
use super::*;
use crate::event::Pid;

struct Nothing(BackendKind);

impl Backend for Nothing {
    fn kind(&self) -> BackendKind {
        self.0
    }

    fn preempt(&mut self, _: &[Target], _: &HoldOptions) -> Result<Outcome, ControlError> {
        Ok(Outcome::default())
    }

    fn resume(&mut self, _: &[Target]) -> Result<Outcome, ControlError> {
        Ok(Outcome::default())
    }

    fn resume_all(&mut self) -> Result<Outcome, ControlError> {
        Ok(Outcome::default())
    }

    fn renew(&mut self) -> Result<(), ControlError> {
        Ok(())
    }
}

fn open(
    usable: &[BackendKind],
) -> impl FnMut(BackendKind) -> Result<Box<dyn Backend>, ControlError> + '_ {
    |kind| {
        if usable.contains(&kind) {
            return Ok(Box::new(Nothing(kind)));
        }
        Err(match kind {
            BackendKind::Criu => ControlError::NoPermission {
                what: "no capability".to_owned(),
                fix: "run as root".to_owned(),
            },
            kind => ControlError::Unavailable {
                what: format!("no {kind} here"),
                fix: "none".to_owned(),
            },
        })
    }
}

fn pick(wanted: Option<BackendKind>, usable: &[BackendKind]) -> Result<Choice, ControlError> {
    Chooser::new(&Root::real(), wanted).pick(open(usable))
}

fn refused(call: &'static str, errno: Errno) -> Outcome {
    Outcome {
        targets: vec![TargetOutcome {
            pid: Pid(1),
            queue: None,
            queues: 0,
            changed: 0,
            refusal: Some(Refusal {
                call,
                errno: Some(errno),
                what: "runtime not enabled".to_owned(),
                fix: "another backend".to_owned(),
            }),
            kept_off: None,
        }],
        ..Outcome::default()
    }
}

#[test]
fn the_best_is_chosen_and_says_why() {
    let all = pick(None, &PREFERENCE).unwrap();
    assert_eq!(all.backend.kind(), BackendKind::Patched);
    assert_eq!(all.reason, "the driver is patched");
    let stock = pick(None, &PREFERENCE[1..]).unwrap();
    assert_eq!(stock.backend.kind(), BackendKind::DebugTrap);
    assert_eq!(
        stock.reason,
        "the driver lets debuggers suspend queues; not patched: no patched here"
    );
    let last = pick(None, &PREFERENCE[2..]).unwrap();
    assert_eq!(last.backend.kind(), BackendKind::Criu);
    assert!(last
        .reason
        .ends_with("not patched: no patched here; not debug-trap: no debug-trap here"));
}

#[test]
fn what_is_asked_for_is_taken_or_refused() {
    let criu = pick(Some(BackendKind::Criu), &PREFERENCE).unwrap();
    assert_eq!(
        (criu.backend.kind(), criu.reason.as_str()),
        (BackendKind::Criu, "asked for")
    );
    let error = pick(Some(BackendKind::Patched), &PREFERENCE[1..])
        .err()
        .unwrap();
    assert_eq!(error.to_string(), "no patched here; none");
}

#[test]
fn with_none_all_reasons_are_told_and_a_permission_is_what_to_get() {
    let error = pick(None, &[]).err().unwrap();
    assert!(matches!(error, ControlError::NoPermission { .. }));
    assert_eq!(
        error.to_string(),
        "no backend can be used here (patched: no patched here; debug-trap: no debug-trap here; criu: no capability); for \
         criu, run as root"
    );
}

#[test]
fn what_debuggers_cannot_attach_to_is_left_to_the_next() {
    let root = Root::real();
    let mut chooser = Chooser::new(&root, None);
    let choice = chooser.pick(open(&PREFERENCE[1..])).unwrap();
    assert!(chooser.reject(choice.backend.kind(), &refused(ENABLE, Errno::EPERM)));
    let next = chooser.pick(open(&PREFERENCE[1..])).unwrap();
    assert_eq!(next.backend.kind(), BackendKind::Criu);
    assert!(
        next.reason.ends_with("not debug-trap: runtime not enabled"),
        "{}",
        next.reason
    );
}

#[test]
fn other_refusals_are_final() {
    let root = Root::real();
    let mut chooser = Chooser::new(&root, None);
    assert!(!chooser.reject(
        BackendKind::DebugTrap,
        &refused("ptrace SEIZE", Errno::EPERM)
    ));
    assert!(!chooser.reject(BackendKind::DebugTrap, &refused(ENABLE, Errno::ESRCH)));
    assert!(!chooser.reject(BackendKind::Patched, &refused(ENABLE, Errno::EPERM)));
    assert!(!chooser.reject(BackendKind::DebugTrap, &Outcome::default()));
    let mut asked = Chooser::new(&root, Some(BackendKind::DebugTrap));
    assert!(!asked.reject(BackendKind::DebugTrap, &refused(ENABLE, Errno::EPERM)));
}

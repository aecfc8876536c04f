// SPDX-License-Identifier: MIT OR Apache-2.0

use std::ffi::OsString;

use anyhow::anyhow;
use nix::sys::signal::{raise, signal, SigHandler};

use super::*;

struct Fake {
    due: Instant,
    every: Duration,
    renewals: u32,
    fail_after: u32,
    alive: bool,
}

impl Fake {
    fn new() -> Self {
        Self {
            due: Instant::now(),
            every: Duration::from_millis(10),
            renewals: 0,
            fail_after: u32::MAX,
            alive: true,
        }
    }
}

impl Kept for Fake {
    fn renewal_due(&self) -> Instant {
        self.due
    }

    fn renew(&mut self) -> Result<(), ControlError> {
        self.renewals += 1;
        self.due = Instant::now() + self.every;
        if self.renewals > self.fail_after {
            return Err(ControlError::Failed(anyhow!("gone")));
        }
        Ok(())
    }

    fn any_alive(&self, _: &Root) -> bool {
        self.alive
    }
}

fn after(ms: u64) -> Option<Instant> {
    Some(Instant::now() + Duration::from_millis(ms))
}

fn start(script: &str) -> Running {
    Running::start(&["sh", "-c", script].map(OsString::from)).unwrap()
}

/// Signals are a matter of the thread here: raised ones are for the thread that raises.
fn signals() -> Signals {
    Signals::block().unwrap()
}

#[test]
fn the_time_ends_it_and_it_is_renewed_meanwhile() {
    let (mut kept, signals, started) = (Fake::new(), signals(), Instant::now());
    let ended = wait(&mut kept, &Root::real(), &signals, after(100), None).unwrap();
    assert!(matches!(ended, Ended::Duration));
    assert!(started.elapsed() >= Duration::from_millis(100));
    assert!((2..=11).contains(&kept.renewals), "{}", kept.renewals);
}

#[test]
fn each_signal_ends_it() {
    for signal in ENDING {
        let (mut kept, signals) = (Fake::new(), signals());
        // Before the wait: what came while queues were being stopped is not lost.
        raise(signal).unwrap();
        let ended = wait(&mut kept, &Root::real(), &signals, after(5000), None).unwrap();
        assert!(
            matches!(ended, Ended::Signal(came) if came == signal),
            "{ended:?}"
        );
    }
}

#[test]
fn a_failed_renewal_ends_it() {
    let (mut kept, signals) = (Fake::new(), signals());
    kept.fail_after = 2;
    let ended = wait(&mut kept, &Root::real(), &signals, after(5000), None).unwrap();
    assert!(matches!(ended, Ended::Lost(_)));
    assert_eq!(kept.renewals, 3);
}

#[test]
fn the_end_of_all_targets_ends_it() {
    let (mut kept, signals) = (Fake::new(), signals());
    kept.alive = false;
    let ended = wait(&mut kept, &Root::real(), &signals, after(5000), None).unwrap();
    assert!(matches!(ended, Ended::Gone));
}

#[test]
fn the_end_of_the_command_ends_it() {
    let (mut kept, signals) = (Fake::new(), signals());
    // Its targets ended: it runs on nevertheless.
    kept.alive = false;
    let mut running = start("sleep 0.4; exit 7");
    let ended = wait(&mut kept, &Root::real(), &signals, None, Some(&mut running)).unwrap();
    assert!(
        matches!(ended, Ended::Command(status) if status.code() == Some(7)),
        "{ended:?}"
    );
}

#[test]
fn signals_reach_the_command() {
    let (mut kept, signals) = (Fake::new(), signals());
    let mut running = start("trap 'exit 9' TERM; while :; do sleep 0.02; done");
    std::thread::sleep(Duration::from_millis(200));
    raise(Signal::SIGTERM).unwrap();
    let ended = wait(&mut kept, &Root::real(), &signals, None, Some(&mut running)).unwrap();
    assert!(matches!(ended, Ended::Signal(Signal::SIGTERM)), "{ended:?}");
    assert_eq!(
        wait_for_command(&signals, &mut running).unwrap().code(),
        Some(9)
    );
}

#[test]
fn an_interrupt_is_the_commands_to_handle() {
    // A shell does not trap what is ignored when it starts, as it is for programs in the background.
    // SAFETY: no handler is installed.
    unsafe { signal(Signal::SIGINT, SigHandler::SigDfl) }.unwrap();
    let (mut kept, signals) = (Fake::new(), signals());
    let mut running = start("trap 'sleep 0.2; exit 5' INT; while :; do sleep 0.02; done");
    std::thread::sleep(Duration::from_millis(200));
    raise(Signal::SIGINT).unwrap();
    let ended = wait(&mut kept, &Root::real(), &signals, None, Some(&mut running)).unwrap();
    assert!(
        matches!(ended, Ended::Command(status) if status.code() == Some(5)),
        "{ended:?}"
    );
}

#[test]
fn afterwards_signals_are_as_before() {
    let before = SigSet::thread_get_mask().unwrap();
    drop(signals());
    assert_eq!(SigSet::thread_get_mask().unwrap(), before);
}

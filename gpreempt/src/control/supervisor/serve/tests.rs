// SPDX-License-Identifier: MIT OR Apache-2.0
use super::*;
use nix::sys::socket::{socketpair, AddressFamily, SockFlag, SockType};
use std::collections::BTreeSet;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

const TIMEOUT: Duration = Duration::from_millis(300);

/// Restarts nothing, but notes what it was asked to.
#[derive(Clone, Default)]
struct Fake {
    healed: Arc<Mutex<BTreeSet<(u32, bool)>>>,
    /// Tells that the controller has these until it is dead.
    held: BTreeSet<u32>,
}

impl Healer for Fake {
    fn heal(&mut self, process: &Watched, controller_lives: bool) -> Healing {
        if controller_lives && self.held.contains(&process.pid.0) {
            return Healing::Later("the controller has it".to_owned());
        }
        let mut healed = self.healed.lock().unwrap();
        healed.insert((process.pid.0, controller_lives));
        Healing::Done(Some("restarted".to_owned()))
    }
}

/// A process that stands for a controller, and the supervisor's loop in a thread.
struct Stage {
    controller: Child,
    socket: Option<OwnedFd>,
    fake: Fake,
    served: JoinHandle<Vec<String>>,
}

impl Stage {
    fn new(fake: Fake) -> Self {
        let controller = Command::new("sleep").arg("1000").spawn().unwrap();
        let process = pidfd::open(Pid(controller.id())).unwrap();
        let (socket, theirs) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )
        .unwrap();
        let mut healer = fake.clone();
        let served = thread::spawn(move || {
            let patience = Patience {
                beat: TIMEOUT,
                stopping: TIMEOUT * 3,
            };
            serve(&theirs, process.as_fd(), patience, &mut healer).unwrap()
        });
        Self {
            controller,
            socket: Some(socket),
            fake,
            served,
        }
    }

    fn say(&self, bytes: &[u8]) {
        let socket = self.socket.as_ref().unwrap().as_raw_fd();
        send(socket, bytes, MsgFlags::MSG_NOSIGNAL).unwrap();
    }

    fn watch(&self, pid: u32) {
        let message = Message::Watch {
            pid: Pid(pid),
            start_ticks: 1,
            backend: BackendKind::Criu,
            sequence: pid,
        };
        self.say(&message.encode());
    }

    fn beat(&self) {
        self.say(&Message::Beat { sequence: 0 }.encode());
    }

    fn lives(&mut self) -> bool {
        self.controller.try_wait().unwrap().is_none()
    }

    /// Waits for the supervisor's end. What it told, and whom it restarted, with whether the controller lived then.
    fn end(mut self) -> (Vec<String>, Vec<(u32, bool)>, bool) {
        let told = self.served.join().unwrap();
        // A kill takes its time.
        let lives = pidfd::open(Pid(self.controller.id()))
            .is_ok_and(|process| !pidfd::wait_end(process.as_fd(), Duration::from_millis(500)));
        let _ = self.controller.kill();
        let _ = self.controller.wait();
        let healed = self.fake.healed.lock().unwrap().iter().copied().collect();
        (told, healed, lives)
    }
}

#[test]
fn an_orderly_end_leaves_nothing_to_do() {
    let mut stage = Stage::new(Fake::default());
    stage.watch(7);
    let forget = Message::Forget {
        pid: Pid(7),
        sequence: 8,
    };
    stage.say(&forget.encode());
    stage.socket = None;
    assert_eq!(stage.end(), (vec![], vec![], true));
}

#[test]
fn who_holds_nothing_may_be_silent() {
    let mut stage = Stage::new(Fake::default());
    thread::sleep(TIMEOUT * 2);
    assert!(stage.lives());
    stage.socket = None;
    assert_eq!(stage.end(), (vec![], vec![], true));
}

#[test]
fn a_killed_controller_s_processes_are_restarted() {
    let mut stage = Stage::new(Fake::default());
    stage.watch(7);
    stage.watch(8);
    // Its socket stays open, as if a child of it had inherited that.
    stage.controller.kill().unwrap();
    stage.controller.wait().unwrap();
    let (told, healed, _) = stage.end();
    assert_eq!(healed, [(7, false), (8, false)]);
    assert_eq!(told.len(), 2);
}

#[test]
fn a_silent_controller_is_killed() {
    let stage = Stage::new(Fake::default());
    let began = Instant::now();
    stage.watch(7);
    stage.beat();
    let (told, healed, lives) = stage.end();
    assert!(began.elapsed() >= TIMEOUT);
    assert!(!lives);
    assert_eq!(healed.iter().map(|(pid, _)| *pid).collect::<Vec<_>>(), [7]);
    assert!(told[0].contains("killed"), "{told:?}");
}

#[test]
fn a_controller_may_be_silent_longer_while_it_calls_the_driver() {
    let mut stage = Stage::new(Fake::default());
    stage.watch(7);
    thread::sleep(TIMEOUT * 2);
    assert!(stage.lives());
    stage.beat();
    stage.say(&Message::Busy { sequence: 9 }.encode());
    thread::sleep(TIMEOUT * 2);
    assert!(stage.lives());
    let (told, healed, lives) = stage.end();
    assert!(!lives);
    assert_eq!((told.len(), healed.len()), (2, 1));
}

#[test]
fn beats_keep_a_controller_alive() {
    let mut stage = Stage::new(Fake::default());
    stage.watch(7);
    for sequence in 0..30 {
        thread::sleep(TIMEOUT / 10);
        stage.say(&Message::Beat { sequence }.encode());
    }
    assert!(stage.lives());
    let forget = Message::Forget {
        pid: Pid(7),
        sequence: 31,
    };
    stage.say(&forget.encode());
    stage.socket = None;
    assert_eq!(stage.end(), (vec![], vec![], true));
}

#[test]
fn noise_is_no_sign_of_life() {
    let mut stage = Stage::new(Fake::default());
    stage.watch(7);
    stage.beat();
    let began = Instant::now();
    let socket = stage.socket.as_ref().unwrap().as_raw_fd();
    // Until it does not listen any more.
    while send(socket, &[0x55; 100], MsgFlags::MSG_NOSIGNAL).is_ok() {
        assert!(began.elapsed() < TIMEOUT * 20);
        thread::sleep(TIMEOUT / 20);
    }
    stage.controller.wait().unwrap();
    let (told, healed, lives) = stage.end();
    assert!(!lives);
    assert_eq!(healed.len(), 1);
    assert!(told[0].contains("killed"), "{told:?}");
}

#[test]
fn what_a_living_controller_left_is_restarted_without_killing_it() {
    let mut stage = Stage::new(Fake::default());
    stage.watch(7);
    stage.socket = None;
    let (told, healed, lives) = stage.end();
    assert_eq!(healed, [(7, true)]);
    assert_eq!(told.len(), 1);
    assert!(lives);
}

#[test]
fn a_living_controller_that_keeps_hold_is_killed_in_the_end() {
    let fake = Fake {
        held: [7].into(),
        ..Fake::default()
    };
    let mut stage = Stage::new(fake);
    stage.watch(7);
    stage.watch(8);
    stage.socket = None;
    let (told, healed, lives) = stage.end();
    assert!(!lives);
    assert_eq!(healed, [(7, false), (8, true)]);
    assert!(
        told.iter().any(|line| line.contains("still held")),
        "{told:?}"
    );
}

// SPDX-License-Identifier: MIT OR Apache-2.0
use super::*;
use std::thread;

const TIMEOUT: Duration = Duration::from_millis(300);

/// A controller's end, and the other end of its socket.
fn pair() -> (Supervisor, OwnedFd) {
    let (ours, theirs) = socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )
    .unwrap();
    let supervisor = Supervisor {
        socket: Some(ours),
        child: Command::new("true").spawn().unwrap(),
        timeout: TIMEOUT,
        sequence: 0,
        waiting: None,
    };
    (supervisor, theirs)
}

fn hear(socket: &OwnedFd) -> Message {
    let mut bytes = [0; 100];
    let count = recv(socket.as_raw_fd(), &mut bytes, MsgFlags::empty()).unwrap();
    Message::decode(&bytes[..count]).unwrap()
}

fn answer(socket: &OwnedFd, sequence: u32) {
    let message = Message::Seen { sequence }.encode();
    send(socket.as_raw_fd(), &message, MsgFlags::empty()).unwrap();
}

#[test]
fn a_program_that_is_no_supervisor_is_noticed() {
    let error = Supervisor::start_as(Command::new("true"), TIMEOUT).unwrap_err();
    assert!(error.to_string().contains("has ended"), "{error}");
    assert!(Supervisor::start_as(Command::new("/no/such/program"), TIMEOUT).is_err());
}

#[test]
fn watching_begins_when_it_is_answered() {
    let (mut supervisor, other) = pair();
    let server = thread::spawn(move || {
        let Message::Watch { pid, sequence, .. } = hear(&other) else {
            panic!("no watch")
        };
        answer(&other, sequence);
        (pid, other)
    });
    supervisor.watch(Pid(7), 3, BackendKind::Criu).unwrap();
    let (pid, other) = server.join().unwrap();
    assert_eq!(pid, Pid(7));
    // Without an answer it is not watched.
    let began = Instant::now();
    assert!(supervisor.watch(Pid(8), 3, BackendKind::Criu).is_err());
    assert!(began.elapsed() >= TIMEOUT);
    drop(other);
}

#[test]
fn a_dead_supervisor_is_noticed_at_the_next_beat() {
    let (mut supervisor, other) = pair();
    supervisor.beat().unwrap();
    drop(other);
    // Other tests start programs, which have copies of all descriptors for a moment.
    let began = Instant::now();
    let error = loop {
        match supervisor.beat() {
            Ok(()) => thread::sleep(Duration::from_millis(1)),
            Err(error) => break error,
        }
    };
    assert!(began.elapsed() < TIMEOUT);
    assert!(error.to_string().contains("has ended"), "{error}");
}

#[test]
fn a_hanging_supervisor_is_noticed_after_its_timeout() {
    let (mut supervisor, other) = pair();
    for _ in 0..5 {
        supervisor.beat().unwrap();
        if let Message::Beat { sequence } = hear(&other) {
            answer(&other, sequence);
        }
        thread::sleep(TIMEOUT / 2);
    }
    // From now on nobody answers.
    supervisor.beat().unwrap();
    thread::sleep(TIMEOUT);
    let error = supervisor.beat().unwrap_err();
    assert!(error.to_string().contains("does not answer"), "{error}");
}

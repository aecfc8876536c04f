// SPDX-License-Identifier: MIT OR Apache-2.0
//! The supervisor's own loop: watch, notice, kill, heal, end.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::sys::socket::{recv, send, MsgFlags};

use super::message::{Message, PACKET_BYTES};
use crate::control::{pidfd, BackendKind};
use crate::event::Pid;

/// Healing is tried this often at first, then more and more seldom.
const FIRST_PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// How long a process that somebody else traces is tried after the controller's end.
const FOREIGN_TRACER: Duration = Duration::from_secs(60);

/// A process that the controller has stopped, or may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watched {
    /// The process.
    pub pid: Pid,
    /// With the pid, its key: another process that got the pid is never touched.
    pub start_ticks: u64,
    /// By what it was stopped.
    pub backend: BackendKind,
}

/// How healing a process went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Healing {
    /// It runs or is gone; with what was done, if anything was.
    Done(Option<String>),
    /// Not now: the controller, or somebody else, has it. With who.
    Later(String),
}

/// Restarts processes that a controller left behind.
pub trait Healer {
    /// Restarts one, if it is stopped. `controller_lives` until that has ended with all its threads.
    fn heal(&mut self, process: &Watched, controller_lives: bool) -> Healing;
}

/// Why the supervisor stopped watching.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// The controller closed its end.
    Closed,
    /// It ended.
    Died,
    /// It said nothing for too long.
    Hung,
}

/// Watches until there is nothing left to watch. Returns what there is to tell the user.
///
/// # Errors
/// The descriptors are not those of a supervisor.
pub fn serve(
    socket: &OwnedFd,
    controller: BorrowedFd<'_>,
    patience: Patience,
    healer: &mut dyn Healer,
) -> nix::Result<Vec<String>> {
    match tell(socket, Message::Ready) {
        // It has ended already.
        Ok(()) | Err(Errno::EPIPE | Errno::ECONNRESET) => {}
        Err(errno) => return Err(errno),
    }
    let mut watched = BTreeMap::new();
    let ending = watch(socket, controller, patience, &mut watched)?;
    if watched.is_empty() {
        return Ok(Vec::new());
    }
    let mut told = Vec::new();
    if ending == Ending::Hung {
        told.push("the controller said nothing for too long and was killed".to_owned());
        kill(controller, &mut told);
    }
    if ending != Ending::Closed {
        // What the kernel does for it is done when the last of its threads has ended.
        while !pidfd::wait_end(controller, LONGEST_PAUSE) {}
    }
    heal(controller, patience.beat, watched, healer, &mut told);
    Ok(told)
}

/// How long a controller that holds something may be silent.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Between two beats.
    pub beat: Duration,
    /// Longer than that from Watch or Busy to the next beat: it is in calls of the driver then, and hears nothing.
    pub stopping: Duration,
}

impl Patience {
    /// Calls of the driver wait for the GPU as long as `queue_preemption_timeout_ms`, 9 s unless set.
    #[must_use]
    pub fn new(beat: Duration) -> Self {
        Self {
            beat,
            stopping: Duration::from_secs(15),
        }
    }
}

fn watch(
    socket: &OwnedFd,
    controller: BorrowedFd<'_>,
    patience: Patience,
    watched: &mut BTreeMap<Pid, Watched>,
) -> nix::Result<Ending> {
    let mut heard = Instant::now();
    let mut stopping = false;
    loop {
        let timeout = if stopping {
            patience.beat + patience.stopping
        } else {
            patience.beat
        };
        // Only who holds something has to say that it lives.
        let left = if watched.is_empty() {
            PollTimeout::NONE
        } else {
            let left = (heard + timeout).saturating_duration_since(Instant::now());
            // Rounded up, so that the last millisecond is not spent in a busy loop.
            let left = left.as_millis().saturating_add(1);
            PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
        };
        let mut fds = [
            PollFd::new(socket.as_fd(), PollFlags::POLLIN),
            PollFd::new(controller, PollFlags::POLLIN),
        ];
        match poll(&mut fds, left) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
        let died = fds[1].any().unwrap_or(false);
        // Whatever woke us, and however late: first everything that was said.
        loop {
            match next(socket)? {
                Next::Message(message) => {
                    heard = Instant::now();
                    match message {
                        Message::Watch { .. } | Message::Busy { .. } => stopping = true,
                        Message::Beat { .. } => stopping = false,
                        _ => {}
                    }
                    note(message, watched, socket);
                }
                Next::Noise => {}
                Next::Nothing => break,
                Next::End => return Ok(if died { Ending::Died } else { Ending::Closed }),
            }
        }
        if died {
            return Ok(Ending::Died);
        }
        if !watched.is_empty() && heard.elapsed() >= timeout {
            return Ok(Ending::Hung);
        }
    }
}

fn note(message: Message, watched: &mut BTreeMap<Pid, Watched>, socket: &OwnedFd) {
    let sequence = match message {
        Message::Watch {
            pid,
            start_ticks,
            backend,
            sequence,
        } => {
            let process = Watched {
                pid,
                start_ticks,
                backend,
            };
            watched.insert(pid, process);
            sequence
        }
        Message::Forget { pid, sequence } => {
            watched.remove(&pid);
            sequence
        }
        Message::Beat { sequence } | Message::Busy { sequence } => sequence,
        // These are ours.
        Message::Ready | Message::Seen { .. } => return,
    };
    // If the controller does not read, it does not beat either.
    let _ = tell(socket, Message::Seen { sequence });
}

enum Next {
    Message(Message),
    /// Something else, which says nothing, also not that the controller lives.
    Noise,
    Nothing,
    End,
}

fn next(socket: &OwnedFd) -> nix::Result<Next> {
    // One byte more than a message, so that longer ones are noticed.
    let mut bytes = [0; PACKET_BYTES + 1];
    loop {
        return match recv(socket.as_raw_fd(), &mut bytes, MsgFlags::MSG_DONTWAIT) {
            Ok(0) => Ok(Next::End),
            Ok(count) => Ok(Message::decode(&bytes[..count]).map_or(Next::Noise, Next::Message)),
            Err(Errno::EAGAIN) => Ok(Next::Nothing),
            // The controller ended before it had read everything. That is told once, ahead of what it had still said.
            Err(Errno::ECONNRESET | Errno::EINTR) => continue,
            Err(errno) => Err(errno),
        };
    }
}

fn tell(socket: &OwnedFd, message: Message) -> nix::Result<()> {
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    send(socket.as_raw_fd(), &message.encode(), flags).map(drop)
}

fn kill(controller: BorrowedFd<'_>, told: &mut Vec<String>) {
    match pidfd::kill(controller) {
        Ok(()) | Err(Errno::ESRCH) => {}
        Err(errno) => told.push(format!("could not kill the controller: {}", errno.desc())),
    }
}

/// Heals everything that was left. A controller that only closed its end may still be at it; if it still holds something after the
/// time in which it should have beaten, it is killed.
fn heal(
    controller: BorrowedFd<'_>,
    timeout: Duration,
    mut watched: BTreeMap<Pid, Watched>,
    healer: &mut dyn Healer,
    told: &mut Vec<String>,
) {
    let mut killed = false;
    let mut died_at = None;
    let began = Instant::now();
    let mut pause = FIRST_PAUSE;
    loop {
        let lives = !pidfd::wait_end(controller, Duration::ZERO);
        if !lives && died_at.is_none() {
            died_at = Some(Instant::now());
            pause = FIRST_PAUSE;
        }
        let mut held_by = String::new();
        watched.retain(|pid, process| match healer.heal(process, lives) {
            Healing::Done(what) => {
                told.extend(what.map(|what| format!("process {pid}: {what}")));
                false
            }
            Healing::Later(who) => {
                held_by = format!("process {pid}: {who}");
                true
            }
        });
        if watched.is_empty() {
            return;
        }
        if lives && !killed && began.elapsed() >= timeout {
            killed = true;
            told.push("the controller went away from its supervisor but still held queues, and was killed".to_owned());
            kill(controller, told);
        }
        if died_at.is_some_and(|at| at.elapsed() >= FOREIGN_TRACER) {
            told.push(format!(
                "{held_by}: left alone; gpreempt resume --strays restarts it later"
            ));
            return;
        }
        // Returns at once when the controller dies.
        if lives {
            pidfd::wait_end(controller, pause);
        } else {
            std::thread::sleep(pause);
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

#[cfg(test)]
mod tests;

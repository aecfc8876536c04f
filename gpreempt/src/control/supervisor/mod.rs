// SPDX-License-Identifier: MIT OR Apache-2.0
//! A second process that restarts what a controller stopped, when that ends or hangs.
//!
//! What the kernel does by itself when the controller ends, and what the supervisor adds:
//! | backend | controller ends | controller hangs |
//! |---|---|---|
//! | patched | kernel releases | kernel releases at the lease's end; supervisor kills it |
//! | debug-trap | kernel resumes | supervisor kills it, kernel resumes |
//! | criu | supervisor unpauses | supervisor kills it and unpauses |
//!
//! It is started before anything is stopped, as this program again (`/proc/self/exe supervise`), with nothing but a socket, a
//! pidfd of the controller and stderr. It is out of reach of the controller's terminal, process group and the signals that
//! service managers send; it ends by itself when the controller has closed its end and nothing is left to restart. Killing
//! controller *and* supervisor at once leaves paused processes behind with `criu` only; [`super::strays`] finds them.
//!
//! # Protocol
//! A SOCK_SEQPACKET pair; packets of 24 bytes (`message.rs`). The supervisor says Ready once. The controller says Watch
//! before it stops a process, Beat once that is done and again and again, Busy before it restarts, Forget after that. With anything
//! watched, some packet must come within the timeout; only from Watch or Busy to the next Beat, when the controller waits for the
//! driver, that is 15 seconds longer. Each of these has a number and is answered by Seen with that number, from which the
//! controller knows that the supervisor lives.
//! End of file means that the controller is gone; so does its pidfd becoming readable, whoever has copies of the socket.

mod healer;
mod isolate;
mod message;
mod serve;

use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{anyhow, Context as _};
use nix::errno::Errno;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::sys::socket::{recv, send, socketpair, AddressFamily, MsgFlags, SockFlag, SockType};

use super::lease::{Guard, KernelGuards};
use super::{pidfd, BackendKind, ControlError};
use crate::event::Pid;
use message::{Message, PACKET_BYTES};

pub use healer::System;
pub use serve::{serve, Healer, Healing, Patience, Watched};

/// How long a supervisor may take to start.
const START_WITHIN: Duration = Duration::from_secs(10);

/// How long it may take to end after the controller has closed its end.
const END_WITHIN: Duration = Duration::from_secs(5);

/// A supervisor process, as the controller sees it. Dropping it ends it, after it restarted what it still watches.
#[derive(Debug)]
pub struct Supervisor {
    socket: Option<OwnedFd>,
    child: Child,
    timeout: Duration,
    sequence: u32,
    /// The first message that was not answered yet.
    waiting: Option<(u32, Instant)>,
}

impl Supervisor {
    /// Starts the supervisor, which kills this process when it watches something and hears nothing for `heartbeat_timeout`.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(heartbeat_timeout: Duration) -> Result<Self, ControlError> {
        let mut command = Command::new("/proc/self/exe");
        command.arg("supervise");
        Self::start_as(command, heartbeat_timeout)
    }

    /// Starts this command as supervisor; for tests, which are other programs.
    ///
    /// # Errors
    /// As [`Supervisor::start`].
    pub fn start_as(
        mut command: Command,
        heartbeat_timeout: Duration,
    ) -> Result<Self, ControlError> {
        let (ours, theirs) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )
        .context("socketpair for the supervisor")?;
        let this = pidfd::open(Pid(std::process::id())).context("pidfd_open of this process")?;
        let child = command
            .arg("--timeout-ms")
            .arg(heartbeat_timeout.as_millis().to_string())
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::from(this))
            .spawn()
            .context("start the supervisor process (this program again, by /proc/self/exe)")?;
        // The command still has its end of the socket, and would keep it from ending.
        drop(command);
        let mut supervisor = Self {
            socket: Some(ours),
            child,
            timeout: heartbeat_timeout,
            sequence: 0,
            waiting: None,
        };
        supervisor.wait_until(START_WITHIN, |message| message == Message::Ready)?;
        Ok(supervisor)
    }

    /// Has it watch a process, before that is stopped. Returns when it does. Until the next [`Supervisor::beat`], which should
    /// come as soon as the process is stopped, it is patient.
    ///
    /// # Errors
    /// It is gone or does not answer.
    pub fn watch(
        &mut self,
        pid: Pid,
        start_ticks: u64,
        backend: BackendKind,
    ) -> Result<(), ControlError> {
        let sequence = self.next();
        self.tell(Message::Watch {
            pid,
            start_ticks,
            backend,
            sequence,
        })?;
        self.wait_until(self.timeout, |message| {
            message == Message::Seen { sequence }
        })
    }

    /// Has it forget a process that runs again.
    pub fn forget(&mut self, pid: Pid) {
        let sequence = self.next();
        // A supervisor that is gone has forgotten it; the next beat tells.
        let _ = self.tell(Message::Forget { pid, sequence });
    }

    /// Says that this process goes into calls of the driver that may take long, as restarting queues does: until the next beat it
    /// is patient.
    pub fn busy(&mut self) {
        let sequence = self.next();
        // As in `forget`.
        let _ = self.tell(Message::Busy { sequence });
    }

    /// Says that this process lives.
    ///
    /// # Errors
    /// The supervisor is gone, or has answered nothing for its own timeout: release what is held.
    pub fn beat(&mut self) -> Result<(), ControlError> {
        while let Some(message) = self.read()? {
            self.note(message);
        }
        if let Some((_, since)) = self.waiting {
            if since.elapsed() >= self.timeout {
                return Err(gone("does not answer"));
            }
        }
        let sequence = self.next();
        self.tell(Message::Beat { sequence })
    }

    /// Its pid.
    #[must_use]
    pub fn pid(&self) -> Pid {
        Pid(self.child.id())
    }

    fn next(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.waiting.get_or_insert((self.sequence, Instant::now()));
        self.sequence
    }

    fn note(&mut self, message: Message) {
        let Message::Seen { sequence } = message else {
            return;
        };
        // Answers come in order: all before it are answered too. What is said after it waits from now on.
        self.waiting = self
            .waiting
            .filter(|_| sequence != self.sequence)
            .map(|_| (sequence.wrapping_add(1), Instant::now()));
    }

    fn tell(&self, message: Message) -> Result<(), ControlError> {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        loop {
            return match send(self.fd()?, &message.encode(), flags) {
                Ok(_) => Ok(()),
                Err(Errno::EINTR) => continue,
                Err(Errno::EAGAIN) => Err(gone("does not answer")),
                Err(_) => Err(gone("has ended")),
            };
        }
    }

    /// The next message that has arrived.
    fn read(&self) -> Result<Option<Message>, ControlError> {
        let mut bytes = [0; PACKET_BYTES + 1];
        loop {
            return match recv(self.fd()?, &mut bytes, MsgFlags::MSG_DONTWAIT) {
                Ok(0) => Err(gone("has ended")),
                Ok(count) => match Message::decode(&bytes[..count]) {
                    Some(message) => Ok(Some(message)),
                    None => Err(gone("says what nobody understands")),
                },
                Err(Errno::EINTR) => continue,
                Err(Errno::EAGAIN) => Ok(None),
                Err(_) => Err(gone("has ended")),
            };
        }
    }

    fn wait_until(
        &mut self,
        within: Duration,
        wanted: impl Fn(Message) -> bool,
    ) -> Result<(), ControlError> {
        let until = Instant::now() + within;
        loop {
            while let Some(message) = self.read()? {
                self.note(message);
                if wanted(message) {
                    return Ok(());
                }
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(gone("does not answer"));
            }
            let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            if let Some(socket) = &self.socket {
                // EINTR: look again.
                let _ = poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLIN)], left);
            }
        }
    }

    fn fd(&self) -> Result<i32, ControlError> {
        let socket = self.socket.as_ref().ok_or_else(|| gone("has ended"))?;
        Ok(socket.as_raw_fd())
    }
}

impl Guard for Supervisor {
    fn watch(
        &mut self,
        pid: Pid,
        start_ticks: u64,
        backend: BackendKind,
    ) -> Result<(), ControlError> {
        Self::watch(self, pid, start_ticks, backend)
    }

    fn forget(&mut self, pid: Pid) {
        Self::forget(self, pid);
    }

    fn busy(&mut self) {
        Self::busy(self);
    }

    fn beat(&mut self) -> Result<(), ControlError> {
        Self::beat(self)
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.socket = None;
        // It ends at once unless there is something to heal. If it takes longer, init gets it.
        let until = Instant::now() + END_WITHIN;
        while Instant::now() < until {
            match self.child.try_wait() {
                Ok(None) => std::thread::sleep(Duration::from_millis(1)),
                Ok(Some(_)) | Err(_) => return,
            }
        }
    }
}

/// Who restarts what this process stopped by these means if it cannot. A patched driver does, and a job with an agent, when the
/// lease ends or we do; for the others somebody must kill us when we hang, and for CRIU's pause undo it.
///
/// # Errors
/// The supervisor cannot be started.
pub fn guard(kind: BackendKind, lease: Duration) -> Result<Box<dyn Guard>, ControlError> {
    Ok(match kind {
        BackendKind::Patched | BackendKind::Agent | BackendKind::DryRun => Box::new(KernelGuards),
        BackendKind::DebugTrap | BackendKind::Criu => Box::new(Supervisor::start(lease)?),
    })
}

fn gone(how: &str) -> ControlError {
    ControlError::Failed(anyhow!(
        "the supervisor process, which restarts queues should this program end or hang, {how}; nothing is held without it"
    ))
}

/// The supervisor process itself: stdin is the socket, stdout a pidfd of the controller. Returns what to tell the user.
///
/// # Errors
/// It was not started by a controller.
pub fn run(timeout: Duration) -> anyhow::Result<Vec<String>> {
    isolate::isolate();
    let socket = std::io::stdin().as_fd().try_clone_to_owned()?;
    let controller = std::io::stdout().as_fd().try_clone_to_owned()?;
    serve(
        &socket,
        controller.as_fd(),
        Patience::new(timeout),
        &mut System::new(),
    )
    .context("this verb is for gpreempt itself: stdin must be its socket, stdout a pidfd")
}

#[cfg(test)]
mod tests;

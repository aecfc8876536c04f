// SPDX-License-Identifier: MIT OR Apache-2.0
//! One output stream of a command: from its pipe or terminal to the channel.

use std::fs::File;
use std::io::{ErrorKind, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result};
use guest::frame::ToHost;
use nix::fcntl::{fcntl, FcntlArg, OFlag};
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};

use super::Sender;

/// Longest piece of output in one frame: what the port takes in one write.
const PIECE_BYTES: usize = 32 * 1024;

/// Most that a pipe holds (`/proc/sys/fs/pipe-max-size`): after its end a command has no more to be sent,
/// even if children it left behind go on writing.
const REST_BYTES: usize = 1 << 20;

/// Tells the thread of a stream to stop.
#[derive(Clone)]
pub(super) struct Stop(Arc<Shared>);

struct Shared {
    closed: AtomicBool,
    wake: PipeWriter,
}

impl Stop {
    /// Nobody wants the rest: close the pipe now, so that the command sees it broken.
    pub(super) fn close(&self) {
        self.0.closed.store(true, Ordering::SeqCst);
        self.finish();
    }

    /// Nobody writes any more: send what is in the pipe and end.
    pub(super) fn finish(&self) {
        // The other end is gone only when the thread has ended already.
        let _ = (&self.0.wake).write_all(&[0]);
    }
}

/// The thread's side.
pub(super) struct Stream {
    source: File,
    frame: fn(Vec<u8>) -> ToHost,
    sender: Sender,
    stop: Stop,
    woken: PipeReader,
}

impl Stream {
    /// Starts to carry `source` to the host, each piece wrapped by `frame`.
    pub(super) fn start(
        source: OwnedFd,
        frame: fn(Vec<u8>) -> ToHost,
        sender: Sender,
    ) -> Result<(Stop, JoinHandle<()>)> {
        let (woken, wake) = std::io::pipe().context("create a pipe")?;
        let stop = Stop(Arc::new(Shared {
            closed: AtomicBool::new(false),
            wake,
        }));
        let stream = Self {
            source: File::from(source),
            frame,
            sender,
            stop: stop.clone(),
            woken,
        };
        Ok((stop, thread::spawn(move || stream.run())))
    }

    fn run(mut self) {
        let mut piece = vec![0; PIECE_BYTES];
        let mut last_round = false;
        let mut rest = REST_BYTES;
        loop {
            if !last_round {
                match self.wait() {
                    Ok(woken) => last_round = woken,
                    Err(_) => return,
                }
                if last_round && set_nonblocking(&self.source).is_err() {
                    return;
                }
            }
            if self.stop.0.closed.load(Ordering::SeqCst) {
                return;
            }
            match self.source.read(&mut piece) {
                Ok(0) => return,
                Ok(_) if last_round && rest == 0 => return,
                Ok(length) => {
                    if self
                        .sender
                        .send(&(self.frame)(piece[..length].to_vec()))
                        .is_err()
                    {
                        return;
                    }
                    if last_round {
                        rest = rest.saturating_sub(length);
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Drained (WouldBlock), or a terminal that its last user closed (EIO).
                Err(_) => return,
            }
        }
    }

    /// Waits for output or for [`Stop`]; true for the latter.
    fn wait(&self) -> nix::Result<bool> {
        let mut polled = [
            PollFd::new(self.source.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.woken.as_fd(), PollFlags::POLLIN),
        ];
        loop {
            match poll(&mut polled, PollTimeout::NONE) {
                Err(nix::errno::Errno::EINTR) => {}
                Err(error) => return Err(error),
                Ok(_) => return Ok(polled[1].any().unwrap_or(false)),
            }
        }
    }
}

fn set_nonblocking(file: &File) -> nix::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(file, FcntlArg::F_GETFL)?);
    fcntl(file, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)).map(drop)
}

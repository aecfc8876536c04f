// SPDX-License-Identifier: MIT OR Apache-2.0
//! Commands on standard input (`--control`): what a test wants a running process to do, at a moment that it chooses.

use std::io;
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};

use crate::queue::Engine;

/// A command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// `create compute|sdma [GPU_INDEX]`
    Create { engine: Engine, gpu: usize },
    /// `destroy QUEUE_ID`
    Destroy { queue_id: u32 },
    /// `update QUEUE_ID PERCENT [PRIORITY]`
    Update {
        queue_id: u32,
        percent: u32,
        priority: Option<u32>,
    },
    /// `disturb`: takes pages from under the queues, so that the driver evicts and restores them by itself.
    Disturb,
    /// `exec`: become another program, which waits to be killed.
    Exec,
    /// `reject`: a `CREATE_QUEUE` that the driver refuses.
    Reject,
    /// `report`: a report now.
    Report,
    /// `stop`: destroy the queues and end, as on SIGTERM.
    Stop,
    /// `exit`: end without destroying anything.
    Exit,
    /// `abort`: die of SIGABRT.
    Abort,
}

/// Reads a command line.
pub fn parse(line: &str) -> Result<Command, String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let number = |word: &str| {
        word.parse::<u32>()
            .map_err(|_| format!("not a number: {word:?}"))
    };
    Ok(match words[..] {
        ["create", engine] => Command::Create { engine: parse_engine(engine)?, gpu: 0 },
        ["create", engine, gpu] => Command::Create { engine: parse_engine(engine)?, gpu: number(gpu)? as usize },
        ["destroy", queue] => Command::Destroy { queue_id: number(queue)? },
        ["update", queue, percent] => {
            Command::Update { queue_id: number(queue)?, percent: number(percent)?, priority: None }
        }
        ["update", queue, percent, priority] => Command::Update {
            queue_id: number(queue)?,
            percent: number(percent)?,
            priority: Some(number(priority)?),
        },
        ["disturb"] => Command::Disturb,
        ["exec"] => Command::Exec,
        ["reject"] => Command::Reject,
        ["report"] => Command::Report,
        ["stop"] => Command::Stop,
        ["exit"] => Command::Exit,
        ["abort"] => Command::Abort,
        _ => return Err(format!("unknown command {line:?}: create, destroy, update, disturb, exec, reject, report, stop, exit or abort")),
    })
}

fn parse_engine(word: &str) -> Result<Engine, String> {
    match word {
        "compute" => Ok(Engine::Compute),
        "sdma" => Ok(Engine::Sdma),
        _ => Err(format!("unknown engine {word:?}: compute or sdma")),
    }
}

/// Lines of standard input, taken without blocking.
#[derive(Debug, Default)]
pub struct Input {
    partial: Vec<u8>,
    ended: bool,
}

impl Input {
    /// Lines that arrived since the last call.
    pub fn lines(&mut self) -> io::Result<Vec<String>> {
        let stdin = io::stdin();
        while !self.ended {
            let mut fds = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, PollTimeout::ZERO) {
                Ok(0) | Err(Errno::EINTR) => break,
                Ok(_) => {}
                Err(errno) => return Err(errno.into()),
            }
            // Not through the buffered handle: poll() knows nothing of its buffer.
            let mut buffer = [0; 512];
            match nix::unistd::read(&stdin, &mut buffer) {
                Ok(0) => self.ended = true,
                Ok(count) => self.partial.extend_from_slice(&buffer[..count]),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        let mut lines = Vec::new();
        while let Some(end) = self.partial.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = self.partial.drain(..=end).collect();
            lines.push(String::from_utf8_lossy(&line).trim().to_owned());
        }
        Ok(lines)
    }

    /// Whether the writer closed its end.
    pub fn ended(&self) -> bool {
        self.ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_read() {
        assert_eq!(
            parse("update 3 0"),
            Ok(Command::Update {
                queue_id: 3,
                percent: 0,
                priority: None
            })
        );
        assert_eq!(
            parse("update 3 100 15"),
            Ok(Command::Update {
                queue_id: 3,
                percent: 100,
                priority: Some(15)
            })
        );
        assert_eq!(
            parse(" create sdma 1 "),
            Ok(Command::Create {
                engine: Engine::Sdma,
                gpu: 1
            })
        );
        assert_eq!(parse("disturb"), Ok(Command::Disturb));
        assert_eq!(parse("exec"), Ok(Command::Exec));
        assert!(parse("create magic").unwrap_err().contains("magic"));
        assert!(parse("").is_err());
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command that runs while something is held: an ordinary child with our standard streams.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, ExitStatus};

use nix::sys::signal::{kill, SigSet, Signal};
use nix::unistd::Pid;

/// A running command. Dropping it neither ends nor awaits it.
#[derive(Debug)]
pub struct Running(Child);

/// How a command ended, as a shell would say it: its exit code, or 128 and the signal's number.
#[must_use]
pub fn exit_code(status: ExitStatus) -> u8 {
    let code = status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    u8::try_from(code & 0xff).unwrap_or(1)
}

/// Exit code for a command that could not be started: 127 it is not there, 126 it cannot be executed, as shells have it.
#[must_use]
pub fn start_failure_code(error: &io::Error) -> u8 {
    if error.kind() == io::ErrorKind::NotFound {
        127
    } else {
        126
    }
}

impl Running {
    /// Starts the command. Signals that this process blocks are not blocked in it.
    ///
    /// # Errors
    /// It is not there or cannot be executed.
    ///
    /// # Panics
    /// Without a first word.
    pub fn start(words: &[OsString]) -> io::Result<Self> {
        let (program, arguments) = words
            .split_first()
            .expect("the command line demands a word");
        let mut command = Command::new(program);
        command.args(arguments);
        let none = SigSet::empty();
        // SAFETY: between fork and exec only sigprocmask is called, which is async-signal-safe, on a set that was built before.
        unsafe {
            command.pre_exec(move || none.thread_set_mask().map_err(io::Error::from));
        }
        command.spawn().map(Self)
    }

    /// Whether it has ended, and how.
    ///
    /// # Errors
    /// It is no child of ours any more.
    pub fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.0.try_wait()
    }

    /// Sends it a signal. That it has ended meanwhile is no error.
    pub fn signal(&self, signal: Signal) {
        if let Ok(pid) = i32::try_from(self.0.id()) {
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(script: &str) -> u8 {
        let words = ["sh", "-c", script].map(OsString::from);
        let mut running = Running::start(&words).unwrap();
        loop {
            if let Some(status) = running.ended().unwrap() {
                return exit_code(status);
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    #[test]
    fn codes_are_those_of_a_shell() {
        assert_eq!(run("exit 0"), 0);
        assert_eq!(run("exit 77"), 77);
        assert_eq!(run("kill -TERM $$"), 143);
    }

    #[test]
    fn a_command_that_is_not_there_is_127() {
        let missing = Running::start(&["/nonexistent/x".into()]).unwrap_err();
        assert_eq!(start_failure_code(&missing), 127);
        let directory = Running::start(&["/".into()]).unwrap_err();
        assert_eq!(start_failure_code(&directory), 126);
    }

    #[test]
    fn blocked_signals_are_not_inherited() {
        let blocked = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT]);
        let before = blocked
            .thread_swap_mask(nix::sys::signal::SigmaskHow::SIG_BLOCK)
            .unwrap();
        // A shell that waits blocks signals itself: what replaces it tells.
        let code = run("exec grep -q '^SigBlk:[[:space:]]*0*$' /proc/self/status");
        before.thread_set_mask().unwrap();
        assert_eq!(code, 0);
    }
}

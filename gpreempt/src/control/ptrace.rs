// SPDX-License-Identifier: MIT OR Apache-2.0
//! ptrace(2) of a process that must not notice: seized, never stopped by us but at the end, its own stops and signals given
//! back to it. Signals are plain numbers here, because real-time signals have no name.

use std::marker::PhantomData;

use nix::errno::Errno;

use crate::event::Pid;

/// A process whose main thread the calling thread traces. Only that thread may use it, so it stays there.
#[derive(Debug)]
pub(crate) struct Tracee {
    pid: libc::pid_t,
    /// This process is its parent too. Then its end is left for who started it to wait for.
    is_child: bool,
    stays: PhantomData<*const ()>,
}

/// What became of a tracee.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// Stopped, and waits for the tracer.
    Stopped(Stop),
    /// Ended: exit code, or the signal that killed it. It is no tracee any more.
    Ended,
    /// It is no tracee any more: another of its threads replaced the program.
    Lost,
}

/// Why a tracee stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// This signal is about to be delivered.
    Signal(i32),
    /// The whole process was stopped by this signal; it goes on at SIGCONT.
    Group(i32),
    /// Interrupted by the tracer, or continued by SIGCONT.
    Trap,
    /// The main thread replaced the program.
    Exec,
    /// Another event.
    Other,
}

/// Reads a status of wait(2). A stop of a seized process carries its event in bits 16 and up.
pub(crate) fn classify(status: i32) -> Change {
    if !libc::WIFSTOPPED(status) {
        return Change::Ended;
    }
    let signal = libc::WSTOPSIG(status);
    Change::Stopped(match status >> 16 {
        0 => Stop::Signal(signal),
        libc::PTRACE_EVENT_EXEC => Stop::Exec,
        libc::PTRACE_EVENT_STOP => match signal {
            libc::SIGSTOP | libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU => Stop::Group(signal),
            _ => Stop::Trap,
        },
        _ => Stop::Other,
    })
}

impl Tracee {
    /// PTRACE_SEIZE: traces the process's main thread without stopping it. It survives the tracer. That it replaces its program
    /// is reported, which tells this from a signal.
    ///
    /// # Errors
    /// EPERM traced already, no right, or ended; ESRCH.
    pub(crate) fn seize(pid: Pid) -> nix::Result<Self> {
        let pid = i32::try_from(pid.0).map_err(|_| Errno::ESRCH)?;
        let options = libc::c_long::from(libc::PTRACE_O_TRACEEXEC);
        request(libc::PTRACE_SEIZE, pid, options)?;
        Ok(Self {
            pid,
            is_child: is_child(pid),
            stays: PhantomData,
        })
    }

    /// The next change that nobody took yet, without waiting.
    pub(crate) fn poll(&self) -> Option<Change> {
        if self.is_child && has_ended(self.pid) {
            return Some(Change::Ended);
        }
        loop {
            let mut status = 0;
            let flags = libc::WNOHANG | libc::__WALL;
            // SAFETY: the kernel writes one integer, which is ours.
            let result = unsafe { libc::waitpid(self.pid, std::ptr::from_mut(&mut status), flags) };
            match Errno::result(result) {
                Ok(0) => return None,
                Ok(_) => return Some(classify(status)),
                Err(Errno::EINTR) => {}
                // ECHILD: neither child nor tracee.
                Err(_) => return Some(Change::Lost),
            }
        }
    }

    /// Lets a stopped tracee go on as if nobody had looked, with the signal that it was to get.
    pub(crate) fn give_back(&self, stop: Stop) {
        // A failure means that it was killed meanwhile, which the next wait tells.
        let _ = match stop {
            Stop::Signal(signal) => {
                request(libc::PTRACE_CONT, self.pid, libc::c_long::from(signal))
            }
            // PTRACE_CONT would end the stop of the job; so it stays stopped until SIGCONT.
            Stop::Group(_) => request(libc::PTRACE_LISTEN, self.pid, 0),
            Stop::Trap | Stop::Exec | Stop::Other => request(libc::PTRACE_CONT, self.pid, 0),
        };
    }

    /// Stops it, which is what detaching needs.
    ///
    /// # Errors
    /// ESRCH ended.
    pub(crate) fn interrupt(&self) -> nix::Result<()> {
        request(libc::PTRACE_INTERRUPT, self.pid, 0)
    }

    /// Ends tracing a stopped tracee. It gets the signal that it was to get; stopped as a group it stays so
    /// (`__ptrace_unlink` reinstates the stop).
    pub(crate) fn detach(self, stop: Stop) {
        let signal = match stop {
            Stop::Signal(signal) => signal,
            _ => 0,
        };
        // A failure means that it was killed meanwhile.
        let _ = request(libc::PTRACE_DETACH, self.pid, libc::c_long::from(signal));
    }
}

/// Waits, in any thread of this process, until one of its threads could take a change of this tracee. It is not taken.
///
/// # Errors
/// ECHILD it is no tracee any more.
pub(crate) fn wait_untaken(pid: Pid) -> nix::Result<()> {
    look(pid.0, libc::WEXITED | libc::WSTOPPED).map(drop)
}

/// Whether a child of this process is a zombie, which it stays.
fn has_ended(pid: libc::pid_t) -> bool {
    // Stops of a tracee are told also to those who do not ask for them.
    let code = look(pid.unsigned_abs(), libc::WEXITED | libc::WNOHANG);
    code.is_ok_and(|code| matches!(code, libc::CLD_EXITED | libc::CLD_KILLED | libc::CLD_DUMPED))
}

/// waitid(2) without taking anything: the kind of change, 0 for none.
fn look(pid: libc::id_t, flags: i32) -> nix::Result<i32> {
    loop {
        // SAFETY: an all-zero siginfo_t is a valid value.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        let flags = flags | libc::WNOWAIT | libc::__WALL;
        // SAFETY: the kernel writes one siginfo_t, which is ours.
        let result =
            unsafe { libc::waitid(libc::P_PID, pid, std::ptr::from_mut(&mut info), flags) };
        match Errno::result(result) {
            Err(Errno::EINTR) => {}
            result => return result.map(|_| info.si_code),
        }
    }
}

fn is_child(pid: libc::pid_t) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|status| {
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
        parent.and_then(|pid| pid.trim().parse().ok()) == Some(std::process::id())
    })
}

fn request(request: libc::c_uint, pid: libc::pid_t, data: libc::c_long) -> nix::Result<()> {
    // SAFETY: the requests of this file take integers only, and address 0.
    let result = unsafe { libc::ptrace(request, pid, 0_usize, data) };
    Errno::result(result).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stops_are_told_apart() {
        let stopped = |signal: i32, event: i32| classify(event << 16 | signal << 8 | 0x7f);
        let at = Change::Stopped;
        assert_eq!(stopped(libc::SIGUSR1, 0), at(Stop::Signal(libc::SIGUSR1)));
        assert_eq!(stopped(libc::SIGSTOP, 0), at(Stop::Signal(libc::SIGSTOP)));
        // The first real-time signal that the C library leaves to programs.
        assert_eq!(stopped(34, 0), at(Stop::Signal(34)));
        let stop = libc::PTRACE_EVENT_STOP;
        assert_eq!(stopped(libc::SIGTSTP, stop), at(Stop::Group(libc::SIGTSTP)));
        assert_eq!(stopped(libc::SIGTRAP, stop), at(Stop::Trap));
        assert_eq!(
            stopped(libc::SIGTRAP, libc::PTRACE_EVENT_EXEC),
            at(Stop::Exec)
        );
        assert_eq!(classify(0), Change::Ended);
        assert_eq!(classify(libc::SIGKILL), Change::Ended);
    }
}

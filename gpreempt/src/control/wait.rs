// SPDX-License-Identifier: MIT OR Apache-2.0
//! Waits while something is held, keeps it alive meanwhile, and says why it ends.

use std::io;
use std::os::fd::AsFd as _;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::command::Running;
use super::ControlError;
use crate::kfd::Root;

/// Signals that end a hold.
const ENDING: [Signal; 4] = [
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGQUIT,
];

/// How often the targets are looked at.
const LOOK: Duration = Duration::from_millis(250);

/// `si_code` of what the kernel sends, a terminal for instance (include/uapi/asm-generic/siginfo.h).
const SI_KERNEL: i32 = 0x80;

/// Signals of this process, read instead of being delivered: nothing is interrupted between stopping and noting that it is
/// stopped.
#[derive(Debug)]
pub struct Signals {
    fd: SignalFd,
    before: SigSet,
}

/// One that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Came {
    signal: Signal,
    /// Whoever else is in the terminal's foreground got it too.
    by_terminal: bool,
}

impl Signals {
    /// Blocks them for this thread and those it starts from now on. To be called before any backend starts threads.
    ///
    /// # Errors
    /// The kernel is out of descriptors or memory.
    pub fn block() -> io::Result<Self> {
        let mut set = SigSet::empty();
        set.add(Signal::SIGCHLD);
        let ignored = ignored();
        for signal in ENDING {
            // What whoever started us wants ignored (nohup) stays so. A blocked signal would be kept even if it is ignored.
            if ignored >> (signal as u32 - 1) & 1 == 0 {
                set.add(signal);
            }
        }
        let fd = SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        let before = set.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
        Ok(Self { fd, before })
    }

    /// Waits for a signal until then.
    fn wait(&self, until: Instant) -> io::Result<()> {
        let left = until.saturating_duration_since(Instant::now());
        // Rounded up: not to spin through the last millisecond.
        let ms = i32::try_from(left.as_micros().div_ceil(1000)).unwrap_or(i32::MAX);
        let timeout = PollTimeout::try_from(ms).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// The number of an ending signal that came, without waiting for one.
    ///
    /// # Errors
    /// The kernel refuses to tell.
    pub fn ending(&self) -> io::Result<Option<i32>> {
        while let Some(came) = self.next()? {
            if came.signal != Signal::SIGCHLD {
                return Ok(Some(came.signal as i32));
            }
        }
        Ok(None)
    }

    fn next(&self) -> io::Result<Option<Came>> {
        loop {
            let Some(info) = self.fd.read_signal()? else {
                return Ok(None);
            };
            let number = i32::try_from(info.ssi_signo).unwrap_or(0);
            if let Ok(signal) = Signal::try_from(number) {
                return Ok(Some(Came {
                    signal,
                    by_terminal: info.ssi_code == SI_KERNEL,
                }));
            }
        }
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        // What came too late to be read is dropped with it, not delivered: the work is done.
        while let Ok(Some(_)) = self.next() {}
        let _ = self.before.thread_set_mask();
    }
}

/// Bit n-1 is signal n.
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0)
}

/// What is kept alive.
pub trait Kept {
    /// When [`Kept::renew`] is due.
    fn renewal_due(&self) -> Instant;

    /// Keeps it.
    ///
    /// # Errors
    /// It is lost.
    fn renew(&mut self) -> Result<(), ControlError>;

    /// Whether there is any reason left to keep it.
    fn any_alive(&self, root: &Root) -> bool;
}

/// Why the waiting ended.
#[derive(Debug)]
pub enum Ended {
    /// The time was over.
    Duration,
    /// The command ended.
    Command(ExitStatus),
    /// This signal.
    Signal(Signal),
    /// All targets ended.
    Gone,
    /// What was kept is lost.
    Lost(ControlError),
}

/// Keeps it until the deadline, a signal, or its loss; with a command, until that ends.
///
/// A command gets the signals that come, but for those of the terminal, which it has got already. Ctrl-C is the command's to
/// handle: it does not end the hold. SIGTERM, SIGHUP and SIGQUIT do, at once, whatever the command does.
///
/// # Errors
/// The kernel refuses to wait.
pub fn wait(
    kept: &mut dyn Kept,
    root: &Root,
    signals: &Signals,
    deadline: Option<Instant>,
    mut command: Option<&mut Running>,
) -> io::Result<Ended> {
    let mut look = Instant::now() + LOOK;
    loop {
        while let Some(came) = signals.next()? {
            match &command {
                _ if came.signal == Signal::SIGCHLD => {}
                None => return Ok(Ended::Signal(came.signal)),
                Some(running) => {
                    if !came.by_terminal {
                        running.signal(came.signal);
                    }
                    if came.signal != Signal::SIGINT {
                        return Ok(Ended::Signal(came.signal));
                    }
                }
            }
        }
        if let Some(running) = &mut command {
            if let Some(status) = running.ended()? {
                return Ok(Ended::Command(status));
            }
        }
        let now = Instant::now();
        if deadline.is_some_and(|deadline| deadline <= now) {
            return Ok(Ended::Duration);
        }
        if kept.renewal_due() <= now {
            if let Err(error) = kept.renew() {
                return Ok(Ended::Lost(error));
            }
        }
        if look <= now {
            look = now + LOOK;
            // A command is run to its end, with or without anybody to keep away from it.
            if command.is_none() && !kept.any_alive(root) {
                return Ok(Ended::Gone);
            }
        }
        let until = kept.renewal_due().min(look);
        signals.wait(deadline.map_or(until, |deadline| until.min(deadline)))?;
    }
}

/// Waits for the command alone, when nothing is kept any more.
///
/// # Errors
/// The kernel refuses to wait.
pub fn wait_for_command(signals: &Signals, running: &mut Running) -> io::Result<ExitStatus> {
    loop {
        while let Some(came) = signals.next()? {
            if came.signal != Signal::SIGCHLD && !came.by_terminal {
                running.signal(came.signal);
            }
        }
        if let Some(status) = running.ended()? {
            return Ok(status);
        }
        signals.wait(Instant::now() + LOOK)?;
    }
}

#[cfg(test)]
mod tests;

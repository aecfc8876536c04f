// SPDX-License-Identifier: MIT OR Apache-2.0
//! The pseudo-terminal of an interactive command.

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use guest::frame::WindowSize;
use nix::libc;
use nix::pty::{openpty, OpenptyResult, Winsize};

nix::ioctl_write_int_bad!(set_controlling_terminal, libc::TIOCSCTTY);
nix::ioctl_write_ptr_bad!(set_window_size, libc::TIOCSWINSZ, Winsize);

/// Both ends of a pseudo-terminal; the slave is kept only until the command has it.
pub(super) struct Terminal {
    pair: OpenptyResult,
}

impl Terminal {
    /// Opens a terminal of this size.
    pub(super) fn open(size: WindowSize) -> Result<Self> {
        let pair = openpty(Some(&winsize(size)), None).context("open a pseudo-terminal")?;
        Ok(Self { pair })
    }

    /// The agent's end.
    pub(super) fn master(&self) -> &OwnedFd {
        &self.pair.master
    }

    /// Starts the command as leader of a session whose controlling terminal this is.
    pub(super) fn spawn(&self, command: &mut Command) -> Result<Child> {
        let slave = || {
            self.pair
                .slave
                .try_clone()
                .map(Stdio::from)
                .context("duplicate the terminal")
        };
        command.stdin(slave()?).stdout(slave()?).stderr(slave()?);
        let take_terminal = || {
            nix::unistd::setsid()?;
            // SAFETY: standard input is the slave of a pseudo-terminal that this process just got; the argument is an integer.
            unsafe { set_controlling_terminal(0, 0) }?;
            Ok(())
        };
        // SAFETY: the closure runs between fork and exec and makes two system calls, which are safe there.
        unsafe { command.pre_exec(take_terminal) };
        Ok(command.spawn()?)
    }

    /// Changes the size; the kernel tells the command by SIGWINCH.
    pub(super) fn resize(&self, size: WindowSize) {
        // SAFETY: the descriptor is open as long as `self` lives and the kernel only reads the structure.
        // A terminal that refuses keeps its size, which is all that can be done about it.
        let _ = unsafe { set_window_size(self.pair.master.as_raw_fd(), &winsize(size)) };
    }
}

fn winsize(size: WindowSize) -> Winsize {
    Winsize {
        ws_row: size.rows,
        ws_col: size.cols,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

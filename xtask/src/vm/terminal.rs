// SPDX-License-Identifier: MIT OR Apache-2.0
//! The host's terminal: its size, and raw mode while a guest's terminal is connected to it.

use std::io::{IsTerminal, Stdin};

use anyhow::{Context, Result};
use guest::frame::WindowSize;
use nix::libc;
use nix::pty::Winsize;
use nix::sys::termios::{cfmakeraw, tcgetattr, tcsetattr, SetArg, Termios};

nix::ioctl_read_bad!(get_window_size, libc::TIOCGWINSZ, Winsize);

/// Whether a command can be given a terminal: someone types, and sees what is printed.
pub(super) fn is_interactive() -> bool {
    std::io::stdin().is_terminal() && std::io::stdout().is_terminal()
}

/// The size of the terminal, or that of the terminals of old if it does not tell.
pub(super) fn size() -> WindowSize {
    let mut size = Winsize {
        ws_row: 0,
        ws_col: 0,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: standard output stays open and the kernel writes one `winsize` to a place for one.
    let known = unsafe { get_window_size(libc::STDOUT_FILENO, &mut size) }.is_ok();
    if known && size.ws_row > 0 && size.ws_col > 0 {
        WindowSize {
            rows: size.ws_row,
            cols: size.ws_col,
        }
    } else {
        WindowSize { rows: 24, cols: 80 }
    }
}

/// Raw mode while it lives: keys go to the guest's terminal, which gives them their meaning.
pub(super) struct Raw {
    stdin: Stdin,
    before: Termios,
}

impl Raw {
    pub(super) fn enter() -> Result<Self> {
        let stdin = std::io::stdin();
        let before = tcgetattr(&stdin).context("read the terminal's settings")?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(&stdin, SetArg::TCSADRAIN, &raw).context("set the terminal to raw mode")?;
        Ok(Self { stdin, before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = tcsetattr(&self.stdin, SetArg::TCSADRAIN, &self.before);
    }
}

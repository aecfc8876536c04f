// SPDX-License-Identifier: MIT OR Apache-2.0
//! Stdout, stderr and the terminal.

use std::io::{self, IsTerminal as _, Write as _};
use std::os::fd::AsFd as _;

use anstream::{AutoStream, ColorChoice};
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};

use crate::sink::table::Layout;

/// How data is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// For people
    #[default]
    Table,
    /// For programs: one object a line
    Json,
}

/// When colours are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Color {
    /// On a terminal, unless NO_COLOR is set
    #[default]
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

impl Color {
    pub(super) fn on_stdout(self) -> bool {
        match self {
            Self::Auto => AutoStream::choice(&io::stdout()) != ColorChoice::Never,
            Self::Always => true,
            Self::Never => false,
        }
    }
}

/// A message on stderr; that nobody reads it is no error.
pub(super) fn say(message: &str) {
    let _ = writeln!(io::stderr(), "gpreempt: {message}");
}

/// Layout of a table on stdout. COLUMNS overrides the terminal's width.
pub(super) fn layout(color: bool) -> Layout {
    let terminal = if io::stdout().is_terminal() { terminal_size::terminal_size_of(io::stdout()) } else { None };
    let columns = std::env::var("COLUMNS").ok().and_then(|text| text.parse().ok()).filter(|columns| *columns > 0);
    Layout {
        width: columns.or_else(|| terminal.map(|(width, _)| usize::from(width.0))),
        height: terminal.map(|(_, height)| usize::from(height.0)),
        color,
    }
}

/// Whether the reader of stdout, a pipe, is gone. A watch that has nothing to write would not notice.
pub(super) fn reader_gone() -> bool {
    let stdout = io::stdout();
    let mut fds = [PollFd::new(stdout.as_fd(), PollFlags::empty())];
    match poll(&mut fds, PollTimeout::ZERO) {
        Ok(n) if n > 0 => fds[0].revents().is_some_and(|events| events.intersects(PollFlags::POLLERR)),
        _ => false,
    }
}

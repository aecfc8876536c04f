// SPDX-License-Identifier: MIT OR Apache-2.0
//! Stdout, stderr and the terminal.

use std::fs::File;
use std::io::{self, IsTerminal as _, Write as _};
use std::os::fd::AsFd as _;
use std::path::PathBuf;

use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Style};
use anyhow::Context as _;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use unicode_width::UnicodeWidthStr as _;

use crate::sink::table::Layout;

/// How data is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    #[default]
    Table,
    Json,
}

/// When colours are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Color {
    #[default]
    Auto,
    Always,
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

/// A page that is written when everything is known, and created before: a page that cannot be written is no reason to start.
pub(super) struct Page {
    path: PathBuf,
    file: File,
}

impl Page {
    pub(super) fn create(path: PathBuf) -> anyhow::Result<Self> {
        let file =
            File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { path, file })
    }

    pub(super) fn write(mut self, text: &str) -> anyhow::Result<()> {
        self.file
            .write_all(text.as_bytes())
            .with_context(|| format!("cannot write {}", self.path.display()))
    }
}

/// A message on stderr; that nobody reads it is no error.
pub(super) fn say(message: &str) {
    // One write, so that lines of several programs do not mix.
    let _ = io::stderr().write_all(format!("gpreempt: {message}\n").as_bytes());
}

/// Layout of a table on stdout. COLUMNS overrides the terminal's width.
pub(super) fn layout(color: bool) -> Layout {
    let terminal = if io::stdout().is_terminal() {
        terminal_size::terminal_size_of(io::stdout())
    } else {
        None
    };
    let columns = std::env::var("COLUMNS")
        .ok()
        .and_then(|text| text.parse().ok())
        .filter(|columns| *columns > 0);
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
        Ok(n) if n > 0 => fds[0]
            .revents()
            .is_some_and(|events| events.intersects(PollFlags::POLLERR)),
        _ => false,
    }
}

/// The few colours of reports.
#[derive(Clone, Copy, Debug)]
pub(super) enum Paint {
    Good,
    Attention,
    Bad,
    Faint,
    Title,
}

impl Paint {
    pub(super) fn text(self, text: &str, color: bool) -> String {
        if !color {
            return text.to_owned();
        }
        let style = match self {
            Self::Good => AnsiColor::Green.on_default(),
            Self::Attention => AnsiColor::Yellow.on_default(),
            Self::Bad => AnsiColor::Red.on_default().bold(),
            Self::Faint => Style::new().dimmed(),
            Self::Title => Style::new().bold(),
        };
        format!("{style}{text}{style:#}")
    }
}

/// Breaks text between words into lines of at most so many columns, or one word.
pub(super) fn wrap(text: &str, columns: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.width() + 1 + word.width() <= columns => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::wrap;

    #[test]
    fn lines_break_between_words() {
        assert_eq!(wrap("a bc def", 4), ["a bc", "def"]);
        assert_eq!(wrap("longword x", 3), ["longword", "x"]);
        assert_eq!(wrap("", 3), [""]);
    }
}

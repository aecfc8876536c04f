// SPDX-License-Identifier: MIT OR Apache-2.0
//! Text in a given number of columns, and the few colours there are.

use std::fmt::{self, Write as _};
use std::io;

use anstyle::AnsiColor;
use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

/// What a text is, which decides its colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::sink) enum Style {
    /// The terminal's own.
    Plain,
    /// Less important.
    Faint,
    /// Column titles.
    Title,
    /// Queues stop or wait.
    Attention,
    /// Queues go on.
    Good,
    /// Something failed or is missing.
    Bad,
}

impl Style {
    fn anstyle(self) -> anstyle::Style {
        let style = anstyle::Style::new();
        match self {
            Self::Plain => style,
            Self::Faint => style.dimmed(),
            Self::Title => style.bold(),
            Self::Attention => AnsiColor::Yellow.on_default(),
            Self::Good => AnsiColor::Green.on_default(),
            Self::Bad => AnsiColor::Red.on_default().bold(),
        }
    }

    pub(in crate::sink) fn push(self, out: &mut String, text: impl fmt::Display, color: bool) {
        let style = self.anstyle();
        // Writing to a String does not fail.
        let _ = if color && self != Self::Plain {
            write!(out, "{style}{text}{style:#}")
        } else {
            write!(out, "{text}")
        };
    }

    pub(in crate::sink) fn write(
        self,
        out: &mut impl io::Write,
        text: &str,
        color: bool,
    ) -> io::Result<()> {
        let mut painted = String::new();
        self.push(&mut painted, text, color);
        out.write_all(painted.as_bytes())
    }
}

/// Columns that a text takes.
pub(in crate::sink) fn width(text: &str) -> usize {
    text.width()
}

/// The text, or as much of its start as fits with an ellipsis.
pub(in crate::sink) fn fit(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let mut cut = String::new();
    let mut used = 1;
    for c in text.chars() {
        used += c.width().unwrap_or(0);
        if used > columns {
            break;
        }
        cut.push(c);
    }
    cut.push('…');
    cut
}

/// Appends blanks until the text counts `columns`.
pub(in crate::sink) fn pad(out: &mut String, text: &str, columns: usize) {
    out.extend(std::iter::repeat_n(
        ' ',
        columns.saturating_sub(width(text)),
    ));
}

/// `comm[pid]` in at most so many columns: of both, the pid stays whole.
pub(in crate::sink) fn process(comm: &str, pid: u32, columns: usize) -> String {
    let pid = format!("[{pid}]");
    let room = columns.saturating_sub(pid.len()).max(1);
    format!("{}{pid}", fit(comm, room))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wide_characters_count_twice() {
        assert_eq!(fit("日本語", 6), "日本語");
        assert_eq!(fit("日本語", 5), "日本…");
        assert_eq!(fit("日本語", 4), "日…");
        assert_eq!(fit("abc", 0), "…");
    }

    #[test]
    fn the_pid_stays_whole() {
        assert_eq!(process("VLLM::Worker_TP", 3158637, 15), "VLLM:…[3158637]");
        assert_eq!(process("kfd-load", 212, 15), "kfd-load[212]");
        assert_eq!(process("x", 4194304, 4), "x[4194304]");
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! The few colours that there are. Each comes with a word or a sign, so that nothing is lost without them.

use ratatui::style::{Color, Modifier, Style};

/// Colours, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::top) struct Ink {
    color: bool,
}

impl Ink {
    /// No colours.
    pub(super) const PLAIN: Self = Self { color: false };

    pub(in crate::top) fn new(color: bool) -> Self {
        Self { color }
    }

    fn of(self, color: Color) -> Style {
        if self.color {
            Style::new().fg(color)
        } else {
            Style::new()
        }
    }

    pub(super) fn plain(self) -> Style {
        Style::new()
    }

    pub(super) fn good(self) -> Style {
        self.of(Color::Green)
    }

    pub(super) fn attention(self) -> Style {
        self.of(Color::Yellow)
    }

    pub(super) fn bad(self) -> Style {
        self.of(Color::Red).add_modifier(Modifier::BOLD)
    }

    pub(super) fn accent(self) -> Style {
        self.of(Color::Cyan)
    }

    pub(super) fn faint(self) -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }

    pub(super) fn title(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    /// Titles of columns, and keys.
    pub(super) fn bar(self) -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }
}

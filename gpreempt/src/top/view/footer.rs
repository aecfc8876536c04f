// SPDX-License-Identifier: MIT OR Apache-2.0
//! The footer: keys, or the text that is being typed.

use ratatui::text::{Line, Span};

use super::text::{head, width};
use super::Ink;
use crate::top::state::{Mode, State};

const TABLE: &[(&str, &str)] = &[
    ("F1", "Help"),
    ("F3", "Search"),
    ("F4", "Filter"),
    ("F5", "Tree"),
    ("F6", "Sort"),
    ("I", "Invert"),
    ("Enter", "Queue"),
    ("g", "GPU"),
    ("f", "Findings"),
    ("Space", "Pause"),
    ("q", "Quit"),
];

const PLAYING: &[(&str, &str)] = &[
    ("F1", "Help"),
    ("Space", "Pause"),
    ("+", "Faster"),
    ("-", "Slower"),
    ("F4", "Filter"),
    ("F5", "Tree"),
    ("F6", "Sort"),
    ("Enter", "Queue"),
    ("q", "Quit"),
];

const DETAILS: &[(&str, &str)] = &[("Esc", "Back"), ("s", "Slots"), ("Up/Down", "Scroll")];
const HELP: &[(&str, &str)] = &[("Esc", "Back"), ("Up/Down", "Scroll")];

/// Its line.
pub(super) fn line(state: &State, ink: Ink, columns: u16) -> Line<'static> {
    let columns = usize::from(columns);
    let keys = match state.mode {
        Mode::Search => {
            return typed(
                "Search: ",
                &state.search,
                "F3 next  Enter done  Esc cancel",
                ink,
                columns,
            )
        }
        Mode::Filter => {
            return typed(
                "Filter: ",
                &state.filter,
                "Enter done  Esc clear",
                ink,
                columns,
            )
        }
        Mode::Details => DETAILS,
        Mode::Help | Mode::Findings => HELP,
        Mode::Table if state.playing.is_some() => PLAYING,
        Mode::Table => TABLE,
    };
    let mut spans = Vec::new();
    let mut room = columns;
    for (key, what) in keys {
        let wide = key.len() + what.len() + 2;
        if wide > room {
            break;
        }
        room -= wide;
        spans.push(Span::styled((*key).to_owned(), ink.bar()));
        spans.push(Span::raw(format!(" {what} ")));
    }
    Line::from(spans)
}

fn typed(what: &str, text: &str, keys: &str, ink: Ink, columns: usize) -> Line<'static> {
    let text = head(&format!("{what}{text}_"), columns);
    let room = columns.saturating_sub(width(&text) + 2);
    let mut spans = vec![Span::styled(text, ink.title())];
    if width(keys) <= room {
        spans.push(Span::styled(format!("  {keys}"), ink.faint()));
    }
    Line::from(spans)
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! Help: the keys, the columns, and what could not be seen.

use ratatui::text::{Line, Span};

use super::text::pad;
use super::Ink;
use crate::top::keys;
use crate::top::state::State;

const COLUMNS: &[(&str, &str)] = &[
    (
        "STATE",
        "mapped: in the runlist, which does not mean that it runs",
    ),
    ("DEPTH", "packets written and not read"),
    ("RATE/s", "packets read a second, of the last look"),
    ("PRE", "times taken off the GPU since watching began"),
    ("OFF%", "share of the last minute off the GPU"),
    (
        "LATENCY",
        "time off for each time taken off, one bar a look",
    ),
    (
        "unmap",
        "median of the last minute: the driver's whole call",
    ),
];

/// Its lines.
pub(super) fn lines(state: &State, ink: Ink, columns: u16) -> Vec<Line<'static>> {
    let columns = usize::from(columns);
    let mut lines = vec![Line::styled("Keys", ink.title())];
    lines.extend(pairs(keys::HELP, ink, columns));
    lines.push(Line::raw(""));
    lines.push(Line::styled("Columns", ink.title()));
    lines.extend(pairs(COLUMNS, ink, columns));
    if !state.snapshot.lacks.is_empty() {
        lines.push(Line::raw(""));
        lines.push(Line::styled("Not seen", ink.title()));
    }
    for lack in &state.snapshot.lacks {
        let text = format!("{}: {}: {}", lack.what, lack.why, lack.fix);
        lines.extend(
            wrap(&text, columns.saturating_sub(2))
                .into_iter()
                .map(|text| Line::raw(format!("  {text}"))),
        );
    }
    lines
}

fn pairs(pairs: &[(&str, &str)], ink: Ink, columns: usize) -> Vec<Line<'static>> {
    let left = pairs.iter().map(|(key, _)| key.len()).max().unwrap_or(0) + 4;
    let mut lines = Vec::new();
    for (key, what) in pairs {
        for (at, text) in wrap(what, columns.saturating_sub(left))
            .into_iter()
            .enumerate()
        {
            let key = if at == 0 { *key } else { "" };
            lines.push(Line::from(vec![
                Span::styled(pad(format!("  {key}"), left, false), ink.accent()),
                Span::raw(text),
            ]));
        }
    }
    lines
}

/// Breaks text between words; a word that is longer than a line stays whole.
pub(super) fn wrap(text: &str, columns: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if super::text::width(line) + 1 + super::text::width(word) <= columns => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

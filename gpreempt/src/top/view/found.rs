// SPDX-License-Identifier: MIT OR Apache-2.0
//! The pane of findings, and the first of them in a line.

use ratatui::text::{Line, Span};

use super::help::wrap;
use super::text::head;
use super::Ink;
use crate::findings::{Finding, Kind, Severity};
use crate::top::state::State;

/// Columns of the severity.
const LEFT: usize = 6;

/// Its lines.
pub(super) fn lines(state: &State, ink: Ink, columns: u16) -> Vec<Line<'static>> {
    let columns = usize::from(columns);
    let mut lines = vec![Line::styled("Findings", ink.title())];
    for finding in state.found() {
        let (word, style) = match finding.severity {
            Severity::Warn => ("WARN", ink.attention()),
            Severity::Info => ("info", ink.faint()),
        };
        let text = format!("{}: {}", finding.subject(), finding.evidence);
        let room = columns.saturating_sub(LEFT);
        for (at, text) in wrap(&text, room).into_iter().enumerate() {
            let word = if at == 0 { word } else { "" };
            lines.push(Line::from(vec![
                Span::styled(format!(" {word:<5}"), style),
                Span::raw(head(&text, room)),
            ]));
        }
        for text in wrap(&finding.advice, room) {
            let text = format!("{:LEFT$}{}", "", head(&text, room));
            lines.push(Line::styled(text, ink.faint()));
        }
    }
    if lines.len() == 1 {
        lines.push(Line::raw(""));
        lines.push(Line::raw(" nothing worth knowing"));
    }
    lines
}

/// The first warning that no other line of the header tells.
pub(super) fn first(state: &State) -> Option<&Finding> {
    state
        .warnings()
        .find(|finding| finding.kind != Kind::Oversubscribed)
}

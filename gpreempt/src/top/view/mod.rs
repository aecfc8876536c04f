// SPDX-License-Identifier: MIT OR Apache-2.0
//! A state on a screen. Pure: what is drawn depends on the state, the size and the colours alone.

mod details;
mod footer;
mod found;
mod header;
mod help;
mod ink;
mod table;
mod text;

use ratatui::layout::Rect;
use ratatui::text::Line;
use ratatui::widgets::Paragraph;
use ratatui::Frame;

pub(super) use ink::Ink;

use super::state::{Mode, State};

/// Below this there is no room for a table.
const LEAST: (u16, u16) = (40, 8);

/// Where things are.
struct Regions {
    header: Rect,
    body: Rect,
    footer: Rect,
}

fn regions(state: &State, area: Rect) -> Regions {
    // The table gets half of the screen at least.
    let header = header::height(state, area.height / 2);
    let body = area.height.saturating_sub(header + 1);
    let at = |y, height| Rect::new(area.x, area.y + y, area.width, height);
    Regions {
        header: at(0, header),
        body: at(header, body),
        footer: at(header + body, 1),
    }
}

fn is_too_small(area: Rect) -> bool {
    area.width < LEAST.0 || area.height < LEAST.1
}

/// Tells the state how much room there is. Before [`draw`], which only looks.
pub(super) fn fit(state: &mut State, area: Rect) {
    if is_too_small(area) {
        return;
    }
    let body = regions(state, area).body;
    state.fit(usize::from(body.height.saturating_sub(1)));
    let lines = match state.mode {
        Mode::Details => details::lines(state, Ink::PLAIN, body.width).len(),
        Mode::Help => help::lines(state, Ink::PLAIN, body.width).len(),
        Mode::Findings => found::lines(state, Ink::PLAIN, body.width).len(),
        _ => 0,
    };
    state.limit_scroll(lines.saturating_sub(usize::from(body.height)));
}

/// Draws.
pub(super) fn draw(state: &State, ink: Ink, frame: &mut Frame<'_>) {
    let area = frame.area();
    if is_too_small(area) {
        let lines = vec![
            Line::raw("terminal too small"),
            Line::raw(format!(
                "{}x{}, needs {}x{}",
                area.width, area.height, LEAST.0, LEAST.1
            )),
            Line::raw("q quits"),
        ];
        frame.render_widget(Paragraph::new(lines), area);
        return;
    }
    let regions = regions(state, area);
    frame.render_widget(
        Paragraph::new(header::lines(state, ink, regions.header, area.height)),
        regions.header,
    );
    let lines = match state.mode {
        Mode::Details => details::lines(state, ink, regions.body.width),
        Mode::Help => help::lines(state, ink, regions.body.width),
        Mode::Findings => found::lines(state, ink, regions.body.width),
        _ => table::lines(state, ink, regions.body),
    };
    let from = match state.mode {
        Mode::Details | Mode::Help | Mode::Findings => state.scroll,
        _ => 0,
    };
    let lines: Vec<Line<'_>> = lines
        .into_iter()
        .skip(from)
        .take(usize::from(regions.body.height))
        .collect();
    frame.render_widget(Paragraph::new(lines), regions.body);
    frame.render_widget(
        Paragraph::new(footer::line(state, ink, regions.footer.width)),
        regions.footer,
    );
}

#[cfg(test)]
mod tests;

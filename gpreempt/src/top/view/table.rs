// SPDX-License-Identifier: MIT OR Apache-2.0
//! The table of queues. Columns go by importance when there is no room, and come by it when there is.

use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};

use super::text::{count, head, pad, percent, plural, process, rate, spark, tail, width};
use super::Ink;
use crate::event::QueueType;
use crate::kfd::snapshot::State as Stand;
use crate::sink::units::Nanos;
use crate::top::state::{Column, Line as Body, Row, State, Status};

/// A column and the columns of the screen that it gets.
type Placed = Vec<(Column, usize)>;

/// Most important first.
const IMPORTANCE: &[Column] = &[
    Column::Process,
    Column::Queue,
    Column::State,
    Column::Off,
    Column::Preemptions,
    Column::Depth,
    Column::Rate,
    Column::Type,
    Column::Latency,
    Column::Priority,
    Column::Percent,
    Column::Container,
    Column::Cgroup,
];

/// A mark in front of the selected queue.
const MARK: usize = 1;

const PROCESS: (usize, usize) = (15, 26);
const LATENCY: (usize, usize) = (8, 24);
/// Columns of a duration, and a gap.
const LATENCY_WORDS: usize = 7;
const CONTAINER: usize = 12;
const CGROUP: usize = 16;

fn least(column: Column, state: &State) -> usize {
    let longest = |text: fn(&Row) -> String| {
        let texts = state.rows.iter().map(|row| width(&text(row)));
        texts.max().unwrap_or(0).max(column.title().len())
    };
    match column {
        Column::Process => PROCESS.0,
        Column::Queue => longest(Row::gpu_queue),
        Column::State => 9,
        Column::Type => 7,
        // One more than the title, for the arrow of the order.
        Column::Off | Column::Preemptions | Column::Priority => 5,
        Column::Depth => 6,
        Column::Rate => 7,
        Column::Percent => 4,
        Column::Latency => LATENCY.0,
        Column::Container => CONTAINER,
        Column::Cgroup => CGROUP,
    }
}

/// Nobody wants an empty column.
fn is_of_use(column: Column, state: &State) -> bool {
    match column {
        Column::Container => state.rows.iter().any(|row| row.container.is_some()),
        Column::Cgroup => state.rows.iter().any(|row| row.cgroup.is_some()),
        _ => true,
    }
}

fn place(state: &State, columns: usize) -> Placed {
    let mut room = columns.saturating_sub(MARK);
    let mut placed: Placed = Vec::new();
    for column in IMPORTANCE {
        if !is_of_use(*column, state) {
            continue;
        }
        let gap = usize::from(!placed.is_empty());
        let wide = least(*column, state) + gap;
        if wide > room {
            // A less important one that is narrower does not take its place: columns would jump about.
            break;
        }
        room -= wide;
        placed.push((*column, wide - gap));
    }
    let names = state.rows.iter().map(|row| width(&row.process())).max();
    for (grows, most) in [
        (Column::Process, names.unwrap_or(0).min(PROCESS.1)),
        (Column::Latency, LATENCY.1),
        (Column::Cgroup, usize::MAX),
    ] {
        if let Some((_, wide)) = placed.iter_mut().find(|(column, _)| *column == grows) {
            let more = most.saturating_sub(*wide).min(room);
            *wide += more;
            room -= more;
        }
    }
    placed.sort_by_key(|(column, _)| Column::ALL.iter().position(|other| other == column));
    placed
}

/// Its lines, the titles first.
pub(super) fn lines(state: &State, ink: Ink, area: Rect) -> Vec<Line<'static>> {
    let columns = usize::from(area.width);
    let placed = place(state, columns);
    let mut lines = vec![titles(state, ink, &placed, columns)];
    let room = usize::from(area.height).saturating_sub(1);
    if state.lines.is_empty() {
        lines.extend(
            nothing(state, columns)
                .into_iter()
                .map(|text| Line::styled(text, ink.faint())),
        );
        return lines;
    }
    for line in state.lines.iter().skip(state.top).take(room) {
        lines.push(match line {
            Body::Process(at) => group(state, ink, *at, columns),
            Body::Queue(at) => queue(state, ink, &state.rows[*at], &placed, columns),
        });
    }
    lines
}

/// Why there are no queues.
fn nothing(state: &State, columns: usize) -> Vec<String> {
    let mut texts = vec![String::new()];
    if state.gpus.is_empty() {
        texts.push(" no GPU: the driver lists none (`gpreempt doctor` says more)".to_owned());
    } else if state.queues > 0 {
        texts.push(format!(
            " none of {} passes the filters",
            plural(state.queues, "queue", "queues")
        ));
    } else if state.status == Status::Attaching {
        texts.push(" attaching probes...".to_owned());
    } else {
        texts.push(" no queues: idle".to_owned());
    }
    texts.iter().map(|text| head(text, columns)).collect()
}

fn is_right(column: Column) -> bool {
    column.descends() && column != Column::Latency
}

fn titles(state: &State, ink: Ink, placed: &Placed, columns: usize) -> Line<'static> {
    let mut text = " ".repeat(MARK);
    for (at, (column, wide)) in placed.iter().enumerate() {
        if at > 0 {
            text.push(' ');
        }
        let mut title = column.title().to_owned();
        if *column == state.sort {
            let descends = column.descends() != state.inverted;
            let arrow = if descends { '↓' } else { '↑' };
            title = head(&title, wide.saturating_sub(1)).replace('…', "");
            title.push(arrow);
        }
        text.push_str(&pad(title, *wide, is_right(*column)));
    }
    Line::styled(pad(head(&text, columns), columns, false), ink.bar())
}

fn group(state: &State, ink: Ink, at: usize, columns: usize) -> Line<'static> {
    let group = &state.groups[at];
    let queues = match group.queues {
        0 => "no queues, holds a place in the runlist all the same".to_owned(),
        n => plural(n, "queue", "queues"),
    };
    let container = group.container.as_deref();
    let container = container.map(|id| format!("  container {}", head(id, CONTAINER)));
    let text = format!(" {}  {queues}{}", group.name, container.unwrap_or_default());
    Line::styled(head(&text, columns), ink.title())
}

fn queue(state: &State, ink: Ink, row: &Row, placed: &Placed, columns: usize) -> Line<'static> {
    let selected = state.selected == Some(row.key);
    let mut spans = vec![Span::raw(if selected { ">" } else { " " })];
    let mut wide = MARK;
    for (at, (column, room)) in placed.iter().enumerate() {
        let gap = if at > 0 { " " } else { "" };
        let (text, style) = cell(*column, row, state, ink, *room);
        let text = gap.to_owned() + &pad(text, *room, is_right(*column));
        wide += width(&text);
        spans.push(Span::styled(text, style));
    }
    spans.push(Span::raw(" ".repeat(columns.saturating_sub(wide))));
    let line = Line::from(spans);
    if selected {
        line.style(ink.bar())
    } else {
        line
    }
}

fn cell(column: Column, row: &Row, state: &State, ink: Ink, room: usize) -> (String, Style) {
    let known = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    match column {
        Column::Process => {
            let indent = if state.tree { "  " } else { "" };
            let text = process(&row.comm, row.key.pid.0, room.saturating_sub(indent.len()));
            (format!("{indent}{text}"), ink.plain())
        }
        Column::Container => (
            row.container
                .as_deref()
                .map(|id| head(id, room))
                .unwrap_or_default(),
            ink.plain(),
        ),
        Column::Queue => (row.gpu_queue(), ink.accent()),
        Column::Type => (type_word(row.queue_type).to_owned(), ink.plain()),
        Column::State => (row.state.name().to_owned(), state_style(row.state, ink)),
        Column::Depth => (known(row.depth.map(count)), ink.plain()),
        Column::Rate => (known(row.rate.map(rate)), ink.plain()),
        Column::Preemptions => (known(row.preemptions.map(count)), ink.plain()),
        Column::Off => {
            let style = match row.off_share {
                Some(share) if share >= 0.5 => ink.bad(),
                Some(share) if share >= 0.05 => ink.attention(),
                _ => ink.plain(),
            };
            (known(row.off_share.map(percent)), style)
        }
        Column::Priority => (known(row.priority.map(|n| n.to_string())), ink.plain()),
        Column::Percent => (known(row.percent.map(|n| n.to_string())), ink.plain()),
        Column::Latency => (latency(&row.latencies_ns, room), ink.accent()),
        Column::Cgroup => (
            row.cgroup
                .as_deref()
                .map(|path| tail(path, room))
                .unwrap_or_default(),
            ink.faint(),
        ),
    }
}

/// The last one in words too, where there is room, as each sparkline has a scale of its own.
fn latency(latencies_ns: &[u64], room: usize) -> String {
    if room < LATENCY_WORDS + LATENCY.0 {
        return spark(latencies_ns, room);
    }
    let last = latencies_ns.iter().rev().find(|ns| **ns > 0);
    let last = last.map_or_else(String::new, |ns| Nanos(*ns).to_string());
    let bars = spark(latencies_ns, room - LATENCY_WORDS);
    format!("{last:>6} {bars}")
}

fn type_word(queue_type: QueueType) -> &'static str {
    match queue_type {
        QueueType::SdmaXgmi => "xgmi",
        QueueType::SdmaByEngine => "sdma#",
        other => other.name(),
    }
}

/// Green runs or may; yellow waits; red was stopped by somebody.
pub(super) fn state_style(state: Stand, ink: Ink) -> Style {
    match state {
        Stand::Mapped => ink.good(),
        Stand::Held | Stand::Suspended | Stand::Evicted => ink.bad(),
        Stand::Parked | Stand::Unmapped => ink.attention(),
        Stand::Disabled | Stand::Unknown => ink.faint(),
    }
}

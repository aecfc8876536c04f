// SPDX-License-Identifier: MIT OR Apache-2.0
//! Everything that is known of one queue.

use ratatui::style::Style;
use ratatui::text::{Line, Span};

use super::help::wrap;
use super::table::state_style;
use super::text::{count, head, pad, percent, rate, spark, width};
use super::Ink;
use crate::event::Cause;
use crate::sink::units::{Bytes, Nanos};
use crate::top::state::{Row, State};

/// Columns of the names.
const LEFT: usize = 14;

struct Page {
    ink: Ink,
    columns: usize,
    lines: Vec<Line<'static>>,
}

impl Page {
    fn title(&mut self, text: &str) {
        if !self.lines.is_empty() {
            self.lines.push(Line::raw(""));
        }
        let text = head(text, self.columns);
        self.lines.push(Line::styled(text, self.ink.title()));
    }

    fn styled(&mut self, name: &str, text: String, style: Style) {
        let room = self.columns.saturating_sub(LEFT);
        for (at, text) in wrap(&text, room).into_iter().enumerate() {
            let name = if at == 0 { name } else { "" };
            self.lines.push(Line::from(vec![
                Span::styled(pad(format!("  {name}"), LEFT, false), self.ink.faint()),
                Span::styled(text, style),
            ]));
        }
    }

    fn line(&mut self, name: &str, text: impl Into<String>) {
        self.styled(name, text.into(), self.ink.plain());
    }

    fn known<T: ToString>(&mut self, name: &str, value: Option<T>) {
        self.line(
            name,
            value.map_or_else(|| "-".to_owned(), |value| value.to_string()),
        );
    }

    /// A sparkline over the whole width, and what its top is.
    fn spark(&mut self, name: &str, values: &[u64], top: impl Fn(u64) -> String) {
        let most = values.iter().copied().max().unwrap_or(0);
        let legend = format!(" max {}", top(most));
        let room = self.columns.saturating_sub(LEFT + width(&legend));
        let bars = spark(values, room.min(values.len()));
        self.lines.push(Line::from(vec![
            Span::styled(pad(format!("  {name}"), LEFT, false), self.ink.faint()),
            Span::styled(bars, self.ink.accent()),
            Span::styled(legend, self.ink.faint()),
        ]));
    }
}

/// Its lines.
pub(super) fn lines(state: &State, ink: Ink, columns: u16) -> Vec<Line<'static>> {
    let mut page = Page {
        ink,
        columns: usize::from(columns),
        lines: Vec::new(),
    };
    if let Some(row) = state.selected_row() {
        queue(&mut page, row);
        use_of_it(&mut page, row);
        hardware(&mut page, row, state);
    }
    page.lines
}

fn queue(page: &mut Page, row: &Row) {
    page.title(&format!("Queue {} of {}", row.gpu_queue(), row.process()));
    let reason = row.queue.as_ref().and_then(|queue| queue.reason.as_deref());
    let reason = reason.map_or_else(String::new, |reason| format!(": {reason}"));
    page.styled(
        "state",
        format!("{}{reason}", row.state.name()),
        state_style(row.state, page.ink),
    );
    page.line(
        "type",
        format!(
            "{}{}",
            row.queue_type.name(),
            match row.queue.as_ref().and_then(|queue| queue.aql) {
                Some(true) => ", aql packets",
                Some(false) => ", pm4 packets",
                None => "",
            }
        ),
    );
    if let Some(ns_pid) = row.ns_pid {
        page.line(
            "pid",
            format!("{} ({ns_pid} in its namespace)", row.key.pid),
        );
    }
    if let Some(uid) = row.uid {
        page.known("user", Some(uid));
    }
    if let Some(container) = &row.container {
        page.line("container", container.clone());
    }
    if let Some(cgroup) = &row.cgroup {
        page.line("cgroup", cgroup.clone());
    }
    page.known("age", row.age_ns.map(Nanos));
    page.line(
        "priority",
        format!(
            "{} of 15, {} % of the time",
            row.priority
                .map_or_else(|| "-".to_owned(), |n| n.to_string()),
            row.percent
                .map_or_else(|| "-".to_owned(), |n| n.to_string())
        ),
    );
}

fn use_of_it(page: &mut Page, row: &Row) {
    page.title("Use");
    page.line("ring", Bytes(row.ring_bytes).to_string());
    let queue = row.queue.as_ref();
    let never = queue.is_some_and(|queue| queue.write_index == Some(0));
    page.line(
        "packets",
        format!(
            "{} written, {} read, {} wait{}",
            known(queue.and_then(|queue| queue.write_index)),
            known(queue.and_then(|queue| queue.read_index)),
            known(row.depth),
            if never { "; never used" } else { "" }
        ),
    );
    page.line(
        "rate",
        match (row.rate, row.idle_ns) {
            (Some(0.0), Some(idle_ns)) => {
                format!("0/s, nothing read for {}", Nanos(idle_ns))
            }
            (Some(per_s), _) => format!("{}/s", rate(per_s)),
            (None, _) => "-".to_owned(),
        },
    );
    page.spark("depth", &row.depths, count);
    let Some(usage) = &row.usage else {
        page.line("off the GPU", "- (no events)");
        return;
    };
    page.line(
        "off the GPU",
        format!(
            "{} times; {} % of the last minute",
            usage.preemptions,
            row.off_share.map_or_else(|| "-".to_owned(), percent)
        ),
    );
    page.spark("share off", &row.off_permille, |permille| {
        format!("{} %", percent(permille as f64 / 1000.0))
    });
    page.spark("each time", &row.latencies_ns, |ns| Nanos(ns).to_string());
    let mut causes: Vec<(u64, Cause)> = Cause::ALL
        .iter()
        .map(|cause| (usage.by_cause[cause.index()], *cause))
        .filter(|(times, _)| *times > 0)
        .collect();
    causes.sort_by_key(|(times, _)| std::cmp::Reverse(*times));
    if !causes.is_empty() {
        let causes = causes
            .iter()
            .map(|(times, cause)| format!("{} {times}", cause.name()));
        page.line("by cause", causes.collect::<Vec<_>>().join(", "));
    }
    if let Some((cause, _)) = usage.last_cause {
        let who = row.last_by.as_deref().unwrap_or("nobody known");
        page.line("last by", format!("{who} ({})", cause.name()));
    }
}

fn hardware(page: &mut Page, row: &Row, state: &State) {
    page.title("Hardware");
    page.known("doorbell", row.doorbell);
    let Some(queue) = &row.queue else {
        page.line("", "no picture of it");
        return;
    };
    let hex = |value: Option<u64>| value.map(|value| format!("{value:#x}"));
    page.known("mqd", hex(queue.mqd_address));
    page.known("wptr", hex(queue.wptr_address));
    page.known("rptr", hex(queue.rptr_address));
    if queue.slots.is_empty() {
        page.line(
            "slots",
            if state.slots {
                "on none now"
            } else {
                "not read; s reads them"
            },
        );
    }
    for slot in &queue.slots {
        page.line(
            "slot",
            format!(
                "xcc {} pipe {} queue {} vmid {}",
                slot.xcc, slot.pipe, slot.queue, slot.vmid
            ),
        );
    }
    for (name, times) in [
        ("wave save", &queue.saves),
        ("wave restore", &queue.restores),
    ] {
        for (xcc, (start, end)) in times.iter().enumerate() {
            let ticks = end.saturating_sub(*start);
            let text = match state.rates.get(&row.key.gpu_id) {
                Some(rate) => format!("xcc {xcc}: {} (counter: {rate})", Nanos(rate.ns(ticks))),
                None => format!("xcc {xcc}: {ticks} ticks of the GPU's counter"),
            };
            page.line(name, text);
        }
    }
}

fn known(value: Option<u64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

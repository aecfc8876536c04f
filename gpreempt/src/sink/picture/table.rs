// SPDX-License-Identifier: MIT OR Apache-2.0
//! A picture as a table for people: a line for each GPU, one for each queue, the processes without queues, and what is missing.

use std::fmt::Write as _;
use std::io::{self, Write};

use super::{Gpu, Picture, Process, Queue};
use crate::event::{Escaped, QueueType};
use crate::kfd::snapshot::{Slot, State};
use crate::sink::finding;
use crate::sink::table::cell::{fit, pad, process, width, Style};
use crate::sink::table::Layout;
use crate::sink::units::Nanos;

/// Digits of a container's id that are shown: as many as runtimes show.
const SHORT_ID: usize = 12;

/// Columns of the process where the reason has to fit beside it, and at the least.
const PROCESS: usize = 24;
const LEAST_PROCESS: usize = 15;
/// A reason of fewer columns says nothing.
const LEAST_REASON: usize = 12;

/// A column: title, whether it is aligned to the right, text of a queue.
struct Column {
    title: &'static str,
    right: bool,
    text: fn(&Queue) -> String,
}

const fn left(title: &'static str, text: fn(&Queue) -> String) -> Column {
    Column {
        title,
        right: false,
        text,
    }
}

const fn right(title: &'static str, text: fn(&Queue) -> String) -> Column {
    Column {
        title,
        right: true,
        text,
    }
}

/// Columns of every table, after the process.
const COLUMNS: &[Column] = &[
    left("GPU:Q", |q| format!("{}:{}", q.gpu_id, q.queue_id)),
    left("TYPE", |q| kind(q).to_owned()),
    left("STATE", |q| state(q.state).to_owned()),
    right("DEPTH", |q| known(q.depth)),
    right("RATE", rate),
    right("PRIO", |q| known(q.priority)),
    right("%", |q| known(q.percent)),
];

/// Of what was watched.
const HISTORY: &[Column] = &[
    right("AGE", |q| {
        known(
            q.created_ns
                .map(|created| Nanos(q.ts_ns.saturating_sub(created))),
        )
    }),
    right("PREEMPTED", |q| known(q.preemptions)),
    right("OFF", |q| known(q.off_ns.map(Nanos))),
];

const SLOTS: Column = left("SLOTS", |q| {
    slots(q.slots.as_deref().unwrap_or_default(), q.queue_type)
});

const WHY: Column = left("", |q| q.reason.clone().unwrap_or_default());

impl Picture {
    /// Writes it.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write(&self, out: &mut impl Write, layout: Layout) -> io::Result<()> {
        let mut text = String::new();
        for gpu in &self.taken.gpus {
            let style = match gpu.oversubscribed {
                Some(true) => Style::Attention,
                _ => Style::Plain,
            };
            let head = self.head(gpu);
            style.push(&mut text, fit_to(&head, layout), layout.color);
            text.push('\n');
        }
        if self.taken.gpus.is_empty() {
            text.push_str("no GPU\n");
        }
        self.rows(&mut text, layout);
        let idle: Vec<String> = self
            .taken
            .processes
            .iter()
            .filter(|process| process.queues == 0)
            .map(named)
            .collect();
        if !idle.is_empty() {
            let line = format!("without queues: {}", idle.join(", "));
            Style::Faint.push(&mut text, fit_to(&line, layout), layout.color);
            text.push('\n');
        }
        out.write_all(text.as_bytes())?;
        if !self.findings.is_empty() {
            writeln!(out)?;
        }
        finding::write(out, &self.findings, layout)
    }

    /// `GPU 52a1 (gfx942): 5 compute and 2 copy queues of 2 processes mapped, 24 slots`.
    fn head(&self, gpu: &Gpu) -> String {
        let mut line = format!("GPU {} ({}): ", gpu.gpu_id, gpu.gfx);
        match (gpu.mapped_compute, gpu.mapped_sdma, gpu.mapped_processes) {
            (Some(compute), Some(sdma), Some(processes)) => {
                let _ = write!(line, "{compute} compute");
                if sdma > 0 {
                    let _ = write!(line, " and {sdma} copy");
                }
                let _ = write!(
                    line,
                    " {} of {} mapped",
                    plural(compute + sdma, "queue"),
                    counted(processes, "process", "processes")
                );
            }
            _ => {
                let queues = u32::try_from(gpu.queues).unwrap_or(u32::MAX);
                let processes = u32::try_from(gpu.processes).unwrap_or(u32::MAX);
                let _ = write!(
                    line,
                    "{} of {}",
                    counted(queues, "queue", "queues"),
                    counted(processes, "process", "processes")
                );
            }
        }
        let per_xcc = if gpu.num_xcc > 1 { " per XCC" } else { "" };
        let _ = match gpu.slots_used {
            Some(used) => write!(line, ", {used} of {} slots{per_xcc} used", gpu.slots_total),
            None => write!(line, ", {} slots{per_xcc}", gpu.slots_total),
        };
        if gpu.oversubscribed == Some(true) {
            line.push_str(", OVERSUBSCRIBED");
            if let Some(since_ns) = gpu.oversubscribed_since_ns {
                let _ = write!(
                    line,
                    " for {}",
                    Nanos(self.taken.ts_ns.saturating_sub(since_ns))
                );
            }
            if let Some(pid) = gpu.oversubscribed_by {
                let known = self.taken.processes.iter().find(|p| p.pid == pid);
                let by = known.map_or_else(|| format!("[{pid}]"), named);
                let _ = write!(line, " by {by}");
            }
        }
        line
    }

    fn rows(&self, text: &mut String, layout: Layout) {
        if self.queues.is_empty() {
            let _ = match self.taken.queues {
                0 => writeln!(text, "no queues"),
                n => writeln!(text, "none of {n} queues is shown"),
            };
            return;
        }
        let mut columns: Vec<&Column> = COLUMNS.iter().collect();
        if self.with_history {
            columns.extend(HISTORY);
        }
        if self.with_slots {
            columns.push(&SLOTS);
        }
        let mut widths: Vec<usize> = columns.iter().map(|column| self.width_of(column)).collect();
        let fixed: usize = widths.iter().map(|width| width + 1).sum();
        let owners = self
            .queues
            .iter()
            .map(|queue| width(&owner(queue, usize::MAX)));
        let needed = owners.max().unwrap_or(0).max("PROCESS".len());
        let reason = self.width_of(&WHY);
        // What the columns leave is the process's and the reason's; that one is left out where little of it would be seen.
        let (process, reason) = match layout.width {
            None => (needed, reason),
            Some(columns) => {
                let rest = columns.saturating_sub(fixed);
                let short = needed.min(PROCESS);
                match rest.saturating_sub(short + 1) {
                    room if reason > 0 && room >= LEAST_REASON => (short, room.min(reason)),
                    _ => (needed.min(rest.max(LEAST_PROCESS)), 0),
                }
            }
        };
        if reason > 0 {
            columns.push(&WHY);
            widths.push(reason);
        }
        let mut line = String::new();
        let titles: Vec<String> = columns
            .iter()
            .map(|column| column.title.to_owned())
            .collect();
        row(&mut line, "PROCESS", process, &titles, &columns, &widths);
        Style::Title.push(text, fit_to(&line, layout), layout.color);
        text.push('\n');
        for queue in &self.queues {
            line.clear();
            let cells: Vec<String> = columns
                .iter()
                .zip(&widths)
                .map(|(column, width)| fit(&(column.text)(queue), *width))
                .collect();
            let owner = owner(queue, process);
            row(&mut line, &owner, process, &cells, &columns, &widths);
            style(queue.state).push(text, fit_to(&line, layout), layout.color);
            text.push('\n');
        }
    }

    /// What the widest of its cells takes.
    fn width_of(&self, column: &Column) -> usize {
        let cells = self.queues.iter().map(|queue| width(&(column.text)(queue)));
        cells.chain([width(column.title)]).max().unwrap_or(0)
    }
}

fn row(
    line: &mut String,
    first: &str,
    first_width: usize,
    cells: &[String],
    columns: &[&Column],
    widths: &[usize],
) {
    line.push_str(first);
    pad(line, first, first_width);
    for ((cell, column), columns) in cells.iter().zip(columns).zip(widths) {
        line.push(' ');
        if column.right {
            pad(line, cell, *columns);
            line.push_str(cell);
        } else {
            line.push_str(cell);
            pad(line, cell, *columns);
        }
    }
    line.truncate(line.trim_end().len());
}

fn fit_to(line: &str, layout: Layout) -> String {
    match layout.width {
        Some(columns) => fit(line, columns),
        None => line.to_owned(),
    }
}

fn plural(n: u32, word: &str) -> String {
    match n {
        1 => word.to_owned(),
        _ => format!("{word}s"),
    }
}

fn counted(n: u32, one: &str, more: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { more })
}

fn known(value: Option<impl std::fmt::Display>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

fn named(process: &Process) -> String {
    let comm = process
        .comm
        .map_or_else(String::new, |comm| comm.to_string());
    format!("{comm}[{}]", process.pid)
}

/// `comm[pid]`, and where it differs the pid in its container: `comm[88025] 7@4c01db0b339c`.
fn owner(queue: &Queue, columns: usize) -> String {
    let comm = queue.comm.map_or_else(String::new, |comm| comm.to_string());
    let mut inside = String::new();
    if let Some(ns_pid) = queue.ns_pid {
        let _ = write!(inside, " {ns_pid}");
    }
    if let Some(container) = &queue.container {
        let short: String = container.chars().take(SHORT_ID).collect();
        let _ = write!(inside, "@{}", Escaped(short.as_bytes()));
        if queue.ns_pid.is_none() {
            inside = inside.replacen('@', " @", 1);
        }
    }
    let room = columns.saturating_sub(width(&inside));
    let name = process(&comm, queue.pid.0, room.max(15).min(columns));
    fit(&format!("{name}{inside}"), columns)
}

fn kind(queue: &Queue) -> &'static str {
    use crate::event::QueueFormat::Pm4;
    match (queue.queue_type, queue.format) {
        (QueueType::Compute, Some(Pm4)) => "pm4",
        (QueueType::SdmaXgmi, _) => "xgmi",
        (QueueType::SdmaByEngine, _) => "sdma_eng",
        (other, _) => other.name(),
    }
}

fn state(state: State) -> &'static str {
    match state {
        State::Unknown => "-",
        known => known.name(),
    }
}

fn style(state: State) -> Style {
    match state {
        State::Mapped | State::Unknown => Style::Plain,
        State::Disabled | State::Unmapped => Style::Faint,
        State::Held | State::Parked | State::Suspended | State::Evicted => Style::Attention,
    }
}

/// Packets per second: three digits are enough.
fn rate(queue: &Queue) -> String {
    let Some(rate) = queue.packets_per_s else {
        return "-".to_owned();
    };
    match rate {
        r if r < 9.95 => format!("{r:.1}/s"),
        r if r < 9_999.5 => format!("{r:.0}/s"),
        r if r < 9_999_500.0 => format!("{:.0}k/s", r / 1e3),
        r => format!("{:.0}M/s", r / 1e6),
    }
}

/// `pipe.queue` of each XCC, once if they are the same on all: `4x 0.2 vmid 8`; of SDMA `engine.controller`.
fn slots(slots: &[Slot], queue_type: QueueType) -> String {
    let Some(first) = slots.first() else {
        return "-".to_owned();
    };
    let places: Vec<String> = slots
        .iter()
        .map(|slot| format!("{}.{}", slot.pipe, slot.queue))
        .collect();
    let mut text = match slots.len() {
        1 => places[0].clone(),
        n if places.iter().all(|place| *place == places[0]) => format!("{n}x {}", places[0]),
        _ => places.join(" "),
    };
    if queue_type == QueueType::Compute {
        let _ = write!(text, " vmid {}", first.vmid);
    }
    text
}

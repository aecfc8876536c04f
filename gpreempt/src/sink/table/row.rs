// SPDX-License-Identifier: MIT OR Apache-2.0
//! One record as one row.

use std::fmt::Write as _;

use super::cell::{fit, pad, process, width, Style};
use super::details;
use super::{Columns, BEFORE_PROCESS, EVENT, TIME, TOOK, WHERE};
use crate::event::{Comm, GpuId, Pid, QueueId};
use crate::sink::record::{DriverState, Record};
use crate::sink::units::Nanos;

/// A piece of the details column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) text: String,
    pub(super) style: Style,
}

#[derive(Clone, Debug)]
pub(super) struct Row {
    ts_ns: u64,
    event: &'static str,
    style: Style,
    gpu_id: Option<GpuId>,
    queue_id: Option<QueueId>,
    took_ns: u64,
    process: Option<(Option<Comm>, Pid)>,
    details: Vec<Part>,
}

impl Row {
    /// `None` for records that are no row: startup and summary.
    pub(super) fn of(record: &Record, wide: bool) -> Option<Self> {
        let row = |ts_ns, event, style| Self {
            ts_ns,
            event,
            style,
            gpu_id: None,
            queue_id: None,
            took_ns: 0,
            process: None,
            details: details::of(record, wide),
        };
        Some(match record {
            Record::Startup(_) | Record::Summary(_) => return None,
            Record::ProcessAttached(r) => row(r.ts_ns, "attach", Style::Plain).by(r.comm, r.pid),
            Record::ProcessExited(r) => row(r.ts_ns, "exit", Style::Plain).by(r.comm, r.pid),
            Record::QueueExisting(r) => row(r.ts_ns, "exists", Style::Faint)
                .by(r.comm, r.pid)
                .queue(r.gpu_id, r.queue_id),
            Record::QueueCreated(r) => {
                let row = row(r.ts_ns, "create", Style::Plain).by(r.comm, r.pid);
                row.queue(r.gpu_id, r.queue_id).took(r.total_ns)
            }
            Record::QueueUpdated(r) => {
                let row = row(r.ts_ns, "update", Style::Plain).by(r.comm, r.pid);
                row.queue(r.gpu_id, r.queue_id).took(r.total_ns)
            }
            Record::QueueDestroyed(r) => {
                let row = row(r.ts_ns, "destroy", Style::Plain).by(r.comm, r.pid);
                row.queue(r.gpu_id, r.queue_id).took(r.total_ns)
            }
            Record::QueueRejected(r) => row(r.ts_ns, "reject", Style::Bad)
                .by(r.comm, r.pid)
                .took(r.total_ns),
            Record::RunlistUnmapped(r) => row(r.ts_ns, "unmap", failed_or(r.status, Style::Plain))
                .by(r.cause_comm, r.cause_pid)
                .gpu(r.gpu_id)
                .took(r.total_ns),
            Record::RunlistMapped(r) => row(r.ts_ns, "map", failed_or(r.status, Style::Plain))
                .by(r.cause_comm, r.cause_pid)
                .gpu(r.gpu_id)
                .took(r.total_ns),
            Record::ProcessEvicted(r) => row(r.ts_ns, "evict", Style::Attention)
                .by(r.comm, r.pid)
                .gpu(r.gpu_id)
                .took(r.total_ns),
            Record::ProcessRestored(r) => row(r.ts_ns, "restore", Style::Good)
                .by(r.comm, r.pid)
                .gpu(r.gpu_id)
                .took(r.total_ns),
            Record::QueuesSuspended(r) => row(r.ts_ns, "suspend", Style::Attention)
                .by(r.comm, r.pid)
                .took(r.total_ns),
            Record::QueuesResumed(r) => row(r.ts_ns, "resume", Style::Good)
                .by(r.comm, r.pid)
                .took(r.total_ns),
            Record::GpuReset(r) => row(r.ts_ns, "reset", Style::Bad)
                .gpu(r.gpu_id)
                .took(r.total_ns),
            Record::QueuesHeld(r) => row(r.ts_ns, "hold", failed_or(r.status, Style::Attention))
                .by(r.comm, r.pid)
                .gpu(r.gpu_id)
                .took(r.total_ns),
            Record::QueuesReleased(r) => row(r.ts_ns, "release", failed_or(r.status, Style::Good))
                .by(r.comm, r.pid)
                .gpu(r.gpu_id)
                .took(r.total_ns),
            Record::Lost(r) => row(r.ts_ns, "lost", Style::Bad),
            Record::Driver(r) => {
                let style = if r.state == DriverState::Gone {
                    Style::Bad
                } else {
                    Style::Good
                };
                row(r.ts_ns, "driver", style)
            }
        })
    }

    fn by(mut self, comm: Option<Comm>, pid: Option<Pid>) -> Self {
        self.process = pid.map(|pid| (comm, pid));
        self
    }

    fn gpu(mut self, gpu_id: GpuId) -> Self {
        self.gpu_id = Some(gpu_id);
        self
    }

    fn queue(mut self, gpu_id: GpuId, queue_id: QueueId) -> Self {
        self.queue_id = Some(queue_id);
        self.gpu(gpu_id)
    }

    fn took(mut self, total_ns: u64) -> Self {
        self.took_ns = total_ns;
        self
    }

    /// Appends the row and a newline; returns how many lines it took.
    pub(super) fn render(
        &self,
        out: &mut String,
        start_ns: u64,
        columns: Columns,
        color: bool,
    ) -> usize {
        Style::Faint.push(
            out,
            format_args!("{:>TIME$}", since(start_ns, self.ts_ns)),
            color,
        );
        out.push(' ');
        self.style.push(out, self.event, color);
        pad(out, self.event, EVENT + 1);

        let place = match (self.gpu_id, self.queue_id) {
            (Some(gpu), Some(queue)) => format!("{gpu}:{queue}"),
            (Some(gpu), None) => gpu.to_string(),
            _ => String::new(),
        };
        out.push_str(&place);
        pad(out, &place, WHERE + 1);

        let took = if self.took_ns == 0 {
            String::new()
        } else {
            Nanos(self.took_ns).to_string()
        };
        pad(out, &took, TOOK);
        out.push_str(&took);
        out.push(' ');

        let process = match self.process {
            Some((comm, pid)) => {
                let comm = comm.map_or_else(|| "?".to_owned(), |comm| comm.to_string());
                process(&comm, pid.0, columns.process)
            }
            None => String::new(),
        };
        out.push_str(&process);
        let lines = if self.details.is_empty() {
            1
        } else {
            pad(out, &process, columns.process + 1);
            self.render_details(out, columns, color)
        };
        let trimmed = out.trim_end_matches(' ').len();
        out.truncate(trimmed);
        out.push('\n');
        lines
    }

    fn render_details(&self, out: &mut String, columns: Columns, color: bool) -> usize {
        let room = columns.details.unwrap_or(usize::MAX);
        let mut lines = 1;
        let mut used = 0;
        for part in &self.details {
            let text = fit(&part.text, room);
            let needs = width(&text) + usize::from(used > 0);
            if used > 0 && used + needs > room {
                out.push('\n');
                out.extend(std::iter::repeat_n(
                    ' ',
                    BEFORE_PROCESS + columns.process + 1,
                ));
                lines += 1;
                used = 0;
            }
            if used > 0 {
                out.push(' ');
                used += 1;
            }
            part.style.push(out, &text, color);
            used += width(&text);
        }
        lines
    }
}

fn failed_or(status: i32, style: Style) -> Style {
    if status == 0 {
        style
    } else {
        Style::Bad
    }
}

/// Seconds since the start with microseconds. Records are written per CPU and may be a little older than the start.
fn since(start_ns: u64, ts_ns: u64) -> String {
    let (sign, ns) = match ts_ns.checked_sub(start_ns) {
        Some(ns) => ("", ns),
        None => ("-", start_ns - ts_ns),
    };
    let mut text = String::new();
    let _ = write!(
        text,
        "{sign}{}.{:06}",
        ns / 1_000_000_000,
        ns / 1_000 % 1_000_000
    );
    text
}

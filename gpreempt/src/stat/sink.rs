// SPDX-License-Identifier: MIT OR Apache-2.0
//! Collects while events come and writes the report at the end, and one for each interval if that is wanted.

use std::cell::RefCell;
use std::io::{self, Write};
use std::rc::Rc;

use super::collect::{By, Collect};
use super::record::{of_period, Period, StatProcess, StatRecord, StatSummary};
use super::table;
use crate::event::Happening;
use crate::findings::{self, Evidence, Finding, History};
use crate::model::{Context, Model, ProcessUsage};
use crate::sink::filter::Filter;
use crate::sink::finding;
use crate::sink::json;
use crate::sink::record::{Record, Summary};
use crate::sink::table::Layout;
use crate::sink::Sink;

/// What is written, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// Whose processes and which GPUs are reported; events are filtered before they come here.
    pub filter: Filter,
    /// Groups.
    pub by: Option<By>,
    /// A report for each so many nanoseconds.
    pub interval_ns: Option<u64>,
    /// Bars of powers of two in the table.
    pub bars: bool,
    /// The table's look; `None` = JSON.
    pub table: Option<Layout>,
    /// Pictures of the time, which somebody takes; without them, what events tell is all.
    pub history: Option<Rc<RefCell<History>>>,
    /// CLOCK_BOOTTIME now; 0 where time is that of the events.
    pub clock: fn() -> u64,
}

/// Takes events, writes reports.
pub struct StatSink<W: Write> {
    out: W,
    options: Options,
    whole: Option<Collect>,
    interval: Option<Collect>,
    processes: Vec<ProcessUsage>,
    forgotten: u64,
    findings: Vec<Finding>,
}

impl<W: Write> StatSink<W> {
    /// Writes to `out`.
    #[must_use]
    pub fn new(out: W, options: Options) -> Self {
        Self {
            out,
            options,
            whole: None,
            interval: None,
            processes: Vec::new(),
            forgotten: 0,
            findings: Vec::new(),
        }
    }

    fn start(&mut self, ts_ns: u64) {
        let by = self.options.by;
        self.whole.get_or_insert_with(|| Collect::new(ts_ns, by));
        if self.options.interval_ns.is_some() {
            self.interval.get_or_insert_with(|| Collect::new(ts_ns, by));
        }
    }

    /// Writes the reports of intervals that are over at `now_ns`. Of a long time without events, the first alone.
    fn roll(&mut self, now_ns: u64) -> io::Result<()> {
        let (Some(interval), Some(length_ns)) = (&mut self.interval, self.options.interval_ns)
        else {
            return Ok(());
        };
        let to_ns = interval.from_ns.saturating_add(length_ns);
        if now_ns < to_ns {
            return Ok(());
        }
        let skipped = (now_ns - to_ns) / length_ns;
        let next = Collect::new(to_ns + skipped * length_ns, self.options.by);
        let over = std::mem::replace(interval, next);
        let period = Period::new(over.from_ns, to_ns, true);
        self.period(&over, period)?;
        self.out.flush()
    }

    fn period(&mut self, collect: &Collect, period: Period) -> io::Result<()> {
        match self.options.table {
            Some(layout) => table::period(&mut self.out, collect, &period, &self.options, layout),
            None => of_period(collect, period, self.options.by)
                .iter()
                .try_for_each(|record| self.json(record)),
        }
    }

    fn json(&mut self, record: &StatRecord) -> io::Result<()> {
        json::line(&mut self.out, record)
    }

    fn report(&mut self, summary: &Summary) -> io::Result<()> {
        self.start(summary.ts_ns.saturating_sub(summary.duration_ns));
        self.roll(summary.ts_ns)?;
        if let Some(last) = self.interval.take().filter(|last| last.tally.events() > 0) {
            let period = Period::new(last.from_ns, summary.ts_ns, true);
            self.period(&last, period)?;
        }
        let Some(whole) = self.whole.take() else {
            return Ok(());
        };
        let period = Period::new(whole.from_ns, summary.ts_ns, false);
        if let Some(layout) = self.options.table {
            table::headline(&mut self.out, summary)?;
            table::period(&mut self.out, &whole, &period, &self.options, layout)?;
            table::processes(&mut self.out, &self.processes, layout)?;
            return finding::write(&mut self.out, &self.findings, layout);
        }
        self.period(&whole, period)?;
        for usage in &std::mem::take(&mut self.processes) {
            self.json(&StatRecord::StatProcess(StatProcess::new(
                usage,
                summary.ts_ns,
            )))?;
        }
        for finding in std::mem::take(&mut self.findings) {
            self.json(&StatRecord::Finding(finding))?;
        }
        let last = StatSummary::new(summary, self.forgotten);
        self.json(&StatRecord::StatSummary(last))
    }
}

/// Who does something to the processes of the filter may be another one.
fn is_wanted(filter: &Filter, finding: &Finding) -> bool {
    let Some(gpu_id) = finding.gpu_id else {
        return true;
    };
    match finding.pid {
        Some(pid) if !finding.kind.is_of_node() => {
            filter.shows_process(pid, finding.comm.as_ref(), gpu_id)
        }
        _ => filter.gpus.is_empty() || filter.gpus.iter().any(|gpu| gpu.is(gpu_id)),
    }
}

impl<W: Write> Sink for StatSink<W> {
    fn record(&mut self, record: &Record) -> io::Result<()> {
        if let Some(history) = &self.options.history {
            history.borrow_mut().record(record);
        }
        match record {
            Record::Startup(startup) => self.start(startup.ts_ns),
            Record::Summary(summary) => return self.report(summary),
            _ => {}
        }
        Ok(())
    }

    fn event(&mut self, happening: &Happening, context: &Context, _: &Model) -> io::Result<()> {
        self.roll(happening.ts_ns)?;
        for collect in [&mut self.whole, &mut self.interval].into_iter().flatten() {
            collect.take(happening, context);
        }
        Ok(())
    }

    fn unfiltered(&mut self, happening: &Happening, _: &Context, _: &Model) -> io::Result<()> {
        if let Some(history) = &self.options.history {
            history.borrow_mut().event(happening);
        }
        Ok(())
    }

    fn end(&mut self, model: &Model, ts_ns: u64) -> io::Result<()> {
        let filter = &self.options.filter;
        self.processes = model.process_usage(ts_ns);
        self.processes
            .retain(|usage| filter.shows_process(usage.pid, usage.comm.as_ref(), usage.gpu_id));
        self.processes
            .sort_by_key(|usage| (std::cmp::Reverse(usage.off_ns), usage.pid, usage.gpu_id));
        self.forgotten = model.processes_forgotten();
        self.findings = match &self.options.history {
            None => findings::find(&Evidence {
                model: Some(model),
                now_ns: ts_ns,
                ..Evidence::default()
            }),
            Some(history) => {
                let mut history = history.borrow_mut();
                history.settle();
                // Of the whole time.
                findings::find(&Evidence {
                    before: history.first(),
                    ..history.evidence(Some(model), findings::IDLE_AFTER_NS, ts_ns)
                })
            }
        };
        self.findings.retain(|finding| is_wanted(filter, finding));
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    fn tick(&mut self, _model: &Model) -> io::Result<()> {
        match (self.options.clock)() {
            0 => Ok(()),
            now_ns => self.roll(now_ns),
        }
    }
}

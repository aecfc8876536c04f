// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reports for people.

use std::io::{self, Write};

use unicode_width::UnicodeWidthStr as _;

use super::collect::{Collect, Group};
use super::latency::{Latency, Line};
use super::measure::Measure;
use super::record::Period;
use super::sink::Options;
use crate::model::ProcessUsage;
use crate::sink::record::Summary;
use crate::sink::table::{strong, Layout};
use crate::sink::units::Nanos;

/// Columns of a row beside its name.
const NUMBERS: usize = 64;
/// Columns of the name.
const LEAST_NAME: usize = 16;
/// Likewise.
const MOST_NAME: usize = 32;
/// Processes in the table; JSON has all.
const MOST_PROCESSES: usize = 20;
/// Columns of the longest bar.
const BAR: usize = 40;

/// What the report is of.
pub(super) fn headline(out: &mut impl Write, summary: &Summary) -> io::Result<()> {
    write!(
        out,
        "{} events in {}",
        summary.shown,
        Nanos(summary.duration_ns)
    )?;
    if summary.filtered > 0 {
        write!(out, ", {} more left out by filters", summary.filtered)?;
    }
    write!(out, ", {} lost", summary.lost)?;
    if summary.lost > 0 {
        out.write_all(b": every count is too low (raise --ring-bytes)")?;
    }
    out.write_all(b"\n")
}

/// Latencies and counts of a period.
pub(super) fn period(
    out: &mut impl Write,
    collect: &Collect,
    period: &Period,
    options: &Options,
    layout: Layout,
) -> io::Result<()> {
    if period.interval {
        let line = format!("{} of {}", at(period), Nanos(period.duration_ns));
        writeln!(out, "{}", strong(&line, layout))?;
    }
    if collect.tally.events() == 0 {
        return writeln!(out, "no events");
    }
    let mut rows: Vec<(String, Line, Option<&Latency>)> = Vec::new();
    for measure in Measure::ALL {
        let Some(latency) = collect.latency(measure) else {
            continue;
        };
        let bars = options.bars.then_some(latency);
        rows.extend(
            latency
                .line()
                .map(|line| (measure.name().to_owned(), line, bars)),
        );
        if options.by.is_some() {
            for (group, latency) in collect.groups(measure) {
                let name = format!("  {}", name(group, collect));
                rows.extend(latency.line().map(|line| (name, line, None)));
            }
        }
    }
    let most = layout
        .width
        .map_or(MOST_NAME, |width| width.saturating_sub(NUMBERS))
        .clamp(LEAST_NAME, MOST_NAME);
    let longest = rows.iter().map(|(name, ..)| name.width()).max();
    let wide = longest.unwrap_or(0).clamp(LEAST_NAME, most);
    if !rows.is_empty() {
        let head = format!(
            "{:wide$}{:>8}{:>8}{:>8}{:>8}{:>8}{:>8}{:>8}{:>8}",
            "LATENCY", "COUNT", "RATE/S", "MIN", "P50", "P90", "P99", "P99.9", "MAX"
        );
        writeln!(out, "{}", strong(&head, layout))?;
    }
    for (name, line, bars) in &rows {
        row(out, &fitted(name, wide), line, period)?;
        if let Some(latency) = bars {
            histogram(out, latency)?;
        }
    }
    let head = format!("{:24}{:>8}{:>8}", "EVENT", "COUNT", "RATE/S");
    writeln!(out, "{}", strong(&head, layout))?;
    for (kind, count) in collect.counts() {
        let rate = rate(period.rate(count));
        writeln!(out, "{:24}{count:>8}{rate:>8}", kind.name())?;
    }
    Ok(())
}

fn row(out: &mut impl Write, name: &str, line: &Line, period: &Period) -> io::Result<()> {
    let rate = rate(period.rate(line.count));
    write!(out, "{name}{:>8}{rate:>8}", line.count)?;
    for ns in [
        line.min_ns,
        line.p50_ns,
        line.p90_ns,
        line.p99_ns,
        line.p999_ns,
        line.max_ns,
    ] {
        write!(out, "{:>8}", Nanos(ns))?;
    }
    out.write_all(b"\n")
}

fn histogram(out: &mut impl Write, latency: &Latency) -> io::Result<()> {
    let buckets = latency.buckets();
    let most = buckets.iter().map(|bucket| bucket.count).max().unwrap_or(0);
    for bucket in buckets {
        let length = (bucket.count * BAR as u64).div_ceil(most.max(1)) as usize;
        let bar = "#".repeat(length);
        let (from, to) = (Nanos(bucket.from_ns), Nanos(bucket.to_ns));
        writeln!(out, "  {from:>7} to {to:>7}{:>8} |{bar}", bucket.count)?;
    }
    Ok(())
}

/// What became of the queues of processes: those longest off first.
pub(super) fn processes(
    out: &mut impl Write,
    processes: &[ProcessUsage],
    layout: Layout,
) -> io::Result<()> {
    if processes.is_empty() {
        return Ok(());
    }
    let head = format!(
        "{:24}{:>8}{:>8}{:>11}{:>11}{:>9}",
        "PROCESS", "GPU", "QUEUES", "PREEMPTED", "BY OTHERS", "OFF"
    );
    writeln!(out, "{}", strong(&head, layout))?;
    for usage in processes.iter().take(MOST_PROCESSES) {
        let name = match usage.comm {
            Some(comm) => format!("{comm}[{}]", usage.pid),
            None => format!("[{}]", usage.pid),
        };
        writeln!(
            out,
            "{}{:>8}{:>8}{:>11}{:>11}{:>9}",
            fitted(&name, 24),
            usage.gpu_id.to_string(),
            usage.queues_seen,
            usage.preemptions,
            usage.preemptions.saturating_sub(usage.by_own),
            Nanos(usage.off_ns)
        )?;
    }
    match processes.len().saturating_sub(MOST_PROCESSES) {
        0 => Ok(()),
        more => writeln!(out, "  and {more} more"),
    }
}

fn at(period: &Period) -> String {
    let seconds = period.ts_ns / 1_000_000_000;
    format!("until {seconds}.{:03} s", period.ts_ns / 1_000_000 % 1000)
}

fn name(group: Group, collect: &Collect) -> String {
    match group {
        Group::Cause(word) => word.to_owned(),
        Group::Process(None) => "no process".to_owned(),
        Group::Process(Some(pid)) => match collect.comm(pid) {
            Some(comm) => format!("{comm}[{pid}]"),
            None => format!("[{pid}]"),
        },
        Group::Gpu(None) => "no GPU".to_owned(),
        Group::Gpu(Some(gpu_id)) => gpu_id.to_string(),
        Group::Others => "others".to_owned(),
    }
}

/// Exactly so wide: filled up, or cut.
fn fitted(text: &str, columns: usize) -> String {
    let mut fitted = String::new();
    for c in text.chars() {
        fitted.push(c);
        if fitted.width() > columns {
            fitted.pop();
            break;
        }
    }
    let missing = columns.saturating_sub(fitted.width());
    fitted + &" ".repeat(missing)
}

fn rate(per_second: f64) -> String {
    match per_second {
        rate if rate >= 100.0 => format!("{rate:.0}"),
        rate if rate >= 10.0 => format!("{rate:.1}"),
        rate => format!("{rate:.2}"),
    }
}

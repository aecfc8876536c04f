// SPDX-License-Identifier: MIT OR Apache-2.0
//! A report for people.

use std::io::{self, Write};

use anstyle::Style;
use unicode_width::UnicodeWidthStr as _;

use super::plan::plural;
use super::record::{Compares, Environment, Measured, Operation, Process, Ratio};
use super::report::Report;
use super::stats::Summary;
use crate::sink::units::Nanos;

/// Writes a report.
///
/// # Errors
/// When `out` cannot be written.
pub fn write(out: &mut impl Write, report: &Report, color: bool) -> io::Result<()> {
    environment(out, &report.environment)?;
    for operation in Operation::ALL {
        latencies(out, report, operation, color)?;
    }
    if report.measured.iter().any(|row| row.middle_half.is_some()) {
        writeln!(
            out,
            "lock wait, hardware and software are means of the middle half of the rounds and add up; a lock wait that cannot be seen \
             (-) is part of software"
        )?;
    }
    disturbance(out, report, color)?;
    ratios(out, report, color)?;
    not_measured(out, report, color)?;
    Ok(())
}

fn environment(out: &mut impl Write, environment: &Environment) -> io::Result<()> {
    let Environment {
        kernel,
        gpus,
        rounds,
        hold_ns,
        seed,
        ..
    } = environment;
    writeln!(out, "{}: Linux {kernel}", environment.hardware())?;
    for gpu in gpus {
        writeln!(
            out,
            "GPU {} ({}, {}, {} compute slots)",
            gpu.gpu_id,
            gpu.gfx,
            plural(
                usize::try_from(gpu.num_xcc).unwrap_or(usize::MAX),
                "XCC",
                "s"
            ),
            gpu.num_cp_queues
        )?;
    }
    for (what, processes) in [
        ("offline", &environment.offline),
        ("online", &environment.online),
    ] {
        if !processes.is_empty() {
            let all: Vec<String> = processes.iter().map(process).collect();
            writeln!(out, "{what}: {}", all.join(", "))?;
        }
    }
    writeln!(
        out,
        "{}, held for {}, order of seed {}; seen by {}",
        plural(*rounds as usize, "round", "s"),
        Nanos(*hold_ns),
        seed.0,
        environment.observed
    )
}

/// `kfd-load[141] 16 queues`.
pub(super) fn process(process: &Process) -> String {
    let queues = plural(process.queues, "queue", "s");
    format!("{}[{}] {queues}", process.comm, process.pid)
}

fn latencies(
    out: &mut impl Write,
    report: &Report,
    operation: Operation,
    color: bool,
) -> io::Result<()> {
    let mut grid = Grid::new(
        &[
            operation.name(),
            "backend",
            "n",
            "mean",
            "P50",
            "P95",
            "P99",
            "max",
            "lock wait",
            "hardware",
            "software",
            "failed",
            "unseen",
        ],
        2,
    );
    let mut last = "";
    for row in report
        .measured
        .iter()
        .filter(|row| row.operation == operation)
    {
        let case = if row.case == last { "" } else { &row.case };
        last = &row.case;
        let times: [Option<u64>; 5] = row.total.map_or([None; 5], |total| {
            let Summary {
                mean_ns,
                p50_ns,
                p95_ns,
                p99_ns,
                max_ns,
                ..
            } = total;
            [mean_ns, p50_ns, p95_ns, p99_ns, max_ns].map(Some)
        });
        let parts: [Option<u64>; 3] = row.middle_half.map_or([None; 3], |split| {
            let lock_wait_ns = row.lock_wait.map(|_| split.lock_wait_ns);
            [lock_wait_ns, Some(split.hw_ns), Some(split.software_ns)]
        });
        let mut cells = vec![case.to_owned(), row.backend.to_string(), row.n.to_string()];
        cells.extend(times.iter().chain(&parts).map(|ns| time(*ns)));
        cells.push(row.failed.to_string());
        cells.push(row.unseen.map_or_else(|| "-".to_owned(), |n| n.to_string()));
        grid.row(cells);
    }
    grid.write(out, color)
}

fn time(ns: Option<u64>) -> String {
    ns.map_or_else(|| "-".to_owned(), |ns| Nanos(ns).to_string())
}

fn disturbance(out: &mut impl Write, report: &Report, color: bool) -> io::Result<()> {
    let who = if report.environment.online.is_empty() {
        "others off the GPU"
    } else {
        "online off the GPU"
    };
    let mut grid = Grid::new(
        &[
            who,
            "backend",
            "preempt: cycles",
            "P50",
            "P95",
            "max",
            "resume: cycles",
            "P50",
            "P95",
            "max",
        ],
        2,
    );
    let mut last = "";
    for (stop, restart) in both(report) {
        if stop.off_hardware.is_none() && restart.off_hardware.is_none() {
            continue;
        }
        let case = if stop.case == last { "" } else { &stop.case };
        last = &stop.case;
        let mut cells = vec![case.to_owned(), stop.backend.to_string()];
        for row in [stop, restart] {
            cells.push(
                row.cycles_p50
                    .map_or_else(|| "-".to_owned(), |n| n.to_string()),
            );
            let off = row.off_hardware;
            cells.extend(
                [
                    off.map(|o| o.p50_ns),
                    off.map(|o| o.p95_ns),
                    off.map(|o| o.max_ns),
                ]
                .map(time),
            );
        }
        grid.row(cells);
    }
    grid.write(out, color)
}

/// Preempt and resume of the same row.
pub(super) fn both(report: &Report) -> impl Iterator<Item = (&Measured, &Measured)> {
    let of = |operation| {
        report
            .measured
            .iter()
            .filter(move |row| row.operation == operation)
    };
    of(Operation::Preempt).zip(of(Operation::Resume))
}

fn ratios(out: &mut impl Write, report: &Report, color: bool) -> io::Result<()> {
    let mut grid = Grid::new(
        &[
            "ratio",
            "of",
            "pairs",
            "preempt: P50",
            "P90",
            "resume: P50",
            "P90",
        ],
        2,
    );
    for pair in report.ratios.chunks(2) {
        let [stop, restart] = pair else { continue };
        let mut cells = vec![fraction(stop), subject(stop), stop.ratio.n.to_string()];
        for ratio in [stop, restart] {
            cells.push(times(ratio.ratio.p50));
            cells.push(times(ratio.ratio.p90));
        }
        grid.row(cells);
    }
    grid.write(out, color)
}

/// `debug-trap / patched`.
pub(super) fn fraction(ratio: &Ratio) -> String {
    format!("{} / {}", ratio.numerator, ratio.denominator)
}

/// What both sides of the line have in common.
pub(super) fn subject(ratio: &Ratio) -> String {
    match (ratio.compares, ratio.backend, &ratio.case) {
        (Compares::Backends, _, Some(case)) => case.clone(),
        (_, Some(backend), Some(case)) => format!("{backend}, {case}"),
        (_, Some(backend), None) => backend.to_string(),
        _ => String::new(),
    }
}

/// Three digits.
pub(super) fn times(ratio: f64) -> String {
    let digits = match ratio {
        r if r >= 99.95 => 0,
        r if r >= 9.995 => 1,
        _ => 2,
    };
    format!("{ratio:.digits$}x")
}

fn not_measured(out: &mut impl Write, report: &Report, color: bool) -> io::Result<()> {
    let backends = report
        .environment
        .backends
        .iter()
        .filter_map(|state| Some((state.backend.to_string(), state.why_not.as_ref()?)));
    let cases = report.skipped.iter().map(|skipped| {
        let backend = skipped
            .backend
            .map_or_else(String::new, |b| format!("{b}, "));
        (format!("{backend}{}", skipped.case), &skipped.why)
    });
    let given_up = report
        .measured
        .iter()
        .filter(|row| row.operation == Operation::Preempt)
        .flat_map(|row| {
            let name = format!("{}, {}", row.backend, row.case);
            row.failures.keys().map(move |why| (name.clone(), why))
        });
    let mut lines = backends.chain(cases).peekable();
    if lines.peek().is_some() {
        writeln!(out, "\n{}", bold("not measured", color))?;
    }
    for (what, why) in lines {
        writeln!(out, "{what}: {why}")?;
    }
    let mut lines = given_up.peekable();
    if lines.peek().is_some() {
        writeln!(out, "\n{}", bold("failed", color))?;
    }
    for (what, why) in lines {
        writeln!(out, "{what}: {why}")?;
    }
    writeln!(
        out,
        "\nnot observed: the online process's own request latency, which only it knows; when a queue really runs again, which the \
         driver does not know"
    )
}

fn bold(text: &str, color: bool) -> String {
    if !color {
        return text.to_owned();
    }
    let style = Style::new().bold();
    format!("{style}{text}{style:#}")
}

/// Aligned columns: the first few to the left, numbers to the right.
struct Grid {
    rows: Vec<Vec<String>>,
    left: usize,
}

impl Grid {
    fn new(heads: &[&str], left: usize) -> Self {
        Self {
            rows: vec![heads.iter().map(|head| (*head).to_owned()).collect()],
            left,
        }
    }

    fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// An empty line, the heads and the rows; nothing of no rows.
    fn write(&self, out: &mut impl Write, color: bool) -> io::Result<()> {
        if self.rows.len() == 1 {
            return Ok(());
        }
        let columns = self.rows[0].len();
        let widths: Vec<usize> = (0..columns)
            .map(|at| {
                self.rows
                    .iter()
                    .map(|row| row[at].width())
                    .max()
                    .unwrap_or(0)
            })
            .collect();
        writeln!(out)?;
        for (number, row) in self.rows.iter().enumerate() {
            let mut line = String::new();
            for (at, (cell, width)) in row.iter().zip(&widths).enumerate() {
                let blanks = " ".repeat(width - cell.width());
                let (before, after) = if at < self.left {
                    ("", &*blanks)
                } else {
                    (&*blanks, "")
                };
                let gap = if at == 0 { "" } else { "  " };
                line.push_str(&format!("{gap}{before}{cell}{after}"));
            }
            let line = line.trim_end();
            if number == 0 {
                writeln!(out, "{}", bold(line, color))?;
            } else {
                writeln!(out, "{line}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_digits_of_a_ratio() {
        for (ratio, text) in [
            (0.584, "0.58x"),
            (1.0, "1.00x"),
            (9.994, "9.99x"),
            (9.996, "10.0x"),
            (99.96, "100x"),
            (350.4, "350x"),
        ] {
            assert_eq!(times(ratio), text);
        }
    }

    #[test]
    fn columns_align_in_any_script() {
        let mut grid = Grid::new(&["name", "n"], 1);
        grid.row(vec!["日本".to_owned(), "1µs".to_owned()]);
        grid.row(vec!["x".to_owned(), "200".to_owned()]);
        let mut out = Vec::new();
        grid.write(&mut out, false).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "\nname    n\n日本  1µs\nx     200\n"
        );
    }
}

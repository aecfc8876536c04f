// SPDX-License-Identifier: MIT OR Apache-2.0
//! `doctor`: what works here, what is missing, how to fix it.

use std::io::{self, Write};
use std::path::PathBuf;

use serde::Serialize;

use super::output::{self, Format, Paint};
use super::{Exit, Failure, Global};
use crate::doctor::{self, Check, Lack, Replaced, Report, Status};
use crate::sink::json;
use crate::source::{profile, Probe};

/// Say what works here, what is missing and how to fix it
///
/// Attaches nothing and never opens /dev/kfd. Exits 0 if watch can start, 69 if the driver, a GPU or a kernel feature is
/// missing, 77 if only a permission is.
#[derive(Debug, clap::Args)]
pub(super) struct Doctor {
    /// How the report is written: for people, or one object a line for programs
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// Check this offset profile too
    #[arg(long, value_name = "PROFILE", alias = "profile")]
    offsets: Option<PathBuf>,
    /// Instead: write the offset profile of a driver module (.ko, .ko.xz, .ko.zst) to stdout
    #[arg(long, value_name = "FILE", conflicts_with_all = ["offsets", "format"])]
    extract_offsets: Option<PathBuf>,
    /// BTF of the kernel that the module is for, raw or in a vmlinux
    #[arg(
        long,
        value_name = "FILE",
        requires = "extract_offsets",
        default_value = "/sys/kernel/btf/vmlinux"
    )]
    vmlinux: PathBuf,
}

#[derive(Serialize)]
#[serde(tag = "type", content = "data", rename_all = "snake_case")]
enum Line<'a> {
    Check(&'a Check),
    Probe(&'a Probe),
    Replaced(&'a Replaced),
    Verdict(Verdict),
}

#[derive(Serialize)]
struct Verdict {
    /// Whether `watch` can start.
    watch: bool,
    /// What keeps it from that.
    #[serde(skip_serializing_if = "Option::is_none")]
    lack: Option<Lack>,
    ok: usize,
    info: usize,
    warn: usize,
    fail: usize,
    skip: usize,
}

impl Doctor {
    pub(super) fn run(self, global: &Global) -> Result<Exit, Failure> {
        let mut out = io::stdout().lock();
        if let Some(module) = &self.extract_offsets {
            let text = profile::extract(module, &self.vmlinux)?.to_text()?;
            out.write_all(text.as_bytes())?;
            return Ok(Exit::Ok);
        }
        let report = doctor::examine(&global.root(), self.offsets.as_ref());
        match self.format {
            Format::Json => json(&mut out, &report)?,
            Format::Table => table(&mut out, &report, global)?,
        }
        out.flush()?;
        Ok(match report.lack() {
            None => Exit::Ok,
            Some(Lack::Permission) => Exit::NoPermission,
            Some(Lack::Feature) => Exit::Unavailable,
        })
    }
}

fn verdict(report: &Report) -> Verdict {
    let count = |status| {
        report
            .checks
            .iter()
            .filter(|check| check.status == status)
            .count()
    };
    Verdict {
        watch: report.lack().is_none(),
        lack: report.lack(),
        ok: count(Status::Ok),
        info: count(Status::Info),
        warn: count(Status::Warn),
        fail: count(Status::Fail),
        skip: count(Status::Skip),
    }
}

fn json(out: &mut impl Write, report: &Report) -> io::Result<()> {
    let checks = report.checks.iter().map(Line::Check);
    let probes = report.probes.iter().map(Line::Probe);
    let replaced = report.replaced.iter().map(Line::Replaced);
    for line in checks
        .chain(probes)
        .chain(replaced)
        .chain([Line::Verdict(verdict(report))])
    {
        json::line(out, &line)?;
    }
    Ok(())
}

const NAME: usize = 14;

fn table(out: &mut impl Write, report: &Report, global: &Global) -> io::Result<()> {
    let color = global.color.on_stdout();
    let width = output::layout(color).width.unwrap_or(100);
    for check in &report.checks {
        let (word, paint) = match check.status {
            Status::Ok => ("ok", Paint::Good),
            Status::Info => ("info", Paint::Faint),
            Status::Warn => ("warn", Paint::Attention),
            Status::Fail => ("FAIL", Paint::Bad),
            Status::Skip => ("skip", Paint::Faint),
        };
        let mut lines = output::wrap(&check.evidence, width.saturating_sub(6 + NAME)).into_iter();
        let first = lines.next().unwrap_or_default();
        writeln!(
            out,
            "{} {:NAME$}{first}",
            paint.text(&format!("{word:4}"), color),
            check.name
        )?;
        for line in lines {
            writeln!(out, "{:1$}{line}", "", 5 + NAME)?;
        }
        if let Some(fix) = &check.fix {
            for (at, line) in output::wrap(fix, width.saturating_sub(11 + NAME))
                .iter()
                .enumerate()
            {
                let lead = if at == 0 { "fix: " } else { "     " };
                writeln!(out, "{:1$}{lead}{line}", "", 5 + NAME)?;
            }
        }
    }
    if !report.probes.is_empty() {
        writeln!(out, "\n{}", Paint::Title.text("Probes", color))?;
    }
    for probe in &report.probes {
        let (word, paint) = match (probe.attached, &probe.reason) {
            (true, None) => ("ok", Paint::Good),
            (true, Some(_)) => ("other", Paint::Good),
            (false, _) if !probe.applies => ("n/a", Paint::Faint),
            (false, _) if probe.required => ("FAIL", Paint::Bad),
            (false, _) => ("miss", Paint::Attention),
        };
        let mut line = probe.function.clone();
        if let Some(symbol) = probe
            .symbol
            .as_ref()
            .filter(|symbol| **symbol != probe.function)
        {
            line.push_str(&format!(" at {symbol}"));
        }
        if let Some(reason) = &probe.reason {
            line.push_str(&format!(": {reason}"));
        }
        if !probe.attached && probe.applies {
            line.push_str(&format!("; lost: {}", probe.lost_without));
        }
        entry(out, &paint.text(&format!("{word:5}"), color), &line, width)?;
    }
    if !report.replaced.is_empty() {
        writeln!(
            out,
            "\n{}",
            Paint::Title.text("Often looked for, not probed", color)
        )?;
    }
    for function in &report.replaced {
        let here = match function.symbols.as_slice() {
            [] => "no symbol here".to_owned(),
            symbols => format!("here as {}", symbols.join(" ")),
        };
        entry(
            out,
            "     ",
            &format!("{} ({here}): {}", function.function, function.instead),
            width,
        )?;
    }
    let verdict = verdict(report);
    let text = match verdict.lack {
        None if verdict.warn == 0 => Paint::Good.text("watch can start", color),
        None => Paint::Good.text(
            &format!("watch can start; {} to look at", verdict.warn),
            color,
        ),
        Some(Lack::Permission) => {
            Paint::Bad.text("watch cannot start: a permission is missing", color)
        }
        Some(Lack::Feature) => Paint::Bad.text("watch cannot start", color),
    };
    writeln!(out, "\n{text}")
}

fn entry(out: &mut impl Write, lead: &str, text: &str, width: usize) -> io::Result<()> {
    for (at, line) in output::wrap(text, width.saturating_sub(8))
        .iter()
        .enumerate()
    {
        let lead = if at == 0 { lead } else { "       " };
        writeln!(out, "{lead} {line}")?;
    }
    Ok(())
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! `compare`: what several models do with queues, side by side.

use std::io::{self, BufWriter, Write as _};
use std::path::PathBuf;

use super::analyze;
use super::filters::Filters;
use super::output::{self, Format, Page};
use super::{Exit, Failure, Global};
use crate::analysis::compare::{self, Row};
use crate::analysis::html_comparison;
use crate::analysis::record::AnalysisRecord;
use crate::sink::json;

/// Compare recordings: how many queues each model uses, and what it does to others
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Compare {
    /// Files that `gpreempt record` made, one for each model
    #[arg(required = true)]
    recordings: Vec<PathBuf>,
    /// Write a page with plots, too
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// How it is written: for people, or one object a line for programs
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    #[command(flatten)]
    filters: Filters,
}

const EXAMPLES: &str = "\
Examples:
  gpreempt record matmul.gpr -- python3 matmul.py
  gpreempt record bert.gpr -- python3 bert.py
  gpreempt compare matmul.gpr bert.gpr --report models.html";

impl Compare {
    pub(super) fn run(self, global: &Global) -> Result<Exit, Failure> {
        let page = self.report.map(Page::create).transpose()?;
        let filter = self.filters.of(Vec::new());
        let (runs, failed) = analyze::collect(&self.recordings, &filter, None)?;
        let rows: Vec<Row> = runs.iter().map(Row::of).collect();
        let mut out = BufWriter::new(io::stdout().lock());
        match self.format {
            Format::Table => {
                compare::write(&mut out, &rows, output::layout(global.color.on_stdout()))?
            }
            Format::Json => {
                for row in &rows {
                    let record = AnalysisRecord::Compared(row.clone());
                    json::line(&mut out, &record)?;
                }
            }
        }
        out.flush()?;
        if let Some(page) = page {
            let simulated = runs.iter().any(|run| run.machine.simulated);
            page.write(&html_comparison(&rows, &runs, simulated)?)?;
        }
        match failed {
            Some(failure) => Err(failure),
            None => Ok(Exit::Ok),
        }
    }
}

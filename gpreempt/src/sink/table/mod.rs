// SPDX-License-Identifier: MIT OR Apache-2.0
//! Records as aligned lines for people. At 80 columns an ordinary event takes one line; details that do not fit go on
//! below themselves. Into a pipe, lines are as long as they need to be and carry no colour.

pub(super) mod cell;
mod details;
mod row;

use std::io::{self, BufWriter, Write};

use super::record::{DriverState, Record, Startup};
use super::Sink;
use crate::model::Model;
use cell::{fit, Style};
use row::Row;

/// How the table is laid out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// Columns of the terminal; `None` = no limit.
    pub width: Option<usize>,
    /// Lines of the terminal: the header comes again after so many; `None` = once.
    pub height: Option<usize>,
    /// Colours.
    pub color: bool,
}

/// A title, set off where there are colours.
#[must_use]
pub fn strong(text: &str, layout: Layout) -> String {
    match layout.color {
        true => {
            let style = anstyle::Style::new().bold();
            format!("{style}{text}{style:#}")
        }
        false => text.to_owned(),
    }
}

/// Widths of the columns before the details.
#[derive(Clone, Copy, Debug)]
struct Columns {
    process: usize,
    details: Option<usize>,
    wide: bool,
}

const TIME: usize = 9;
const EVENT: usize = 7;
const WHERE: usize = 7;
const TOOK: usize = 6;
/// Columns before the process, blanks included.
const BEFORE_PROCESS: usize = TIME + 1 + EVENT + 1 + WHERE + 1 + TOOK + 1;

impl Columns {
    fn of(width: Option<usize>) -> Self {
        let Some(width) = width else {
            return Self {
                process: 24,
                details: None,
                wide: true,
            };
        };
        let process = width.saturating_sub(65).clamp(15, 24);
        let details = width.saturating_sub(BEFORE_PROCESS + process + 1).max(20);
        Self {
            process,
            details: Some(details),
            wide: details >= 56,
        }
    }
}

/// The table.
#[derive(Debug)]
pub struct Table<W: Write> {
    out: BufWriter<W>,
    layout: Layout,
    columns: Columns,
    start_ns: u64,
    header: Header,
    lines_since_header: usize,
    line: String,
    layout_now: Option<fn() -> Layout>,
}

/// What the header line says.
#[derive(Debug, Default)]
struct Header {
    gpus: String,
    probes: String,
    missed: bool,
    lost: u64,
}

impl<W: Write> Table<W> {
    /// Writes to `out`.
    #[must_use]
    pub fn new(out: W, layout: Layout) -> Self {
        Self {
            out: BufWriter::with_capacity(8 * 1024, out),
            layout,
            columns: Columns::of(layout.width),
            start_ns: 0,
            header: Header::default(),
            lines_since_header: 0,
            line: String::with_capacity(256),
            layout_now: None,
        }
    }

    /// Asks for the layout again about once a second: terminals change their size.
    #[must_use]
    pub fn following(mut self, layout_now: fn() -> Layout) -> Self {
        self.layout_now = Some(layout_now);
        self
    }

    fn startup(&mut self, startup: &Startup) -> io::Result<()> {
        self.start_ns = startup.ts_ns;
        self.header.gpus = gpus(&startup.gpus);
        self.header.probes = probes(startup.probes_attached, startup.probes_missed);
        self.header.missed = startup.probes_missed > 0;
        self.print_header()
    }

    fn print_header(&mut self) -> io::Result<()> {
        let Header {
            gpus,
            probes,
            missed,
            lost,
        } = &self.header;
        let text = format!("{gpus}, {probes}, {lost} lost");
        let style = if *lost > 0 {
            Style::Bad
        } else if *missed {
            Style::Attention
        } else {
            Style::Plain
        };
        let width = self.layout.width.unwrap_or(usize::MAX);
        style.write(&mut self.out, &fit(&text, width), self.layout.color)?;
        writeln!(self.out)?;
        let process = self.columns.process;
        let titles = format!(
            "{:>TIME$} {:EVENT$} {:WHERE$} {:>TOOK$} {:process$} DETAILS",
            "TIME", "EVENT", "GPU:Q", "TOOK", "PROCESS"
        );
        Style::Title.write(&mut self.out, &titles, self.layout.color)?;
        writeln!(self.out)?;
        self.lines_since_header = 2;
        Ok(())
    }

    fn print(&mut self, row: &Row) -> io::Result<()> {
        if self
            .layout
            .height
            .is_some_and(|height| self.lines_since_header + 1 >= height.max(10))
        {
            self.print_header()?;
        }
        self.line.clear();
        self.lines_since_header += row.render(
            &mut self.line,
            self.start_ns,
            self.columns,
            self.layout.color,
        );
        self.out.write_all(self.line.as_bytes())
    }
}

impl<W: Write> Sink for Table<W> {
    fn record(&mut self, record: &Record) -> io::Result<()> {
        match record {
            Record::Startup(startup) => return self.startup(startup),
            // On stderr, when everything is over.
            Record::Summary(_) => return Ok(()),
            Record::Lost(lost) => self.header.lost = lost.total,
            Record::Driver(change) => match change.state {
                DriverState::Gone => {
                    "no GPU".clone_into(&mut self.header.gpus);
                    "driver gone".clone_into(&mut self.header.probes);
                    self.header.missed = true;
                }
                DriverState::Loaded => {
                    let missed = change.probes_missed.unwrap_or(0);
                    self.header.gpus = gpus(&change.gpus);
                    self.header.probes = probes(change.probes_attached.unwrap_or(0), missed);
                    self.header.missed = missed > 0;
                }
            },
            _ => {}
        }
        if let Some(row) = Row::of(record, self.columns.wide) {
            self.print(&row)?;
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    fn tick(&mut self, _model: &Model) -> io::Result<()> {
        if let Some(now) = self.layout_now {
            let color = self.layout.color;
            self.layout = Layout { color, ..now() };
            self.columns = Columns::of(self.layout.width);
        }
        Ok(())
    }
}

/// `2 GPUs 52a1 52a2 (gfx942)`.
fn gpus(gpus: &[super::record::Gpu]) -> String {
    let mut text = match gpus.len() {
        0 => return "no GPU".to_owned(),
        1 => "1 GPU".to_owned(),
        n => format!("{n} GPUs"),
    };
    let mut kinds: Vec<&str> = Vec::new();
    for gpu in gpus {
        text.push(' ');
        text.push_str(&gpu.gpu_id.to_string());
        if !kinds.contains(&gpu.gfx.as_str()) {
            kinds.push(&gpu.gfx);
        }
    }
    format!("{text} ({})", kinds.join(" "))
}

fn probes(attached: usize, missed: usize) -> String {
    format!("{attached} of {} probes", attached + missed)
}

#[cfg(test)]
mod tests;

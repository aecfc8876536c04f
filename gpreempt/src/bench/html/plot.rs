// SPDX-License-Identifier: MIT OR Apache-2.0
//! The plots, each a string of SVG.

use anyhow::Result;
use plotters::prelude::*;
use plotters::style::text_anchor::HPos;

use super::ink;
use crate::bench::stats::{percentile, Split};
use crate::control::BackendKind;
use crate::html::axis::{self, Axis};
use crate::html::svg::{self, anchored, font, odd, rows, svg};
use crate::sink::units::Nanos;

const PANEL: (u32, u32) = (480, 270);

/// Curves of one panel: for each backend, round and nanoseconds.
pub(super) type Curves = Vec<(BackendKind, Vec<(u32, u64)>)>;

fn times(curves: &Curves) -> Option<Axis> {
    let samples = curves.iter().flat_map(|(_, samples)| samples);
    axis::logarithmic(samples.map(|(_, ns)| *ns as f64))
}

/// Which share of the rounds took at most how long. Logarithmic in time.
pub(super) fn ecdf(curves: &Curves) -> Result<String> {
    let Some(times) = times(curves) else {
        return Ok(String::new());
    };
    svg(PANEL, |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(8)
            .margin_right(18)
            .x_label_area_size(26)
            .y_label_area_size(40)
            .build_cartesian_2d(
                times.clone(),
                Axis::plain(0.0, 1.0, vec![0.0, 0.25, 0.5, 0.75, 0.95]),
            )
            .map_err(odd)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(ink::LINE)
            .axis_style(ink::LINE)
            .label_style(font(11.5, ink::MUTED))
            .x_label_formatter(&|ns| axis::time(*ns))
            .y_label_formatter(&|share| format!("{:.0}%", share * 100.0))
            .draw()
            .map_err(odd)?;
        for (backend, samples) in curves {
            let mut sorted: Vec<u64> = samples.iter().map(|sample| sample.1).collect();
            sorted.sort_unstable();
            chart
                .draw_series([PathElement::new(
                    steps(&sorted, times.limits()),
                    ink::of(*backend).stroke_width(2),
                )])
                .map_err(odd)?;
        }
        Ok(())
    })
}

/// More steps than that are not seen.
const MOST_STEPS: usize = 400;

fn steps(sorted: &[u64], (low, high): (f64, f64)) -> Vec<(f64, f64)> {
    let n = sorted.len();
    let every = n.div_ceil(MOST_STEPS).max(1);
    let mut line = vec![(low, 0.0)];
    for (at, ns) in sorted.iter().enumerate() {
        if at % every == 0 || at + 1 == n {
            let before = line.last().map_or(0.0, |point| point.1);
            line.push((*ns as f64, before));
            line.push((*ns as f64, (at + 1) as f64 / n as f64));
        }
    }
    line.push((high, 1.0));
    line
}

/// Latency over the rounds: shows drift, steps and outliers. Logarithmic in time.
pub(super) fn rounds(curves: &Curves, last: u32) -> Result<String> {
    let Some(times) = times(curves) else {
        return Ok(String::new());
    };
    svg((PANEL.0, 214), |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(8)
            .margin_right(18)
            .x_label_area_size(40)
            .y_label_area_size(56)
            .build_cartesian_2d(axis::linear(f64::from(last.max(1)), 5.0), times.clone())
            .map_err(odd)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(ink::LINE)
            .axis_style(ink::LINE)
            .label_style(font(11.5, ink::MUTED))
            .axis_desc_style(font(11.5, ink::MUTED))
            .x_desc("round")
            .x_label_formatter(&|round| format!("{round:.0}"))
            .y_label_formatter(&|ns| axis::time(*ns))
            .draw()
            .map_err(odd)?;
        for (backend, samples) in curves {
            let every = samples.len().div_ceil(MOST_STEPS * 2).max(1);
            let points = samples.iter().step_by(every).map(|(round, ns)| {
                let point = (f64::from(*round), *ns as f64);
                Circle::new(point, 2, ink::of(*backend).mix(0.65).filled())
            });
            chart.draw_series(points).map_err(odd)?;
        }
        Ok(())
    })
}

/// A row of a bar chart: a heading, or a bar.
pub(super) enum Bar {
    /// Of the bars below it.
    Heading(String),
    /// A backend's, for the panels of stop and restart. `None` where nothing is known.
    Parts(BackendKind, [Option<Split>; 2]),
}

const ROW: u32 = 22;
const NAMES: u32 = 110;
const WIDE: u32 = 1000;
const TITLE: u32 = 24;
const AXIS: u32 = 24;

/// Lock wait, hardware and software of stop (left) and restart (right), stacked. Each side has its own scale.
pub(super) fn stacked(bars: &[Bar]) -> Result<String> {
    let most = [0, 1].map(|which| {
        let totals = bars.iter().map(|bar| match bar {
            Bar::Parts(_, parts) => parts[which].map_or(0, |part| part.total_ns()),
            Bar::Heading(_) => 0,
        });
        totals.max().unwrap_or(0) as f64
    });
    if most == [0.0; 2] {
        return Ok(String::new());
    }
    let count = bars.len() as u32;
    svg((WIDE, TITLE + count * ROW + AXIS), |area| {
        let panels = area.split_by_breakpoints([NAMES, NAMES + (WIDE - NAMES) / 2], [] as [u32; 0]);
        for (at, bar) in (0..).zip(bars) {
            let middle = (TITLE + at * ROW + ROW / 2) as i32;
            let (text, x, style) = match bar {
                Bar::Heading(text) => (text.clone(), 0, anchored(12.5, ink::INK, HPos::Left)),
                Bar::Parts(backend, _) => (
                    backend.to_string(),
                    NAMES as i32 - 8,
                    anchored(12.0, ink::MUTED, HPos::Right),
                ),
            };
            area.draw(&Text::new(text, (x, middle), style))
                .map_err(odd)?;
        }
        for (which, title) in ["preempt", "resume"].into_iter().enumerate() {
            // Room for the value behind the longest bar.
            let end = most[which].max(1.0) * 1.2;
            let panel = &panels[which + 1];
            let style = anchored(12.5, ink::INK, HPos::Left);
            panel
                .draw(&Text::new(title, (0, TITLE as i32 / 2), style))
                .map_err(odd)?;
            let mut chart = rows(
                panel,
                axis::linear(end, 4.0),
                count,
                (TITLE, 16),
                &axis::time,
            )?;
            for (row, bar) in bars.iter().enumerate() {
                let Bar::Parts(_, parts) = bar else { continue };
                let Some(split) = parts[which] else { continue };
                let (top, bottom) = (row as f64 + 0.2, row as f64 + 0.8);
                let mut from = 0.0;
                let lengths = [split.lock_wait_ns, split.hw_ns, split.software_ns];
                for (length, (color, _, _)) in lengths.into_iter().zip(ink::PARTS) {
                    let to = from + length as f64;
                    if length > 0 {
                        let bar = Rectangle::new([(from, top), (to, bottom)], color.filled());
                        chart.draw_series([bar]).map_err(odd)?;
                    }
                    from = to;
                }
                let value = EmptyElement::at((from, row as f64 + 0.5))
                    + Text::new(
                        Nanos(split.total_ns()).to_string(),
                        (6, 0),
                        anchored(11.5, ink::INK, HPos::Left),
                    );
                chart.draw_series([value]).map_err(odd)?;
            }
        }
        Ok(())
    })
}

/// A row of a chart of intervals.
pub(super) enum Interval {
    /// Of the rows below it.
    Heading(String),
    /// A point between two ends, for stop and for restart.
    Points {
        /// What it is.
        name: String,
        /// Colour of it.
        color: RGBColor,
        /// Lower end, point, upper end.
        values: [Option<[f64; 3]>; 2],
    },
}

/// Points with whiskers: stop filled, restart hollow. `label` writes values; `mark` is a line that they are compared with.
pub(super) fn intervals(
    rows: &[Interval],
    names_width: u32,
    label: fn(f64) -> String,
    mark: Option<f64>,
) -> Result<String> {
    let values = rows.iter().flat_map(|row| match row {
        Interval::Heading(_) => Vec::new(),
        Interval::Points { values, .. } => values.iter().flatten().flatten().copied().collect(),
    });
    let Some(scale) = axis::logarithmic(values.chain(mark).filter(|_| !rows.is_empty())) else {
        return Ok(String::new());
    };
    let count = rows.len() as u32;
    svg((WIDE, count * ROW + AXIS + 8), |area| {
        let (_, plot) = area.split_horizontally(names_width);
        for (at, row) in (0..).zip(rows) {
            let middle = 8 + at * ROW as i32 + ROW as i32 / 2;
            let (text, x, style) = match row {
                Interval::Heading(text) => (text, 0, anchored(12.5, ink::INK, HPos::Left)),
                Interval::Points { name, .. } => (
                    name,
                    names_width as i32 - 12,
                    anchored(12.0, ink::MUTED, HPos::Right),
                ),
            };
            area.draw(&Text::new(text.clone(), (x, middle), style))
                .map_err(odd)?;
        }
        let mut chart = svg::rows(&plot, scale.clone(), count, (8, 60), &label)?;
        if let Some(mark) = mark {
            let line = vec![(mark, 0.0), (mark, f64::from(count))];
            chart
                .draw_series([PathElement::new(line, ink::MUTED.stroke_width(1))])
                .map_err(odd)?;
        }
        for (at, row) in rows.iter().enumerate() {
            let Interval::Points { color, values, .. } = row else {
                continue;
            };
            for (which, values) in values.iter().enumerate() {
                let Some([from, point, to]) = *values else {
                    continue;
                };
                let y = at as f64 + if which == 0 { 0.3 } else { 0.7 };
                let whisker =
                    PathElement::new(vec![(from, y), (to, y)], color.mix(0.55).stroke_width(2));
                chart.draw_series([whisker]).map_err(odd)?;
                let inside = if which == 0 { *color } else { ink::PAPER };
                chart
                    .draw_series([Circle::new((point, y), 4, inside.filled())])
                    .map_err(odd)?;
                chart
                    .draw_series([Circle::new((point, y), 4, color.stroke_width(2))])
                    .map_err(odd)?;
            }
        }
        Ok(())
    })
}

/// Lower end, point and upper end of samples: P10, P50, P90.
pub(super) fn spread(samples: impl Iterator<Item = u64>) -> Option<[f64; 3]> {
    let mut sorted: Vec<u64> = samples.collect();
    sorted.sort_unstable();
    let at = |percent| percentile(&sorted, percent).map(|ns| ns as f64);
    Some([at(10.0)?, at(50.0)?, at(90.0)?])
}

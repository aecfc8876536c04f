// SPDX-License-Identifier: MIT OR Apache-2.0
//! The plots, each a string of SVG; empty where there is nothing to draw.

use std::collections::BTreeSet;

use anyhow::Result;
use plotters::prelude::*;
use plotters::style::text_anchor::HPos;

use super::super::compare::Row;
use super::super::run::{Life, Run};
use crate::event::GpuId;
use crate::html::axis;
use crate::html::ink;
use crate::html::svg::{anchored, font, odd, rows, svg};
use crate::stat::measure::Measure;

/// Colours of series, and the variables of the style sheet that they stand for.
pub(super) const SERIES: [(RGBColor, &str); 6] = [
    (RGBColor(20, 0, 0), "s0"),
    (RGBColor(21, 0, 0), "s1"),
    (RGBColor(22, 0, 0), "s2"),
    (RGBColor(23, 0, 0), "s3"),
    (RGBColor(24, 0, 0), "s4"),
    (RGBColor(25, 0, 0), "s5"),
];
const OFF: RGBColor = RGBColor(30, 0, 0);
const LIMIT: RGBColor = RGBColor(31, 0, 0);
/// Colours of marks, likewise.
pub(super) const MARKS: [(RGBColor, &str); 2] = [(OFF, "off"), (LIMIT, "limit")];

/// Queues that a timeline draws.
pub(super) const MOST_BARS: usize = 120;
/// Points of a line: more are not seen.
const MOST_POINTS: usize = 1500;

const WIDE: u32 = 1000;
const NAMES: u32 = 190;
const ROW: u32 = 18;
const AXIS: u32 = 26;

fn series(at: usize) -> RGBColor {
    SERIES[at % SERIES.len()].0
}

/// Lives of queues, a row each, grouped by process.
pub(super) fn timeline(run: &Run) -> Result<String> {
    let mut lives: Vec<&Life> = run.lives.iter().take(MOST_BARS).collect();
    if lives.is_empty() || run.duration_ns() == 0 {
        return Ok(String::new());
    }
    lives.sort_by_key(|life| (life.member, life.key.gpu_id, life.born_ns(run)));
    let count = lives.len() as u32;
    let since = |ns: u64| ns.saturating_sub(run.from_ns) as f64;
    svg((WIDE, count * ROW + AXIS + 8), |area| {
        let (_, plot) = area.split_horizontally(NAMES);
        let values = axis::linear(run.duration_ns() as f64, 8.0);
        let mut chart = rows(&plot, values, count, (8, 20), &axis::time)?;
        let mut before = None;
        for (row, life) in lives.iter().enumerate() {
            let member = &run.members[life.member];
            let middle = 8 + (row as u32 * ROW + ROW / 2) as i32;
            if before != Some(life.member) {
                let name = member.comm.map_or_else(String::new, |c| c.to_string());
                let text = format!("{name}[{}]", member.pid);
                area.draw(&Text::new(
                    text,
                    (0, middle),
                    anchored(11.5, ink::INK, HPos::Left),
                ))
                .map_err(odd)?;
            }
            before = Some(life.member);
            let queue = format!(
                "{} {}:{}",
                life.queue_type.name(),
                life.key.gpu_id,
                life.key.queue_id
            );
            area.draw(&Text::new(
                queue,
                (NAMES as i32 - 8, middle),
                anchored(11.0, ink::MUTED, HPos::Right),
            ))
            .map_err(odd)?;
            let color = series(life.member);
            let y = (row as f64 + 0.18, row as f64 + 0.82);
            let (from, to) = (since(life.born_ns(run)), since(life.gone_ns(run)));
            let bar = Rectangle::new([(from, y.0), (to, y.1)], color.filled());
            chart.draw_series([bar]).map_err(odd)?;
            for (from, to) in off(run, life) {
                let corners = [(since(from), y.0 + 0.08), (since(to), y.1 - 0.08)];
                let inside = Rectangle::new(corners, ink::PAPER.filled());
                let edge = Rectangle::new(corners, OFF.stroke_width(1));
                chart.draw_series([inside, edge]).map_err(odd)?;
            }
        }
        Ok(())
    })
}

/// Longer times that a queue was off, within its life.
fn off<'a>(run: &'a Run, life: &'a Life) -> impl Iterator<Item = (u64, u64)> + 'a {
    let (born, gone) = (life.born_ns(run), life.gone_ns(run));
    // What is narrower than half a pixel is not seen.
    let least = run.duration_ns() / u64::from(WIDE * 2);
    let concerns = move |stretch: &&super::super::run::Stretch| {
        stretch.pid.is_none_or(|pid| pid == life.key.pid)
            && stretch.gpu_id.is_none_or(|gpu| gpu == life.key.gpu_id)
            && stretch.queue_id.is_none_or(|id| id == life.key.queue_id)
    };
    run.stretches
        .iter()
        .filter(concerns)
        .map(move |stretch| (stretch.from_ns.max(born), stretch.to_ns.min(gone)))
        .filter(move |(from, to)| from < to && to - from >= least)
}

/// Nodes whose runlists were seen.
pub(super) fn nodes(run: &Run) -> Vec<GpuId> {
    let nodes: BTreeSet<GpuId> = run.levels.iter().map(|level| level.gpu_id).collect();
    nodes.into_iter().collect()
}

/// Compute queues in the runlist of each GPU over time, and the slots that there are.
pub(super) fn levels(run: &Run) -> Result<String> {
    let nodes = nodes(run);
    if nodes.is_empty() || run.duration_ns() == 0 {
        return Ok(String::new());
    }
    let slots = run.gpus.iter().filter(|gpu| nodes.contains(&gpu.gpu_id));
    let slots: BTreeSet<u64> = slots.map(|gpu| gpu.num_cp_queues).collect();
    let most = run.levels.iter().map(|level| u64::from(level.cp_queues));
    let most = most.chain(slots.iter().copied()).max().unwrap_or(1).max(1);
    svg((WIDE, 200), |area| {
        let mut chart = ChartBuilder::on(area)
            .margin_top(8)
            .margin_right(20)
            .x_label_area_size(AXIS)
            // Below the timeline, at the same times.
            .y_label_area_size(NAMES)
            .build_cartesian_2d(
                axis::linear(run.duration_ns() as f64, 8.0),
                axis::linear(most as f64 * 1.1, 5.0),
            )
            .map_err(odd)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(ink::LINE)
            .axis_style(ink::LINE)
            .label_style(font(11.5, ink::MUTED))
            .x_label_formatter(&|ns| axis::time(*ns))
            .y_label_formatter(&|queues| format!("{queues:.0}"))
            .draw()
            .map_err(odd)?;
        for slots in slots.iter().filter(|slots| **slots > 0) {
            let y = *slots as f64;
            let line = PathElement::new(
                vec![(0.0, y), (run.duration_ns() as f64, y)],
                LIMIT.stroke_width(1),
            );
            chart.draw_series([line]).map_err(odd)?;
        }
        for (at, gpu_id) in nodes.iter().enumerate() {
            let line = PathElement::new(steps(run, *gpu_id), series(at).stroke_width(2));
            chart.draw_series([line]).map_err(odd)?;
        }
        Ok(())
    })
}

fn steps(run: &Run, gpu_id: GpuId) -> Vec<(f64, f64)> {
    let of = run.levels.iter().filter(|level| level.gpu_id == gpu_id);
    let every = of.clone().count().div_ceil(MOST_POINTS).max(1);
    let mut line: Vec<(f64, f64)> = Vec::new();
    for level in of.step_by(every) {
        let x = level.ts_ns.saturating_sub(run.from_ns) as f64;
        if let Some((_, y)) = line.last().copied() {
            line.push((x, y));
        }
        line.push((x, f64::from(level.cp_queues)));
    }
    if let Some((_, y)) = line.last().copied() {
        line.push((run.duration_ns() as f64, y));
    }
    line
}

/// Which compute slots queues were found on: columns are pipe and queue, rows are XCCs.
pub(super) fn slots(run: &Run) -> Result<String> {
    const CELL: u32 = 22;
    const PIPES: u32 = 4;
    let mut used: Vec<(u32, u32, u32, usize)> = Vec::new();
    for life in run.lives.iter().filter(|life| !life.queue_type.is_sdma()) {
        let places = life.slots.all.iter();
        used.extend(places.map(|(xcc, pipe, queue)| (*xcc, *pipe, *queue, life.member)));
    }
    if used.is_empty() {
        return Ok(String::new());
    }
    let queues = used.iter().map(|place| place.2).max().unwrap_or(0).max(7) + 1;
    let pipes = used
        .iter()
        .map(|place| place.1)
        .max()
        .unwrap_or(0)
        .max(PIPES - 1)
        + 1;
    let xccs = used.iter().map(|place| place.0).max().unwrap_or(0) + 1;
    let left = 60;
    let width = left + pipes * (queues * CELL + 14);
    svg((width.max(WIDE), 24 + xccs * CELL + 6), |area| {
        for pipe in 0..pipes {
            let x = left + pipe * (queues * CELL + 14);
            let title = format!("pipe {pipe}, queues 0 to {}", queues - 1);
            let style = anchored(11.5, ink::MUTED, HPos::Left);
            area.draw(&Text::new(title, (x as i32, 10), style))
                .map_err(odd)?;
            for xcc in 0..xccs {
                let y = 24 + xcc * CELL;
                for queue in 0..queues {
                    let corner = (x + queue * CELL) as i32;
                    let cell = [
                        (corner, y as i32),
                        (corner + CELL as i32 - 4, (y + CELL) as i32 - 4),
                    ];
                    let members: BTreeSet<usize> = used
                        .iter()
                        .filter(|place| (place.0, place.1, place.2) == (xcc, pipe, queue))
                        .map(|place| place.3)
                        .collect();
                    // A strip for each process that was on it.
                    let strip =
                        (CELL as i32 - 4) / i32::try_from(members.len().max(1)).unwrap_or(1);
                    for (at, member) in (0..).zip(&members) {
                        let from = corner + at * strip;
                        let part = [(from, cell[0].1), (from + strip.max(1), cell[1].1)];
                        area.draw(&Rectangle::new(part, series(*member).filled()))
                            .map_err(odd)?;
                    }
                    if members.is_empty() {
                        area.draw(&Rectangle::new(cell, ink::LINE.stroke_width(1)))
                            .map_err(odd)?;
                    }
                }
            }
        }
        for xcc in 0..xccs {
            let y = (24 + xcc * CELL + CELL / 2 - 2) as i32;
            let style = anchored(11.5, ink::MUTED, HPos::Left);
            area.draw(&Text::new(format!("XCC {xcc}"), (0, y), style))
                .map_err(odd)?;
        }
        Ok(())
    })
}

/// The distribution of one duration in every run.
pub(super) fn histogram(runs: &[Run], measure: Measure) -> Result<String> {
    let drawn = runs.iter().take(SERIES.len());
    let of = drawn.map(|run| {
        let latency = run.latencies.latency(measure);
        latency.map(|latency| latency.buckets()).unwrap_or_default()
    });
    let of: Vec<_> = of.collect();
    let ends = of.iter().flatten();
    let (low, high) = ends.fold((u64::MAX, 0), |(low, high), bucket| {
        (low.min(bucket.from_ns.max(1)), high.max(bucket.to_ns))
    });
    let most = of.iter().flatten().map(|bucket| bucket.count).max();
    let Some(most) = most.filter(|most| *most > 0) else {
        return Ok(String::new());
    };
    let Some(times) = axis::logarithmic([low as f64, high as f64].into_iter()) else {
        return Ok(String::new());
    };
    svg((480, 220), |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(8)
            .margin_right(18)
            .x_label_area_size(AXIS)
            .y_label_area_size(44)
            .build_cartesian_2d(times, axis::linear(most as f64 * 1.05, 4.0))
            .map_err(odd)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(ink::LINE)
            .axis_style(ink::LINE)
            .label_style(font(11.5, ink::MUTED))
            .x_label_formatter(&|ns| axis::time(*ns))
            .y_label_formatter(&|count| format!("{count:.0}"))
            .draw()
            .map_err(odd)?;
        let share = of.len().max(1) as f64;
        for (at, buckets) in of.iter().enumerate() {
            for bucket in buckets.iter().filter(|bucket| bucket.count > 0) {
                let (from, to) = (bucket.from_ns.max(1) as f64, bucket.to_ns as f64);
                // Runs side by side within a power of two, which is a constant factor.
                let place = |n: f64| from * (to / from).powf(n);
                let (left, right) = (
                    place((at as f64 + 0.08) / share),
                    place((at as f64 + 0.92) / share),
                );
                let bar = Rectangle::new(
                    [(left, 0.0), (right, bucket.count as f64)],
                    series(at).filled(),
                );
                chart.draw_series([bar]).map_err(odd)?;
            }
        }
        Ok(())
    })
}

/// Queues at once of each model of a comparison.
pub(super) fn peaks(models: &[Row]) -> Result<String> {
    let most = models.iter().map(|row| row.peak.all()).max().unwrap_or(0);
    if most == 0 {
        return Ok(String::new());
    }
    let count = models.len() as u32;
    const HIGH: u32 = 26;
    svg((WIDE, count * HIGH + AXIS + 8), |area| {
        let (_, plot) = area.split_horizontally(NAMES);
        let values = axis::linear(most as f64 * 1.1, 8.0);
        let whole = |queues: f64| format!("{queues:.0}");
        let mut chart = rows(&plot, values, count, (8, 40), &whole)?;
        for (at, row) in models.iter().enumerate() {
            let middle = 8 + (at as u32 * HIGH + HIGH / 2) as i32;
            let style = anchored(12.0, ink::INK, HPos::Right);
            let name: String = row.name.chars().take(26).collect();
            area.draw(&Text::new(name, (NAMES as i32 - 8, middle), style))
                .map_err(odd)?;
            let y = (at as f64 + 0.2, at as f64 + 0.8);
            let compute = row.peak.compute as f64;
            let bars = [
                (0.0, compute, series(0)),
                (compute, row.peak.all() as f64, series(2)),
            ];
            for (from, to, color) in bars {
                if to > from {
                    let bar = Rectangle::new([(from, y.0), (to, y.1)], color.filled());
                    chart.draw_series([bar]).map_err(odd)?;
                }
            }
            let value = EmptyElement::at((row.peak.all() as f64, at as f64 + 0.5))
                + Text::new(
                    row.peak.all().to_string(),
                    (6, 0),
                    anchored(11.5, ink::INK, HPos::Left),
                );
            chart.draw_series([value]).map_err(odd)?;
        }
        Ok(())
    })
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! Plots as strings of SVG.

use anyhow::{anyhow, Result};
use plotters::coord::cartesian::Cartesian2d;
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::axis::Axis;
use super::ink;

/// What a plot is drawn on.
pub(crate) type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// The SVG backend writes a font's size divided by this.
const FONT: f64 = 1.24;

/// Text of the page's font.
pub(crate) fn font(size: f64, color: RGBColor) -> TextStyle<'static> {
    ("inherit", size * FONT).into_font().color(&color)
}

/// Likewise, in the middle of its line.
pub(crate) fn anchored(size: f64, color: RGBColor, h: HPos) -> TextStyle<'static> {
    font(size, color).pos(Pos::new(h, VPos::Center))
}

/// A plot with a row for each thing, from top to bottom, and values to the right.
pub(crate) type Rows<'a> = ChartContext<'a, SVGBackend<'a>, Cartesian2d<Axis, Axis>>;

/// Draws its grid. `margins` are those above and to the right; `label` writes values.
pub(crate) fn rows<'a>(
    area: &Area<'a>,
    values: Axis,
    count: u32,
    margins: (u32, u32),
    label: &dyn Fn(f64) -> String,
) -> Result<Rows<'a>> {
    let top_down = Axis::plain(f64::from(count), 0.0, Vec::new());
    let mut chart = ChartBuilder::on(area)
        .margin_top(margins.0)
        .margin_right(margins.1)
        .x_label_area_size(24)
        .build_cartesian_2d(values, top_down)
        .map_err(odd)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .disable_y_axis()
        .light_line_style(TRANSPARENT)
        .bold_line_style(ink::LINE)
        .axis_style(ink::LINE)
        .label_style(font(11.5, ink::MUTED))
        .x_label_formatter(&|value| label(*value))
        .draw()
        .map_err(odd)?;
    Ok(chart)
}

/// A drawing of that size.
pub(crate) fn svg(size: (u32, u32), draw: impl FnOnce(&Area<'_>) -> Result<()>) -> Result<String> {
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, size).into_drawing_area();
        draw(&area)?;
        area.present().map_err(odd)?;
    }
    Ok(text)
}

/// Drawing into a string fails only on a mistake.
pub(crate) fn odd<E: std::error::Error + Send + Sync + 'static>(
    error: DrawingAreaErrorKind<E>,
) -> anyhow::Error {
    anyhow!("cannot draw a plot: {error}")
}

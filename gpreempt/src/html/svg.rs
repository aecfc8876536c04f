// SPDX-License-Identifier: MIT OR Apache-2.0
//! Plots as strings of SVG.

use anyhow::{anyhow, Result};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

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

// SPDX-License-Identifier: MIT OR Apache-2.0
//! Colours by name. The plots are drawn in fixed stand-ins, which rules of the page's style sheet replace by the colours
//! of the reader's scheme, light or dark.

use std::fmt::Write as _;

use plotters::style::RGBColor;

/// Text and points.
pub(crate) const INK: RGBColor = RGBColor(1, 0, 0);
/// Labels of axes.
pub(crate) const MUTED: RGBColor = RGBColor(2, 0, 0);
/// Grid.
pub(crate) const LINE: RGBColor = RGBColor(3, 0, 0);
/// Inside of hollow points.
pub(crate) const PAPER: RGBColor = RGBColor(4, 0, 0);

/// Rules for the colours of every page and for `more`: each a stand-in and the variable of the style sheet that it stands for.
pub(crate) fn rules<'a>(more: impl IntoIterator<Item = (RGBColor, &'a str)>) -> String {
    let plain = [
        (INK, "ink"),
        (MUTED, "muted"),
        (LINE, "line"),
        (PAPER, "paper"),
    ];
    let mut rules = String::new();
    for (RGBColor(r, g, b), name) in plain.into_iter().chain(more) {
        for property in ["fill", "stroke"] {
            let _ = writeln!(
                rules,
                "svg [{property}=\"#{r:02X}{g:02X}{b:02X}\"] {{ {property}: var(--{name}); }}"
            );
        }
    }
    rules
}

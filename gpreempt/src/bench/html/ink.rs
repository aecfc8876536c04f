// SPDX-License-Identifier: MIT OR Apache-2.0
//! Colours of these plots by name, beside those of every page.

use plotters::style::RGBColor;

use crate::control::BackendKind;
use crate::html::ink;
pub(super) use crate::html::ink::{INK, LINE, MUTED, PAPER};

/// The three parts of a latency.
pub(super) const PARTS: [(RGBColor, &str, &str); 3] = [
    (RGBColor(5, 0, 0), "lock", "lock wait"),
    (RGBColor(6, 0, 0), "hardware", "hardware"),
    (RGBColor(7, 0, 0), "software", "software"),
];

/// Of a backend. Its name is that of the variable in the style sheet.
pub(super) fn of(backend: BackendKind) -> RGBColor {
    RGBColor(10 + backend as u8, 0, 0)
}

/// The rules that put the scheme's colours in.
pub(super) fn rules() -> String {
    let backends = [
        BackendKind::Patched,
        BackendKind::DebugTrap,
        BackendKind::Criu,
        BackendKind::DryRun,
    ];
    let parts = PARTS.map(|(color, name, _)| (color, name));
    let backends = backends.map(|backend| (of(backend), backend.name()));
    ink::rules(parts.into_iter().chain(backends))
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! Colours by name. The plots are drawn in fixed stand-ins, which rules of the page's style sheet replace by the colours
//! of the reader's scheme, light or dark.

use std::fmt::Write as _;

use plotters::style::RGBColor;

use crate::control::BackendKind;

/// Text and points.
pub(super) const INK: RGBColor = RGBColor(1, 0, 0);
/// Labels of axes.
pub(super) const MUTED: RGBColor = RGBColor(2, 0, 0);
/// Grid.
pub(super) const LINE: RGBColor = RGBColor(3, 0, 0);
/// Inside of hollow points.
pub(super) const PAPER: RGBColor = RGBColor(4, 0, 0);
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
    let plain = [
        (INK, "ink"),
        (MUTED, "muted"),
        (LINE, "line"),
        (PAPER, "paper"),
    ];
    let parts = PARTS.map(|(color, name, _)| (color, name));
    let backends = backends.map(|backend| (of(backend), backend.name()));
    let mut rules = String::new();
    for (RGBColor(r, g, b), name) in plain.into_iter().chain(parts).chain(backends) {
        for property in ["fill", "stroke"] {
            let _ = writeln!(
                rules,
                "svg [{property}=\"#{r:02X}{g:02X}{b:02X}\"] {{ {property}: var(--{name}); }}"
            );
        }
    }
    rules
}

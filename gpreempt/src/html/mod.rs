// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pages that need nothing else: no network, no script, no font. Their look, and the drawing of their plots.

pub(crate) mod axis;
pub(crate) mod ink;
pub(crate) mod svg;

use maud::{html, Markup, PreEscaped, DOCTYPE};

/// A page: its title, style of its own, and what stands in it.
pub(crate) fn page(title: &str, style: &str, body: &Markup) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) }
                style { (PreEscaped(include_str!("style.css"))) (PreEscaped(style)) }
            }
            body { (body) }
        }
    };
    page.into_string()
}

/// A plot, for those who cannot see it what it shows, and a caption. Nothing if the plot is empty.
pub(crate) fn figure(svg: String, what: &str, caption: &Markup) -> Markup {
    html! {
        @if !svg.is_empty() {
            figure {
                div .scroll role="img" aria-label=(what) { (PreEscaped(svg)) }
                figcaption { (caption) }
            }
        }
    }
}

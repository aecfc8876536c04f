// SPDX-License-Identifier: MIT OR Apache-2.0
//! An analysis, or a comparison, as one page that needs nothing else.

mod plot;

use anyhow::Result;
use maud::{html, Markup};
use plotters::style::RGBColor;

use super::compare::Row;
use super::conclude::{About, Analysis, Conclusion, Decision};
use super::run::Run;
use super::table;
use crate::html::{self, figure, ink};
use crate::sink::finding::grouped;
use crate::sink::units::Nanos;
use crate::stat::measure::Measure;

/// Durations whose distributions are drawn.
const DRAWN: [Measure; 4] = [
    Measure::Unmap,
    Measure::Fence,
    Measure::Map,
    Measure::OffHardware,
];

/// The page. `simulated` where the GPUs are.
///
/// # Errors
/// When a plot cannot be drawn.
pub fn page(title: &str, analysis: &Analysis, simulated: bool) -> Result<String> {
    let mut runs = Vec::new();
    for run in &analysis.runs {
        runs.push(one_run(run)?);
    }
    let body = html! {
        h1 { (title) }
        (banner(simulated))
        (environment(&analysis.runs))
        h2 { "Decisions" }
        @for decision in &analysis.decisions { (decide(decision)) }
        h2 { "Answers, and what they stand on" }
        @for conclusion in &analysis.conclusions { (conclude(conclusion)) }
        @for run in runs { (run) }
        h2 { "How long things took" }
        p {
            "Measured in the kernel. Each column is a power of two of nanoseconds, each colour a run. Off hardware is the time from the return of the call "
            "that took queues off to the return of the call that submitted them again."
        }
        (legend(&analysis.runs))
        div .pair { (histograms(&analysis.runs)?) }
    };
    Ok(html::page(title, &style(), &body))
}

/// The page of a comparison.
///
/// # Errors
/// When a plot cannot be drawn.
pub fn comparison(rows: &[Row], runs: &[Run], simulated: bool) -> Result<String> {
    let title = "What models do with GPU queues";
    let mut timelines = Vec::new();
    for run in runs {
        timelines.push(one_run(run)?);
    }
    let body = html! {
        h1 { (title) }
        (banner(simulated))
        h2 { "Side by side" }
        (figure(plot::peaks(rows)?, "Queues of each model", &html! { "Queues at once, when they were most." }))
        ul .legend {
            li style=(format!("--chip: var(--{})", plot::SERIES[0].1)) { "compute" }
            li style=(format!("--chip: var(--{})", plot::SERIES[2].1)) { "copy" }
        }
        div .scroll {
            table {
                thead { tr {
                    @for head in ["model", "processes", "GPUs", "queues at once", "compute", "copy", "on one GPU", "created",
                        "kept", "unmaps/s", "unmap P50", "off", "lost"] { th { (head) } }
                } }
                tbody { @for row in rows { (compared(row)) } }
            }
        }
        p {
            "On one GPU: most compute queues at once on one GPU, of its slots. Unmaps/s: runlists that the model's own processes took off, every queue of the GPU with them. Off: the share of their lives that its queues were "
            "off the GPU."
        }
        @for timeline in timelines { (timeline) }
    };
    Ok(html::page(title, &style(), &body))
}

fn compared(row: &Row) -> Markup {
    let dash = || "–".to_owned();
    html! {
        tr {
            td { (row.name) }
            td { (row.processes) }
            td { (row.gpus) }
            td { (row.peak.all()) }
            td { (row.peak.compute) }
            td { (row.peak.sdma) }
            td { (row.on_one_gpu()) }
            td { (row.queues) }
            td { (match row.steady { Some(true) => "all", Some(false) => "not all", None => "–" }) }
            td { (format!("{:.1}", row.unmaps_own_per_s)) }
            td { (row.unmap_p50_ns.map_or_else(dash, |ns| Nanos(ns).to_string())) }
            td { (row.off_share.map_or_else(dash, |share| format!("{:.1}%", share * 100.0))) }
            td { (row.lost) }
        }
    }
}

fn style() -> String {
    let series = plot::SERIES.iter().map(|(color, name)| (*color, *name));
    let more: Vec<(RGBColor, &str)> = series.chain(plot::MARKS).collect();
    format!("{}{}", include_str!("style.css"), ink::rules(more))
}

fn banner(simulated: bool) -> Markup {
    html! {
        @if simulated {
            div .banner {
                strong { "Simulated GPU, real driver" }
                ": times say what the driver does, not what a GPU does"
            }
        }
    }
}

fn environment(runs: &[Run]) -> Markup {
    let gpus = runs.last().map(|run| {
        let gpu = |gpu: &crate::sink::record::Gpu| {
            format!(
                "{} ({}, {} XCC, {} compute slots)",
                gpu.gpu_id, gpu.gfx, gpu.num_xcc, gpu.num_cp_queues
            )
        };
        run.gpus.iter().map(gpu).collect::<Vec<_>>().join(", ")
    });
    html! {
        dl {
            dt { "made by" }
            dd { "gpreempt " (env!("CARGO_PKG_VERSION")) }
            dt { "GPUs" }
            dd { (gpus.unwrap_or_default()) }
            @for run in runs {
                dt { (run.name) }
                dd {
                    (Nanos(run.duration_ns())) ", " (run.lost) " records lost, " (run.pictures) " pictures"
                    @if !run.parties.is_empty() { ": " (run.parties.join(" and ")) }
                    @if let Some(failed) = &run.failed { " (" (failed) ")" }
                }
            }
        }
    }
}

fn conclude(conclusion: &Conclusion) -> Markup {
    let (class, verdict) = match conclusion.holds {
        Some(true) => ("yes", "yes"),
        Some(false) => ("no", "no"),
        None => ("", "open"),
    };
    let asks = conclusion.question != super::conclude::Question::Cost;
    html! {
        p .answer {
            span class={ "verdict " (class) } { @if asks { (verdict) } @else { "–" } }
            strong { (conclusion.question.name()) }
            (conclusion.answer)
        }
        @if !conclusion.evidence.is_empty() {
            ul .evidence { @for line in &conclusion.evidence { li { (line) } } }
        }
    }
}

fn decide(decision: &Decision) -> Markup {
    let about = match decision.about {
        About::Identification => "How to find the queues: ",
        About::Scheme => "How to stop them: ",
    };
    html! {
        div .decision {
            (about) strong { (table::choice(decision)) }
            ul { @for line in &decision.because { li { (line) } } }
        }
    }
}

fn one_run(run: &Run) -> Result<Markup> {
    let name = &run.name;
    Ok(html! {
        h2 { (name) ": queues over time" }
        @if run.lives.is_empty() { p { "No queue was seen." } }
        (figure(plot::timeline(run)?, &format!("Life of each queue of {name}"), &html! {
            "Each bar is a queue from its creation to its end, a colour for each process; hollow while it was off the GPU for long. Rows are type, GPU and id."
            @if run.lives.len() > plot::MOST_BARS { " The first " (plot::MOST_BARS) " of " (run.lives.len()) " queues." }
        }))
        @if !run.findings.is_empty() {
            h3 { "Findings" }
            ul .findings {
                @for finding in grouped(&run.findings) {
                    li { strong { (finding.subject()) } ": " (finding.evidence) br; (finding.advice) }
                }
            }
        }
        (figure(plot::levels(run)?, &format!("Compute queues mapped during {name}"), &html! {
            "Compute queues in the runlist of each GPU, those of other processes too. The line is the number of slots: above it queues take turns."
        }))
        @if plot::nodes(run).len() > 1 {
            ul .legend {
                @for (at, gpu_id) in plot::nodes(run).into_iter().enumerate().take(plot::SERIES.len()) {
                    li style=(format!("--chip: var(--{})", plot::SERIES[at].1)) { (gpu_id) }
                }
            }
        }
        (figure(plot::slots(run)?, &format!("Hardware slots of the queues of {name}"), &html! {
            "Slots on which pictures found its compute queues: in the colours of the processes that were on them. A row for each XCC."
        }))
    })
}

fn legend(runs: &[Run]) -> Markup {
    html! {
        @if runs.len() > 1 {
            ul .legend {
                @for (at, run) in runs.iter().enumerate().take(plot::SERIES.len()) {
                    li style=(format!("--chip: var(--{})", plot::SERIES[at].1)) { (run.name) }
                }
            }
        }
    }
}

fn histograms(runs: &[Run]) -> Result<Markup> {
    let mut panels = Vec::new();
    for measure in DRAWN {
        let svg = plot::histogram(runs, measure)?;
        if !svg.is_empty() {
            panels.push((measure, svg));
        }
    }
    Ok(html! {
        @for (measure, svg) in panels {
            div {
                h3 { (measure.name()) }
                div role="img" aria-label={ "Distribution of " (measure.name()) } { (maud::PreEscaped(svg)) }
            }
        }
    })
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;

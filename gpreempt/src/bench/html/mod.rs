// SPDX-License-Identifier: MIT OR Apache-2.0
//! A report as one page that needs nothing else: no network, no script, no font.

mod ink;
mod plot;

use anyhow::Result;
use maud::{html, Markup, PreEscaped};

use self::plot::{Bar, Curves, Interval};
use super::plan::{plural, Calls, Plan};
use super::record::{BenchEnd, Compares, EndKind, Environment, Measured, Operation};
use super::report::Report;
use super::run::{Findings, Sample};
use super::table::{both, fraction, process, subject, times};
use crate::control::BackendKind;
use crate::html::{self, axis, figure};
use crate::sink::units::Nanos;

/// The page.
///
/// # Errors
/// When a plot cannot be drawn.
pub fn page(report: &Report, plan: &Plan, findings: &Findings) -> Result<String> {
    let backends = used(report);
    let body = html! {
        h1 { "How long it takes to stop and restart GPU queues" }
        (banner(&report.environment, &report.end))
        (environment(&report.environment))
        @if !report.measured.is_empty() {
            (parts(report)?)
            (ratios(report)?)
            (disturbance(report, plan, findings)?)
            (distributions(report, plan, findings, &backends)?)
            (numbers(report))
        }
        (not_measured(report))
    };
    let title = format!("gpreempt bench preempt: {}", report.environment.hardware());
    let style = format!("{}{}", include_str!("style.css"), ink::rules());
    Ok(html::page(&title, &style, &body))
}

/// Backends with results, in order of preference.
fn used(report: &Report) -> Vec<BackendKind> {
    let mut backends: Vec<_> = report.measured.iter().map(|row| row.backend).collect();
    backends.sort_unstable();
    backends.dedup();
    backends
}

fn banner(environment: &Environment, end: &BenchEnd) -> Markup {
    html! {
        div .banner {
            strong { (environment.hardware()) }
            @if environment.simulation.is_some() {
                ": latencies say what the driver and gpreempt do, not what a GPU does"
            }
        }
        @if end.end != EndKind::Complete {
            br;
            div .banner.warn {
                "Not complete (" (plural(end.rounds as usize, "round", "s")) " begun)"
                @if let Some(message) = &end.message { ": " (message) }
            }
        }
    }
}

fn environment(environment: &Environment) -> Markup {
    let gpus = environment.gpus.iter().map(|gpu| {
        let xccs = plural(
            usize::try_from(gpu.num_xcc).unwrap_or(usize::MAX),
            "XCC",
            "s",
        );
        format!(
            "{} ({}, {xccs}, {} compute slots)",
            gpu.gpu_id, gpu.gfx, gpu.num_cp_queues
        )
    });
    let list = |lines: &mut dyn Iterator<Item = String>| lines.collect::<Vec<_>>().join(", ");
    let setting = |(name, value): (&String, &String)| format!("{name}={value}");
    html! {
        dl {
            dt { "measured" }
            dd {
                (environment.began) ", gpreempt " (environment.version) ", Linux " (environment.kernel)
                ", " (plural(environment.cpus, "processor", "s"))
            }
            @if let Some(version) = &environment.module_version { dt { "amdgpu" } dd { (version) } }
            dt { "GPUs" }
            dd { (list(&mut gpus.into_iter())) }
            @if let Some(simulation) = &environment.simulation {
                dt { "simulation" }
                dd { (list(&mut simulation.iter().map(setting))) }
            }
            dt { "offline" }
            dd { (list(&mut environment.offline.iter().map(process))) }
            @if !environment.online.is_empty() {
                dt { "online" }
                dd { (list(&mut environment.online.iter().map(process))) }
            }
            dt { "rounds" }
            dd {
                (environment.rounds) ", held for " (Nanos(environment.hold_ns)) ", all rows once a round in an order that changes "
                "(seed " (environment.seed.0) ")"
            }
            dt { "percentiles" }
            dd { (environment.percentiles) }
            dt { "seen by" }
            dd { (environment.observed) }
        }
    }
}

fn legend(backends: &[BackendKind]) -> Markup {
    html! {
        ul .legend {
            @for backend in backends {
                li style=(format!("--chip: var(--{backend})")) { (backend) }
            }
        }
    }
}

fn parts(report: &Report) -> Result<Markup> {
    let bars = |one_call: bool| {
        let mut bars = Vec::new();
        let mut last = "";
        for (stop, restart) in both(report) {
            let parts = [stop.middle_half, restart.middle_half];
            if (stop.calls == Calls::Batch) != one_call || parts == [None, None] {
                continue;
            }
            if stop.case != last {
                bars.push(Bar::Heading(stop.case.clone()));
                last = &stop.case;
            }
            bars.push(Bar::Parts(stop.backend, parts));
        }
        bars
    };
    let (one, several) = (plot::stacked(&bars(true))?, plot::stacked(&bars(false))?);
    Ok(html! {
        @if !one.is_empty() || !several.is_empty() {
            h2 { "Where the time goes" }
            p {
                "From before the first call into the kernel to after the last. Lock wait and hardware are measured in the kernel; "
                "software is the rest, and also the lock wait where that cannot be seen (debug-trap). Means over the rounds from P25 to P75, so \
                that the parts add up. Every panel has its own scale."
            }
            ul .legend {
                @for (_, variable, name) in ink::PARTS {
                    li style=(format!("--chip: var(--{variable})")) { (name) }
                }
            }
            (figure(one, "Stacked bars of latency in one call", &html! { "In one call." }))
            (figure(several, "Stacked bars of latency, calls one after the other", &html! {
                "The same queues one after the other, a call for each."
            }))
        }
    })
}

/// Width of the column of names beside intervals.
const NAMES: u32 = 250;

fn ratios(report: &Report) -> Result<Markup> {
    let mut figures = Vec::new();
    for (compares, caption) in [
        (
            Compares::Backends,
            "The same queues and calls, two backends.",
        ),
        (
            Compares::Calls,
            "A call for each part against one call for all, same backend.",
        ),
        (
            Compares::Sizes,
            "Many queues in one call against one queue, same backend.",
        ),
    ] {
        let mut rows = Vec::new();
        let mut last = String::new();
        for pair in report
            .ratios
            .chunks(2)
            .filter(|pair| pair[0].compares == compares)
        {
            let (heading, name) = match compares {
                Compares::Backends => (subject(&pair[0]), fraction(&pair[0])),
                Compares::Calls | Compares::Sizes => (subject(&pair[0]), pair[0].numerator.clone()),
            };
            if heading != last {
                rows.push(Interval::Heading(heading.clone()));
                last = heading;
            }
            rows.push(Interval::Points {
                name,
                color: pair[0].backend.map_or(ink::INK, ink::of),
                values: [0, 1].map(|at| {
                    let ratio = pair.get(at)?.ratio;
                    Some([ratio.p10, ratio.p50, ratio.p90])
                }),
            });
        }
        figures.push((
            plot::intervals(&rows, NAMES, axis::ratio, Some(1.0))?,
            caption,
        ));
    }
    Ok(html! {
        @if figures.iter().any(|(svg, _)| !svg.is_empty()) {
            h2 { "Ratios" }
            p {
                "Both sides of a ratio are of the same round. Points are medians, lines go from P10 to P90: "
                "filled for preempt, hollow for resume. 1 is no difference; more means that what is above the line takes longer."
            }
            @for (svg, caption) in figures {
                (figure(svg, "Ratios of latencies", &html! { (caption) }))
            }
        }
    })
}

fn disturbance(report: &Report, plan: &Plan, findings: &Findings) -> Result<Markup> {
    let mut rows = Vec::new();
    for (at, case) in plan.cases.iter().enumerate() {
        let mut points = Vec::new();
        for row in findings.rows.iter().filter(|row| row.case == at) {
            let values = Operation::ALL.map(|operation| {
                let samples = row.samples(operation).iter();
                plot::spread(
                    samples
                        .filter_map(|sample| sample.off_ns)
                        .filter(|ns| *ns > 0),
                )
            });
            if values != [None, None] {
                points.push(Interval::Points {
                    name: row.backend.to_string(),
                    color: ink::of(row.backend),
                    values,
                });
            }
        }
        if !points.is_empty() {
            rows.push(Interval::Heading(case.to_string()));
            rows.extend(points);
        }
    }
    let svg = plot::intervals(&rows, 120, axis::time, None)?;
    let who = if report.environment.online.is_empty() {
        "whoever else computes on the GPU"
    } else {
        "the online process"
    };
    Ok(html! {
        @if !svg.is_empty() {
            h2 { "Disturbance of " (who) }
            p {
                "A hardware scheduler takes all queues of a GPU off the hardware and puts them back, to stop as well as to restart. "
                "This is how long one operation kept them off: from UNMAP_QUEUES sent to the runlist submitted again, all cycles of the operation "
                "added up. Median, P10 to P90; filled for preempt, hollow for resume. An operation that took nothing off is not on this scale. "
                "The request latency of the process itself is not observed."
            }
            (figure(svg, "Time off the hardware", &html! { "Time off the hardware of one operation." }))
        }
    })
}

fn distributions(
    report: &Report,
    plan: &Plan,
    findings: &Findings,
    backends: &[BackendKind],
) -> Result<Markup> {
    let mut cases = Vec::new();
    for (at, case) in plan.cases.iter().enumerate() {
        let [stops, restarts]: [Curves; 2] = Operation::ALL.map(|operation| {
            findings
                .rows
                .iter()
                .filter(|row| row.case == at && !row.preempts.is_empty())
                .map(|row| {
                    let point = |sample: &Sample| (sample.round, sample.total_ns);
                    (
                        row.backend,
                        row.samples(operation).iter().map(point).collect(),
                    )
                })
                .collect()
        });
        if stops.is_empty() {
            continue;
        }
        let mut panels = Vec::new();
        for (operation, curves) in Operation::ALL.into_iter().zip([&stops, &restarts]) {
            panels.push((
                operation,
                plot::ecdf(curves)?,
                plot::rounds(curves, findings.rounds)?,
            ));
        }
        cases.push((case, panels));
    }
    // The largest set in one call is what the tool is for.
    let open = cases
        .iter()
        .filter(|(case, _)| case.calls == Calls::Batch)
        .map(|(case, _)| case.set)
        .max();
    Ok(html! {
        h2 { "How latencies are distributed" }
        p { "Above: which share of the rounds took at most that long. Below: latency over the rounds, for drift and outliers." }
        (legend(backends))
        @for (case, panels) in cases {
            details open[case.calls == Calls::Batch && Some(case.set) == open] {
                summary { (case) }
                div .pair {
                    @for (operation, ecdf, rounds) in panels {
                        div {
                            h3 { (operation.name()) }
                            div role="img" aria-label={ "ECDF of " (operation.name()) " of " (case) } { (PreEscaped(ecdf)) }
                            div role="img" aria-label={ "Latency over rounds of " (operation.name()) " of " (case) } {
                                (PreEscaped(rounds))
                            }
                        }
                    }
                }
            }
        }
        @if report.measured.iter().any(|row| row.calls == Calls::PerQueue && row.n < report.environment.rounds as usize) {
            p { "Sets of many queues are measured one by one in fewer rounds." }
        }
    })
}

fn numbers(report: &Report) -> Markup {
    let time = |ns: Option<u64>| ns.map_or_else(|| "–".to_owned(), |ns| Nanos(ns).to_string());
    let row = |row: &Measured| {
        let total = row.total;
        html! {
            tr {
                td { (row.case) }
                td .text {
                    span .chip style=(format!("--chip: var(--{})", row.backend)) {}
                    (row.backend)
                }
                td { (row.n) }
                @for part in [
                    total.map(|t| t.mean_ns), total.map(|t| t.p50_ns), total.map(|t| t.p95_ns), total.map(|t| t.p99_ns),
                    total.map(|t| t.max_ns), row.lock_wait.map(|l| l.p50_ns), row.hw.map(|h| h.p50_ns),
                    row.software.map(|s| s.p50_ns), row.off_hardware.map(|o| o.p50_ns), row.off_hardware.map(|o| o.p95_ns),
                ] {
                    td { (time(part)) }
                }
                td { (row.cycles_p50.map_or_else(|| "–".to_owned(), |n| n.to_string())) }
                td { (row.failed) }
                td { (row.unseen.map_or_else(|| "–".to_owned(), |n| n.to_string())) }
            }
        }
    };
    html! {
        h2 { "All numbers" }
        @for operation in Operation::ALL {
            h3 { (operation.name()) }
            div .scroll {
                table {
                    thead {
                        tr {
                            @for head in [
                                "queues", "backend", "n", "mean", "P50", "P95", "P99", "max", "lock wait P50", "hardware P50",
                                "software P50", "off GPU P50", "off GPU P95", "cycles", "failed", "unseen",
                            ] {
                                th .text[head == "backend"] { (head) }
                            }
                        }
                    }
                    tbody {
                        @for measured in report.measured.iter().filter(|row| row.operation == operation) { (row(measured)) }
                    }
                }
            }
        }
        @if !report.ratios.is_empty() {
            h3 { "ratios" }
            div .scroll {
                table {
                    thead {
                        tr {
                            @for head in ["ratio", "of", "operation", "pairs", "P10", "P50", "P90"] {
                                th .text[head == "of" || head == "operation"] { (head) }
                            }
                        }
                    }
                    tbody {
                        @for ratio in &report.ratios {
                            tr {
                                td { (fraction(ratio)) }
                                td .text { (subject(ratio)) }
                                td .text { (ratio.operation.name()) }
                                td { (ratio.ratio.n) }
                                @for value in [ratio.ratio.p10, ratio.ratio.p50, ratio.ratio.p90] { td { (times(value)) } }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn not_measured(report: &Report) -> Markup {
    html! {
        h2 { "Not measured" }
        dl {
            @for state in &report.environment.backends {
                @if let Some(why) = &state.why_not { dt { (state.backend) } dd { (why) } }
            }
            @for skipped in &report.skipped {
                dt {
                    @if let Some(backend) = skipped.backend { (backend) ", " }
                    (skipped.case)
                }
                dd { (skipped.why) }
            }
            @for row in report.measured.iter().filter(|row| row.operation == Operation::Preempt) {
                @for (why, count) in &row.failures {
                    dt { (row.backend) ", " (row.case) }
                    dd { "failed " (plural(*count as usize, "time", "s")) ": " (why) }
                }
            }
            dt { "request latency of online work" }
            dd { "only the process itself knows it" }
            dt { "when a queue really runs again" }
            dd { "the hardware scheduler does not tell the driver" }
        }
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask bench scenario`: a job that trains and a service with a request every 100 ms share a GPU, without the daemon and with it,
//! by every backend. Two guests: the unmodified driver, and the patched one.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{ensure, Context, Result};
use serde::Deserialize;
use serde_json::Value;

use super::lines_of;
use super::overhead::quantile;
use crate::guests::{Wish, Workshop};
use crate::project::Project;
use crate::vm::config::Driver;

const DEADLINE: Duration = Duration::from_secs(20 * 60);

/// What runs in each guest. A preemption by CRIU takes longer than others: fewer of them say as much.
const GUESTS: &[(Driver, &str, &str)] = &[
    (
        Driver::Sim,
        "Unmodified driver",
        "vm-tests scenario debug-trap=1000 criu=200",
    ),
    (
        Driver::Patched,
        "Patched driver",
        "vm-tests scenario patched=1000",
    ),
];

/// A line of `vm-tests scenario`.
#[derive(Debug, Deserialize)]
#[serde(tag = "line", rename_all = "snake_case")]
enum Line {
    About(About),
    Phase(Phase),
    Preemption(Preemption),
}

#[derive(Debug, Deserialize)]
struct About {
    config: String,
    requests: u64,
    rounds: u64,
    every_ms: u64,
    request_ms: f64,
}

#[derive(Debug, Deserialize)]
struct Phase {
    round: usize,
    phase: String,
    backend: Option<String>,
    latencies_ns: Vec<f64>,
    seconds: f64,
    /// Packets that the job got done.
    offline: Option<f64>,
    looks: Vec<Look>,
    holds: f64,
    refused: u64,
}

/// Slots at one moment.
#[derive(Debug, Clone, Copy, Deserialize)]
struct Look {
    total: f64,
    online: f64,
    offline: f64,
    busy: f64,
}

#[derive(Debug, Deserialize)]
struct Preemption {
    backend: String,
    series: u64,
    good: bool,
    stop_ns: Option<f64>,
    restart_ns: Option<f64>,
    begin_ns: f64,
    end_ns: f64,
    observed: Option<String>,
    restart_observed: Option<String>,
}

/// What one guest printed.
#[derive(Debug, Default)]
struct Seen {
    about: Option<About>,
    phases: Vec<Phase>,
    preemptions: Vec<Preemption>,
}

impl Seen {
    fn read(values: &[Value]) -> Result<Self> {
        let mut seen = Self::default();
        for value in values {
            let line = Line::deserialize(value);
            match line.with_context(|| format!("line of vm-tests: {value}"))? {
                Line::About(about) => seen.about = Some(about),
                Line::Phase(phase) => seen.phases.push(phase),
                Line::Preemption(one) => seen.preemptions.push(one),
            }
        }
        ensure!(!seen.phases.is_empty(), "no phase was measured");
        let bad = seen.preemptions.iter().filter(|one| !one.good).count();
        let all = seen.preemptions.len();
        ensure!(bad == 0, "{bad} of {all} preemptions failed");
        Ok(seen)
    }

    /// The phases in the order of the tables, each with its rounds.
    fn kinds(&self) -> Vec<(Kind<'_>, Vec<&Phase>)> {
        let mut kinds: BTreeMap<Kind<'_>, Vec<&Phase>> = BTreeMap::new();
        for phase in &self.phases {
            kinds.entry(Kind::of(phase)).or_default().push(phase);
        }
        kinds.into_iter().collect()
    }
}

/// Which phase it is. Their order is that of the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Kind<'a> {
    backend: Option<&'a str>,
    rank: usize,
    phase: &'a str,
}

const PHASES: &[(&str, &str)] = &[
    ("alone", "the service alone"),
    ("offline", "the job alone"),
    ("shared", "both"),
    ("hints", "with gpreempt, hints"),
    ("packets", "with gpreempt, packets only"),
];

impl<'a> Kind<'a> {
    fn of(phase: &'a Phase) -> Self {
        Self {
            backend: phase.backend.as_deref(),
            rank: PHASES
                .iter()
                .position(|(name, _)| *name == phase.phase)
                .unwrap_or(PHASES.len()),
            phase: &phase.phase,
        }
    }

    fn title(self) -> String {
        let name = PHASES.get(self.rank).map_or(self.phase, |(_, name)| name);
        match self.backend {
            Some(backend) => format!("{name}, {backend}"),
            None => name.to_owned(),
        }
    }
}

/// Measures and makes the document.
pub(super) fn measure(project: &Project) -> Result<String> {
    let wishes: Vec<Wish> = GUESTS
        .iter()
        .map(|(driver, ..)| Wish {
            driver: *driver,
            ..Wish::sim("bench-scenario")
        })
        .collect();
    let workshop = Workshop::open(project, &wishes)?;
    let mut guests = Vec::new();
    for ((_, title, command), wish) in GUESTS.iter().zip(&wishes) {
        let command = vec![command.split(' ').collect()];
        let seen = Seen::read(&lines_of(project, &workshop, wish, DEADLINE, &command)?)?;
        guests.push((*title, seen));
    }
    let kernel = workshop.guest(&wishes[0])?.kernel.release();
    let qemu = super::version_of(workshop.tools().command("qemu-system-x86_64")?);
    let about = guests[0]
        .1
        .about
        .as_ref()
        .context("nothing is said of it")?;
    let mut page = format!(
        "# A job that trains, a service with a request every {} ms\n\n\
         Printed by `cargo xtask bench scenario --write docs/scenario.md`; not written by hand. gpreempt {}, Linux {kernel}, amdkfd on the **simulated \
         GPU** (gfx942), unmodified and with the patches of `kernel-patch/`, in {qemu} without hardware acceleration, on {}.\n\n\
         **This is simulated hardware under the real driver.** Times are the simulation's parameters (50 µs for each queue that is unmapped; work of \
         the GPU is shared equally by the queues that have some) plus what the driver, gpreempt and the emulation of the processors take. \
         Nothing here predicts an AMD GPU.\n\n\
         The job is `kfd-load --profile llm-worker --rate 0 --dispatch-us 4000`: five compute queues that always have work and two copy queues. The \
         service has one queue and a request every {} ms, each of {} ms of GPU time; its latency counts from when it was due. With *hints* the service \
         tells the daemon when a request begins and ends, and does not wait; with *packets only* the daemon has to see them in its queue. {} requests a \
         phase, {} rounds of all phases in turn; no daemon runs in the phases without gpreempt. Figures are taken of each round, then the median and \
         P90 of the rounds.\n",
        about.every_ms,
        env!("CARGO_PKG_VERSION"),
        super::processor(),
        about.every_ms,
        about.request_ms,
        about.requests,
        about.rounds,
    );
    for (title, seen) in &guests {
        writeln!(page, "\n## {title}")?;
        latencies(&mut page, seen)?;
        throughput(&mut page, seen)?;
        utilisation(&mut page, seen)?;
    }
    preemptions(&mut page, &guests)?;
    commands(&mut page, &about.config)?;
    summary(&mut page, &guests)?;
    Ok(page)
}

/// Median and the worse end of rounds.
fn rounds(figures: &[f64], digits: usize) -> String {
    let (median, p90) = (quantile(figures, 50), quantile(figures, 90));
    format!("{median:.digits$} | {p90:.digits$}")
}

fn latencies(page: &mut String, seen: &Seen) -> Result<()> {
    page.push_str(
        "\n### Latency of the service, ms\n\n\
         | | requests | P50 | its P90 | P90 | its P90 | P99 | its P90 | greatest |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|\n",
    );
    for (kind, of) in seen.kinds() {
        let all: Vec<f64> = of
            .iter()
            .flat_map(|phase| &phase.latencies_ns)
            .copied()
            .collect();
        if all.is_empty() {
            continue;
        }
        let each = |percent| -> Vec<f64> {
            of.iter()
                .map(|phase| quantile(&phase.latencies_ns, percent) / 1e6)
                .collect()
        };
        writeln!(
            page,
            "| {} | {} | {} | {} | {} | {:.1} |",
            kind.title(),
            all.len(),
            rounds(&each(50), 1),
            rounds(&each(90), 1),
            rounds(&each(99), 1),
            quantile(&all, 100) / 1e6
        )?;
    }
    Ok(())
}

/// What of the job's rate alone is lost in a phase, in percent: each round against its own.
fn losses(seen: &Seen, of: &[&Phase]) -> Vec<f64> {
    let rate = |phase: &Phase| phase.offline.map(|packets| packets / phase.seconds);
    let alone = |round| {
        let mut phases = seen.phases.iter();
        let phase = phases.find(|phase| phase.phase == "offline" && phase.round == round)?;
        rate(phase)
    };
    of.iter()
        .filter_map(|phase| Some(100.0 * (1.0 - rate(phase)? / alone(phase.round)?)))
        .collect()
}

fn throughput(page: &mut String, seen: &Seen) -> Result<()> {
    page.push_str(
        "\n### What the job gets done\n\nPackets of its compute queues, and what that is less than alone in the same round. Holds are those of the audit \
         log; refused are its lines `refused`, `denied` and `lost`.\n\n\
         | | packets/s | its P90 | loss, % | its P90 | holds/s | refused |\n|---|---:|---:|---:|---:|---:|---:|\n",
    );
    for (kind, of) in seen.kinds() {
        let rates: Vec<f64> = of
            .iter()
            .filter_map(|phase| Some(phase.offline? / phase.seconds))
            .collect();
        if rates.is_empty() {
            continue;
        }
        let holds: Vec<f64> = of.iter().map(|phase| phase.holds / phase.seconds).collect();
        let refused: u64 = of.iter().map(|phase| phase.refused).sum();
        writeln!(
            page,
            "| {} | {} | {} | {:.1} | {refused} |",
            kind.title(),
            rounds(&rates, 1),
            rounds(&losses(seen, &of), 1),
            quantile(&holds, 50),
        )?;
    }
    Ok(())
}

/// The mean over a phase, in percent of the slots.
fn share(phase: &Phase, part: fn(&Look) -> f64) -> f64 {
    let shares = phase
        .looks
        .iter()
        .map(|look| 100.0 * part(look) / look.total);
    shares.sum::<f64>() / phase.looks.len() as f64
}

fn utilisation(page: &mut String, seen: &Seen) -> Result<()> {
    let slots = seen.phases.iter().flat_map(|phase| &phase.looks).next();
    let slots = slots.context("nobody looked at the slots")?.total;
    writeln!(
        page,
        "\n### Who has the hardware queue slots\n\n\
         Of {slots} compute slots, the part that is taken, in percent: the mean over a phase of what was seen every 37 ms in the slots' registers (debugfs \
         `hqds`, as `gpreempt queues --hqds` reads them). A queue has its slot while it is mapped, with work or without; *with work* are slots whose queue \
         had packets.\n"
    )?;
    page.push_str(
        "| | looks | online | its P90 | offline | its P90 | free | its P90 | with work | its P90 |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n",
    );
    for (kind, of) in seen.kinds() {
        let each = |part: fn(&Look) -> f64| -> Vec<f64> {
            of.iter().map(|phase| share(phase, part)).collect()
        };
        writeln!(
            page,
            "| {} | {} | {} | {} | {} | {} |",
            kind.title(),
            of.iter().map(|phase| phase.looks.len()).sum::<usize>(),
            rounds(&each(|look| look.online), 1),
            rounds(&each(|look| look.offline), 1),
            rounds(&each(|look| look.total - look.online - look.offline), 1),
            rounds(&each(|look| look.busy), 1),
        )?;
    }
    Ok(())
}

fn preemptions(page: &mut String, guests: &[(&str, Seen)]) -> Result<()> {
    page.push_str(
        "\n## Preemptions one after the other\n\n\
         A hint begins (`wait`), the job is held and that is seen; the hint ends, the job runs again. After each step the driver's runlist is looked at, too: \
         a preemption that was not logged, not seen, or did not change the runlist has failed. *Stop* and *restart* are `latency_ns` of the lines `held` and \
         `released` of the daemon's audit log (`docs/json-audit.md`): a stop from the decision until it was seen, a restart until the driver's answer. \
         *Begin* is the whole call that begins a hint as its caller sees it; *end* goes on until the daemon says that the job runs. Milliseconds. CRIU's long \
         series is shorter than the others', as that would take minutes.\n\n\
         | backend | preemptions | failed | | mean | P50 | P95 | P99 | greatest | seen by |\n|---|---:|---:|---|---:|---:|---:|---:|---:|---|\n",
    );
    let mut series: Vec<(&str, u64)> = Vec::new();
    let all = || guests.iter().flat_map(|(_, seen)| &seen.preemptions);
    for one in all() {
        if !series.contains(&(&one.backend, one.series)) {
            series.push((&one.backend, one.series));
        }
    }
    for (backend, count) in series {
        let of: Vec<&Preemption> = all()
            .filter(|one| one.backend == backend && one.series == count)
            .collect();
        let failed = of.iter().filter(|one| !one.good).count();
        type Row = (
            &'static str,
            fn(&Preemption) -> Option<f64>,
            Option<fn(&Preemption) -> Option<&String>>,
        );
        let rows: [Row; 4] = [
            ("stop", |one| one.stop_ns, Some(|one| one.observed.as_ref())),
            (
                "restart",
                |one| one.restart_ns,
                Some(|one| one.restart_observed.as_ref()),
            ),
            ("begin", |one| Some(one.begin_ns), None),
            ("end", |one| Some(one.end_ns), None),
        ];
        for (name, figure, observed) in rows {
            let ms: Vec<f64> = of
                .iter()
                .filter_map(|one| Some(figure(one)? / 1e6))
                .collect();
            let mean = ms.iter().sum::<f64>() / ms.len() as f64;
            let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
            if let Some(observed) = observed {
                for one in &of {
                    *seen
                        .entry(observed(one).map_or("runlist only", String::as_str))
                        .or_default() += 1;
                }
            }
            let seen: Vec<String> = seen
                .iter()
                .map(|(how, count)| format!("{how} {count}"))
                .collect();
            let at = |percent| quantile(&ms, percent);
            writeln!(
                page,
                "| {backend} | {} | {failed} | {name} | {mean:.2} | {:.2} | {:.2} | {:.2} | {:.2} | {} |",
                of.len(),
                at(50),
                at(95),
                at(99),
                at(100),
                seen.join(", ")
            )?;
        }
    }
    Ok(())
}

fn commands(page: &mut String, config: &str) -> Result<()> {
    page.push_str("\n## What ran\n\nIn the guests:\n\n```\n");
    for (_, title, command) in GUESTS {
        writeln!(page, "{command}    # {}", title.to_lowercase())?;
    }
    write!(
        page,
        "```\n\nThe daemon's configuration, beside `backend` and `audit`. Guards are in nobody's way here; `dist/gpreempt.toml` has those that are.\n\n\
         ```toml\n{}\n```\n",
        config.trim_end()
    )?;
    Ok(())
}

fn summary(page: &mut String, guests: &[(&str, Seen)]) -> Result<()> {
    page.push_str(
        "\n## In one table\n\nMedians of the rounds.\n\n\
         | | latency P50, ms | of alone | P99, ms | of alone | job's loss, % | slots taken, % |\n|---|---:|---:|---:|---:|---:|---:|\n",
    );
    for (title, seen) in guests {
        let kinds = seen.kinds();
        let latency = |of: &[&Phase], percent| {
            let each: Vec<f64> = of
                .iter()
                .filter(|phase| !phase.latencies_ns.is_empty())
                .map(|phase| quantile(&phase.latencies_ns, percent) / 1e6)
                .collect();
            quantile(&each, 50)
        };
        let alone = kinds.iter().find(|(kind, _)| kind.phase == "alone");
        let (_, alone) = alone.context("the service was not measured alone")?;
        for (kind, of) in &kinds {
            let cell = |figure: f64, text: String| {
                if figure.is_nan() {
                    "—".to_owned()
                } else {
                    text
                }
            };
            let ms = |percent| {
                let (ms, base) = (latency(of, percent), latency(alone, percent));
                let text = cell(ms, format!("{ms:.1} | {:.2}", ms / base));
                if ms.is_nan() {
                    "— | —".to_owned()
                } else {
                    text
                }
            };
            let loss = quantile(&losses(seen, of), 50);
            let taken: Vec<f64> = of
                .iter()
                .map(|phase| share(phase, |look| look.online + look.offline))
                .collect();
            writeln!(
                page,
                "| {}: {} | {} | {} | {} | {:.1} |",
                title.to_lowercase(),
                kind.title(),
                ms(50),
                ms(99),
                cell(loss, format!("{loss:.1}")),
                quantile(&taken, 50)
            )?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn phase(
        round: u64,
        name: &str,
        backend: Option<&str>,
        ms: f64,
        offline: Option<u64>,
    ) -> Value {
        json!({
            "line": "phase", "round": round, "phase": name, "backend": backend, "latencies_ns": [ms * 1e6],
            "seconds": 2.0, "offline": offline, "holds": 4, "refused": 0,
            "looks": [{ "total": 24, "online": 1, "offline": 5, "busy": 3 }],
        })
    }

    fn preemption(good: bool) -> Value {
        json!({
            "line": "preemption", "backend": "criu", "series": 20, "good": good, "stop_ns": 2_000_000, "restart_ns": 1_000_000,
            "begin_ns": 3_000_000, "end_ns": 1_500_000, "observed": "events", "restart_observed": null,
        })
    }

    fn seen() -> Seen {
        Seen::read(&[
            phase(0, "shared", None, 48.0, Some(300)),
            phase(0, "hints", Some("criu"), 12.0, Some(320)),
            phase(0, "alone", None, 8.0, None),
            phase(0, "offline", None, 0.0, Some(400)),
            preemption(true),
        ])
        .unwrap()
    }

    #[test]
    fn losses_are_against_the_job_alone_in_the_same_round() {
        let mut page = String::new();
        throughput(&mut page, &seen()).unwrap();
        assert!(
            page.contains("| both | 150.0 | 150.0 | 25.0 | 25.0 | 2.0 | 0 |"),
            "{page}"
        );
        assert!(
            page.contains("| with gpreempt, hints, criu | 160.0 | 160.0 | 20.0 | 20.0 |"),
            "{page}"
        );
        assert!(!page.contains("the service alone"), "{page}");
    }

    #[test]
    fn phases_come_in_their_order_and_slots_are_shares() {
        let mut page = String::new();
        utilisation(&mut page, &seen()).unwrap();
        assert!(
            page.contains("| both | 1 | 4.2 | 4.2 | 20.8 | 20.8 | 75.0 | 75.0 | 12.5 | 12.5 |"),
            "{page}"
        );
        let at = |text: &str| page.find(text).unwrap();
        assert!(at("the service alone") < at("the job alone") && at("| both") < at("hints"));
    }

    #[test]
    fn the_summary_compares_with_alone() {
        let mut page = String::new();
        summary(&mut page, &[("Unmodified driver", seen())]).unwrap();
        assert!(
            page.contains("both | 48.0 | 6.00 | 48.0 | 6.00 | 25.0 | 25.0 |"),
            "{page}"
        );
    }

    #[test]
    fn a_preemption_that_failed_is_an_error() {
        let lines = [
            phase(0, "alone", None, 8.0, None),
            preemption(true),
            preemption(false),
        ];
        assert!(Seen::read(&lines)
            .unwrap_err()
            .to_string()
            .contains("1 of 2"));
    }
}

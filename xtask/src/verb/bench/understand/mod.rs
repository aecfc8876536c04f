// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask bench understand`: how fast gpreempt itself is. On this machine, with release binaries and recordings of a machine
//! at work that `gpreempt/examples/make-recording` makes; and in a guest what a live `watch` takes of memory.
//!
//! Everything is measured once a round, so that a busy minute of the machine hits all of it.

mod measure;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{ensure, Context, Result};
use serde::Deserialize;

use super::guest_lines;
use super::overhead::quantile;
use crate::build::cargo;
use crate::guests::{Wish, Workshop};
use crate::project::Project;
use crate::ui::Step;
use measure::Spent;

const ROUNDS: usize = 5;

/// How often `queues` is run in each of them, as table and as JSON in turn, after a run that does not count.
const QUEUES_RUNS: usize = 5;

const DEADLINE: Duration = Duration::from_secs(10 * 60);

/// Events of the long recording.
const MANY: u64 = 10_000_000;

/// How long `top` is looked at.
const SHOWN: Duration = Duration::from_secs(20);

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Measure {
    QueuesTable,
    QueuesJson,
    Decode,
    DecodeMany,
    Stat,
    Watch,
    Top,
    TopMany,
    WatchMemory,
    WatchPeak,
}

/// What it should be.
#[derive(Clone, Copy, Debug)]
enum Wanted {
    AtMost(f64),
    AtLeast(f64),
    /// Measured beside another, without a goal.
    Any,
}

struct Goal {
    measure: Measure,
    what: &'static str,
    wanted: Wanted,
    unit: &'static str,
}

const GOALS: &[Goal] = &[
    Goal {
        measure: Measure::QueuesTable,
        what: "`replay FILE queues`, 512 queues of 64 processes: CPU time",
        wanted: Wanted::AtMost(50.0),
        unit: "ms",
    },
    Goal {
        measure: Measure::QueuesJson,
        what: "the same with `--format json`",
        wanted: Wanted::AtMost(50.0),
        unit: "ms",
    },
    Goal {
        measure: Measure::Decode,
        what: "decode and model, queues that come and go: events on one core",
        wanted: Wanted::AtLeast(10.0),
        unit: "M/s",
    },
    Goal {
        measure: Measure::DecodeMany,
        what: "the same, 512 queues that stay",
        wanted: Wanted::AtLeast(10.0),
        unit: "M/s",
    },
    Goal {
        measure: Measure::Stat,
        what: "`replay FILE stat`, 10 M events: time",
        wanted: Wanted::AtMost(5.0),
        unit: "s",
    },
    Goal {
        measure: Measure::Watch,
        what: "`replay FILE watch --format json` of the same: time",
        wanted: Wanted::Any,
        unit: "s",
    },
    Goal {
        measure: Measure::Top,
        what:
            "`replay FILE top`, 1,000 events/s, 64 queues, a new picture each second: of one core",
        wanted: Wanted::AtMost(2.0),
        unit: "%",
    },
    Goal {
        measure: Measure::TopMany,
        what: "the same with 512 queues",
        wanted: Wanted::Any,
        unit: "%",
    },
    Goal {
        measure: Measure::WatchMemory,
        what: "`watch --format json` in a guest, at the end of a load: resident memory",
        wanted: Wanted::AtMost(12.0),
        unit: "MB",
    },
    Goal {
        measure: Measure::WatchPeak,
        what: "the same, its greatest so far",
        wanted: Wanted::Any,
        unit: "MB",
    },
];

/// Figures of every round.
type Figures = BTreeMap<Measure, Vec<f64>>;

/// A line of `vm-bench memory`.
#[derive(Debug, Deserialize)]
struct Memory {
    rss_bytes: u64,
    peak_rss_bytes: u64,
}

/// Measures and makes the document.
pub(super) fn measure(project: &Project, with_guest: bool) -> Result<String> {
    let programs = Programs::build(project)?;
    let dir = tempfile::tempdir().context("a directory for recordings")?;
    let recordings = Recordings::make(&programs, dir.path())?;
    let mut figures = Figures::new();
    for round in 1..=ROUNDS {
        let step = Step::start(&format!("measure: round {round} of {ROUNDS}"));
        on_host(project, &programs, &recordings, &mut figures)?;
        step.done();
    }
    if with_guest {
        in_guest(project, &mut figures)?;
    }
    let mut page = format!(
        "# How fast gpreempt is\n\n\
         Printed by `cargo xtask bench understand --write docs/speed.md`; not written by hand. {}, release build, {ROUNDS} rounds ({QUEUES_RUNS} runs of `queues` in each, after one that does not count). CPU time is \
         that of the whole process, user and system. Each of the processes has seven compute queues and a copy queue, on a GPU with 4 XCCs; a \
         picture of 512 queues is {:.0} MB of text.\n\n",
        super::processor(),
        recordings.picture_bytes as f64 / 1e6,
    );
    table(&mut page, &figures)?;
    Ok(page)
}

fn table(page: &mut String, figures: &Figures) -> Result<()> {
    page.push_str("| what | wanted | median | P90 | |\n|---|---:|---:|---:|---|\n");
    for goal in GOALS {
        let unit = goal.unit;
        let wanted = match goal.wanted {
            Wanted::AtMost(most) => format!("≤ {most} {unit}"),
            Wanted::AtLeast(least) => format!("≥ {least} {unit}"),
            Wanted::Any => String::new(),
        };
        let of = figures.get(&goal.measure).map_or(&[][..], Vec::as_slice);
        if of.is_empty() {
            writeln!(page, "| {} | {wanted} | | | not measured |", goal.what)?;
            continue;
        }
        let median = quantile(of, 50);
        // The worse end.
        let p90 = match goal.wanted {
            Wanted::AtLeast(_) => quantile(of, 10),
            _ => quantile(of, 90),
        };
        let verdict = match goal.wanted {
            Wanted::AtMost(most) => met(median <= most),
            Wanted::AtLeast(least) => met(median >= least),
            Wanted::Any => "",
        };
        writeln!(
            page,
            "| {} | {wanted} | {median:.1} {unit} | {p90:.1} {unit} | {verdict} |",
            goal.what
        )?;
    }
    Ok(())
}

fn met(met: bool) -> &'static str {
    match met {
        true => "met",
        false => "**not met**",
    }
}

/// The programs that are measured, and the one that makes recordings. None of them needs eBPF programs inside.
struct Programs {
    target: PathBuf,
}

impl Programs {
    fn build(project: &Project) -> Result<Self> {
        // What `cargo xtask build` leaves in the usual place is another program: static, with eBPF programs inside.
        let programs = Self {
            target: project.target.join("bench"),
        };
        let mut build = programs.cargo(project, "build");
        build.args([
            "--release",
            "--bin",
            "gpreempt",
            "--example",
            "make-recording",
        ]);
        cargo::run(&mut build, "build gpreempt to measure it")?;
        let mut build = programs.cargo(project, "bench");
        build.args(["--bench", "decode", "--no-run"]);
        cargo::run(&mut build, "build its benchmarks")?;
        Ok(programs)
    }

    fn cargo(&self, project: &Project, verb: &str) -> std::process::Command {
        let mut command = cargo::command(project);
        command
            .args([verb, "--quiet", "--locked", "--package", "gpreempt"])
            .arg("--target-dir")
            .arg(&self.target)
            .env_remove("GPREEMPT_EBPF_OBJ");
        command
    }

    fn gpreempt(&self) -> PathBuf {
        self.target.join("release/gpreempt")
    }

    fn make_recording(&self) -> PathBuf {
        self.target.join("release/examples/make-recording")
    }
}

struct Recordings {
    machine: PathBuf,
    events: PathBuf,
    shown: PathBuf,
    shown_many: PathBuf,
    picture_bytes: u64,
}

impl Recordings {
    fn make(programs: &Programs, dir: &Path) -> Result<Self> {
        let step = Step::start("make recordings");
        let make = |name: &str, options: &[&str]| -> Result<PathBuf> {
            let file = dir.join(name);
            measure::spent(
                &programs.make_recording(),
                &[&[path(&file)?], options].concat(),
            )?;
            Ok(file)
        };
        // Longer than it is looked at.
        let seconds = SHOWN.as_secs() + 5;
        let events = (seconds * 1000).to_string();
        let paced = [
            "--events",
            &events,
            "--per-second",
            "1000",
            "--per-picture",
            "1000",
        ];
        let machine = make("machine.gpr", &[])?;
        let recordings = Self {
            picture_bytes: picture_bytes(programs, &machine)?,
            machine,
            events: make("events.gpr", &["--events", &MANY.to_string()])?,
            shown: make("shown.gpr", &[&["--processes", "8"][..], &paced].concat())?,
            shown_many: make("shown-many.gpr", &paced)?,
        };
        step.done();
        Ok(recordings)
    }
}

/// What the program says that a recording holds of one moment: a check that the generator still makes what is claimed of it.
fn picture_bytes(programs: &Programs, recording: &Path) -> Result<u64> {
    let shown = measure::output(
        &programs.gpreempt(),
        &["replay", path(recording)?, "queues", "--format", "json"],
    )?;
    let queues = shown
        .lines()
        .filter(|line| line.contains(r#""type":"queue""#));
    let whole = queues.filter(|line| {
        [r#""state":"mapped""#, r#""doorbell":"#]
            .iter()
            .all(|part| line.contains(part))
    });
    let count = whole.count();
    ensure!(
        count == 512,
        "{count} of 512 queues are joined in the recording"
    );
    let listing = measure::output(
        &programs.make_recording(),
        &["--picture-bytes", path(recording)?],
    )?;
    listing.trim().parse().context("bytes of a picture")
}

fn on_host(
    project: &Project,
    programs: &Programs,
    recordings: &Recordings,
    figures: &mut Figures,
) -> Result<()> {
    let gpreempt = programs.gpreempt();
    let mut add = |measure, figure| figures.entry(measure).or_default().push(figure);
    let replay = |file: &Path, verb: &[&str]| -> Result<Spent> {
        measure::spent(&gpreempt, &[&["replay", path(file)?], verb].concat())
    };
    let ms = |spent: Spent| spent.cpu.as_secs_f64() * 1e3;
    let (table, json) = (&["queues"][..], &["queues", "--format", "json"][..]);
    // The first run after a while finds caches cold, and would measure that.
    replay(&recordings.machine, table)?;
    for _ in 0..QUEUES_RUNS {
        add(
            Measure::QueuesTable,
            ms(replay(&recordings.machine, table)?),
        );
        add(Measure::QueuesJson, ms(replay(&recordings.machine, json)?));
    }
    let rates = measure::rates(&mut programs.cargo(project, "bench"))?;
    for (measure, name) in [
        (Measure::Decode, "decode_and_model"),
        (Measure::DecodeMany, "decode_and_model_512_queues"),
    ] {
        let rate = rates.get(name);
        add(
            measure,
            *rate.with_context(|| format!("no benchmark {name}"))? / 1e6,
        );
    }
    let events = &recordings.events;
    add(Measure::Stat, replay(events, &["stat"])?.wall.as_secs_f64());
    add(
        Measure::Watch,
        replay(events, &["watch", "--format", "json"])?
            .wall
            .as_secs_f64(),
    );
    for (measure, file) in [
        (Measure::Top, &recordings.shown),
        (Measure::TopMany, &recordings.shown_many),
    ] {
        let duration = format!("{}s", SHOWN.as_secs());
        let arguments = ["replay", path(file)?, "top", "--duration", &duration];
        let spent = measure::spent_on_terminal(&gpreempt, &arguments)?;
        add(
            measure,
            100.0 * spent.cpu.as_secs_f64() / spent.wall.as_secs_f64(),
        );
    }
    Ok(())
}

fn in_guest(project: &Project, figures: &mut Figures) -> Result<()> {
    let wish = Wish::sim("bench-understand");
    let workshop = Workshop::open(project, std::slice::from_ref(&wish))?;
    for line in guest_lines(project, &workshop, &wish, DEADLINE, &["memory"])? {
        let memory =
            Memory::deserialize(&line).with_context(|| format!("line of vm-bench: {line}"))?;
        for (measure, bytes) in [
            (Measure::WatchMemory, memory.rss_bytes),
            (Measure::WatchPeak, memory.peak_rss_bytes),
        ] {
            figures.entry(measure).or_default().push(bytes as f64 / 1e6);
        }
    }
    Ok(())
}

fn path(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is not UTF-8")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(page: &str, goal: &Goal) -> String {
        let start = format!("| {} |", goal.what);
        page.lines()
            .find(|line| line.starts_with(&start))
            .unwrap()
            .to_owned()
    }

    #[test]
    fn what_was_not_measured_is_never_met() {
        let mut page = String::new();
        table(&mut page, &Figures::new()).unwrap();
        for goal in GOALS {
            assert!(row(&page, goal).ends_with("| not measured |"), "{page}");
        }
    }

    #[test]
    fn medians_decide_on_the_right_side_of_the_goal() {
        for goal in GOALS {
            let figures = |figure: f64| {
                // One round of five that failed decides nothing.
                Figures::from([(goal.measure, vec![figure, figure, figure, figure, 0.0])])
            };
            let judged = |figure: f64| {
                let mut page = String::new();
                table(&mut page, &figures(figure)).unwrap();
                row(&page, goal)
            };
            let (good, bad) = match goal.wanted {
                Wanted::AtMost(most) => (most, most * 1.1),
                Wanted::AtLeast(least) => (least, least * 0.9),
                Wanted::Any => continue,
            };
            assert!(judged(good).ends_with("| met |"), "{}", judged(good));
            assert!(judged(bad).ends_with("| **not met** |"), "{}", judged(bad));
        }
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask bench react`: how fast the daemon reacts, and what it takes while nothing happens. Decisions and hints of the C library are
//! measured on this machine, the rest in a guest, where there is a driver to call.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::Command;
use std::time::Duration;

use anyhow::{ensure, Context, Result};
use serde::de::DeserializeOwned;
use serde::Deserialize;

use super::lines_of;
use super::overhead::quantile;
use crate::build::cargo;
use crate::guests::{Wish, Workshop};
use crate::project::Project;
use crate::ui::Step;
use crate::vm::config::Driver;

const DEADLINE: Duration = Duration::from_secs(10 * 60);

/// Runs of what is measured on this machine.
const ROUNDS: usize = 5;

/// A line of `vm-tests react`.
#[derive(Debug, Deserialize)]
#[serde(tag = "line", rename_all = "snake_case")]
enum Line {
    /// A thread that is woken by an eventfd, and a call of the driver that does nothing, in turn with a reaction.
    Bare {
        beside: String,
        wake_ns: f64,
        call_ns: f64,
    },
    /// From the line `held` of the audit log.
    Reaction {
        what: String,
        message_ns: Option<f64>,
        decision_ns: Option<f64>,
        order_ns: f64,
    },
    Idle {
        policy: String,
        #[serde(flatten)]
        seen: Idle,
    },
}

/// What the daemon took while nothing happened.
#[derive(Clone, Copy, Debug, Deserialize)]
struct Idle {
    wall_ns: f64,
    cpu_ns: f64,
    wakes: f64,
    /// A thread of the same guest that sleeps and reads a word.
    bare_ns: f64,
    bare_wakes: f64,
    rss_kib: f64,
    anon_kib: f64,
}

/// A line of `cargo bench --bench decide`.
#[derive(Debug, Deserialize)]
struct Decide {
    policy: String,
    processes: u64,
    queues: u64,
    took_ns: Vec<f64>,
}

/// The line of `cargo bench --bench hint`.
#[derive(Debug, Deserialize)]
struct Hint {
    /// Of client and server together.
    processors: u64,
    sizes: [u64; 4],
    bare_ns: Vec<f64>,
    hint_ns: Vec<f64>,
}

#[derive(Debug, Default)]
struct Seen {
    guest: Vec<Line>,
    decide: Vec<Decide>,
    hint: Vec<Hint>,
}

/// Measures and makes the document.
pub(super) fn measure(project: &Project, with_guest: bool) -> Result<String> {
    let mut seen = Seen::default();
    on_host(project, &mut seen)?;
    let processor = super::processor();
    let mut where_ = "nothing was measured in a guest".to_owned();
    if with_guest {
        let wish = Wish {
            driver: Driver::Patched,
            ..Wish::sim("bench-react")
        };
        let workshop = Workshop::open(project, std::slice::from_ref(&wish))?;
        let command = vec!["vm-tests react patched".split(' ').collect()];
        for value in lines_of(project, &workshop, &wish, DEADLINE, &command)? {
            let line = Line::deserialize(&value);
            seen.guest
                .push(line.with_context(|| format!("line of vm-tests: {value}"))?);
        }
        let kernel = workshop.guest(&wish)?.kernel.release();
        let qemu = super::version_of(workshop.tools().command("qemu-system-x86_64")?);
        where_ = format!(
            "reaction and the idle daemon in a guest: Linux {kernel}, amdkfd with the patches of `kernel-patch/` on the **simulated GPU**, in {qemu} \
             without hardware acceleration, where everything takes many times as long as on a processor: read the ratio"
        );
    }
    let mut page = format!(
        "# How fast the daemon reacts\n\n\
         Printed by `cargo xtask bench react --write docs/react.md`; not written by hand. gpreempt {}, release build. Decisions and hints on this machine: \
         {processor}; {where_}.\n\n",
        env!("CARGO_PKG_VERSION"),
    );
    goals(&mut page, &seen)?;
    parts(&mut page, &seen)?;
    Ok(page)
}

fn on_host(project: &Project, seen: &mut Seen) -> Result<()> {
    let target = project.target.join("bench");
    let command = |verb: &str| -> Command {
        let mut command = cargo::command(project);
        command
            .args([verb, "--quiet", "--locked", "--target-dir"])
            .arg(&target)
            .env_remove("GPREEMPT_EBPF_OBJ");
        command
    };
    let mut build = command("build");
    build.args(["--release", "--package", "gpreempt", "--bin", "gpreempt"]);
    cargo::run(&mut build, "build gpreempt to measure it")?;
    for (package, bench) in [("gpreempt", "decide"), ("gpreempt-c", "hint")] {
        let mut build = command("bench");
        build.args(["--package", package, "--bench", bench, "--no-run"]);
        cargo::run(&mut build, &format!("build the measurement {bench}"))?;
    }
    for round in 1..=ROUNDS {
        let step = Step::start(&format!("measure: round {round} of {ROUNDS}"));
        let mut decide = command("bench");
        decide.args(["--package", "gpreempt", "--bench", "decide"]);
        seen.decide.extend(printed::<Decide>(&mut decide)?);
        let mut hint = command("bench");
        hint.args(["--package", "gpreempt-c", "--bench", "hint"])
            .env("GPREEMPT_PROGRAM", target.join("release/gpreempt"));
        seen.hint.extend(printed::<Hint>(&mut hint)?);
        step.done();
    }
    Ok(())
}

/// The JSON lines that a measurement prints.
fn printed<T: DeserializeOwned>(command: &mut Command) -> Result<Vec<T>> {
    let output = command
        .output()
        .with_context(|| format!("run {command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?} ended with {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    let lines = String::from_utf8(output.stdout).context("output that is not UTF-8")?;
    let of: Vec<T> = lines
        .lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("line: {line}")))
        .collect::<Result<_>>()?;
    ensure!(!of.is_empty(), "{command:?} printed nothing");
    Ok(of)
}

/// A row of the first table.
fn row(
    page: &mut String,
    what: &str,
    most: Option<f64>,
    unit: &str,
    digits: usize,
    median_p90: Option<(f64, f64)>,
) -> Result<()> {
    let wanted = most.map_or_else(String::new, |most| format!("≤ {most}{unit}"));
    let Some((median, p90)) = median_p90 else {
        writeln!(page, "| {what} | {wanted} | | | not measured |")?;
        return Ok(());
    };
    let verdict = match most {
        Some(most) if median <= most => "met",
        Some(_) => "**not met**",
        None => "",
    };
    writeln!(
        page,
        "| {what} | {wanted} | {median:.digits$}{unit} | {p90:.digits$}{unit} | {verdict} |"
    )?;
    Ok(())
}

fn middle_and_p90(figures: &[f64]) -> Option<(f64, f64)> {
    (!figures.is_empty()).then(|| (quantile(figures, 50), quantile(figures, 90)))
}

/// Of the parts of each.
fn sums<const PARTS: usize>(all: &[[f64; PARTS]]) -> Vec<f64> {
    all.iter().map(|parts| parts.iter().sum()).collect()
}

/// Each part of all.
fn columns<const PARTS: usize>(all: &[[f64; PARTS]]) -> [Vec<f64>; PARTS] {
    std::array::from_fn(|at| all.iter().map(|parts| parts[at]).collect())
}

/// Median over median, P90 over P90.
fn ratio(of: &[f64], to: &[f64]) -> Option<(f64, f64)> {
    let (of, to) = (middle_and_p90(of)?, middle_and_p90(to)?);
    Some((of.0 / to.0, of.1 / to.1))
}

impl Seen {
    /// Parts of what was done in turn with that: wake, call.
    fn bare(&self, wanted: &str) -> Vec<[f64; 2]> {
        let of = self.guest.iter().filter_map(|line| match line {
            Line::Bare {
                beside,
                wake_ns,
                call_ns,
            } if beside == wanted => Some([*wake_ns, *call_ns]),
            _ => None,
        });
        of.collect()
    }

    /// Parts of each reaction to this: message, decision, order.
    fn reactions(&self, wanted: &str) -> Vec<[f64; 3]> {
        let of = self.guest.iter().filter_map(|line| match line {
            Line::Reaction {
                what,
                message_ns,
                decision_ns,
                order_ns,
            } if what == wanted => Some([(*message_ns)?, (*decision_ns)?, *order_ns]),
            _ => None,
        });
        of.collect()
    }

    fn idle(&self, wanted: &str, figure: fn(&Idle) -> f64) -> Vec<f64> {
        let of = self.guest.iter().filter_map(|line| match line {
            Line::Idle { policy, seen } if policy == wanted => Some(figure(seen)),
            _ => None,
        });
        of.collect()
    }

    /// All times with client and server on so many processors.
    fn hints(&self, processors: u64, pick: fn(&Hint) -> &Vec<f64>) -> Vec<f64> {
        let of = self
            .hint
            .iter()
            .filter(|hint| hint.processors == processors);
        of.flat_map(pick).copied().collect()
    }
}

/// Client and server of a hint on so many processors, and how that is called.
const PLACES: [(u64, &str); 2] = [(1, "one processor"), (2, "two processors")];

fn goals(page: &mut String, seen: &Seen) -> Result<()> {
    page.push_str("| what | wanted | median | P90 | |\n|---|---:|---:|---:|---|\n");
    for (what, title, most) in [
        (
            "hint",
            "from a hint to the call of the driver, of a thread's wake by eventfd and an empty call",
            Some(3.0),
        ),
        (
            "waited",
            "from a hint whose service waits until the jobs are held likewise",
            Some(3.0),
        ),
        (
            "queue",
            "from the kernel's event of an online process's new queue likewise",
            Some(3.0),
        ),
        (
            "process",
            "from the kernel's event of a new process likewise: who it is has to be read from procfs first",
            None,
        ),
    ] {
        let (of, bare) = (seen.reactions(what), seen.bare(what));
        row(page, title, most, "×", 2, ratio(&sums(&of), &sums(&bare)))?;
    }
    for (policy, title, most) in [
        (
            "priority",
            "the daemon while a job works and a service has nothing to do, policy `priority`: of one processor",
            Some(0.1),
        ),
        ("manual", "the same, policy `manual`", Some(0.1)),
    ] {
        let percent = seen.idle(policy, |idle| 100.0 * idle.cpu_ns / idle.wall_ns);
        row(page, title, most, " %", 3, middle_and_p90(&percent))?;
    }
    let resident = seen.idle("priority", |idle| idle.rss_kib / 1024.0);
    let anonymous = seen.idle("priority", |idle| idle.anon_kib / 1024.0);
    for (title, most, mib) in [
        ("its resident memory", Some(16.0), resident),
        (
            "of this, what is not the program itself or a map of the kernel",
            None,
            anonymous,
        ),
    ] {
        row(page, title, most, " MiB", 1, middle_and_p90(&mib))?;
    }
    let mut policies: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for decide in &seen.decide {
        policies
            .entry(&decide.policy)
            .or_default()
            .extend(decide.took_ns.iter().map(|ns| ns / 1e6));
    }
    let about = seen.decide.first();
    for (policy, ms) in &policies {
        let title = format!(
            "one decision, {} queues of {} processes, policy `{policy}`",
            about.map_or(0, |about| about.queues),
            about.map_or(0, |about| about.processes)
        );
        row(page, &title, Some(1.0), " ms", 3, middle_and_p90(ms))?;
    }
    for (processors, where_) in PLACES {
        let (hint, bare) = (
            seen.hints(processors, |hint| &hint.hint_ns),
            seen.hints(processors, |hint| &hint.bare_ns),
        );
        let title = format!(
            "a hint over the C library, begin and end, of two bare round trips of as many bytes on a Unix socket; client and server on {where_}"
        );
        row(page, &title, Some(2.0), "×", 2, ratio(&hint, &bare))?;
    }
    Ok(())
}

fn parts(page: &mut String, seen: &Seen) -> Result<()> {
    page.push_str(
        "\n## Parts\n\n\
         Microseconds. *Message* is from when a hint came, or from when the kernel noted an event, until a thread that decides had it, *decision* goes on until the policy and the guards have \
         answered, *order* until the driver is called (`message_ns`, `decision_ns`, `order_ns` of the audit log's lines `held`). The bare thread is one of \
         another process in the same guest, which takes turns with what is in the line below it.\n\n\
         | | n | message, or wake | P90 | decision | P90 | order, or empty call | P90 |\n|---|---:|---:|---:|---:|---:|---:|---:|\n",
    );
    let us = |figures: Vec<f64>| match middle_and_p90(&figures) {
        Some((median, p90)) => format!("{:.0} | {:.0}", median / 1e3, p90 / 1e3),
        None => " | ".to_owned(),
    };
    for (what, title) in [
        ("hint", "a hint"),
        ("waited", "a hint that is waited for"),
        ("queue", "a new queue"),
        ("process", "a new process"),
    ] {
        let bare = seen.bare(what);
        let [wake, call] = columns(&bare).map(us);
        writeln!(
            page,
            "| eventfd and an empty call | {} | {wake} | — | — | {call} |",
            bare.len()
        )?;
        let of = seen.reactions(what);
        let [message, decision, order] = columns(&of).map(us);
        writeln!(
            page,
            "| {title} | {} | {message} | {decision} | {order} |",
            of.len()
        )?;
    }
    for policy in ["priority", "manual"] {
        let of = |figure| seen.idle(policy, figure);
        let seconds = of(|idle| idle.wall_ns / 1e9);
        let (Some(wakes), Some(each), Some(bare)) = (
            middle_and_p90(&of(|idle| 1e9 * idle.wakes / idle.wall_ns)),
            middle_and_p90(&of(|idle| idle.cpu_ns / idle.wakes)),
            middle_and_p90(&of(|idle| idle.bare_ns / idle.bare_wakes)),
        ) else {
            continue;
        };
        writeln!(
            page,
            "\nWith nothing to do, policy `{policy}`, the daemon woke {:.2} times a second and took {:.0} µs of the emulated processor each time; a thread that \
             sleeps and reads a word of memory took {:.0} µs each time in the same guest (medians of {} times {:.0} s).",
            wakes.0,
            each.0 / 1e3,
            bare.0 / 1e3,
            seconds.len(),
            seconds.first().copied().unwrap_or_default(),
        )?;
    }
    if let Some(first) = seen.hint.first() {
        let [begin, begun, end, ended] = first.sizes;
        for (processors, where_) in PLACES {
            let us = |pick| us(seen.hints(processors, pick)).replace(" | ", ", ");
            writeln!(
                page,
                "\nOn {where_} a hint over the library took {} µs (median, P90), two bare round trips {} µs.",
                us(|hint| &hint.hint_ns),
                us(|hint| &hint.bare_ns),
            )?;
        }
        writeln!(
            page,
            "\nA hint is {begin} bytes there and {begun} back, then {end} and {ended}. Client and server are two processes in all cases, and pinned: left alone, \
             the scheduler has either side change between one processor and two. The daemon notes the hint and wakes the thread that decides; for a service that waits the thread that has read the hint decides itself.",
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen() -> Seen {
        Seen {
            guest: vec![
                Line::Bare {
                    beside: "hint".to_owned(),
                    wake_ns: 80e3,
                    call_ns: 20e3,
                },
                Line::Reaction {
                    what: "hint".to_owned(),
                    message_ns: Some(90e3),
                    decision_ns: Some(100e3),
                    order_ns: 60e3,
                },
                Line::Idle {
                    policy: "priority".to_owned(),
                    seen: Idle {
                        wall_ns: 1e9,
                        cpu_ns: 2e6,
                        wakes: 4.0,
                        bare_ns: 1e6,
                        bare_wakes: 5.0,
                        rss_kib: 10240.0,
                        anon_kib: 2048.0,
                    },
                },
            ],
            decide: vec![Decide {
                policy: "share".to_owned(),
                processes: 100,
                queues: 1000,
                took_ns: vec![2e6],
            }],
            hint: [(1, 15e3), (2, 30e3)]
                .map(|(processors, ns)| Hint {
                    processors,
                    sizes: [1, 2, 3, 4],
                    bare_ns: vec![10e3],
                    hint_ns: vec![ns],
                })
                .into(),
        }
    }

    #[test]
    fn goals_are_met_or_not_and_what_was_not_measured_is_never_met() {
        let mut page = String::new();
        goals(&mut page, &seen()).unwrap();
        let ends = |start: &str, end: &str| {
            let line = page
                .lines()
                .find(|line| line.starts_with(&format!("| {start}")));
            assert!(
                line.is_some_and(|line| line.ends_with(end)),
                "{start}: {page}"
            );
        };
        ends("from a hint", "| 2.50× | 2.50× | met |");
        ends("from the kernel's event of a new", "| not measured |");
        ends("the daemon while", "| 0.200 % | 0.200 % | **not met** |");
        ends("its resident", "| 10.0 MiB | 10.0 MiB | met |");
        ends(
            "one decision, 1000 queues",
            "| 2.000 ms | 2.000 ms | **not met** |",
        );
        ends(
            "a hint over the C library, begin and end, of two bare round trips of as many bytes on a Unix socket; client and server on one",
            "| 1.50× | 1.50× | met |",
        );
        ends(
            "a hint over the C library, begin and end, of two bare round trips of as many bytes on a Unix socket; client and server on two",
            "| 3.00× | 3.00× | **not met** |",
        );
        let mut nothing = String::new();
        goals(&mut nothing, &Seen::default()).unwrap();
        assert!(!nothing.contains("| met |"), "{nothing}");
    }

    #[test]
    fn parts_are_in_microseconds() {
        let mut page = String::new();
        parts(&mut page, &seen()).unwrap();
        assert!(
            page.contains("| a hint | 1 | 90 | 90 | 100 | 100 | 60 | 60 |"),
            "{page}"
        );
        for said in [
            "woke 4.00 times a second and took 500 µs of the emulated processor each time",
            "took 200 µs each time in the same guest (medians of 1 times 1 s)",
            "On two processors a hint over the library took 30, 30 µs (median, P90), two bare round trips 10, 10 µs.",
        ] {
            assert!(page.contains(said), "{said}: {page}");
        }
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask bench preempt`: every way to stop and restart queues, in turn within one boot, and what that says about the
//! goals. Two guests: one GPU, and four.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::guest_lines;
use crate::guests::{Wish, Workshop};
use crate::project::Project;
use crate::vm::config::{Driver, Hardware};

const DEADLINE: Duration = Duration::from_secs(40 * 60);

/// A line of `vm-bench preempt` and `vm-bench nodes`: one stop and its restart.
#[derive(Debug, Clone, Deserialize)]
struct Line {
    table: String,
    op: String,
    /// In user space, around the calls.
    stop_ns: u64,
    restart_ns: u64,
    /// Of the stop, in the kernel, where the driver tells.
    lock_ns: Option<u64>,
    hw_ns: Option<u64>,
}

/// A table of the page.
struct Table {
    key: &'static str,
    title: &'static str,
    about: &'static str,
}

const TABLES: &[Table] = &[
    Table {
        key: "population_0",
        title: "64 queues of 4 processes, hardware that takes no time",
        about: "All 64 queues are mapped and idle. What is left is the driver's own work, the hand-over between threads and the emulator.",
    },
    Table {
        key: "population_50",
        title: "The same, 50 µs for each queue that is unmapped",
        about: "`sim_unmap_us=50`. One cycle costs what is mapped on the GPU, not what is held: compare one queue with all.",
    },
    Table {
        key: "thread",
        title: "The calling thread's own queue, hardware that takes no time",
        about: "The same thread on the same queue, so that only the way through the driver differs. Two queues are mapped on the GPU.",
    },
    Table {
        key: "realistic",
        title: "8 busy queues of 4 processes on 4 XCCs, 50 µs to save and 3 µs to restore each queue on each XCC",
        about: "`sim_save_us=50 sim_restore_us=3`; every queue runs a dispatch without end, so that its waves are saved and restored.",
    },
    Table {
        key: "nodes",
        title: "One process with 4 queues on each of 4 GPUs, 1 ms for each queue that is unmapped",
        about: "`sim_gpus=4 sim_unmap_us=1000`, one call for one GPU against one call for all four. GPUs are waited for at the same time. A restart has no \
                hardware to wait for here, as nothing else is mapped: it is the driver's and the simulation's own work, one GPU after the other.",
    },
];

/// Names of the operations, in the order in which they are shown.
const OPS: &[(&str, &str)] = &[
    ("batch_1", "patched: 1 queue"),
    ("batch_16", "patched: 16 queues of 1 process"),
    ("batch_64", "patched: 64 queues, one call, 4 entries"),
    (
        "batch_64_entries",
        "patched: 64 queues, one call, 64 entries",
    ),
    ("batch_64_calls", "patched: 64 queues, 4 calls"),
    ("debug_trap_16", "debug-trap: 16 queues of 1 process"),
    ("debug_trap_64", "debug-trap: 64 queues of 4 processes"),
    ("criu_16", "criu: 16 queues of 1 process"),
    ("criu_64", "criu: 64 queues of 4 processes"),
    ("update_64", "UPDATE_QUEUE: 64 queues, each by its owner"),
    ("batch_own", "patched: own queue"),
    ("update_own", "UPDATE_QUEUE: own queue"),
    ("patched_all", "patched"),
    ("debug_trap_all", "debug-trap"),
    ("criu_all", "criu"),
    ("gpus_1", "patched: queues on 1 GPU"),
    ("gpus_4", "patched: queues on 4 GPUs"),
];

/// Which part of a line is meant.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Stop,
    Pair,
}

/// What a figure has to be.
enum Bound {
    /// The first operation's time over the second's.
    RatioAtMost(&'static str, &'static str, f64),
    RatioAtLeast(&'static str, &'static str, f64),
    /// Milliseconds of an operation.
    BelowMs(&'static str, f64),
}

struct Goal {
    table: &'static str,
    part: Part,
    bound: Bound,
    text: &'static str,
}

const GOALS: &[Goal] = &[
    Goal {
        table: "population_0",
        part: Part::Pair,
        bound: Bound::RatioAtMost("batch_64", "batch_1", 1.0),
        text: "64 queues of 4 processes in one call cost no more than one queue of the same population",
    },
    Goal {
        table: "population_50",
        part: Part::Pair,
        bound: Bound::RatioAtMost("batch_64", "batch_1", 1.0),
        text: "the same with 50 µs a queue",
    },
    Goal {
        table: "population_0",
        part: Part::Pair,
        bound: Bound::RatioAtLeast("update_64", "batch_64", 50.0),
        text: "50 times faster than one UPDATE_QUEUE each",
    },
    Goal {
        table: "population_50",
        part: Part::Pair,
        bound: Bound::RatioAtLeast("update_64", "batch_64", 50.0),
        text: "the same with 50 µs a queue",
    },
    Goal {
        table: "thread",
        part: Part::Pair,
        bound: Bound::RatioAtMost("batch_own", "update_own", 1.2),
        text: "the way through the driver is at most 1.2 of a bare UPDATE_QUEUE",
    },
    Goal {
        table: "population_0",
        part: Part::Pair,
        bound: Bound::RatioAtLeast("debug_trap_16", "batch_16", 1.0),
        text: "never slower than debug-trap for one process",
    },
    Goal {
        table: "population_50",
        part: Part::Pair,
        bound: Bound::RatioAtLeast("debug_trap_16", "batch_16", 1.0),
        text: "the same with 50 µs a queue",
    },
    Goal {
        table: "population_0",
        part: Part::Pair,
        bound: Bound::RatioAtLeast("debug_trap_64", "batch_64", 3.5),
        text: "3.5 times faster than debug-trap for 64 queues of 4 processes",
    },
    Goal {
        table: "population_50",
        part: Part::Pair,
        bound: Bound::RatioAtLeast("debug_trap_64", "batch_64", 3.5),
        text: "the same with 50 µs a queue",
    },
    Goal {
        table: "nodes",
        part: Part::Stop,
        bound: Bound::RatioAtMost("gpus_4", "gpus_1", 1.5),
        text: "stopping queues on 4 GPUs in one call costs at most 1.5 of one GPU (stop alone)",
    },
    Goal {
        table: "realistic",
        part: Part::Stop,
        bound: Bound::BelowMs("debug_trap_all", 10.0),
        text: "debug-trap stops a job in less than 10 ms",
    },
    Goal {
        table: "realistic",
        part: Part::Stop,
        bound: Bound::BelowMs("patched_all", 2.0),
        text: "patched stops a job in less than 2 ms",
    },
];

/// Measures and makes the document.
pub(super) fn measure(project: &Project) -> Result<String> {
    let one = wish(&["sim_gpus=1", "sim_xccs=4"]);
    let four = wish(&["sim_gpus=4", "sim_xccs=1"]);
    let workshop = Workshop::open(project, &[one.clone(), four.clone()])?;
    let mut lines = Vec::new();
    for (wish, measurements) in [(&one, &["preempt"][..]), (&four, &["nodes"][..])] {
        for value in guest_lines(project, &workshop, wish, DEADLINE, measurements)? {
            let line =
                Line::deserialize(&value).with_context(|| format!("line of vm-bench: {value}"))?;
            lines.push(line);
        }
    }
    let kernel = workshop.guest(&one)?.kernel.release();
    let mut page = format!(
        "# What stopping and restarting costs\n\n\
         Printed by `cargo xtask bench preempt --write docs/preemption-cost.md`; not written by hand. Linux {kernel}, amdkfd with the patches of \
         `kernel-patch/`, on the **simulated GPU**, in QEMU without hardware acceleration: the driver is real, the hardware's times are \
         parameters. Nothing here predicts an AMD GPU. Read ratios, and only within one table.\n\n\
         Times in µs, taken in user space around the calls of one stop or one restart; a pair is a stop and its restart. In each table all \
         operations take turns, every round in another order. `lock` and `hardware` are of the stop, as the driver returned them: the longest wait for \
         a GPU's scheduler lock, and from UNMAP_QUEUES to the fence.\n"
    );
    goals(&mut page, &lines)?;
    for table in TABLES {
        rows(&mut page, &lines, table)?;
    }
    Ok(page)
}

fn wish(params: &[&str]) -> Wish {
    Wish {
        driver: Driver::Patched,
        params: params.iter().map(|&param| param.to_owned()).collect(),
        hardware: Hardware {
            memory_mb: 3072,
            ..Hardware::default()
        },
        ..Wish::sim("bench-preempt")
    }
}

fn goals(page: &mut String, lines: &[Line]) -> Result<()> {
    page.push_str(
        "\n## Goals\n\nBy the median of stop and restart together unless said otherwise, and the same by P90.\n\n\
         | goal | wanted | median | P90 | |\n|---|---:|---:|---:|---|\n",
    );
    for goal in GOALS {
        let time = |op: &str, percent: usize| -> Result<f64> {
            let figures: Vec<f64> = of(lines, goal.table, op)
                .map(|line| match goal.part {
                    Part::Stop => line.stop_ns,
                    Part::Pair => line.stop_ns + line.restart_ns,
                } as f64)
                .collect();
            anyhow::ensure!(
                !figures.is_empty(),
                "no measurement of {op} in {}",
                goal.table
            );
            Ok(super::overhead::quantile(&figures, percent))
        };
        let ratio = |a, b, percent| -> Result<f64> { Ok(time(a, percent)? / time(b, percent)?) };
        let (wanted, median, p90, met) = match goal.bound {
            Bound::RatioAtMost(a, b, most) => {
                let median = ratio(a, b, 50)?;
                (
                    format!("≤ {most}"),
                    median,
                    ratio(a, b, 90)?,
                    median <= most,
                )
            }
            Bound::RatioAtLeast(a, b, least) => {
                let median = ratio(a, b, 50)?;
                (
                    format!("≥ {least}"),
                    median,
                    ratio(a, b, 90)?,
                    median >= least,
                )
            }
            Bound::BelowMs(op, most) => {
                let median = time(op, 50)? / 1e6;
                (
                    format!("< {most} ms"),
                    median,
                    time(op, 90)? / 1e6,
                    median < most,
                )
            }
        };
        let met = if met { "met" } else { "**not met**" };
        writeln!(
            page,
            "| {} | {wanted} | {median:.2} | {p90:.2} | {met} |",
            goal.text
        )?;
    }
    Ok(())
}

fn rows(page: &mut String, lines: &[Line], table: &Table) -> Result<()> {
    writeln!(page, "\n## {}\n\n{}\n", table.title, table.about)?;
    page.push_str(
        "| | n | stop median | P90 | restart median | P90 | pair median | P90 | lock | hardware |\n\
         |---|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n",
    );
    for (op, name) in OPS {
        let of: Vec<&Line> = of(lines, table.key, op).collect();
        if of.is_empty() {
            continue;
        }
        let column = |figure: &dyn Fn(&Line) -> Option<u64>, percent: usize| {
            let figures: Vec<f64> = of
                .iter()
                .filter_map(|line| figure(line))
                .map(|ns| ns as f64 / 1000.0)
                .collect();
            if figures.is_empty() {
                "—".to_owned()
            } else {
                format!("{:.0}", super::overhead::quantile(&figures, percent))
            }
        };
        let stop = |line: &Line| Some(line.stop_ns);
        let restart = |line: &Line| Some(line.restart_ns);
        let pair = |line: &Line| Some(line.stop_ns + line.restart_ns);
        writeln!(
            page,
            "| {name} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            of.len(),
            column(&stop, 50),
            column(&stop, 90),
            column(&restart, 50),
            column(&restart, 90),
            column(&pair, 50),
            column(&pair, 90),
            column(&|line| line.lock_ns, 50),
            column(&|line| line.hw_ns, 50),
        )?;
    }
    Ok(())
}

fn of<'a>(lines: &'a [Line], table: &'a str, op: &'a str) -> impl Iterator<Item = &'a Line> {
    lines
        .iter()
        .filter(move |line| line.table == table && line.op == op)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(table: &str, op: &str, stop_ns: u64) -> Line {
        Line {
            table: table.to_owned(),
            op: op.to_owned(),
            stop_ns,
            restart_ns: stop_ns,
            lock_ns: None,
            hw_ns: Some(stop_ns / 2),
        }
    }

    /// Every operation of every goal, all as fast.
    fn even() -> Vec<Line> {
        GOALS
            .iter()
            .flat_map(|goal| {
                let ops = match goal.bound {
                    Bound::RatioAtMost(a, b, _) | Bound::RatioAtLeast(a, b, _) => vec![a, b],
                    Bound::BelowMs(op, _) => vec![op],
                };
                ops.into_iter().map(|op| line(goal.table, op, 1_000_000))
            })
            .collect()
    }

    #[test]
    fn goals_are_judged_by_what_was_measured() {
        let mut page = String::new();
        goals(&mut page, &even()).unwrap();
        let verdict = |text: &str| {
            let line = page.lines().find(|line| line.contains(text)).unwrap();
            line.ends_with("| met |")
        };
        assert!(verdict("on 4 GPUs in one call"));
        assert!(verdict("debug-trap stops a job"));
        assert!(!verdict("50 times faster"));
        let missing: Vec<Line> = even()
            .into_iter()
            .filter(|line| line.op != "gpus_4")
            .collect();
        assert!(goals(&mut String::new(), &missing).is_err());
    }

    #[test]
    fn every_goal_names_a_table_and_operations_that_are_shown() {
        for line in even() {
            assert!(TABLES.iter().any(|table| table.key == line.table));
            assert!(OPS.iter().any(|(op, _)| *op == line.op), "{}", line.op);
        }
        let mut page = String::new();
        rows(&mut page, &even(), &TABLES[0]).unwrap();
        assert!(
            page.contains("| 1000 | 1000 | 2000 |")
                || page.contains("| 1000 | 1000 | 1000 | 1000 | 2000 |"),
            "{page}"
        );
    }
}

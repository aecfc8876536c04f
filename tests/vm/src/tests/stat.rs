// SPDX-License-Identifier: MIT OR Apache-2.0
//! What `stat` counts and measures, against what the load did and how the hardware was set.

use std::process::Command;

use anyhow::Context;
use gpreempt::kfd::{topology, Root};

use super::List;
use crate::check::ensure_eq;
use crate::guest::Parameter;
use crate::json_child::JsonChild;
use crate::load::Load;
use crate::record::Record;
use crate::watch::shell_code;

pub(super) const TESTS: List = &[
    (&["basic"], "stat_counts_what_the_load_did", counts),
    (
        &["basic"],
        "stat_unmap_time_follows_the_hardware",
        follows_the_hardware,
    ),
    (
        &["basic"],
        "stat_names_who_oversubscribes",
        names_who_oversubscribes,
    ),
];

/// A `gpreempt stat -- kfd-load --control`: the load obeys the commands that are sent to the former.
struct Stat {
    child: JsonChild,
    commands: usize,
}

impl Stat {
    /// Starts both and waits for the queues.
    fn start(args: &[&str], load: &[&str]) -> anyhow::Result<Self> {
        let mut command = Command::new("gpreempt");
        command.args(["stat", "--format", "json"]).args(args);
        command.args(["--", "kfd-load", "--control"]).args(load);
        let child = JsonChild::start(command)?;
        child.wait_for("the created queues", |records| {
            let created = records.iter().find(|record| record.kind == "created");
            created.map(|_| ())
        })?;
        Ok(Self { child, commands: 0 })
    }

    fn command(&mut self, line: &str) -> anyhow::Result<()> {
        self.child.send(line)?;
        let index = self.commands;
        self.commands += 1;
        let ack = self
            .child
            .wait_for(&format!("the answer to {line:?}"), |records| {
                records
                    .iter()
                    .filter(|record| record.kind == "ack")
                    .nth(index)
                    .cloned()
            })?;
        anyhow::ensure!(ack.data["ok"] == true, "{line:?}: {}", ack.data);
        Ok(())
    }

    /// Ends the load, and takes the report.
    fn report(mut self) -> anyhow::Result<Report> {
        self.command("stop")?;
        let status = self.child.wait_exit()?;
        ensure_eq!(shell_code(status), 0, "exit code of stat, the load's");
        let records = self.child.records();
        let done = records.iter().find(|record| record.kind == "done");
        let pid = done.context("no done line of the load")?.number("pid")?;
        let last = records.last().context("no output")?;
        ensure_eq!(last.kind, "stat_summary", "the last line");
        ensure_eq!(last.number("lost")?, 0, "records lost");
        Ok(Report { pid, records })
    }
}

struct Report {
    pid: u64,
    records: Vec<Record>,
}

impl Report {
    fn of(&self, kind: &str) -> impl Iterator<Item = &Record> {
        let kind = kind.to_owned();
        self.records
            .iter()
            .filter(move |record| record.kind == kind)
    }

    fn count(&self, event: &str) -> u64 {
        self.of("stat_count")
            .find(|count| count.data["event"] == event)
            .and_then(|count| count.try_number("count"))
            .unwrap_or(0)
    }

    /// Samples of a duration for one cause.
    fn samples(&self, what: &str, cause: &str) -> u64 {
        self.of("stat_latency")
            .find(|latency| latency.data["what"] == what && latency.data["group"]["cause"] == cause)
            .and_then(|latency| latency.try_number("count"))
            .unwrap_or(0)
    }

    fn latency(&self, what: &str) -> anyhow::Result<&Record> {
        self.of("stat_latency")
            .find(|latency| latency.data["what"] == what && latency.data["group"].is_null())
            .with_context(|| format!("no samples of {what}"))
    }

    fn process(&self) -> anyhow::Result<&Record> {
        self.of("stat_process")
            .find(|process| process.try_number("pid") == Some(self.pid))
            .context("no stat_process of the load")
    }
}

fn counts() -> anyhow::Result<()> {
    let load = ["--profile", "simple", "--queues", "3", "--rate", "1"];
    let mut stat = Stat::start(&["--by", "cause"], &load)?;
    for percent in [0, 100, 50, 0] {
        stat.command(&format!("update 0 {percent}"))?;
    }
    stat.command("update 0 100")?;
    stat.command("destroy 2")?;
    let report = stat.report()?;
    ensure_eq!(report.count("queue_created"), 3, "creates");
    ensure_eq!(report.count("queue_updated"), 5, "updates");
    ensure_eq!(report.count("queue_destroyed"), 3, "destroys");
    for (what, count) in [("create", 3), ("update", 5), ("destroy", 3)] {
        ensure_eq!(report.latency(what)?.number("count")?, count, "{what}");
    }
    // The first queue finds no runlist to take off; after the last there is none to submit.
    for (cause, unmaps, maps) in [
        ("create_queue", 2, 3),
        ("update_queue", 5, 5),
        ("destroy_queue", 3, 2),
    ] {
        ensure_eq!(report.samples("unmap", cause), unmaps, "unmaps by {cause}");
        ensure_eq!(report.samples("fence", cause), unmaps, "fences by {cause}");
        ensure_eq!(report.samples("map", cause), maps, "maps by {cause}");
    }
    // Queue 0 was off by itself twice, beside the runlists that followed another one.
    ensure_eq!(
        report.samples("off_hardware", "update_queue"),
        5 + 2,
        "times off by updates"
    );
    // Of each queue: taken off by what happened while it was mapped, not by its own end. Queue 0: two creates, three of five
    // updates (two found it off), the destroys of 2 and of one other before its own or after.
    let process = report.process()?;
    ensure_eq!(process.number("queues_seen")?, 3, "queues seen");
    let own = process.number("preemptions_own")?;
    ensure_eq!(process.number("preemptions")?, own, "all by itself");
    let by_update = process
        .list("by_cause")?
        .iter()
        .find(|count| count.data["cause"] == "update_queue")
        .context("no preemption by update")?
        .number("count")?;
    // Queues 1 and 2 by all five; queue 0 by those that found it mapped: to 0 %, from 100 to 50, from 50 to 0.
    ensure_eq!(by_update, 5 + 5 + 3, "preemptions by updates");
    Ok(())
}

/// Median time of an unmap while the simulated hardware takes so long for a queue.
fn median_unmap_ns(unmap_us: u64) -> anyhow::Result<u64> {
    let _hardware = Parameter::set("sim_unmap_us", &unmap_us.to_string())?;
    let load = ["--profile", "simple", "--queues", "1", "--rate", "1"];
    let mut stat = Stat::start(&[], &load)?;
    for n in 0..10 {
        stat.command(&format!("update 0 {}", 50 + n))?;
    }
    let report = stat.report()?;
    let fence = report.latency("fence")?;
    let unmap = report.latency("unmap")?;
    anyhow::ensure!(
        fence.number("p50_ns")? <= unmap.number("p50_ns")?,
        "a fence is part of an unmap: {} {}",
        fence.data,
        unmap.data
    );
    unmap.number("p50_ns")
}

fn follows_the_hardware() -> anyhow::Result<()> {
    const FAST_US: u64 = 1000;
    const SLOW_US: u64 = 40_000;
    let fast_ns = median_unmap_ns(FAST_US)?;
    let slow_ns = median_unmap_ns(SLOW_US)?;
    anyhow::ensure!(
        fast_ns >= FAST_US * 1000 && slow_ns >= SLOW_US * 1000,
        "medians below what the hardware takes: {fast_ns} ns, {slow_ns} ns"
    );
    anyhow::ensure!(
        fast_ns < SLOW_US * 1000,
        "the median does not follow the hardware: {fast_ns} ns at {FAST_US} us"
    );
    Ok(())
}

fn names_who_oversubscribes() -> anyhow::Result<()> {
    let nodes = topology::read(&Root::real());
    let slots = nodes.first().context("no GPU")?.num_cp_queues();
    // Nearly all slots, by a process that was there before.
    let few = (slots - 2).to_string();
    let first = Load::start(&["--profile", "simple", "--queues", &few, "--rate", "1"])?;
    let load = ["--profile", "simple", "--queues", "4", "--rate", "1"];
    let report = Stat::start(&["--by", "gpu"], &load)?.report()?;
    first.stop()?;
    let finding = report
        .of("finding")
        .find(|finding| finding.data["kind"] == "oversubscribed")
        .context("no finding of oversubscription")?;
    ensure_eq!(finding.number("pid")?, report.pid, "who crossed the line");
    let evidence = finding.text("evidence")?;
    let counts = format!("{} compute queues for {slots} slots", slots + 1);
    anyhow::ensure!(
        evidence.contains(&counts) && evidence.contains("create_queue"),
        "{evidence:?} does not say {counts:?}"
    );
    ensure_eq!(finding.text("severity")?, "warn", "severity");
    Ok(())
}

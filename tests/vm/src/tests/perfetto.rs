// SPDX-License-Identifier: MIT OR Apache-2.0
//! Traces for Perfetto of what the driver really did.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Context;
use gpreempt::sink::perfetto::read::{Slice, Trace};

use super::List;
use crate::check::ensure_eq;
use crate::guest;
use crate::load::Load;
use crate::watch::Watch;

pub(super) const TESTS: List = &[
    (
        &["basic"],
        "perfetto_trace_has_what_the_load_did",
        load_as_trace,
    ),
    (
        &["basic"],
        "perfetto_trace_of_a_replay_is_that_of_the_recording",
        replay,
    ),
];

fn read(path: &str) -> anyhow::Result<Trace> {
    let bytes = fs::read(path).with_context(|| format!("read {path}"))?;
    Trace::read(&bytes).with_context(|| format!("the trace {path}"))
}

/// Slices of the queue with this id, in order.
fn of_queue(trace: &Trace, gpu_id: u64, queue_id: u64) -> Vec<Slice> {
    let name = format!("GPU {gpu_id:x} queue {queue_id} (compute)");
    let mut slices: Vec<Slice> = trace.on(&name).into_iter().cloned().collect();
    slices.sort_by_key(|slice| slice.begin_ns);
    slices
}

/// Every second state is `mapped`, and in between is what took the queue off.
fn load_as_trace() -> anyhow::Result<()> {
    const PATH: &str = "/tmp/load.pftrace";
    let watch = Watch::start(&["--export", &format!("perfetto={PATH}")])?;
    let mut load = Load::start(&["--profile", "simple", "--queues", "2"])?;
    let pid = load.pid();
    let gpu_id = load.gpu_id()?;
    let ids = load.queue_ids()?;
    let [first, second] = ids[..] else {
        anyhow::bail!("2 queues were asked for, {ids:?} are there");
    };
    load.command(&format!("update {first} 0"))?;
    load.command(&format!("update {first} 100"))?;
    load.command(&format!("destroy {second}"))?;
    load.stop()?;
    watch.wait_for_exit_of(pid)?;
    let seen = watch.stop_lossless()?;
    let trace = read(PATH)?;
    anyhow::ensure!(!trace.is_open(), "slices are open at the end");

    // The calls, with the durations that the records have.
    let calls = trace.on("driver calls");
    for (kind, name) in [
        ("queue_created", "create queue"),
        ("queue_updated", "update queue"),
        ("queue_destroyed", "destroy queue"),
    ] {
        let mut spans: Vec<(u64, u64)> = calls
            .iter()
            .filter(|slice| slice.name == name && trace.pid_of(slice) == Some(pid))
            .map(|slice| (slice.begin_ns, slice.end_ns.unwrap_or_default()))
            .collect();
        spans.sort_unstable();
        let mut expected = Vec::new();
        for record in seen.of(kind, pid) {
            let (ts_ns, total_ns) = (record.number("ts_ns")?, record.number("total_ns")?);
            expected.push((ts_ns - total_ns, ts_ns));
        }
        expected.sort_unstable();
        anyhow::ensure!(!expected.is_empty(), "no {kind} record");
        ensure_eq!(spans, expected, "slices {name}");
    }

    // One slice for each change of the runlist.
    let operations = trace.on("runlist");
    let count = |begin: &str| {
        operations
            .iter()
            .filter(|slice| slice.name.starts_with(begin))
            .count()
    };
    ensure_eq!(
        count("unmap ("),
        seen.kind("runlist_unmapped").len(),
        "unmap slices"
    );
    ensure_eq!(
        count("map ("),
        seen.kind("runlist_mapped").len(),
        "map slices"
    );

    // The first queue: on, off for the second one's creation, updated to nothing, on again, off for the second one's end, and its own.
    let names: Vec<String> = of_queue(&trace, gpu_id, first)
        .into_iter()
        .map(|slice| slice.name)
        .collect();
    ensure_eq!(
        names,
        [
            "mapped",
            "unmapped (create_queue)",
            "mapped",
            "unmapped (update_queue)",
            "inactive",
            "mapped",
            "unmapped (destroy_queue)",
            "mapped",
            "unmapped (destroy_queue)",
        ],
        "states of queue {first}"
    );
    for slice in of_queue(&trace, gpu_id, first) {
        if slice.name.starts_with("unmapped") {
            let by_pid = slice.args.get("by_pid").cloned();
            ensure_eq!(by_pid, Some(pid.to_string()), "who took queue {first} off");
        }
    }
    // The second queue ends with its destruction, and is not mapped again meanwhile.
    let last = of_queue(&trace, gpu_id, second);
    let last = last.last().context("the second queue has no slice")?;
    ensure_eq!(
        last.name,
        "unmapped (destroy_queue)",
        "last state of queue {second}"
    );
    guest::wait_for_no_process()
}

/// Live and replay are one program.
fn replay() -> anyhow::Result<()> {
    const RECORDING: &str = "/tmp/perfetto.gpr";
    const RECORDED: &str = "/tmp/recorded.pftrace";
    const REPLAYED: &str = "/tmp/replayed.pftrace";
    let run = |args: &[&str]| -> anyhow::Result<()> {
        let output = Command::new("gpreempt").args(args).output()?;
        anyhow::ensure!(
            output.status.success(),
            "gpreempt {args:?}: {}; {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    };
    let recorded = format!("perfetto={RECORDED}");
    let mut args = vec!["record", RECORDING, "--force", "--export", &recorded, "--"];
    args.extend(["kfd-load", "--profile", "llm-worker", "--seconds", "1"]);
    run(&args)?;
    for again in 0..2 {
        let replayed = format!("perfetto={REPLAYED}{again}");
        run(&["replay", RECORDING, "watch", "--export", &replayed])?;
    }
    let live = read(RECORDED)?;
    let played = read(&format!("{REPLAYED}0"))?;
    anyhow::ensure!(!live.slices.is_empty(), "no slice was recorded");
    let of_events = |trace: &Trace| -> Vec<Slice> {
        let slices = trace.slices.iter().chain(&trace.instants);
        slices
            .filter(|slice| trace.name_of(slice) != "gpreempt")
            .cloned()
            .collect()
    };
    ensure_eq!(of_events(&played), of_events(&live), "slices of the replay");
    ensure_eq!(
        fs::read(format!("{REPLAYED}0"))?,
        fs::read(format!("{REPLAYED}1"))?,
        "bytes of a second replay"
    );
    for path in [
        RECORDING,
        RECORDED,
        &format!("{REPLAYED}0"),
        &format!("{REPLAYED}1"),
    ] {
        anyhow::ensure!(Path::new(path).exists(), "{path} is gone");
        fs::remove_file(path)?;
    }
    guest::wait_for_no_process()
}

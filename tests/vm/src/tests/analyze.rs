// SPDX-License-Identifier: MIT OR Apache-2.0
//! What `analyze` and `compare` find out about loads whose answers are known.

use std::process::Command;

use anyhow::Context;

use super::List;
use crate::check::ensure_eq;
use crate::record::Record;
use crate::watch::shell_code;

pub(super) const TESTS: List = &[
    (&["basic"], "analyze_finds_that_a_model_repeats", repeats),
    (&["multi"], "analyze_sees_a_slot_on_each_xcc", each_xcc),
    (
        &["basic"],
        "analyze_finds_that_churn_needs_identification",
        churn,
    ),
    (
        &["basic", "patched"],
        "analyze_stops_each_of_two_models_alone",
        concurrent,
    ),
    (&["basic"], "analyze_and_compare_of_recordings", recorded),
    (&["basic"], "analyze_tells_what_a_command_did", failing),
];

/// What one run of `gpreempt analyze` or the like said.
struct Told {
    records: Vec<Record>,
    code: i32,
    stderr: String,
}

impl Told {
    fn by(args: &[&str]) -> anyhow::Result<Self> {
        let output = Command::new("gpreempt")
            .args(args)
            .output()
            .context("start gpreempt")?;
        let text = String::from_utf8(output.stdout).context("not UTF-8")?;
        Ok(Self {
            records: text
                .lines()
                .map(Record::parse)
                .collect::<anyhow::Result<_>>()?,
            code: shell_code(output.status),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Of loads that end well.
    fn analyze(args: &[&str]) -> anyhow::Result<Self> {
        let told = Self::by(&[&["analyze", "--format", "json"], args].concat())?;
        ensure_eq!(told.code, 0, "exit code; stderr: {}", told.stderr);
        for run in told.of_kind("run") {
            ensure_eq!(run.number("lost")?, 0, "records lost");
        }
        Ok(told)
    }

    fn of_kind<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Record> {
        self.records.iter().filter(move |r| r.kind == kind)
    }

    fn conclusion(&self, question: &str) -> anyhow::Result<&Record> {
        self.of_kind("conclusion")
            .find(|record| record.data["question"] == question)
            .with_context(|| format!("no conclusion on {question}"))
    }

    /// Asserts what it says on a question.
    fn says(&self, question: &str, holds: Option<bool>) -> anyhow::Result<()> {
        let told = self.conclusion(question)?;
        ensure_eq!(told.data["holds"].as_bool(), holds, "{}", told.data);
        Ok(())
    }

    fn decided(&self, about: &str, choice: &str) -> anyhow::Result<()> {
        let decision = self
            .of_kind("decision")
            .find(|record| record.data["about"] == about)
            .with_context(|| format!("no decision on {about}"))?;
        ensure_eq!(decision.text("choice")?, choice, "{}", decision.data);
        Ok(())
    }
}

/// Three queues in two runs, two compute and one copy, with ids 0 to 2.
fn repeats() -> anyhow::Result<()> {
    let told = Told::analyze(&[
        "--runs",
        "2",
        "--",
        "kfd-load",
        "--profile",
        "model",
        "--seconds",
        "3",
    ])?;
    for question in ["count", "ids", "steady", "slots", "sum"] {
        told.says(question, Some(true))?;
    }
    let answer = told.conclusion("count")?.text("answer")?;
    anyhow::ensure!(answer.starts_with("3 queues at once"), "{answer}");
    let answer = told.conclusion("ids")?.text("answer")?;
    anyhow::ensure!(answer.starts_with("0, 1 compute; 2 sdma"), "{answer}");
    let runs: Vec<_> = told.of_kind("run").collect();
    ensure_eq!(runs.len(), 2, "runs");
    for run in runs {
        ensure_eq!(run.data["peak"]["compute"], 2, "compute queues at once");
        ensure_eq!(run.data["peak"]["sdma"], 1, "copy queues at once");
        ensure_eq!(run.number("processes")?, 1, "processes");
        // Two unmaps for each queue, but for the first that is created and the last that goes.
        ensure_eq!(run.number("unmaps_own")?, 5, "runlists it took off");
    }
    let mut pids: Vec<u64> = told
        .of_kind("life")
        .map(|life| life.number("pid"))
        .collect::<anyhow::Result<_>>()?;
    ensure_eq!(pids.len(), 6, "lives of queues");
    pids.dedup();
    ensure_eq!(pids.len(), 2, "processes of both runs");
    for life in told.of_kind("life") {
        anyhow::ensure!(!life.data["created_ns"].is_null(), "{}", life.data);
        anyhow::ensure!(!life.data["destroyed_ns"].is_null(), "{}", life.data);
        anyhow::ensure!(life.number("sightings")? > 0, "{}", life.data);
    }
    told.decided("identification", "fixed_ids")?;
    told.decided("scheme", "C")
}

/// A queue has a slot on each of four XCCs, of its own GPU.
fn each_xcc() -> anyhow::Result<()> {
    let told = Told::analyze(&[
        "--",
        "kfd-load",
        "--profile",
        "llm-worker",
        "--gpus",
        "0",
        "--seconds",
        "4",
    ])?;
    told.says("slots", Some(true))?;
    told.says("sum", Some(true))?;
    // One run shows nothing about the next.
    told.says("count", None)?;
    told.decided("identification", "dynamic")?;
    let lives: Vec<_> = told.of_kind("life").collect();
    ensure_eq!(lives.len(), 14, "queues on two GPUs");
    for life in lives {
        let slots = life.data["slots"].as_array().context("no slots")?;
        let expected = if life.text("queue_type")? == "compute" {
            4
        } else {
            1
        };
        ensure_eq!(slots.len(), expected, "{}", life.data);
    }
    Ok(())
}

/// The same id names one queue after the other.
fn churn() -> anyhow::Result<()> {
    let told = Told::analyze(&[
        "--runs",
        "2",
        "--no-hqds",
        "--",
        "kfd-load",
        "--profile",
        "churn",
        "--seconds",
        "3",
    ])?;
    told.says("steady", Some(false))?;
    told.says("slots", None)?;
    told.decided("identification", "dynamic")
}

/// Two models: keys apart, as many queues as each alone, and each is stopped while the other runs.
fn concurrent() -> anyhow::Result<()> {
    let model = ["kfd-load", "--profile", "model", "--seconds", "20"];
    let other = ["kfd-load", "--profile", "llm-worker", "--seconds", "20"];
    let told = Told::analyze(
        &[
            &["--concurrent", "--"][..],
            &model[..],
            &["--"][..],
            &other[..],
        ]
        .concat(),
    )?;
    let trials: Vec<_> = told.of_kind("trial").collect();
    ensure_eq!(trials.len(), 2, "trials");
    for (trial, queues) in trials.iter().zip([3, 7]) {
        ensure_eq!(
            trial.data["failed"],
            serde_json::Value::Null,
            "{}",
            trial.data
        );
        ensure_eq!(trial.number("held")?, queues, "queues held");
        ensure_eq!(trial.number("released")?, queues, "queues released");
        anyhow::ensure!(trial.number("alone")? > 0, "{}", trial.data);
    }
    for question in ["disjoint", "total", "control"] {
        told.says(question, Some(true))?;
    }
    ensure_eq!(told.of_kind("run").count(), 3, "each alone, then together");
    let patched = std::fs::exists("/sys/module/amdgpu/parameters/gpreempt_abi")?;
    told.decided("scheme", if patched { "B" } else { "C" })
}

/// The same answers from files, without the driver.
fn recorded() -> anyhow::Result<()> {
    for (name, profile) in [("a", "model"), ("b", "simple")] {
        let file = format!("/tmp/{name}.gpr");
        let told = Told::by(&[
            "record",
            "--hqds",
            "--force",
            &file,
            "--",
            "sh",
            "-c",
            &format!("kfd-load --profile {profile} --seconds 3 >&2"),
        ])?;
        ensure_eq!(told.code, 0, "record; stderr: {}", told.stderr);
    }
    let told = Told::by(&["replay", "/tmp/a.gpr", "analyze", "--format", "json"])?;
    ensure_eq!(told.code, 0, "stderr: {}", told.stderr);
    told.says("steady", Some(true))?;
    told.says("slots", Some(true))?;
    told.decided("scheme", "A")?;
    let told = Told::by(&["compare", "/tmp/a.gpr", "/tmp/b.gpr", "--format", "json"])?;
    ensure_eq!(told.code, 0, "stderr: {}", told.stderr);
    let rows: Vec<_> = told.of_kind("compared").collect();
    ensure_eq!(rows.len(), 2, "rows");
    for (row, (compute, sdma)) in rows.iter().zip([(2, 1), (2, 0)]) {
        ensure_eq!(row.data["peak"]["compute"], compute, "{}", row.data);
        ensure_eq!(row.data["peak"]["sdma"], sdma, "{}", row.data);
        ensure_eq!(row.number("slots")?, 24, "slots of the GPU");
    }
    Ok(())
}

/// A command that fails is told, its code is ours, and what it did is analyzed nevertheless.
fn failing() -> anyhow::Result<()> {
    let told = Told::by(&[
        "analyze",
        "--format",
        "json",
        "--",
        "sh",
        "-c",
        "kfd-load --profile simple --seconds 1; exit 7",
    ])?;
    ensure_eq!(told.code, 7, "exit code; stderr: {}", told.stderr);
    let run = told.of_kind("run").next().context("no run")?;
    ensure_eq!(run.number("queues")?, 2, "queues");
    anyhow::ensure!(run.text("failed")?.contains('7'), "{}", run.data);
    Ok(())
}

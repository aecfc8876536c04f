// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the verbs make of recordings of the real driver (`tests/recordings/`), against committed transcripts.
//! `SNAPSHOTS=overwrite cargo test -p gpreempt --test fixtures` writes them anew: read the difference.

mod common;

use std::path::{Path, PathBuf};

use common::gpreempt;
use serde_json::Value;
use snapbox::data::DataFormat;
use snapbox::Data;

const ALL: [&str; 5] = ["model", "churn", "llm", "online-offline", "oversubscribed"];

fn recordings() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recordings")
}

fn recording(name: &str) -> PathBuf {
    recordings().join(format!("{name}.gpr"))
}

/// Runs a verb and compares what it prints with the transcript of that name.
fn transcript(name: &str, args: &[&str]) {
    let path = recordings().join(format!("{name}.txt"));
    gpreempt()
        .args(args)
        .current_dir(recordings())
        .env("COLUMNS", "132")
        .assert()
        .success()
        .stdout_eq(Data::read_from(&path, Some(DataFormat::Text)).raw());
}

fn replayed(verb: &str, args: &[&str]) {
    for name in ALL {
        let file = format!("{name}.gpr");
        transcript(
            &format!("{name}.{verb}"),
            &[&["replay", &file, verb], args].concat(),
        );
    }
}

#[test]
fn watch() {
    replayed("watch", &["--duration", "1s"]);
}

#[test]
fn queues() {
    replayed("queues", &["--at", "7s", "--hqds"]);
}

#[test]
fn stat() {
    replayed("stat", &["--by", "cause"]);
}

#[test]
fn analyze() {
    replayed("analyze", &[]);
}

#[test]
fn two_models_that_ran_together() {
    transcript(
        "online-offline.concurrent",
        &["analyze", "--concurrent", "online-offline.gpr"],
    );
}

#[test]
fn a_model_twice_is_the_same() {
    transcript("model.twice", &["analyze", "model.gpr", "model.gpr"]);
}

#[test]
fn compare() {
    let files = ALL.map(|name| format!("{name}.gpr"));
    let files: Vec<&str> = files.iter().map(String::as_str).collect();
    transcript("compare", &[&["compare"], files.as_slice()].concat());
}

#[test]
fn what_a_policy_would_have_held() {
    let replay = ["replay", "online-offline.gpr", "--config", "policy.toml"];
    transcript("online-offline.priority", &replay);
    let timeslice = [&replay[..], &["--policy", "timeslice"]].concat();
    transcript("online-offline.timeslice", &timeslice);
    let json = [&replay[..], &["--format", "json"]].concat();
    let command = gpreempt().args(json).current_dir(recordings());
    let output = command.output().expect("it runs");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("a line is JSON"))
        .collect();
    let job = lines
        .iter()
        .find(|line| line["type"] == "job" && line["data"]["job"] == "training");
    let job = &job.expect("the job is told")["data"];
    let decisions = lines.iter().filter(|line| line["type"] == "decision");
    let holds = decisions.filter(|line| line["data"]["to_hold"] != serde_json::json!([]));
    assert_eq!(Some(holds.count() as u64), job["holds"].as_u64());
    assert!(job["held_ns"].as_u64() > Some(0), "{job}");
}

/// One object a line of a type that the schema names.
#[test]
fn json_is_what_the_schema_says() {
    let schema: Value = serde_json::from_str(&gpreempt::analysis::schema()).expect("it is JSON");
    let one_of = schema["oneOf"].as_array().expect("it is one of several");
    let types: Vec<&str> = one_of
        .iter()
        .filter_map(|kind| kind["properties"]["type"]["const"].as_str())
        .collect();
    let mut seen = Vec::new();
    for args in [
        &[
            "analyze",
            "--format",
            "json",
            "--concurrent",
            "online-offline.gpr",
        ][..],
        &["compare", "--format", "json", "model.gpr", "llm.gpr"],
    ] {
        let command = gpreempt().args(args).current_dir(recordings());
        let output = command.output().expect("it runs");
        assert!(output.status.success());
        for line in String::from_utf8(output.stdout).expect("UTF-8").lines() {
            let record: Value = serde_json::from_str(line).expect("a line is JSON");
            let kind = record["type"].as_str().expect("it has a type").to_owned();
            assert!(types.contains(&kind.as_str()), "{kind}");
            assert!(record["data"].is_object());
            seen.push(kind);
        }
    }
    for kind in [
        "run",
        "life",
        "latency",
        "conclusion",
        "decision",
        "compared",
    ] {
        assert!(seen.iter().any(|seen| seen == kind), "no {kind}");
    }
}

/// A cut-off recording is analyzed as far as it goes, and the exit code tells.
#[test]
fn what_is_left_of_a_truncated_file() {
    let whole = std::fs::read(recording("online-offline")).expect("it is committed");
    let path = std::env::temp_dir().join(format!("gpreempt-cut-{}.gpr", std::process::id()));
    std::fs::write(&path, &whole[..whole.len() * 9 / 10]).expect("a file can be written");
    let output = gpreempt()
        .arg("analyze")
        .arg(&path)
        .output()
        .expect("it runs");
    std::fs::remove_file(&path).expect("it is there");
    assert_eq!(output.status.code(), Some(1));
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(err.contains("cut off"), "{err}");
    assert!(out.contains("HOW MANY"), "{out}");
}

#[test]
fn mistakes_are_told() {
    let model = recording("model");
    let cases: [(&[&str], i32, &str); 8] = [
        (&["replay", "a.gpr"], 2, "--config"),
        (&["replay", "a.gpr", "--policy", "share"], 2, "--config"),
        (
            &["replay", "a.gpr", "--config", "none.toml"],
            1,
            "none.toml",
        ),
        (&["analyze", "none.gpr"], 1, "none.gpr"),
        (
            &["analyze", "--concurrent", "--", "true"],
            2,
            "several commands",
        ),
        (
            &["analyze", "--concurrent", "--", "true", "--"],
            2,
            "empty command",
        ),
        (&["analyze", "--runs", "3"], 2, "COMMAND"),
        (&["compare"], 2, "RECORDINGS"),
    ];
    for (args, code, told) in cases {
        let output = gpreempt().args(args).output().expect("it runs");
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {err}");
        assert!(err.contains(told), "{args:?}: {err}");
    }
    let output = gpreempt()
        .arg("replay")
        .arg(&model)
        .args(["analyze", "--report", "/nonexistent/page.html"])
        .output()
        .expect("it runs");
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty(), "nothing is said before");
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! `doctor` on a machine where everything works, and where something does not.

use std::os::unix::process::CommandExt;
use std::process::{Command, Output};

use anyhow::Context;

use super::List;
use crate::check::ensure_eq;
use crate::record::Record;
use crate::watch::shell_code;

pub(super) const TESTS: List = &[
    (&["basic"], "doctor_is_content", content),
    (&["basic"], "doctor_says_what_a_user_lacks", of_a_user),
    (&["basic"], "doctor_for_people", for_people),
];

const NOBODY: u32 = 65534;

/// Runs `gpreempt doctor --format json`.
pub(super) fn examine(command: &mut Command) -> anyhow::Result<(Vec<Record>, Output)> {
    let output = command
        .args(["doctor", "--format", "json"])
        .output()
        .context("start gpreempt doctor")?;
    let text = String::from_utf8(output.stdout.clone()).context("doctor's output is not UTF-8")?;
    let records = text
        .lines()
        .map(Record::parse)
        .collect::<anyhow::Result<_>>()?;
    Ok((records, output))
}

fn content() -> anyhow::Result<()> {
    let (records, output) = examine(&mut Command::new("gpreempt"))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure_eq!(shell_code(output.status), 0, "exit code; stderr: {errors}");
    can_watch(&records)?;
    for name in [
        "driver",
        "offsets",
        "probes",
        "gpus",
        "programs",
        "capabilities",
    ] {
        ensure_eq!(check(&records, name)?.text("status")?, "ok", "{name}");
    }
    Ok(())
}

/// Demands that the verdict is that `watch` can start.
pub(super) fn can_watch(records: &[Record]) -> anyhow::Result<()> {
    let failed: Vec<_> = records
        .iter()
        .filter(|record| record.data["status"] == "fail")
        .map(|record| &record.data)
        .collect();
    let verdict = records
        .last()
        .filter(|record| record.kind == "verdict")
        .context("the last record is no verdict")?;
    ensure_eq!(
        verdict.data["watch"].as_bool(),
        Some(true),
        "verdict; failed checks: {failed:?}"
    );
    ensure_eq!(failed.len(), 0, "failed checks: {failed:?}");
    Ok(())
}

/// The check of this name.
pub(super) fn check<'a>(records: &'a [Record], name: &str) -> anyhow::Result<&'a Record> {
    let found = records
        .iter()
        .find(|record| record.kind == "check" && record.data["name"] == name);
    found.with_context(|| format!("no check {name}"))
}

fn of_a_user() -> anyhow::Result<()> {
    let (records, output) = examine(Command::new("gpreempt").uid(NOBODY).gid(NOBODY))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure_eq!(shell_code(output.status), 77, "exit code; stderr: {errors}");
    let verdict = records
        .last()
        .filter(|record| record.kind == "verdict")
        .context("the last record is no verdict")?;
    ensure_eq!(verdict.data["watch"].as_bool(), Some(false), "verdict");
    ensure_eq!(verdict.text("lack")?, "permission", "what is lacking");
    let advice = records
        .iter()
        .filter(|record| record.data["status"] == "fail")
        .all(|record| record.data["fix"].is_string());
    anyhow::ensure!(advice, "a failed check without advice");
    Ok(())
}

fn for_people() -> anyhow::Result<()> {
    let output = Command::new("gpreempt")
        .arg("doctor")
        .output()
        .context("start gpreempt doctor")?;
    ensure_eq!(shell_code(output.status), 0, "exit code");
    let text = String::from_utf8(output.stdout).context("doctor's output is not UTF-8")?;
    anyhow::ensure!(!text.trim().is_empty(), "doctor printed nothing");
    anyhow::ensure!(!text.contains('\u{1b}'), "colours in a pipe: {text:?}");
    Ok(())
}

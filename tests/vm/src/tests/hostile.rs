// SPDX-License-Identifier: MIT OR Apache-2.0
//! Process names that attack the terminal or the reader of the lines.

use std::fs;
use std::process::{Command, Stdio};

use anyhow::Context;

use super::List;
use crate::guest;
use crate::load::Load;
use crate::watch::Watch;

pub(super) const TESTS: List = &[
    (&["basic"], "hostile_names_are_harmless_in_json", in_json),
    (
        &["basic"],
        "hostile_names_are_harmless_in_tables",
        in_tables,
    ),
];

/// Where the table's events are exported.
const SHADOW: &str = "/tmp/hostile.json";

/// Escape sequence; new line; right-to-left override; no UTF-8; quotes and backslash; one that looks like JSON.
pub(super) const NAMES: [&[u8]; 6] = [
    b"\x1b[2Jevil",
    b"a\nb\rc",
    "ab\u{202e}txt".as_bytes(),
    b"\xff\xfe\x80bad",
    b"q\"\\\"q",
    b"\"},{\"pid\":1",
];

pub(super) fn hexadecimal(name: &[u8]) -> String {
    name.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether a terminal could take any of this for more than text.
pub(super) fn is_dangerous(letter: char) -> bool {
    letter.is_control()
        || matches!(letter, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn in_json() -> anyhow::Result<()> {
    let watch = Watch::start(&[])?;
    let mut comms = Vec::new();
    for name in NAMES {
        let load = Load::start(&[
            "--profile",
            "simple",
            "--queues",
            "1",
            "--name-hex",
            &hexadecimal(name),
        ])?;
        let pid = load.pid();
        load.stop()?;
        // A line broken in two would fail here: every line must be one record.
        watch.wait_for_exit_of(pid)?;
        let records = watch.records();
        let created = records
            .iter()
            .find(|record| record.kind == "queue_created" && record.is_of(pid));
        comms.push(
            created
                .context("no queue_created")?
                .text("comm")?
                .to_owned(),
        );
    }
    watch.stop_lossless()?;
    for (comm, name) in comms.iter().zip(NAMES) {
        anyhow::ensure!(!comm.is_empty(), "no comm for {name:?}");
        anyhow::ensure!(
            !comm.chars().any(is_dangerous),
            "comm of {name:?} is not escaped: {comm:?}"
        );
    }
    for (index, comm) in comms.iter().enumerate() {
        anyhow::ensure!(
            !comms[..index].contains(comm),
            "two names became the same: {comm:?}"
        );
    }
    Ok(())
}

fn in_tables() -> anyhow::Result<()> {
    let mut loads = Vec::new();
    for name in NAMES {
        loads.push(Load::start(&[
            "--profile",
            "simple",
            "--queues",
            "1",
            "--name-hex",
            &hexadecimal(name),
        ])?);
    }
    // The table of what is there already, then of what happens. The same events in a file tell how far it is.
    let mut command = Command::new("gpreempt");
    command.args([
        "watch",
        "--format",
        "table",
        "--kind",
        "queue_existing,queue_destroyed",
    ]);
    command.args([
        "--count",
        &(2 * NAMES.len()).to_string(),
        "--export",
        &format!("json={SHADOW}"),
    ]);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let child = workload::stop::die_with_parent(&mut command)
        .spawn()
        .context("start gpreempt watch")?;
    guest::eventually("the table of existing queues", || {
        let shadow = fs::read_to_string(SHADOW).unwrap_or_default();
        Ok((shadow.matches("\"queue_existing\"").count() >= NAMES.len()).then_some(()))
    })?;
    for load in loads {
        load.stop()?;
    }
    let output = child
        .wait_with_output()
        .context("wait for gpreempt watch")?;
    anyhow::ensure!(output.status.success(), "gpreempt watch: {}", output.status);
    let text = String::from_utf8(output.stdout).context("the table is not UTF-8")?;
    let bad: Vec<char> = text
        .chars()
        .filter(|&letter| letter != '\n' && is_dangerous(letter))
        .collect();
    anyhow::ensure!(bad.is_empty(), "the table holds {bad:?}");
    anyhow::ensure!(
        text.contains("evil"),
        "the table does not show the process: {text}"
    );
    Ok(())
}

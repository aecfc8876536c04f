// SPDX-License-Identifier: MIT OR Apache-2.0
//! How `watch` ends, and the exit codes that say so.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use anyhow::Context;
use nix::sys::signal::Signal;

use super::List;
use crate::check::ensure_eq;
use crate::guest;
use crate::load;
use crate::watch::{shell_code, Watch};

pub(super) const TESTS: List = &[
    (&["basic"], "sigint_is_130_with_a_summary", sigint),
    (&["basic"], "sigterm_is_143_with_a_summary", sigterm),
    (&["basic"], "broken_pipe_is_0", broken_pipe),
    (&["basic"], "no_permission_is_77", no_permission),
    (&["basic"], "wrong_usage_is_2", wrong_usage),
];

fn sigint() -> anyhow::Result<()> {
    let seen = Watch::start(&[])?.stop()?;
    ensure_eq!(seen.summary.text("end")?, "sigint", "end");
    Ok(())
}

fn sigterm() -> anyhow::Result<()> {
    let watch = Watch::start(&[])?;
    load::run(&["reject", "--count", "4"])?;
    watch.wait_for_count("queue_rejected", 4, |record| {
        record.kind == "queue_rejected"
    })?;
    watch.signal(Signal::SIGTERM)?;
    let seen = watch.finish(128 + 15)?;
    ensure_eq!(seen.summary.text("end")?, "sigterm", "end");
    ensure_eq!(
        seen.summary.data["events"]["queue_rejected"].as_u64(),
        Some(4),
        "events.queue_rejected"
    );
    Ok(())
}

fn broken_pipe() -> anyhow::Result<()> {
    let mut command = Command::new("gpreempt");
    command
        .args(["watch", "--format", "json"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = workload::stop::die_with_parent(&mut command)
        .spawn()
        .context("start gpreempt watch")?;
    let mut output = BufReader::new(child.stdout.take().context("no stdout")?);
    let mut first = String::new();
    output
        .read_line(&mut first)
        .context("read the first record")?;
    anyhow::ensure!(
        first.contains("\"startup\""),
        "the first line is no startup record: {first}"
    );
    drop(output);
    load::run(&["--profile", "simple", "--seconds", "0.5"])?;
    guest::eventually("the end of gpreempt watch", || {
        Ok(child.try_wait().context("wait")?.map(drop))
    })?;
    let ended = child.wait_with_output().context("wait")?;
    let errors = String::from_utf8_lossy(&ended.stderr);
    ensure_eq!(shell_code(ended.status), 0, "exit code; stderr: {errors}");
    anyhow::ensure!(!errors.contains("panicked"), "it panicked: {errors}");
    Ok(())
}

fn no_permission() -> anyhow::Result<()> {
    const NOBODY: u32 = 65534;
    let mut command = Command::new("gpreempt");
    command
        .args(["watch", "--format", "json"])
        .stdin(Stdio::null())
        .uid(NOBODY)
        .gid(NOBODY);
    let ended = command.output().context("start gpreempt watch")?;
    let errors = String::from_utf8_lossy(&ended.stderr);
    ensure_eq!(shell_code(ended.status), 77, "exit code; stderr: {errors}");
    anyhow::ensure!(!errors.trim().is_empty(), "it does not say what is missing");
    anyhow::ensure!(
        ended.stdout.is_empty(),
        "it printed records: {}",
        String::from_utf8_lossy(&ended.stdout)
    );
    Ok(())
}

fn wrong_usage() -> anyhow::Result<()> {
    for arguments in [
        &["watch", "--no-such-option"][..],
        &["watch", "--kind", "nonsense"],
        &["no-such-verb"],
    ] {
        let ended = Command::new("gpreempt")
            .args(arguments)
            .output()
            .context("start gpreempt")?;
        ensure_eq!(shell_code(ended.status), 2, "exit code of {arguments:?}");
        anyhow::ensure!(
            ended.stdout.is_empty(),
            "{arguments:?} wrote to standard output"
        );
    }
    Ok(())
}

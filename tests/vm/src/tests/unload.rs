// SPDX-License-Identifier: MIT OR Apache-2.0
//! Nothing is left behind, whatever the processes did.

use anyhow::Context;
use nix::sys::signal::Signal;

use super::List;
use crate::check::ensure_eq;
use crate::guest;
use crate::load::{self, Load};
use crate::watch::Watch;

pub(super) const TESTS: List = &[
    (
        &["unload"],
        "processes_leave_nothing",
        processes_leave_nothing,
    ),
    (&["unload"], "rmmod_leaves_nothing", rmmod_leaves_nothing),
];

/// Every way of using and leaving the driver that the loads know.
fn exercise() -> anyhow::Result<()> {
    load::run(&[
        "--profile",
        "churn",
        "--rate",
        "0",
        "--queues",
        "4",
        "--seconds",
        "2",
    ])?;
    load::run(&[
        "--processes",
        "4",
        "--profile",
        "llm-worker",
        "--seconds",
        "1",
    ])?;
    load::run(&["exec", "--profile", "model", "--", "true"])?;
    for _ in 0..3 {
        let mut load = Load::start(&["--profile", "llm-worker", "--rate", "0"])?;
        load.signal(Signal::SIGKILL)?;
        load.wait_exit()?;
    }
    let load = Load::start(&["--profile", "simple"])?;
    let pid = load.pid().to_string();
    load::run(&["suspend", "--pid", &pid, "--ms", "20"])?;
    load::run(&["criu-pause", "--pid", &pid, "--ms", "20"])?;
    guest::evict(load.pid())?;
    load.stop()?;
    guest::wait_for_no_process()
}

fn processes_leave_nothing() -> anyhow::Result<()> {
    // What the driver itself holds.
    let before = guest::live_objects()?;
    let watch = Watch::start(&[])?;
    exercise()?;
    watch.stop_lossless()?;
    // The last references go in work queues.
    guest::eventually("objects of ended processes to go", || {
        Ok((guest::live_objects()? == before).then_some(()))
    })
    .with_context(|| format!("{before:?} before, {:?} now", guest::live_objects()))?;
    ensure_eq!(guest::stat(0, "mapped_now")?, 0, "mapped queues");
    ensure_eq!(
        guest::stat(0, "bad_packets")?,
        0,
        "packets that the simulated scheduler did not understand"
    );
    Ok(())
}

fn rmmod_leaves_nothing() -> anyhow::Result<()> {
    exercise()?;
    guest::unload_driver()?;
    let log = guest::kernel_log()?;
    let line = log
        .iter()
        .rev()
        .find(|line| line.contains("sim: leaked"))
        .context("rmmod reported no balance")?;
    anyhow::ensure!(
        line.ends_with("leaked bo 0 mem 0 files 0"),
        "the driver leaked: {line}"
    );
    guest::check_kernel_log()
}

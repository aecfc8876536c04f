// SPDX-License-Identifier: MIT OR Apache-2.0
//! A scheduler that hangs, and the reset that follows. The guest sets `queue_preemption_timeout_ms=500`.

use nix::sys::signal::Signal;

use super::List;
use crate::check::ensure_eq;
use crate::guest::{self, Parameter};
use crate::load::Load;
use crate::watch::Watch;

pub(super) const TESTS: List = &[
    (&["reset"], "a_hang_ends_in_a_reset", hang),
    (&["reset"], "the_next_process_works", afterwards),
];

const ETIME: i64 = -62;
const TIMEOUT_NS: u64 = 500_000_000;
/// CONFIG_HZ=250.
const TICK_NS: u64 = 4_000_000;

fn hang() -> anyhow::Result<()> {
    let watch = Watch::start(&[])?;
    let mut load = Load::start(&["--profile", "simple"])?;
    let (pid, gpu_id) = (load.pid(), load.gpu_id()?);
    {
        let _hang = Parameter::set("sim_hang", "1")?;
        load.send("update 0 0")?;
        watch.wait_for("the hang", |record| {
            record.kind == "gpu_reset" && record.data["phase"] == "hang"
        })?;
    }
    watch.wait_for("the end of the reset", |record| {
        record.kind == "gpu_reset" && record.data["phase"] == "post"
    })?;
    load.signal(Signal::SIGKILL)?;
    load.wait_exit()?;
    watch.wait_for_exit_of(pid)?;
    guest::wait_for_no_process()?;
    let seen = watch.stop_lossless()?;
    let resets = seen.kind("gpu_reset");
    let phases: Vec<&str> = resets
        .iter()
        .filter_map(|record| record.data["phase"].as_str())
        .collect();
    ensure_eq!(phases, ["hang", "pre", "post"], "phases");
    for record in &resets {
        ensure_eq!(record.number("gpu_id")?, gpu_id, "gpu_id of gpu_reset");
    }
    let failed: Vec<_> = seen
        .kind("runlist_unmapped")
        .into_iter()
        .filter(|record| record.data["status"].as_i64() == Some(ETIME))
        .collect();
    ensure_eq!(failed.len(), 1, "unmaps that timed out");
    ensure_eq!(
        failed[0].text("cause")?,
        "update_queue",
        "cause of the unmap that timed out"
    );
    ensure_eq!(
        failed[0].number("cause_pid")?,
        u64::from(pid),
        "cause_pid of the unmap that timed out"
    );
    let fence_ns = failed[0].number("fence_ns")?;
    // The driver counts in jiffies (`amdkfd_fence_wait_timeout`, Linux 6.12): the first of them may be nearly over.
    anyhow::ensure!(
        fence_ns + TICK_NS >= TIMEOUT_NS,
        "gave up after {fence_ns} ns, not {TIMEOUT_NS}"
    );
    Ok(())
}

fn afterwards() -> anyhow::Result<()> {
    let watch = Watch::start(&[])?;
    let load = Load::start(&["--profile", "model"])?;
    let pid = load.pid();
    load.stop()?;
    watch.wait_for_exit_of(pid)?;
    let seen = watch.stop_lossless()?;
    ensure_eq!(
        seen.of("queue_created", pid).len(),
        3,
        "queue_created records"
    );
    ensure_eq!(seen.kind("gpu_reset").len(), 0, "resets");
    for record in seen.kind("runlist_unmapped") {
        ensure_eq!(record.signed("status")?, 0, "status of an unmap");
    }
    Ok(())
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! The driver comes and goes while `gpreempt` runs.

use super::List;
use crate::check::{self, ensure_eq};
use crate::guest;
use crate::load::Load;
use crate::watch::Watch;

pub(super) const TESTS: List = &[
    (&["basic"], "no_driver_is_69", no_driver),
    (&["basic"], "driver_loaded_after_watch", loaded_after),
    (&["basic"], "driver_pinned_by_watch", pinned),
    (&["basic"], "driver_reloaded_under_watch", reloaded),
];

/// Leaves the driver loaded however a test ends: the next ones need it.
struct Reload;

impl Drop for Reload {
    fn drop(&mut self) {
        if !guest::driver_is_loaded() {
            if let Err(error) = guest::load_driver() {
                eprintln!("vm-tests: {error:#}");
            }
        }
    }
}

/// That queues of a new load are seen.
fn sees_queues(watch: &Watch) -> anyhow::Result<u32> {
    let load = Load::start(&["--profile", "model"])?;
    let pid = load.pid();
    load.stop()?;
    watch.wait_for_exit_of(pid)?;
    Ok(pid)
}

fn no_driver() -> anyhow::Result<()> {
    let _reload = Reload;
    guest::unload_driver()?;
    let (code, errors) = Watch::start_unready(&[])?.outcome()?;
    ensure_eq!(code, 69, "exit code; stderr: {errors}");
    anyhow::ensure!(
        errors.contains("amdgpu"),
        "it does not name the driver: {errors}"
    );
    Ok(())
}

fn loaded_after() -> anyhow::Result<()> {
    let _reload = Reload;
    guest::unload_driver()?;
    let watch = Watch::start_unready(&["--wait"])?;
    guest::eventually("watch to say that it waits", || {
        Ok((!watch.errors().is_empty()).then_some(()))
    })?;
    ensure_eq!(watch.records().len(), 0, "records before there is a driver");
    guest::load_driver()?;
    let startup = watch.wait_for("the startup record", |record| record.kind == "startup")?;
    ensure_eq!(startup.list("gpus")?.len(), 1, "GPUs");
    let pid = sees_queues(&watch)?;
    let seen = watch.stop_lossless()?;
    ensure_eq!(
        seen.of("queue_created", pid).len(),
        3,
        "queue_created records"
    );
    check::every_queue_is_destroyed(&seen, pid)
}

/// The usual probes enter the driver by trampolines, which pin its module: it cannot go, and nothing is missed meanwhile.
fn pinned() -> anyhow::Result<()> {
    let _reload = Reload;
    let watch = Watch::start(&[])?;
    guest::wait_for_no_process()?;
    anyhow::ensure!(
        guest::driver_users()? > 0,
        "the probes do not pin the driver"
    );
    anyhow::ensure!(
        guest::try_unload_driver().is_err(),
        "the driver was unloaded although the probes pin it"
    );
    let pid = sees_queues(&watch)?;
    let seen = watch.stop_lossless()?;
    ensure_eq!(
        seen.of("queue_created", pid).len(),
        3,
        "queue_created records"
    );
    ensure_eq!(seen.kind("driver").len(), 0, "driver records");
    // Once the watch is gone, so can be the driver.
    guest::unload_driver()
}

/// Kprobes leave the driver free to go.
fn reloaded() -> anyhow::Result<()> {
    let _reload = Reload;
    let watch = Watch::start(&["--attach", "kprobe"])?;
    let before = sees_queues(&watch)?;
    guest::unload_driver()?;
    watch.wait_for("the driver to go", |record| {
        record.kind == "driver" && record.data["state"] == "gone"
    })?;
    guest::load_driver()?;
    let back = watch.wait_for("the driver to come back", |record| {
        record.kind == "driver" && record.data["state"] == "loaded"
    })?;
    anyhow::ensure!(
        back.number("probes_attached")? > 0,
        "no probe was attached again: {}",
        back.data
    );
    let after = sees_queues(&watch)?;
    let seen = watch.stop_lossless()?;
    for pid in [before, after] {
        ensure_eq!(
            seen.of("queue_created", pid).len(),
            3,
            "queue_created records of {pid}"
        );
        check::every_queue_is_destroyed(&seen, pid)?;
    }
    guest::check_kernel_log()
}

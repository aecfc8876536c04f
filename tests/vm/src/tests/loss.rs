// SPDX-License-Identifier: MIT OR Apache-2.0
//! Records that did not fit are counted.

use anyhow::Context;
use nix::sys::signal::Signal;

use super::List;
use crate::check::ensure_eq;
use crate::load;
use crate::watch::Watch;

pub(super) const TESTS: List = &[(&["basic"], "a_full_ring_is_counted", full_ring)];

/// A reader that sleeps while a small ring fills.
fn full_ring() -> anyhow::Result<()> {
    let watch = Watch::start(&["--ring-bytes", "4KiB"])?;
    watch.signal(Signal::SIGSTOP)?;
    let lines = load::run(&["reject", "--count", "500"])?;
    let rejected = lines.last().context("no output")?.number("count")?;
    watch.signal(Signal::SIGCONT)?;
    watch.wait_for("the lost record", |record| record.kind == "lost")?;
    let seen = watch.stop()?;
    let lost = seen.summary.number("lost")?;
    anyhow::ensure!(lost > 0, "nothing was lost in a ring for a few records");
    let mut told = 0;
    for record in seen.kind("lost") {
        told += record.number("count")?;
        ensure_eq!(record.number("total")?, told, "total of a lost record");
    }
    ensure_eq!(told, lost, "sum of the lost records");
    // Each rejection is one record and nothing else was going on but the process itself.
    let shown = seen.kind("queue_rejected").len() as u64;
    anyhow::ensure!(
        shown < rejected,
        "all {rejected} rejections were shown and {lost} records lost"
    );
    let missing = rejected - shown;
    anyhow::ensure!(
        (missing..=missing + 2).contains(&lost),
        "{missing} of {rejected} rejections are missing, {lost} records were counted as lost"
    );
    Ok(())
}

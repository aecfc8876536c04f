// SPDX-License-Identifier: MIT OR Apache-2.0
//! What `watch` leaves out on request, and when it ends by itself.

use super::List;
use crate::check::ensure_eq;
use crate::load::{self, Load};
use crate::watch::Watch;

pub(super) const TESTS: List = &[
    (&["basic"], "pid_shows_one_process", pid),
    (&["basic"], "kind_shows_one_kind", kind),
    (&["basic"], "gpu_shows_one_gpu", gpu),
    (&["basic"], "count_ends_it", count),
    (&["basic"], "duration_ends_it", duration),
];

/// Records that are not events.
const FRAME: [&str; 4] = ["startup", "driver", "lost", "summary"];

fn pid() -> anyhow::Result<()> {
    let wanted = Load::start(&["--profile", "simple"])?;
    let pid = wanted.pid();
    let watch = Watch::start(&["--pid", &pid.to_string()])?;
    let all = Watch::start(&[])?;
    let other = Load::start(&["--profile", "simple"])?;
    let other_pid = other.pid();
    other.stop()?;
    all.wait_for_exit_of(other_pid)?;
    wanted.stop()?;
    watch.wait_for_exit_of(pid)?;
    all.stop_lossless()?;
    let seen = watch.stop_lossless()?;
    for record in seen
        .records
        .iter()
        .filter(|record| !FRAME.contains(&record.kind.as_str()))
    {
        let cause_pid = record.try_number("cause_pid");
        anyhow::ensure!(
            record.is_of(pid) || cause_pid == Some(u64::from(pid)),
            "{} of another process: {}",
            record.kind,
            record.data
        );
    }
    ensure_eq!(
        seen.of("queue_destroyed", pid).len(),
        2,
        "queue_destroyed records"
    );
    Ok(())
}

fn kind() -> anyhow::Result<()> {
    let watch = Watch::start(&["--kind", "queue_created", "--kind", "process_exited"])?;
    let load = Load::start(&["--profile", "simple"])?;
    let pid = load.pid();
    load.stop()?;
    watch.wait_for_exit_of(pid)?;
    let seen = watch.stop_lossless()?;
    let kinds: Vec<&str> = seen
        .records
        .iter()
        .map(|record| record.kind.as_str())
        .filter(|kind| !FRAME.contains(kind))
        .collect();
    ensure_eq!(
        kinds,
        ["queue_created", "queue_created", "process_exited"],
        "kinds"
    );
    let filtered = seen.summary.number("filtered")?;
    anyhow::ensure!(filtered > 0, "nothing was left out");
    Ok(())
}

fn gpu() -> anyhow::Result<()> {
    let load = Load::start(&["--profile", "simple"])?;
    let (pid, gpu_id) = (load.pid(), load.gpu_id()?);
    let this = Watch::start(&["--gpu", &gpu_id.to_string()])?;
    let hexadecimal = Watch::start(&["--gpu", &format!("{gpu_id:#x}")])?;
    // An id that no GPU has; ids are 16-bit.
    let none = Watch::start(&["--gpu", "0xfffff"])?;
    let all = Watch::start(&[])?;
    load.stop()?;
    all.wait_for_exit_of(pid)?;
    let destroyed =
        |record: &crate::record::Record| record.kind == "queue_destroyed" && record.is_of(pid);
    this.wait_for_count("queue_destroyed", 2, destroyed)?;
    hexadecimal.wait_for_count("queue_destroyed", 2, destroyed)?;
    all.stop_lossless()?;
    this.stop_lossless()?;
    hexadecimal.stop_lossless()?;
    let seen = none.stop_lossless()?;
    let events: Vec<&str> = seen
        .records
        .iter()
        .map(|record| record.kind.as_str())
        .filter(|kind| !FRAME.contains(kind))
        .collect();
    ensure_eq!(
        events,
        Vec::<&str>::new(),
        "events on a GPU that is not there"
    );
    Ok(())
}

fn count() -> anyhow::Result<()> {
    let watch = Watch::start(&["--kind", "queue_rejected", "--count", "2"])?;
    load::run(&["reject", "--count", "5"])?;
    let seen = watch.finish(0)?;
    ensure_eq!(
        seen.kind("queue_rejected").len(),
        2,
        "queue_rejected records"
    );
    ensure_eq!(seen.summary.text("end")?, "count", "end");
    Ok(())
}

fn duration() -> anyhow::Result<()> {
    let seen = Watch::start(&["--duration", "1s"])?.finish(0)?;
    ensure_eq!(seen.summary.text("end")?, "duration", "end");
    let duration_ns = seen.summary.number("duration_ns")?;
    anyhow::ensure!(duration_ns >= 900_000_000, "ended after {duration_ns} ns");
    Ok(())
}

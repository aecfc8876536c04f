// SPDX-License-Identifier: MIT OR Apache-2.0
//! The life of queues as the stream tells it, against what the load did.

use anyhow::Context;

use super::List;
use crate::check::{self, ensure_eq};
use crate::guest;
use crate::load::{self, Load};
use crate::record::Record;
use crate::watch::Watch;

pub(super) const TESTS: List = &[
    (
        &["basic"],
        "created_and_destroyed_as_the_load_did",
        created_and_destroyed,
    ),
    (
        &["basic"],
        "process_brackets_its_queues",
        process_brackets_its_queues,
    ),
    (&["basic"], "updates_carry_the_new_values", updates),
    (
        &["basic"],
        "rejected_create_names_the_errno",
        rejected_create,
    ),
    (
        &["basic"],
        "rejected_create_of_a_busy_process",
        rejected_create_of_a_busy_process,
    ),
    (&["basic"], "older_queues_are_listed", older_queues),
    (&["basic"], "churn_is_told_to_the_last_queue", churn),
    (&["basic"], "kprobes_tell_the_same", kprobes),
];

/// One created queue against one `queue_created`.
fn compare(seen: &Record, made: &Record, pid: u32, gpu_id: u64) -> anyhow::Result<()> {
    ensure_eq!(
        seen.number("queue_id")?,
        made.number("queue_id")?,
        "queue_id"
    );
    ensure_eq!(seen.number("gpu_id")?, gpu_id, "gpu_id");
    ensure_eq!(seen.number("pid")?, u64::from(pid), "pid");
    ensure_eq!(seen.text("comm")?, "kfd-load", "comm");
    ensure_eq!(seen.text("queue_type")?, made.text("type")?, "queue_type");
    ensure_eq!(seen.text("format")?, made.text("format")?, "format");
    for key in ["ring_bytes", "priority", "percent"] {
        ensure_eq!(seen.number(key)?, made.number(key)?, "{key}");
    }
    // User space knows the doorbell within its own pages, the driver on the whole BAR in dwords.
    let in_page = |bytes: u64| bytes % 4096;
    ensure_eq!(
        in_page(seen.number("doorbell")? * 4),
        in_page(made.number("doorbell_in_slice")?),
        "doorbell"
    );
    check::within(seen, made.number("create_ns")?)
}

fn created_and_destroyed() -> anyhow::Result<()> {
    let watch = Watch::start(&[])?;
    let load = Load::start(&["--profile", "llm-worker"])?;
    let (pid, gpu_id) = (load.pid(), load.gpu_id()?);
    let made = load.created()[0].list("queues")?;
    ensure_eq!(made.len(), 7, "queues of an llm-worker");
    let done = load.stop()?;
    watch.wait_for_exit_of(pid)?;
    let seen = watch.stop_lossless()?;

    let created = seen.of("queue_created", pid);
    ensure_eq!(created.len(), made.len(), "queue_created records");
    for (seen, made) in created.iter().zip(&made) {
        compare(seen, made, pid, gpu_id)
            .with_context(|| format!("queue {}", made.data["queue_id"]))?;
    }
    check::in_order_of_time(&created)?;

    let gone = done.list("destroyed")?;
    let destroyed = seen.of("queue_destroyed", pid);
    let gone_ids: Vec<u64> = gone
        .iter()
        .map(|queue| queue.number("queue_id"))
        .collect::<anyhow::Result<_>>()?;
    ensure_eq!(
        check::queue_ids(&destroyed)?,
        gone_ids,
        "order of destroyed queues"
    );
    for (seen, gone) in destroyed.iter().zip(&gone) {
        check::within(seen, gone.number("destroy_ns")?)?;
        ensure_eq!(
            seen.text("cause")?,
            "destroy_queue",
            "cause of queue_destroyed"
        );
        let birth = created
            .iter()
            .find(|queue| queue.try_number("queue_id") == seen.try_number("queue_id"))
            .context("destroyed but not created")?;
        ensure_eq!(
            seen.number("created_ns")?,
            birth.number("ts_ns")?,
            "created_ns"
        );
        let lifetime_ns = seen.number("ts_ns")? - birth.number("ts_ns")?;
        ensure_eq!(seen.number("lifetime_ns")?, lifetime_ns, "lifetime_ns");
    }
    check::every_queue_is_destroyed(&seen, pid)
}

fn process_brackets_its_queues() -> anyhow::Result<()> {
    let watch = Watch::start(&[])?;
    let load = Load::start(&["--profile", "simple"])?;
    let pid = load.pid();
    load.stop()?;
    watch.wait_for_exit_of(pid)?;
    let seen = watch.stop_lossless()?;
    let kinds: Vec<&str> = seen
        .records
        .iter()
        .filter(|record| record.is_of(pid))
        .map(|record| record.kind.as_str())
        .filter(|kind| !kind.starts_with("runlist"))
        .collect();
    let expected = [
        "process_attached",
        "queue_created",
        "queue_created",
        "queue_destroyed",
        "queue_destroyed",
        "process_exited",
    ];
    ensure_eq!(kinds, expected, "records of the process");
    let (attached, exited) = (
        seen.of("process_attached", pid)[0],
        seen.of("process_exited", pid)[0],
    );
    ensure_eq!(
        attached.data["start_boottime_ns"],
        exited.data["start_boottime_ns"],
        "key of the process"
    );
    ensure_eq!(attached.text("comm")?, "kfd-load", "comm");
    Ok(())
}

fn updates() -> anyhow::Result<()> {
    let watch = Watch::start(&[])?;
    let mut load = Load::start(&["--profile", "simple"])?;
    let pid = load.pid();
    let queue = load.queue_ids()?[1];
    let steps = [
        (0, 7, false),
        (100, 3, true),
        (50, 15, true),
        (0, 15, false),
    ];
    let mut acks = Vec::new();
    for (percent, priority, _) in steps {
        acks.push(load.command(&format!("update {queue} {percent} {priority}"))?);
    }
    load.stop()?;
    watch.wait_for_exit_of(pid)?;
    let seen = watch.stop_lossless()?;
    let updated = seen.of("queue_updated", pid);
    ensure_eq!(updated.len(), steps.len(), "queue_updated records");
    for ((record, (percent, priority, active)), ack) in updated.iter().zip(steps).zip(&acks) {
        ensure_eq!(record.number("queue_id")?, queue, "queue_id");
        ensure_eq!(record.number("percent")?, percent, "percent");
        ensure_eq!(record.number("priority")?, priority, "priority");
        ensure_eq!(
            record.data["active"].as_bool(),
            Some(active),
            "active at {percent} %"
        );
        check::within(record, ack.number("spent_ns")?)?;
    }
    Ok(())
}

fn rejected_create() -> anyhow::Result<()> {
    let watch = Watch::start(&[])?;
    load::run(&["reject", "--count", "3"])?;
    let rejected = watch.wait_for_count("queue_rejected", 3, |record| {
        record.kind == "queue_rejected"
    })?;
    let seen = watch.stop_lossless()?;
    ensure_eq!(
        seen.kind("queue_rejected").len(),
        3,
        "queue_rejected records"
    );
    for record in &rejected {
        ensure_eq!(record.text("op")?, "create", "op");
        ensure_eq!(record.text("errno")?, "EINVAL", "errno");
        ensure_eq!(record.signed("status")?, -22, "status");
        ensure_eq!(record.text("comm")?, "kfd-load", "comm");
        anyhow::ensure!(record.number("total_ns")? > 0, "total_ns is 0");
    }
    ensure_eq!(seen.kind("queue_created").len(), 0, "queue_created records");
    Ok(())
}

fn rejected_create_of_a_busy_process() -> anyhow::Result<()> {
    let watch = Watch::start(&[])?;
    let mut load = Load::start(&["--profile", "simple"])?;
    let pid = load.pid();
    let ack = load.try_command("reject")?;
    ensure_eq!(ack.data["ok"], false, "the driver's answer");
    let rejected = watch.wait_for("queue_rejected", |record| {
        record.kind == "queue_rejected" && record.is_of(pid)
    })?;
    ensure_eq!(rejected.text("errno")?, ack.text("errno")?, "errno");
    load.stop()?;
    watch.wait_for_exit_of(pid)?;
    let seen = watch.stop_lossless()?;
    ensure_eq!(
        seen.of("queue_created", pid).len(),
        2,
        "queues although one was rejected"
    );
    Ok(())
}

fn older_queues() -> anyhow::Result<()> {
    let mut load = Load::start(&["--profile", "model"])?;
    let (pid, gpu_id) = (load.pid(), load.gpu_id()?);
    let made = load.created()[0].list("queues")?;
    let watch = Watch::start(&[])?;
    let existing = watch.wait_for_count("queue_existing", made.len(), |record| {
        record.kind == "queue_existing" && record.is_of(pid)
    })?;
    for made in &made {
        let id = made.number("queue_id")?;
        let seen = existing
            .iter()
            .find(|record| record.try_number("queue_id") == Some(id))
            .with_context(|| format!("queue {id} is not listed"))?;
        ensure_eq!(seen.number("gpu_id")?, gpu_id, "gpu_id of queue {id}");
        ensure_eq!(
            seen.text("queue_type")?,
            made.text("type")?,
            "type of queue {id}"
        );
        ensure_eq!(
            seen.number("ring_bytes")?,
            made.number("ring_bytes")?,
            "ring of queue {id}"
        );
        ensure_eq!(seen.text("comm")?, "kfd-load", "owner of queue {id}");
    }
    // What happens to an older queue is told like anything else.
    let first = made[0].number("queue_id")?;
    load.command(&format!("destroy {first}"))?;
    watch.wait_for("queue_destroyed of an older queue", |record| {
        record.kind == "queue_destroyed"
            && record.is_of(pid)
            && record.try_number("queue_id") == Some(first)
    })?;
    load.stop()?;
    watch.wait_for_exit_of(pid)?;
    let seen = watch.stop_lossless()?;
    ensure_eq!(
        seen.of("queue_existing", pid).len(),
        made.len(),
        "queue_existing records"
    );
    ensure_eq!(
        seen.of("queue_destroyed", pid).len(),
        made.len(),
        "queue_destroyed records"
    );
    ensure_eq!(
        seen.of("queue_created", pid).len(),
        0,
        "queue_created records"
    );
    Ok(())
}

fn churn() -> anyhow::Result<()> {
    let watch = Watch::start(&[])?;
    let lines = load::run(&[
        "--profile",
        "churn",
        "--queues",
        "3",
        "--rate",
        "0",
        "--seconds",
        "3",
    ])?;
    let done = lines.last().context("no output")?;
    let pid = u32::try_from(done.number("pid")?)?;
    watch.wait_for_exit_of(pid)?;
    let seen = watch.stop_lossless()?;
    for (kind, count) in [
        ("queue_created", "creates"),
        ("queue_updated", "updates"),
        ("queue_destroyed", "destroys"),
    ] {
        let wanted = usize::try_from(done.number(count)?)?;
        anyhow::ensure!(wanted > 0, "the load did no {count}");
        ensure_eq!(seen.of(kind, pid).len(), wanted, "{kind} records");
    }
    check::every_queue_is_destroyed(&seen, pid)?;
    guest::check_kernel_log()
}

/// What a record says that does not depend on how its probe was attached.
fn gist(record: &Record) -> String {
    let data = &record.data;
    let keys = [
        "gpu_id",
        "queue_id",
        "percent",
        "priority",
        "active",
        "cause",
        "cause_pid",
        "queues",
        "reason",
        "errno",
    ];
    let values: Vec<String> = keys.iter().map(|key| data[key].to_string()).collect();
    format!("{} {}", record.kind, values.join(" "))
}

/// The fallback for kernels without fentry, side by side with it.
fn kprobes() -> anyhow::Result<()> {
    let fentry = Watch::start(&[])?;
    let kprobe = Watch::start(&["--attach", "kprobe"])?;
    let mut load = Load::start(&["--profile", "model"])?;
    let pid = load.pid();
    load.command("update 0 0")?;
    load.command("update 0 100 3")?;
    load.try_command("reject")?;
    guest::evict(pid)?;
    fentry.wait_for("process_restored", |record| {
        record.kind == "process_restored" && record.is_of(pid)
    })?;
    load.stop()?;
    fentry.wait_for_exit_of(pid)?;
    kprobe.wait_for_exit_of(pid)?;
    let (fentry, kprobe) = (fentry.stop_lossless()?, kprobe.stop_lossless()?);
    let events = |seen: &crate::watch::Seen| -> Vec<String> {
        let frame = ["startup", "summary"];
        seen.records
            .iter()
            .filter(|record| !frame.contains(&record.kind.as_str()))
            .map(gist)
            .collect()
    };
    ensure_eq!(events(&kprobe), events(&fentry), "events by kprobes");
    anyhow::ensure!(
        kprobe.of("queue_created", pid).len() == 3,
        "queue_created records by kprobes"
    );
    for record in kprobe.of("queue_created", pid) {
        anyhow::ensure!(
            record.number("total_ns")? > 0,
            "total_ns is 0: {}",
            record.data
        );
    }
    Ok(())
}

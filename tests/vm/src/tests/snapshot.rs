// SPDX-License-Identifier: MIT OR Apache-2.0
//! `gpreempt queues` against what the load did and what the simulated GPU says of itself.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output};

use anyhow::Context;
use gpreempt::kfd::uapi::gpreempt::RESERVE_SET;
use nix::sys::signal::Signal;

use super::List;
use crate::check::ensure_eq;
use crate::controller::{Command as Order, Controller, Reservation, Spec};
use crate::gpu::{busy, Job};
use crate::guest;
use crate::json_child::JsonChild;
use crate::load::Load;
use crate::record::Record;
use crate::scene;
use crate::watch::shell_code;

pub(super) const TESTS: List = &[
    (
        &["basic", "multi"],
        "picture_of_queues_and_slots_of_the_load",
        as_made,
    ),
    (&["basic"], "picture_depth_is_what_waits", depth),
    (&["basic"], "picture_rate_is_what_the_gpu_read", rate),
    (&["basic"], "picture_of_a_queue_at_0_percent", disabled),
    (&["basic"], "picture_of_evicted_queues", evicted),
    (&["basic"], "picture_of_suspended_queues", suspended),
    (&["basic"], "picture_for_a_user", of_a_user),
    (&["basic"], "picture_in_a_recording", recorded),
    (&["basic"], "picture_of_queues_that_come_and_go", churning),
    (&["basic"], "pictures_that_go_on_know_the_events", going_on),
    (
        &["basic"],
        "picture_finds_idle_and_unused_queues",
        finds_idle,
    ),
    (&["basic"], "picture_finds_oversubscription", finds_over),
    (
        &["basic"],
        "picture_of_a_recording_knows_the_gpu_clock",
        knows_the_clock,
    ),
    (&["patched"], "picture_of_held_queues", held),
    (&["patched"], "picture_of_parked_queues", parked),
];

const NOBODY: u32 = 65534;

/// What one run of `gpreempt queues` said.
struct Seen {
    records: Vec<Record>,
    output: Output,
}

impl Seen {
    fn of(command: &mut Command) -> anyhow::Result<Self> {
        let output = command.output().context("start gpreempt")?;
        ensure_eq!(
            shell_code(output.status),
            0,
            "exit code; stderr: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let text = String::from_utf8(output.stdout.clone()).context("not UTF-8")?;
        let records = text
            .lines()
            .map(Record::parse)
            .collect::<anyhow::Result<_>>()?;
        Ok(Self { records, output })
    }

    /// Of the running machine, with nothing missing.
    fn now(args: &[&str]) -> anyhow::Result<Self> {
        let mut command = Command::new("gpreempt");
        command.args(["queues", "--format", "json"]).args(args);
        let seen = Self::of(&mut command)?;
        let lacks: Vec<_> = seen.of_kind("lack").map(|lack| &lack.data).collect();
        anyhow::ensure!(lacks.is_empty(), "missing: {lacks:?}");
        Ok(seen)
    }

    fn of_kind<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Record> {
        self.records.iter().filter(move |r| r.kind == kind)
    }

    /// Queues of a process by id.
    fn queues(&self, pid: u32) -> anyhow::Result<BTreeMap<u64, &Record>> {
        self.of_kind("queue")
            .filter(|queue| queue.is_of(pid))
            .map(|queue| Ok((queue.number("queue_id")?, queue)))
            .collect()
    }

    /// States of a process's queues, in the order of their ids.
    fn states(&self, pid: u32) -> anyhow::Result<Vec<&str>> {
        self.queues(pid)?
            .into_values()
            .map(|queue| queue.text("state"))
            .collect()
    }

    fn snapshot(&self) -> anyhow::Result<&Record> {
        let last = self.records.last().filter(|r| r.kind == "snapshot");
        last.context("the last line is no snapshot")
    }
}

/// A slot as the simulated GPU tells it: pipe, queue, VMID, XCCs, address of the descriptor.
#[derive(Debug, PartialEq, Eq)]
struct Slot {
    pipe: u64,
    queue: u64,
    vmid: u64,
    xccs: u64,
    mqd: u64,
}

/// By doorbell.
fn slots(gpu: usize) -> anyhow::Result<BTreeMap<u64, Slot>> {
    let path = format!("/sys/kernel/debug/simgpu/{gpu}/slots");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    text.lines()
        .map(|line| {
            let field = |name: &str| {
                line.split_whitespace()
                    .find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
                    .with_context(|| format!("{path}: no {name}: {line}"))
            };
            let hex = |name: &str| -> anyhow::Result<u64> {
                Ok(u64::from_str_radix(
                    field(name)?.trim_start_matches("0x"),
                    16,
                )?)
            };
            let (_, place) = field("slot")?.split_once(':').context("slot")?;
            let (pipe, queue) = place.split_once('.').context("slot")?;
            let slot = Slot {
                pipe: pipe.parse()?,
                queue: queue.parse()?,
                vmid: field("vmid")?.parse()?,
                xccs: field("xccs")?.parse()?,
                mqd: hex("mqd")?,
            };
            Ok((hex("doorbell")?, slot))
        })
        .collect()
}

fn as_made() -> anyhow::Result<()> {
    let load = Load::start(&["--profile", "llm-worker"])?;
    let (pid, gpu_id) = (load.pid(), load.gpu_id()?);
    let made = load.created()[0].list("queues")?;
    // The scheduler follows the runlist a little later.
    let there = guest::eventually("every queue in a slot", || {
        let slots = slots(0)?;
        Ok((slots.len() == made.len()).then_some(slots))
    })?;
    let seen = Seen::now(&["--hqds", "--interval", "0"])?;
    let queues = seen.queues(pid)?;
    ensure_eq!(queues.len(), made.len(), "queues");
    for made in &made {
        let id = made.number("queue_id")?;
        let queue = queues.get(&id).with_context(|| format!("no queue {id}"))?;
        ensure_eq!(queue.number("gpu_id")?, gpu_id, "gpu_id");
        ensure_eq!(queue.text("comm")?, "kfd-load", "comm");
        ensure_eq!(queue.text("state")?, "mapped", "state of queue {id}");
        ensure_eq!(queue.text("queue_type")?, made.text("type")?, "queue_type");
        for key in ["ring_bytes", "priority", "percent"] {
            ensure_eq!(queue.number(key)?, made.number(key)?, "{key} of queue {id}");
        }
        let doorbell = queue.number("doorbell")?;
        ensure_eq!(
            doorbell * 4 % 4096,
            made.number("doorbell_in_slice")? % 4096,
            "doorbell of queue {id}"
        );
        let slot = there
            .get(&doorbell)
            .with_context(|| format!("no slot with the doorbell {doorbell:#x} of queue {id}"))?;
        ensure_eq!(queue.number("mqd_address")?, slot.mqd, "descriptor");
        let shown = queue.list("slots")?;
        ensure_eq!(shown.len() as u64, slot.xccs, "slots of queue {id}");
        for (xcc, shown) in (0..).zip(&shown) {
            ensure_eq!(shown.number("xcc")?, xcc, "XCC");
            ensure_eq!(shown.number("pipe")?, slot.pipe, "pipe of queue {id}");
            ensure_eq!(shown.number("queue")?, slot.queue, "queue of queue {id}");
            if made.text("type")? == "compute" {
                ensure_eq!(queue.text("format")?, "aql", "format");
                ensure_eq!(shown.number("vmid")?, slot.vmid, "vmid of queue {id}");
            }
        }
    }
    let gpus = seen.snapshot()?.list("gpus")?;
    let gpu = gpus
        .iter()
        .find(|gpu| gpu.try_number("gpu_id") == Some(gpu_id))
        .context("the GPU is not told")?;
    ensure_eq!(
        gpu.number("slots_total")?,
        guest::stat(0, "slots_total")?,
        "slots"
    );
    let compute = made
        .iter()
        .filter(|made| made.data["type"] == "compute")
        .count() as u64;
    ensure_eq!(gpu.number("slots_used")?, compute, "slots in use");
    ensure_eq!(
        gpu.number("mapped_compute")?,
        compute,
        "compute queues mapped"
    );
    ensure_eq!(
        gpu.number("mapped_sdma")?,
        made.len() as u64 - compute,
        "copy queues mapped"
    );
    ensure_eq!(gpu.number("mapped_processes")?, 1, "processes mapped");
    ensure_eq!(gpu.data["oversubscribed"], false, "oversubscribed");
    load.stop()?;
    let seen = Seen::now(&[])?;
    ensure_eq!(seen.of_kind("queue").count(), 0, "queues after the end");
    Ok(())
}

/// Read and write index by queue, as the load reports them.
fn indices(load: &mut Load) -> anyhow::Result<BTreeMap<u64, (u64, u64)>> {
    let report = load.report()?;
    report
        .list("queues")?
        .iter()
        .map(|queue| {
            let indices = (queue.number("read_index")?, queue.number("write_index")?);
            Ok((queue.number("queue_id")?, indices))
        })
        .collect()
}

fn depth() -> anyhow::Result<()> {
    let args = ["--profile", "simple", "--queues", "2"];
    let mut load = Load::start(&busy(&args))?;
    let pid = load.pid();
    guest::eventually("the first packets", || {
        Ok(indices(&mut load)?
            .values()
            .all(|(read, _)| *read > 0)
            .then_some(()))
    })?;
    // Nothing is read from a queue that is off, and its owner soon has nothing more to write.
    load.command("update 0 0")?;
    let mut last = indices(&mut load)?[&0];
    guest::eventually("the owner to wait", || {
        let now = indices(&mut load)?[&0];
        let still = now == last;
        last = now;
        Ok(still.then_some(()))
    })?;
    let before = indices(&mut load)?;
    let seen = Seen::now(&["--interval", "0"])?;
    let after = indices(&mut load)?;
    let queues = seen.queues(pid)?;
    ensure_eq!(before[&0], after[&0], "indices of the queue that is off");
    let (read, write) = before[&0];
    anyhow::ensure!(write > read, "nothing waits: {read} of {write} read");
    ensure_eq!(queues[&0].number("read_index")?, read, "read index");
    ensure_eq!(queues[&0].number("write_index")?, write, "write index");
    ensure_eq!(queues[&0].number("depth")?, write - read, "depth");
    // The other went on meanwhile.
    let (read, write) = (
        queues[&1].number("read_index")?,
        queues[&1].number("write_index")?,
    );
    anyhow::ensure!(
        before[&1].0 <= read
            && read <= after[&1].0
            && before[&1].1 <= write
            && write <= after[&1].1,
        "indices {read}, {write} are not between {:?} and {:?}",
        before[&1],
        after[&1]
    );
    load.command("update 0 100")?;
    load.stop().map(drop)
}

fn rate() -> anyhow::Result<()> {
    let args = ["--profile", "simple", "--queues", "1"];
    let mut load = Load::start(&busy(&args))?;
    let pid = load.pid();
    let start = indices(&mut load)?[&0].0;
    guest::eventually("progress", || {
        Ok((indices(&mut load)?[&0].0 > start + 5).then_some(()))
    })?;
    let (before, started) = (indices(&mut load)?[&0].0, std::time::Instant::now());
    let seen = Seen::now(&["--interval", "1s"])?;
    let read = indices(&mut load)?[&0].0 - before;
    let queues = seen.queues(pid)?;
    let rate = queues[&0].data["packets_per_s"]
        .as_f64()
        .context("no rate")?;
    // Within the second that was looked at, it read no more than in the time around it; and it did read.
    anyhow::ensure!(
        rate > 0.0 && rate <= read as f64,
        "{rate} packets per second, but {read} were read in {:?}",
        started.elapsed()
    );
    load.stop().map(drop)
}

fn disabled() -> anyhow::Result<()> {
    let mut load = Load::start(&["--profile", "simple", "--queues", "2"])?;
    let pid = load.pid();
    load.command("update 1 0")?;
    let seen = Seen::now(&["--interval", "0"])?;
    ensure_eq!(seen.states(pid)?, ["mapped", "disabled"], "states");
    ensure_eq!(seen.queues(pid)?[&1].number("percent")?, 0, "percent");
    ensure_eq!(seen.queues(pid)?[&1].text("reason")?, "0 %", "reason");
    load.command("update 1 50 3")?;
    let seen = Seen::now(&["--interval", "0"])?;
    ensure_eq!(seen.states(pid)?, ["mapped", "mapped"], "states");
    let queue = seen.queues(pid)?[&1];
    ensure_eq!(queue.number("percent")?, 50, "percent");
    ensure_eq!(queue.number("priority")?, 3, "priority");
    load.stop().map(drop)
}

/// Demands the states of a job's queues while a tracer keeps them off, and after it.
fn while_off(off: &Order, on: &Order, state: &str) -> anyhow::Result<()> {
    let job = Job::offline(2)?;
    let mut tracer = Controller::start()?;
    tracer.order(&Order::Attach { pid: job.pid() })?;
    let seen = Seen::now(&["--interval", "0"])?;
    ensure_eq!(seen.states(job.pid())?, ["mapped"; 2], "states before");
    tracer.order(off)?;
    let seen = Seen::now(&["--interval", "0"])?;
    ensure_eq!(seen.states(job.pid())?, [state; 2], "states");
    tracer.order(on)?;
    let seen = Seen::now(&["--interval", "0"])?;
    ensure_eq!(seen.states(job.pid())?, ["mapped"; 2], "states afterwards");
    tracer.order(&Order::Detach).map(drop)
}

fn evicted() -> anyhow::Result<()> {
    while_off(&Order::Pause, &Order::Unpause, "evicted")
}

fn suspended() -> anyhow::Result<()> {
    let queues = vec![0, 1];
    while_off(
        &Order::Suspend {
            queues: queues.clone(),
        },
        &Order::Resume { queues },
        "suspended",
    )
}

fn of_a_user() -> anyhow::Result<()> {
    let load = Load::start(&["--profile", "simple", "--queues", "2"])?;
    let mut command = Command::new("gpreempt");
    command.args(["queues", "--format", "json"]);
    let seen = Seen::of(command.uid(NOBODY).gid(NOBODY))?;
    let queues = seen.queues(load.pid())?;
    ensure_eq!(queues.len(), 2, "queues");
    ensure_eq!(seen.states(load.pid())?, ["unknown"; 2], "states");
    ensure_eq!(queues[&0].text("comm")?, "kfd-load", "comm");
    let missing: Vec<&str> = seen
        .of_kind("lack")
        .map(|lack| lack.text("why"))
        .collect::<anyhow::Result<_>>()?;
    anyhow::ensure!(
        missing.len() >= 3 && missing.iter().all(|why| why.contains("permission")),
        "{missing:?}"
    );
    // For people, the same on stderr.
    let mut command = Command::new("gpreempt");
    let output = command.arg("queues").uid(NOBODY).gid(NOBODY).output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(errors.contains("run as root"), "{errors}");
    load.stop().map(drop)
}

fn recorded() -> anyhow::Result<()> {
    let path = std::env::temp_dir().join("queues.gpr");
    let mut load = Load::start(&["--profile", "llm-worker"])?;
    let pid = load.pid();
    load.command("update 0 0")?;
    let output = Command::new("gpreempt")
        .args(["record", "--force", "--duration", "1"])
        .arg(&path)
        .output()
        .context("start gpreempt record")?;
    ensure_eq!(
        shell_code(output.status),
        0,
        "exit code of record; stderr: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let live = Seen::now(&["--interval", "0"])?;
    load.stop()?;
    let mut command = Command::new("gpreempt");
    command
        .arg("replay")
        .arg(&path)
        .args(["queues", "--format", "json"]);
    let played = Seen::of(command.uid(NOBODY).gid(NOBODY))?;
    fs::remove_file(&path)?;
    ensure_eq!(played.of_kind("lack").count(), 0, "lacks");
    let (live, played) = (live.queues(pid)?, played.queues(pid)?);
    ensure_eq!(played.len(), live.len(), "queues");
    for (id, queue) in live {
        let again = played.get(&id).with_context(|| format!("no queue {id}"))?;
        for key in [
            "state",
            "reason",
            "comm",
            "queue_type",
            "priority",
            "percent",
            "doorbell",
            "mqd_address",
        ] {
            ensure_eq!(again.data[key], queue.data[key], "{key} of queue {id}");
        }
    }
    Ok(())
}

fn churning() -> anyhow::Result<()> {
    let still = Load::start(&["--profile", "simple", "--queues", "2"])?;
    let mut churn = Load::start(&["--profile", "churn", "--rate", "0"])?;
    for _ in 0..10 {
        let mut command = Command::new("gpreempt");
        command.args(["queues", "--format", "json", "--interval", "0"]);
        let seen = Seen::of(&mut command)?;
        ensure_eq!(
            seen.states(still.pid())?,
            ["mapped"; 2],
            "states of the job beside"
        );
        // Queues on their way in or out may have no state; a wrong process or GPU is a wrong join.
        for queue in seen.queues(churn.pid())?.values() {
            ensure_eq!(queue.text("comm")?, "kfd-load", "comm");
        }
        anyhow::ensure!(
            !String::from_utf8_lossy(&seen.output.stderr).contains("panic"),
            "panicked"
        );
    }
    // It is too busy to take orders.
    churn.signal(Signal::SIGTERM)?;
    churn.wait_exit()?;
    still.stop().map(drop)
}

/// Pictures that go on know what events told since the first.
fn going_on() -> anyhow::Result<()> {
    let mut load = Load::start(&["--profile", "simple", "--queues", "1"])?;
    let mut command = Command::new("gpreempt");
    command.args(["queues", "--format", "json", "--watch=0.5"]);
    let watching = JsonChild::start(command)?;
    let told = |records: &[Record], id: u64| {
        let mut queues = records.iter().rev().filter(|r| r.kind == "queue");
        queues
            .find(|queue| queue.try_number("queue_id") == Some(id))
            .cloned()
    };
    watching.wait_for("a picture with events", |records| {
        told(records, 0).filter(|queue| queue.try_number("preemptions").is_some())
    })?;
    load.command("create compute")?;
    let new = watching.wait_for("the new queue", |records| told(records, 1))?;
    anyhow::ensure!(new.number("created_ns")? > 0, "{}", new.data);
    let old = watching.wait_for("what its creation did to the other", |records| {
        told(records, 0).filter(|queue| queue.try_number("preemptions") > Some(0))
    })?;
    ensure_eq!(old.text("last_cause")?, "create_queue", "{}", old.data);
    anyhow::ensure!(old.number("off_ns")? > 0, "{}", old.data);
    watching.signal(Signal::SIGINT)?;
    let mut watching = watching;
    ensure_eq!(shell_code(watching.wait_exit()?), 130, "exit code");
    load.stop().map(drop)
}

fn finds_idle() -> anyhow::Result<()> {
    // One dispatch now, the next one after the test.
    let args = ["--profile", "simple", "--queues", "1", "--rate", "0.001"];
    let mut load = Load::start(&args)?;
    let pid = load.pid();
    guest::eventually("the first dispatch to be done", || {
        let (read, written) = indices(&mut load)?[&0];
        Ok((written > 0 && read == written).then_some(()))
    })?;
    load.command("create compute")?;
    let found = |args: &[&str]| -> anyhow::Result<Vec<(String, u64)>> {
        let seen = Seen::now(args)?;
        let mut found = Vec::new();
        for finding in seen.of_kind("finding") {
            ensure_eq!(finding.number("pid")?, u64::from(pid), "pid");
            ensure_eq!(finding.text("severity")?, "info", "severity");
            found.push((
                finding.text("kind")?.to_owned(),
                finding.number("queue_id")?,
            ));
        }
        Ok(found)
    };
    let patient = ["--interval", "1s", "--idle-after", "500ms"];
    let both = [("idle_queue".to_owned(), 0), ("unused_queue".to_owned(), 1)];
    ensure_eq!(found(&patient)?, both, "findings");
    ensure_eq!(
        found(&[patient.as_slice(), &["--state", "held"]].concat())?,
        [],
        "findings of what is not shown"
    );
    let hour = ["--interval", "1s", "--idle-after", "1h"];
    ensure_eq!(found(&hour)?, [], "findings of a young process");
    let output = Command::new("gpreempt")
        .arg("queues")
        .args(patient)
        .output()
        .context("start gpreempt")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let told = format!(
        "info unused GPU {:x} kfd-load[{pid}] queue 1: no",
        load.gpu_id()?
    );
    anyhow::ensure!(text.contains(&told), "no {told:?} in {text}");
    load.stop()?;
    // All is well: not a word.
    let job = Job::offline(2)?;
    let seen = Seen::now(&patient)?;
    ensure_eq!(seen.of_kind("finding").count(), 0, "findings of a busy job");
    drop(job);
    Ok(())
}

fn finds_over() -> anyhow::Result<()> {
    let slots = guest::stat(0, "slots_total")?;
    let few = slots.to_string();
    let first = Load::start(&["--profile", "simple", "--queues", &few, "--rate", "1"])?;
    let before = Seen::now(&[])?;
    let over = |seen: &Seen| {
        let mut findings = seen.of_kind("finding");
        findings
            .find(|f| f.data["kind"] == "oversubscribed")
            .cloned()
    };
    anyhow::ensure!(over(&before).is_none(), "all slots are not too many");
    let second = Load::start(&["--profile", "simple", "--queues", "1", "--rate", "1"])?;
    let finding = over(&Seen::now(&[])?).context("no finding of oversubscription")?;
    ensure_eq!(finding.text("severity")?, "warn", "severity");
    ensure_eq!(finding.number("gpu_id")?, first.gpu_id()?, "gpu_id");
    let counts = format!("now: {} compute queues for {slots} slots", slots + 1);
    ensure_eq!(finding.text("evidence")?, counts, "evidence");
    second.stop()?;
    first.stop().map(drop)
}

/// The simulated GPU's counter (`sim_gpu_clock`).
const SIM_CLOCK_MHZ: f64 = 100.0;

fn knows_the_clock() -> anyhow::Result<()> {
    let path = std::env::temp_dir().join("clock.gpr");
    let mut job = Job::offline(2)?;
    let mut record = Command::new("gpreempt")
        .args([
            "record",
            "--force",
            "--duration",
            "14",
            "--snapshot-every",
            "1",
        ])
        .arg(&path)
        .spawn()
        .context("start gpreempt record")?;
    // Each update takes both queues off, and the waves of the busy ones are saved. Pictures are taken in between.
    while record.try_wait()?.is_none() {
        job.load.command("update 0 50")?;
        std::thread::sleep(std::time::Duration::from_millis(2500));
    }
    ensure_eq!(shell_code(record.wait()?), 0, "exit code of record");
    for verb in ["queues", "stat"] {
        let mut command = Command::new("gpreempt");
        command.arg("replay").arg(&path);
        command.args([verb, "--format", "json"]);
        let seen = Seen::of(&mut command)?;
        let finding = seen
            .of_kind("finding")
            .find(|finding| finding.data["kind"] == "save_restore")
            .with_context(|| format!("{verb} tells of no save"))?;
        let (advice, evidence) = (finding.text("advice")?, finding.text("evidence")?);
        anyhow::ensure!(!evidence.contains("tick"), "{evidence:?} {advice:?}");
        let numbers = advice
            .split_once(" MHz \u{b1}")
            .and_then(|(before, after)| {
                let mhz: f64 = before.rsplit(' ').next()?.parse().ok()?;
                let percent: f64 = after.split(' ').next()?.parse().ok()?;
                Some((mhz, percent))
            });
        let (mhz, percent) = numbers.with_context(|| format!("no frequency in {advice:?}"))?;
        println!("{verb}: {mhz} MHz, {percent} %");
        // The text has a tenth of a MHz.
        anyhow::ensure!(
            percent <= 1.0 && (mhz - SIM_CLOCK_MHZ).abs() <= mhz * percent / 100.0 + 0.05,
            "{mhz} MHz within {percent} % is not {SIM_CLOCK_MHZ} MHz"
        );
    }
    fs::remove_file(&path)?;
    Ok(())
}

fn held() -> anyhow::Result<()> {
    scene::clean(|| {
        let job = Job::offline(3)?;
        let gpu_id = job.load.gpu_id()? as u32;
        let mut controller = Controller::start()?;
        controller.hold(&[Spec::queue(job.pid(), 1).on(gpu_id)])?;
        let seen = Seen::now(&["--interval", "0"])?;
        ensure_eq!(
            seen.states(job.pid())?,
            ["mapped", "held", "mapped"],
            "states"
        );
        controller.hold(&[Spec::all(job.pid())])?;
        let seen = Seen::now(&["--interval", "0", "--state", "held"])?;
        ensure_eq!(seen.states(job.pid())?, ["held"; 3], "states");
        controller.release(&[Spec::all(job.pid())])?;
        controller.release(&[Spec::queue(job.pid(), 1).on(gpu_id)])?;
        let seen = Seen::now(&["--interval", "0"])?;
        ensure_eq!(
            seen.states(job.pid())?,
            ["mapped"; 3],
            "states after the release"
        );
        Ok(())
    })
}

fn parked() -> anyhow::Result<()> {
    scene::clean(|| {
        let job = Job::offline(3)?;
        let gpu_id = job.load.gpu_id()? as u32;
        let mut controller = Controller::start()?;
        let slots = u32::try_from(guest::stat(0, "slots_total")?)?;
        controller.reserve(Reservation {
            op: RESERVE_SET,
            gpu_id,
            // Room for one.
            slots_reserved: slots - 1,
            rotate_ms: 3_600_000,
            entries: vec![Spec::process(job.pid())],
            ..Reservation::default()
        })?;
        let seen = Seen::now(&["--interval", "0"])?;
        let mut states = seen.states(job.pid())?;
        states.sort_unstable();
        ensure_eq!(states, ["mapped", "parked", "parked"], "states");
        Ok(())
    })
}

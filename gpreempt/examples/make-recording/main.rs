// SPDX-License-Identifier: MIT OR Apache-2.0
//! Makes a recording of a machine at work, of any size, for `cargo xtask bench understand`: processes with eight queues each, with
//! everything that the driver and procfs say of them, and events of all of them.
//!
//! The machine is the one that the tests of `kfd/snapshot` use. It is read as `gpreempt record` reads one.

mod load;
#[path = "../../src/kfd/snapshot/tests/machine.rs"]
#[allow(
    dead_code,
    clippy::unwrap_used,
    reason = "it is of tests, which use more of it"
)]
mod machine;

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Parser;
use gpreempt::inspect;
// `machine` names it so.
use gpreempt::kfd;
use gpreempt::kfd::snapshot::Want;
use gpreempt::recording::{Attached, Entry, Reader, Snapped, Writer};
use gpreempt::source::Startup;
use machine::{Dump, Machine, SDMA};

/// When it begins: CLOCK_BOOTTIME, and the wall clock.
const START_NS: u64 = 1_000_000_000_000;
const START_UNIX_NS: u64 = 1_700_000_000_000_000_000;

const FIRST_PID: u32 = 1000;

/// Queues of a process: seven for compute and one that copies, which is the one of this id.
const QUEUES: u32 = 8;
const COPIES: u32 = 2;

/// Slots of the GPU.
const SLOTS: usize = 24;

#[derive(Debug, Parser)]
struct Arguments {
    /// Where to write
    file: PathBuf,
    /// Processes, of eight queues each
    #[arg(long, default_value_t = 64)]
    processes: u32,
    /// Events
    #[arg(long, default_value_t = 0)]
    events: u64,
    /// Events in a second
    #[arg(long, default_value_t = 1_000_000)]
    per_second: u64,
    /// Events between two pictures of the machine; 0 = only those at the start and the end
    #[arg(long, default_value_t = 0)]
    per_picture: u64,
    /// Make none, and print how many bytes the files of the last picture in it are
    #[arg(long)]
    picture_bytes: bool,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    if arguments.picture_bytes {
        println!("{}", picture_bytes(&arguments.file)?);
        return Ok(());
    }
    let machine = machine(arguments.processes);
    let file = File::create(&arguments.file)
        .with_context(|| format!("create {}", arguments.file.display()))?;
    let mut writer = Writer::new(BufWriter::new(file), START_UNIX_NS)?;
    writer.attached(&Attached {
        ts_ns: START_NS,
        unix_ns: START_UNIX_NS,
        startup: Startup {
            kernel: "6.12.95".to_owned(),
            module: "amdgpu".to_owned(),
            module_version: None,
            offsets: "btf".to_owned(),
            probes: Vec::new(),
            ring_bytes: 1 << 20,
        },
    })?;
    picture(&machine, &mut writer, START_NS)?;
    let pids = FIRST_PID..FIRST_PID + arguments.processes;
    let period_ns = 1_000_000_000 / arguments.per_second;
    let mut now_ns = START_NS;
    let mut second = START_NS;
    for (n, record) in (1..=arguments.events).zip(load::records(START_NS, period_ns, pids)) {
        now_ns = record.ts_ns;
        let full = writer.record(&record.bytes);
        if full || now_ns - second >= 1_000_000_000 {
            second = now_ns;
            writer.flush()?;
        }
        if arguments.per_picture > 0 && n % arguments.per_picture == 0 {
            progress(&machine, arguments.processes, n);
            picture(&machine, &mut writer, now_ns)?;
        }
    }
    progress(&machine, arguments.processes, arguments.events);
    picture(&machine, &mut writer, now_ns)?;
    let (file, _) = writer.finish(now_ns)?;
    file.into_inner()?.sync_all()?;
    Ok(())
}

/// All of a machine with so many processes.
fn machine(processes: u32) -> Machine {
    let machine = Machine::new("make-recording", Dump::ALL[0]);
    let ids: Vec<(u32, bool)> = (0..QUEUES).map(|id| (id, id == COPIES)).collect();
    let pids: Vec<u32> = (FIRST_PID..FIRST_PID + processes).collect();
    for pid in &pids {
        machine.process(*pid, "kfd-load");
        let proc =
            |name: &str, content: &str| machine.file(&format!("/proc/{pid}/{name}"), content);
        proc(
            "cgroup",
            &format!("0::/system.slice/docker-{pid:064x}.scope\n"),
        );
        proc(
            "status",
            &format!("Name:\tkfd-load\nTgid:\t{pid}\nUid:\t0\t0\t0\t0\nNSpid:\t{pid}\t7\n"),
        );
        let zeros = "0 ".repeat(18);
        proc("stat", &format!("{pid} (kfd-load) S {zeros}{pid}00 0\n"));
        for (id, copies) in &ids {
            let (kind, bytes) = if *copies { (SDMA, 65_536) } else { (0, 16_384) };
            machine.queue(*pid, *id, kind, bytes);
        }
    }
    let states: Vec<_> = pids
        .iter()
        .flat_map(|pid| ids.iter().map(|(id, _)| machine.state(*pid, *id)))
        .collect();
    machine.states(&states);
    let all: Vec<_> = pids.iter().map(|pid| (*pid, ids.as_slice())).collect();
    machine.runlist(&all);
    machine.mqds(&all);
    let on_slots: Vec<_> = ids.iter().copied().cycle().take(SLOTS).collect();
    machine.hqds(FIRST_PID, &on_slots);
    progress(&machine, processes, 0);
    machine
}

/// Every compute queue has been given so many packets.
fn progress(machine: &Machine, processes: u32, packets: u64) {
    for pid in FIRST_PID..FIRST_PID + processes {
        for id in (0..QUEUES).filter(|id| *id != COPIES) {
            machine.indices(pid, id, packets + u64::from(id), packets);
        }
    }
}

fn picture(
    machine: &Machine,
    writer: &mut Writer<BufWriter<File>>,
    ts_ns: u64,
) -> anyhow::Result<()> {
    let (root, captured) = machine.root().capturing();
    let found = inspect::look(&root, Want { hqds: true });
    anyhow::ensure!(
        found.lacks.is_empty(),
        "not all could be read: {:?}",
        found.lacks
    );
    writer.snapshot(Snapped::at(ts_ns))?;
    let files = captured
        .lock()
        .map_err(|_| anyhow::anyhow!("a reader panicked"))?
        .take();
    for (path, content) in files {
        writer.file(&path, &content)?;
    }
    Ok(())
}

fn picture_bytes(file: &Path) -> anyhow::Result<usize> {
    let mut reader = Reader::open(file)?;
    let mut bytes = 0;
    while let Some(entry) = reader.next_entry()? {
        match entry {
            Entry::Snapshot(_) => bytes = 0,
            Entry::File { content, .. } => bytes += content.len(),
            _ => {}
        }
    }
    Ok(bytes)
}

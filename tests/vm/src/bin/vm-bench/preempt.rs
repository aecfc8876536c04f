// SPDX-License-Identifier: MIT OR Apache-2.0
//! Stopping and restarting queues, every way there is, in turn within one boot. One JSON line for each stop and its restart.

use std::fs;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};
use gpreempt::control::criu::Criu;
use gpreempt::control::debug_trap::DebugTrap;
use gpreempt::control::{Backend, HoldOptions, Outcome, Target, TargetQueue};
use gpreempt::event::{Comm, GpuId, Pid, QueueId, QueueType};
use gpreempt::kfd::uapi::{self, gpreempt as abi};
use gpreempt::kfd::Root;
use serde_json::json;
use workload::device::{Device, Memory};
use workload::queue::{Engine, Queue, QueueBuffers};

use crate::population::Worker;

/// Every operation once a round.
const ROUNDS: usize = 200;

/// What one stop and its restart took.
struct Times {
    stop_ns: u64,
    restart_ns: u64,
    /// Of the stop, where the driver says.
    lock_ns: Option<u64>,
    hw_ns: Option<u64>,
}

/// A way to stop and restart, to be done again and again on the same processes.
type Op = (&'static str, fn(&mut Stage) -> Result<Times>);

/// What the operations work on.
struct Stage {
    device: abi::Device,
    workers: Vec<Worker>,
    targets: Vec<Target>,
    /// All queues of each process.
    by_process: Vec<abi::Entry>,
    by_queue: Vec<abi::Entry>,
}

/// One GPU: a population, the calling thread's own queue, busy queues.
pub(crate) fn one_gpu() -> Result<()> {
    const POPULATION: &[Op] = &[
        ("batch_1", |stage| batch(stage, &stage.by_queue[..1], 1)),
        ("batch_16", |stage| batch(stage, &stage.by_process[..1], 16)),
        ("batch_64", |stage| batch(stage, &stage.by_process, 64)),
        ("batch_64_entries", |stage| {
            batch(stage, &stage.by_queue, 64)
        }),
        ("batch_64_calls", calls),
        ("debug_trap_16", |stage| {
            backend(DebugTrap::new(), &stage.targets[..1])
        }),
        ("debug_trap_64", |stage| {
            backend(DebugTrap::new(), &stage.targets)
        }),
        ("criu_16", |stage| backend(Criu::new(), &stage.targets[..1])),
        ("criu_64", |stage| backend(Criu::new(), &stage.targets)),
        ("update_64", update_each),
    ];
    for (table, unmap_us) in [("population_0", 0), ("population_50", 50)] {
        hardware(unmap_us, 0, 0)?;
        rounds(table, &mut Stage::new(4, 1, 16, false)?, POPULATION)?;
    }
    hardware(0, 0, 0)?;
    own_queue()?;
    hardware(0, 50, 3)?;
    rounds(
        "realistic",
        &mut Stage::new(4, 1, 2, true)?,
        &[
            ("patched_all", |stage| batch(stage, &stage.by_process, 8)),
            ("debug_trap_all", |stage| {
                backend(DebugTrap::new(), &stage.targets)
            }),
            ("criu_all", |stage| backend(Criu::new(), &stage.targets)),
        ],
    )
}

/// Four GPUs.
pub(crate) fn nodes() -> Result<()> {
    hardware(1000, 0, 0)?;
    rounds(
        "nodes",
        &mut Stage::new(1, 4, 4, false)?,
        &[
            ("gpus_1", |stage| {
                let gpu_id = stage.by_queue[0].gpu_id;
                let entry = abi::Entry {
                    gpu_id,
                    ..stage.by_process[0]
                };
                batch(stage, &[entry], 4)
            }),
            ("gpus_4", |stage| batch(stage, &stage.by_process, 16)),
        ],
    )
}

impl Stage {
    fn new(processes: usize, gpus: usize, queues: usize, busy: bool) -> Result<Self> {
        let workers = Worker::start_many(processes, gpus, queues, busy)?;
        let entry = |worker: &Worker| -> Result<abi::Entry> {
            Ok(abi::Entry {
                pid: i32::try_from(worker.pid())?,
                gpu_id: abi::ALL_GPUS,
                queue_id: abi::ALL_QUEUES,
                ..abi::Entry::default()
            })
        };
        let by_process = workers.iter().map(entry).collect::<Result<Vec<_>>>()?;
        let by_queue = workers
            .iter()
            .zip(&by_process)
            .flat_map(|(worker, process)| {
                worker.queues.iter().map(|&(gpu_id, queue_id)| abi::Entry {
                    gpu_id,
                    queue_id,
                    ..*process
                })
            })
            .collect();
        Ok(Self {
            device: abi::Device::new(uapi::open(&Root::real()).context("/dev/kfd")?),
            targets: workers.iter().map(target).collect::<Result<_>>()?,
            workers,
            by_process,
            by_queue,
        })
    }
}

fn target(worker: &Worker) -> Result<Target> {
    let pid = worker.pid();
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // Fields 3 and following come after the name, which may hold anything.
    let (_, fields) = stat.rsplit_once(") ").context("/proc/PID/stat")?;
    let start_ticks = fields.split(' ').nth(19).context("start time")?.parse()?;
    Ok(Target {
        pid: Pid(pid),
        start_ticks,
        comm: Comm::from_procfs(b"vm-bench"),
        queues: worker
            .queues
            .iter()
            .map(|&(gpu_id, queue_id)| TargetQueue {
                gpu_id: GpuId(gpu_id),
                queue_id: QueueId(queue_id),
                queue_type: QueueType::Compute,
            })
            .collect(),
        whole: true,
    })
}

/// Every operation once a round, each round beginning with another one.
fn rounds(table: &str, stage: &mut Stage, ops: &[Op]) -> Result<()> {
    for round in 0..ROUNDS {
        for turn in 0..ops.len() {
            let (op, run) = ops[(round + turn) % ops.len()];
            let times = run(stage).with_context(|| format!("{table}: {op}, round {round}"))?;
            tell(table, op, &times);
        }
    }
    Ok(())
}

fn tell(table: &str, op: &str, times: &Times) {
    crate::emit(
        &json!({"table": table, "op": op, "stop_ns": times.stop_ns, "restart_ns": times.restart_ns,
        "lock_ns": times.lock_ns, "hw_ns": times.hw_ns}),
    );
}

/// One call for all entries.
fn batch(stage: &Stage, entries: &[abi::Entry], queues: u32) -> Result<Times> {
    batch_on(&stage.device, entries, queues)
}

fn batch_on(device: &abi::Device, entries: &[abi::Entry], queues: u32) -> Result<Times> {
    let mut entries = entries.to_vec();
    let started = Instant::now();
    let stop = device.hold(abi::BatchArgs::default(), &mut entries)?;
    let stop_ns = elapsed_ns(started);
    done(&stop, queues)?;
    let started = Instant::now();
    let restart = device.release(abi::BatchArgs::default(), &mut entries)?;
    let restart_ns = elapsed_ns(started);
    done(&restart, queues)?;
    Ok(Times {
        stop_ns,
        restart_ns,
        lock_ns: Some(stop.lock_wait_ns),
        hw_ns: Some(stop.hw_ns),
    })
}

fn done(answer: &abi::BatchArgs, queues: u32) -> Result<()> {
    ensure!(
        answer.num_failed == 0 && answer.num_changed == queues,
        "{} queues changed instead of {queues}, {} entries failed",
        answer.num_changed,
        answer.num_failed
    );
    Ok(())
}

/// One call for each process.
fn calls(stage: &mut Stage) -> Result<Times> {
    let mut entries = stage.by_process.clone();
    let started = Instant::now();
    let (mut lock_ns, mut hw_ns) = (0, 0);
    for entry in &mut entries {
        let stop = stage
            .device
            .hold(abi::BatchArgs::default(), std::slice::from_mut(entry))?;
        done(&stop, 16)?;
        lock_ns += stop.lock_wait_ns;
        hw_ns += stop.hw_ns;
    }
    let stop_ns = elapsed_ns(started);
    let started = Instant::now();
    for entry in &mut entries {
        let restart = stage
            .device
            .release(abi::BatchArgs::default(), std::slice::from_mut(entry))?;
        done(&restart, 16)?;
    }
    Ok(Times {
        stop_ns,
        restart_ns: elapsed_ns(started),
        lock_ns: Some(lock_ns),
        hw_ns: Some(hw_ns),
    })
}

/// A backend of the program. It attaches to the processes first; that is not part of the figures, as it is done once.
fn backend<B: Backend>(
    new: Result<B, gpreempt::control::ControlError>,
    targets: &[Target],
) -> Result<Times> {
    let mut backend = new.map_err(anyhow::Error::new)?;
    let options = HoldOptions {
        gpu: None,
        no_sdma: false,
        lease: Duration::from_secs(60),
    };
    complete(&backend.preempt(targets, &options)?, targets)?;
    complete(&backend.resume(targets)?, targets)?;
    let started = Instant::now();
    let stop = backend.preempt(targets, &options)?;
    let stop_ns = elapsed_ns(started);
    complete(&stop, targets)?;
    let started = Instant::now();
    complete(&backend.resume(targets)?, targets)?;
    Ok(Times {
        stop_ns,
        restart_ns: elapsed_ns(started),
        lock_ns: stop.lock_wait_ns,
        hw_ns: stop.hw_ns,
    })
}

fn complete(outcome: &Outcome, targets: &[Target]) -> Result<()> {
    let wanted: usize = targets.iter().map(|target| target.queues.len()).sum();
    let changed: u32 = outcome.targets.iter().map(|target| target.changed).sum();
    ensure!(
        outcome.complete() && changed as usize == wanted,
        "{changed} queues changed instead of {wanted}: {outcome:?}"
    );
    Ok(())
}

/// `UPDATE_QUEUE` of every queue by its owner, all processes at the same time.
fn update_each(stage: &mut Stage) -> Result<Times> {
    let mut all = |percent| -> Result<u64> {
        let started = Instant::now();
        for worker in &mut stage.workers {
            worker.ask_update(percent)?;
        }
        for worker in &mut stage.workers {
            worker.answer()?;
        }
        Ok(elapsed_ns(started))
    };
    Ok(Times {
        stop_ns: all(0)?,
        restart_ns: all(100)?,
        lock_ns: None,
        hw_ns: None,
    })
}

/// The same thread, the same queue: only the way through the driver differs.
fn own_queue() -> Result<()> {
    let gpu = Device::open(1, Memory::Driver)?;
    let buffers = Rc::new(QueueBuffers::new(&gpu, 0, Engine::Compute)?);
    let mut queue = Queue::create(&buffers)?;
    let _other = Queue::create(&Rc::new(QueueBuffers::new(&gpu, 0, Engine::Compute)?))?;
    let device = abi::Device::new(uapi::open(&Root::real()).context("/dev/kfd")?);
    let entry = abi::Entry {
        pid: i32::try_from(std::process::id())?,
        gpu_id: gpu.gpus[0].node.gpu_id,
        queue_id: queue.id,
        ..abi::Entry::default()
    };
    let update = |queue: &mut Queue| -> Result<Times> {
        Ok(Times {
            stop_ns: queue.update(0, queue.priority)?,
            restart_ns: queue.update(100, queue.priority)?,
            lock_ns: None,
            hw_ns: None,
        })
    };
    for round in 0..ROUNDS {
        let (first, second) = if round % 2 == 0 {
            let batch = batch_on(&device, &[entry], 1)?;
            (batch, update(&mut queue)?)
        } else {
            let update = update(&mut queue)?;
            (batch_on(&device, &[entry], 1)?, update)
        };
        tell("thread", "batch_own", &first);
        tell("thread", "update_own", &second);
    }
    Ok(())
}

/// Sets what the simulated hardware takes: for each queue unmapped, and to save and restore each busy one on each XCC.
fn hardware(unmap_us: u32, save_us: u32, restore_us: u32) -> Result<()> {
    for (parameter, value) in [
        ("sim_unmap_us", unmap_us),
        ("sim_save_us", save_us),
        ("sim_restore_us", restore_us),
    ] {
        crate::write(
            &format!("/sys/module/amdgpu/parameters/{parameter}"),
            &value.to_string(),
        )?;
    }
    Ok(())
}

fn elapsed_ns(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! Processes whose queues are stopped while that is timed. Each is this program again, told what to do by lines on its
//! standard input, so that nothing but the call itself is between the command and its time.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::rc::Rc;
use std::time::Instant;

use anyhow::{bail, ensure, Context, Result};
use serde_json::{json, Value};
use workload::aql::Packet;
use workload::device::{Device, Memory};
use workload::queue::{Engine, Queue, QueueBuffers};

/// A dispatch that does not end while anything is measured.
const ENDLESS_NS: u64 = 3_600_000_000_000;

/// A process with queues.
pub(crate) struct Worker {
    child: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
    /// `(gpu_id, queue_id)`.
    pub(crate) queues: Vec<(u32, u32)>,
}

impl Worker {
    /// Starts one with `queues` compute queues on each of the first `gpus` GPUs. Busy queues run a dispatch without end.
    pub(crate) fn start(gpus: usize, queues: usize, busy: bool) -> Result<Self> {
        let mut child = Command::new("/proc/self/exe")
            .args(["worker", &gpus.to_string(), &queues.to_string()])
            .arg(if busy { "busy" } else { "idle" })
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start a worker")?;
        let commands = child.stdin.take().context("stdin of a worker")?;
        let answers = BufReader::new(child.stdout.take().context("stdout of a worker")?);
        let mut worker = Self {
            child,
            commands,
            answers,
            queues: Vec::new(),
        };
        let ready = worker.answer()?;
        worker.queues = serde_json::from_value(ready["queues"].clone()).context("queues")?;
        ensure!(worker.queues.len() == gpus * queues, "worker: {ready}");
        Ok(worker)
    }

    /// Several.
    pub(crate) fn start_many(
        count: usize,
        gpus: usize,
        queues: usize,
        busy: bool,
    ) -> Result<Vec<Self>> {
        (0..count)
            .map(|_| Self::start(gpus, queues, busy))
            .collect()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks for `UPDATE_QUEUE` of every queue; the answer is taken by [`Worker::answer`].
    pub(crate) fn ask_update(&mut self, percent: u32) -> Result<()> {
        writeln!(self.commands, "update {percent}").context("write to a worker")
    }

    /// The next line that it wrote.
    pub(crate) fn answer(&mut self) -> Result<Value> {
        let mut line = String::new();
        self.answers
            .read_line(&mut line)
            .context("read from a worker")?;
        let answer: Value =
            serde_json::from_str(&line).with_context(|| format!("worker: {line:?}"))?;
        ensure!(answer["error"].is_null(), "worker: {answer}");
        Ok(answer)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The process itself.
pub(crate) fn serve(mut args: impl Iterator<Item = String>) -> Result<()> {
    let mut number = || -> Result<usize> {
        args.next()
            .context("a number is missing")?
            .parse()
            .context("not a number")
    };
    let (gpus, count) = (number()?, number()?);
    let busy = args.next().as_deref() == Some("busy");
    let device = Device::open(gpus, Memory::Driver)?;
    let mut queues = Vec::new();
    for gpu in 0..gpus {
        for _ in 0..count {
            let queue = Queue::create(&Rc::new(QueueBuffers::new(&device, gpu, Engine::Compute)?))?;
            if busy {
                queue.submit(&[Packet::dispatch(ENDLESS_NS, 0, false)])?;
            }
            queues.push(queue);
        }
    }
    let ids: Vec<(u32, u32)> = queues
        .iter()
        .map(|queue| (device.gpus[queue.gpu()].node.gpu_id, queue.id))
        .collect();
    println!("{}", json!({ "queues": ids }));
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let Some(percent) = line
            .strip_prefix("update ")
            .and_then(|word| word.parse().ok())
        else {
            bail!("unknown command {line:?}");
        };
        let started = Instant::now();
        for queue in &mut queues {
            queue.update(percent, queue.priority)?;
        }
        println!(
            "{}",
            json!({ "spent_ns": u64::try_from(started.elapsed().as_nanos())? })
        );
    }
    // The parent is gone or done: everything goes with this process.
    Ok(())
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! An online service: `vm-tests` itself, started again. It serves requests at fixed times, whether the one before was quick or
//! not, and may tell the daemon of each. A process of its own, because who has `/dev/kfd` open is a KFD process until it ends.

use std::io::{BufRead, Write};
use std::path::Path;
use std::process::Command;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Context;
use gpreempt::event::Pid;
use gpreempt::serve::api::HintBegin;
use gpreempt::serve::hint_client::HintClient;
use serde_json::json;
use workload::aql::Packet;
use workload::device::{Device, Memory};
use workload::event::{self, EventPage, Signals};
use workload::queue::{Engine, Queue, QueueBuffers};

use crate::daemon::SOCKET;
use crate::json_child::{JsonChild, DEADLINE};
use crate::record::Record;

/// First argument that makes `vm-tests` a service.
pub(crate) const VERB: &str = "service";

/// Rules of the tests call processes of this name online.
const NAME: &[u8] = b"online";

/// A request: so many dispatches, one after the other.
pub(crate) const DISPATCHES: usize = 8;
pub(crate) const DISPATCH_NS: u64 = 1_000_000;

/// One request every so often.
pub(crate) const EVERY: Duration = Duration::from_millis(100);

/// The command that makes it make a queue, and how long that lives.
const MAKE_QUEUE: &str = "queue";
const QUEUE_LIFE: Duration = Duration::from_millis(100);

/// Whether it tells the daemon of its requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    Hints,
    Quiet,
}

impl Manner {
    fn word(self) -> &'static str {
        match self {
            Self::Hints => "hints",
            Self::Quiet => "quiet",
        }
    }
}

/// A running one.
pub(crate) struct Service {
    child: JsonChild,
    answers: usize,
}

impl Service {
    /// Starts it, and waits until its queue exists.
    pub(crate) fn start() -> anyhow::Result<Self> {
        let mut program = Command::new("/proc/self/exe");
        program.arg(VERB);
        let mut service = Self {
            child: JsonChild::start(program)?,
            answers: 0,
        };
        service.answer()?;
        Ok(service)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// Serves so many requests: how long each took from when it was due, in nanoseconds.
    pub(crate) fn serve(&mut self, count: usize, manner: Manner) -> anyhow::Result<Vec<u64>> {
        self.child.send(&format!("{} {count}", manner.word()))?;
        let answer = self.answer()?;
        serde_json::from_value(answer.data["latencies_ns"].clone()).context("latencies")
    }

    /// Makes another queue, which is gone again when this returns.
    pub(crate) fn make_queue(&mut self) -> anyhow::Result<()> {
        self.child.send(MAKE_QUEUE)?;
        self.answer().map(drop)
    }

    fn answer(&mut self) -> anyhow::Result<Record> {
        let index = self.answers;
        self.answers += 1;
        self.child
            .wait_for("the service", |records| records.get(index).cloned())
    }
}

/// The service's side.
pub(crate) fn run() -> anyhow::Result<()> {
    workload::stop::set_name(NAME)?;
    let mut server = Server::open()?;
    say(&[])?;
    for line in std::io::stdin().lock().lines() {
        let line = line.context("read a command")?;
        if line == MAKE_QUEUE {
            server.make_queue()?;
            say(&[])?;
            continue;
        }
        let (manner, count) = line.split_once(' ').context("manner and count")?;
        let client = match manner {
            "hints" => Some(HintClient::new(Path::new(SOCKET))),
            "quiet" => None,
            _ => anyhow::bail!("unknown manner {manner:?}"),
        };
        say(&server.serve(count.parse().context("count")?, client)?)?;
    }
    Ok(())
}

fn say(latencies_ns: &[u64]) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    let line = json!({ "type": "served", "latencies_ns": latencies_ns });
    writeln!(out, "{line}")
        .and_then(|()| out.flush())
        .context("answer")
}

/// A queue and the signal that tells when a request is complete.
struct Server {
    queue: Queue,
    signals: Signals,
    _page: EventPage,
    device: Rc<Device>,
}

impl Server {
    fn open() -> anyhow::Result<Self> {
        let device = Device::open(1, Memory::Own)?;
        let mut page = EventPage::new(&device)?;
        let signals = Signals::new(&device, &mut page, 0, 1)?;
        let buffers = Rc::new(QueueBuffers::new(&device, 0, Engine::Compute)?);
        Ok(Self {
            queue: Queue::create(&buffers)?,
            signals,
            _page: page,
            device,
        })
    }

    fn make_queue(&self) -> anyhow::Result<()> {
        let buffers = Rc::new(QueueBuffers::new(&self.device, 0, Engine::Compute)?);
        let mut queue = Queue::create(&buffers)?;
        std::thread::sleep(QUEUE_LIFE);
        queue.destroy()?;
        Ok(())
    }

    fn serve(&mut self, count: usize, mut hints: Option<HintClient>) -> anyhow::Result<Vec<u64>> {
        let started = Instant::now();
        let mut latencies_ns = Vec::with_capacity(count);
        for number in 0..u32::try_from(count)? {
            let due = started + EVERY * number;
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            let begun = hints.as_mut().map(begin).transpose()?;
            self.request()?;
            latencies_ns.push(u64::try_from(due.elapsed().as_nanos())?);
            if let (Some(client), Some(id)) = (&mut hints, begun) {
                client.end(id)?;
            }
        }
        Ok(latencies_ns)
    }

    fn request(&mut self) -> anyhow::Result<()> {
        let signal = self.signals.arm(0);
        let packets: Vec<Packet> = (1..=DISPATCHES)
            .map(|number| {
                let last = number == DISPATCHES;
                Packet::dispatch(DISPATCH_NS, if last { signal } else { 0 }, last)
            })
            .collect();
        self.queue.submit(&packets)?;
        let until = Instant::now() + DEADLINE;
        while !self.signals.is_done(0) {
            anyhow::ensure!(Instant::now() < until, "a request was not completed");
            event::wait_any(&self.device, &[self.signals.event.id], 1000)?;
        }
        Ok(())
    }
}

/// A hint that ends with this process.
fn begin(client: &mut HintClient) -> anyhow::Result<u64> {
    let asked = HintBegin {
        pid: Some(Pid(std::process::id())),
        ..HintBegin::default()
    };
    Ok(client.begin(&asked)?)
}

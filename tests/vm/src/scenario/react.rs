// SPDX-License-Identifier: MIT OR Apache-2.0
//! How fast the daemon reacts, and what it takes while nothing happens. `cargo xtask bench react` runs this in a guest; nothing is
//! judged here.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{channel, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use gpreempt::control::BackendKind;
use gpreempt::serve::api::HintBegin;
use gpreempt::serve::hint_client::HintClient;
use gpreempt::serve::{AuditRecord, Held};
use nix::sys::eventfd::EventFd;
use serde_json::json;
use workload::ioctl::KfdFile;

use super::service::Service;
use super::{emit, series, training};
use crate::daemon::{helds, Daemon, NO_GUARDS, RULES, SOCKET};
use crate::gpu::Job;
use crate::guest;
use crate::tests::job;

/// First argument that makes `vm-tests` run this: `react BACKEND`.
pub(crate) const VERB: &str = "react";

const HINTS: usize = 150;
const NEW_PROCESSES: usize = 20;
const NEW_QUEUES: usize = 100;

/// After a queue came and went, until nobody is held for it any more: more than `linger`.
const QUIET: Duration = Duration::from_millis(150);

/// While nothing happens, so long and so often with each policy. Everything is looked at anew every 30 s.
const IDLE: Duration = Duration::from_secs(30);
const IDLE_ROUNDS: usize = 3;

/// Before that: `poll_idle` (1 s) is a twentieth of the quiet time after 20 s.
const SETTLE: Duration = Duration::from_secs(25);

/// How often the thread wakes that does next to nothing else.
const SLEEPER: Duration = Duration::from_millis(250);

/// Runs all of it.
pub(crate) fn run() -> anyhow::Result<()> {
    let name = std::env::args().nth(2).context("BACKEND")?;
    let kind =
        clap::ValueEnum::from_str(&name, false).map_err(|error: String| anyhow::anyhow!(error))?;
    idle(kind)?;
    reaction(kind)
}

fn config(policy: &str) -> String {
    format!("[policy]\nname = \"{policy}\"\n{NO_GUARDS}{RULES}")
}

/// Another thread that sleeps until it is told, and then makes a call of the driver that does nothing.
struct Bare {
    told: EventFd,
    times: Receiver<(Instant, Instant)>,
}

impl Bare {
    fn start() -> anyhow::Result<Self> {
        let told = EventFd::new().context("eventfd")?;
        let mut waits = File::from(told.as_fd().try_clone_to_owned()?);
        let (to, times) = channel();
        let kfd = KfdFile::open()?;
        thread::spawn(move || -> anyhow::Result<()> {
            let mut count = [0; 8];
            loop {
                waits.read_exact(&mut count)?;
                let woken = Instant::now();
                kfd.version()?;
                to.send((woken, Instant::now()))?;
            }
        });
        Ok(Self { told, times })
    }

    /// Beside a reaction of this kind: what has slept for long wakes slowly.
    fn once(&mut self, beside: &str) -> anyhow::Result<()> {
        let started = Instant::now();
        self.told.write(1).context("eventfd")?;
        let (woken, done) = self.times.recv().context("the thread ended")?;
        emit(&json!({
            "line": "bare", "beside": beside, "wake_ns": (woken - started).as_nanos() as u64, "call_ns": (done - woken).as_nanos() as u64,
        }));
        Ok(())
    }
}

fn tell(what: &str, held: &Held) {
    emit(&json!({
        "line": "reaction", "what": what, "message_ns": held.message_ns, "decision_ns": held.decision_ns, "order_ns": held.order_ns,
    }));
}

/// From a message to the call, by a hint and by an event of the driver, in turn with what nobody can do without.
fn reaction(kind: BackendKind) -> anyhow::Result<()> {
    let offline = training()?;
    let mut daemon = Daemon::start(kind, &config("priority"))?;
    let mut bare = Bare::start()?;
    // The first stop opens the backend.
    series::run(&mut daemon, &offline, 5)?;
    hints("hint", false, &mut daemon, &offline, &mut bare)?;
    hints("waited", true, &mut daemon, &offline, &mut bare)?;
    let hint = daemon.hint()?;
    for number in 0..NEW_PROCESSES {
        let new = job(&format!("offline-{number}"), 1)?;
        let held = guest::eventually("the new process to be held", || {
            let of_it = |record: &AuditRecord| match record {
                AuditRecord::Held(held) if held.pids.iter().any(|pid| pid.0 == new.pid()) => {
                    Some(held.clone())
                }
                _ => None,
            };
            Ok(daemon.audit()?.iter().find_map(of_it))
        })?;
        tell("process", &held);
        bare.once("process")?;
    }
    daemon.end_hint(hint)?;
    new_queues(&mut daemon, &mut bare)?;
    daemon.stop()?;
    offline.load.stop().map(drop)
}

/// A service tells of its work, as the libraries do.
fn hints(
    what: &str,
    wait: bool,
    daemon: &mut Daemon,
    offline: &Job,
    bare: &mut Bare,
) -> anyhow::Result<()> {
    let mut client = HintClient::new(Path::new(SOCKET));
    let asked = HintBegin {
        wait,
        ..HintBegin::default()
    };
    let before = daemon.audit()?.len();
    for _ in 0..HINTS {
        bare.once(what)?;
        let id = client.begin(&asked)?;
        held_is(true, daemon, offline)?;
        client.end(id)?;
        held_is(false, daemon, offline)?;
        offline.wait_running("after a hint")?;
    }
    let new = daemon.audit_since(before)?;
    helds(&new).into_iter().for_each(|held| tell(what, held));
    Ok(())
}

fn held_is(held: bool, daemon: &mut Daemon, job: &Job) -> anyhow::Result<()> {
    guest::eventually("the daemon to hold or let go", || {
        Ok((daemon.job_of(job.pid())?.held == held).then_some(()))
    })
}

/// A service that is known makes a queue: it is about to use it.
fn new_queues(daemon: &mut Daemon, bare: &mut Bare) -> anyhow::Result<()> {
    let mut service = Service::start()?;
    thread::sleep(QUIET);
    let before = daemon.audit()?.len();
    for _ in 0..NEW_QUEUES {
        bare.once("queue")?;
        thread::sleep(QUIET);
        service.make_queue()?;
        thread::sleep(QUIET);
    }
    let new = daemon.audit_since(before)?;
    // A stop that comes from a look at the queues instead is none of these.
    for held in helds(&new)
        .into_iter()
        .filter(|held| held.message_ns.is_some())
    {
        tell("queue", held);
    }
    Ok(())
}

/// Processor time so far of threads that have these directories in procfs, and how often they slept.
fn spent(tasks: &[PathBuf]) -> anyhow::Result<(u64, u64)> {
    let mut sums = (0, 0);
    for task in tasks {
        let read = |file: &str| {
            let path = task.join(file);
            fs::read_to_string(&path).with_context(|| path.display().to_string())
        };
        let first = |text: &str| text.split_whitespace().next()?.parse::<u64>().ok();
        sums.0 += first(&read("schedstat")?).context("schedstat")?;
        let status = read("status")?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        sums.1 += line.and_then(first).context("status")?;
    }
    Ok(sums)
}

fn tasks_of(pid: u32) -> anyhow::Result<Vec<PathBuf>> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"))?;
    Ok(tasks
        .map(|task| task.map(|task| task.path()))
        .collect::<Result<_, _>>()?)
}

/// Starts a thread that sleeps and reads a word of a process: what waking costs here at least. Its directory in procfs.
fn sleeper() -> anyhow::Result<PathBuf> {
    let (to, from) = channel();
    thread::spawn(move || -> anyhow::Result<()> {
        let memory = File::open("/proc/self/mem")?;
        let word = 0_u64;
        let mut bytes = [0; 8];
        let path = fs::read_link("/proc/thread-self")?;
        to.send(PathBuf::from("/proc").join(path))?;
        loop {
            thread::sleep(SLEEPER);
            memory.read_exact_at(&mut bytes, std::ptr::from_ref(&word) as u64)?;
        }
    });
    from.recv().context("the thread ended")
}

/// A job that works, a service without requests.
fn idle(kind: BackendKind) -> anyhow::Result<()> {
    let offline = training()?;
    let service = Service::start()?;
    let sleeper = [sleeper()?];
    for policy in ["priority", "manual"] {
        let mut daemon = Daemon::start(kind, &config(policy))?;
        // It has held before, as in the middle of a day.
        if policy == "priority" {
            series::run(&mut daemon, &offline, 20)?;
        }
        thread::sleep(SETTLE);
        for _ in 0..IDLE_ROUNDS {
            let tasks = tasks_of(daemon.pid())?;
            let (before, bare_before, started) = (spent(&tasks)?, spent(&sleeper)?, Instant::now());
            thread::sleep(IDLE);
            let (after, bare) = (spent(&tasks)?, spent(&sleeper)?);
            emit(&json!({
                "line": "idle", "policy": policy, "wall_ns": started.elapsed().as_nanos() as u64,
                "cpu_ns": after.0 - before.0, "wakes": after.1 - before.1,
                "bare_ns": bare.0 - bare_before.0, "bare_wakes": bare.1 - bare_before.1,
                "rss_kib": crate::daemon::resident_kib(daemon.pid())?, "anon_kib": crate::daemon::anonymous_kib(daemon.pid())?,
            }));
        }
        daemon.stop()?;
    }
    drop(service);
    offline.load.stop().map(drop)
}

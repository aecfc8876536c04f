// SPDX-License-Identifier: MIT OR Apache-2.0
//! Means by the job itself: the library that `gpreempt run` preloads (`gpreempt-agent/`) stops the process's queues by the process's
//! own `AMDKFD_IOC_UPDATE_QUEUE`. Any driver will do, and no right over the process is needed. It takes a process that obeys: one that
//! is stopped by SIGSTOP does not, and one runlist update for every queue.
//!
//! The lease is kept in the job: queues run again when the connection ends, or after the lease's time without a word.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::anyhow;
use gpreempt_common::agent::{Answer, Order, ENDED, GO, LIVES, NO_SDMA, STOP};
use nix::errno::Errno;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::sys::socket::{recv, send, MsgFlags};
use zerocopy::{FromBytes as _, IntoBytes as _};

use super::{
    Backend, BackendKind, ControlError, HoldOptions, Outcome, Refusal, Target, TargetOutcome,
};
use crate::event::Pid;

/// Longest wait for the answers of all processes, or half a lease if that is less.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// What a refusal names as the call that failed.
const CALL: &str = "AMDKFD_IOC_UPDATE_QUEUE by gpreempt-agent";

/// The processes that have the library and are connected. Copies are of the same.
#[derive(Clone, Debug, Default)]
pub struct Agents(Arc<Mutex<BTreeMap<Pid, Link>>>);

/// A connection.
#[derive(Debug)]
struct Link {
    stream: UnixStream,
    /// With the pid, the process's key.
    start_ticks: u64,
    /// The beginning of an answer.
    read: Vec<u8>,
    /// Its lease ended: it runs, whatever it was told last.
    ended: bool,
}

impl Agents {
    /// A process has connected. One that did before is the same process after exec, or after its daemon was lost.
    pub fn add(&self, pid: Pid, start_ticks: u64, stream: UnixStream) {
        let link = Link {
            stream,
            start_ticks,
            read: Vec::new(),
            ended: false,
        };
        self.lock().insert(pid, link);
    }

    /// Whether a process is connected.
    #[must_use]
    pub fn has(&self, pid: Pid, start_ticks: u64) -> bool {
        let mut links = self.lock();
        let Some(link) = links.get_mut(&pid) else {
            return false;
        };
        let there = link.start_ticks == start_ticks && link.answers().is_ok();
        if !there {
            links.remove(&pid);
        }
        there
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Pid, Link>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Link {
    fn tell(&self, order: &Order) -> Result<(), Errno> {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        let bytes = order.as_bytes();
        match send(self.stream.as_raw_fd(), bytes, flags) {
            // A part of a frame would be the end of all understanding.
            Ok(sent) if sent < bytes.len() => Err(Errno::EPIPE),
            Ok(_) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// What has arrived.
    ///
    /// # Errors
    /// The connection has ended.
    fn answers(&mut self) -> io::Result<Vec<Answer>> {
        let mut bytes = [0; 16 * size_of::<Answer>()];
        loop {
            match recv(self.stream.as_raw_fd(), &mut bytes, MsgFlags::MSG_DONTWAIT) {
                // What it said last counts; the end is found again.
                Ok(0) if self.read.len() >= size_of::<Answer>() => break,
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.read.extend_from_slice(&bytes[..count]),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => break,
                Err(error) => return Err(error.into()),
            }
            if self.read.len() > 1 << 16 {
                // Nobody asked for so much.
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
        let whole = self.read.len() / size_of::<Answer>() * size_of::<Answer>();
        let answers: Vec<Answer> = self
            .read
            .drain(..whole)
            .as_slice()
            .chunks_exact(size_of::<Answer>())
            .filter_map(|frame| Answer::read_from_bytes(frame).ok())
            .collect();
        self.ended |= answers.iter().any(|answer| answer.sequence == ENDED);
        Ok(answers)
    }
}

/// See the module.
pub struct Agent {
    agents: Agents,
    held: BTreeSet<Pid>,
    sequence: u32,
    lease: Duration,
}

/// What a process made of an order.
enum Said {
    Done(Answer),
    /// It ended, or executes another program: nothing of it is stopped.
    Gone,
    Silent,
}

impl Agent {
    /// By these processes.
    #[must_use]
    pub fn new(agents: Agents) -> Self {
        Self {
            agents,
            held: BTreeSet::new(),
            sequence: 0,
            lease: Duration::ZERO,
        }
    }

    fn order(&mut self, kind: u32, no_sdma: bool) -> Order {
        // 0 is the agents' own.
        self.sequence = self.sequence.checked_add(1).unwrap_or(1);
        Order {
            kind,
            sequence: self.sequence,
            lease_ms: u32::try_from(self.lease.as_millis()).unwrap_or(u32::MAX),
            flags: if no_sdma { NO_SDMA } else { 0 },
        }
    }

    /// Tells all of them, and waits for all of them.
    fn call(&mut self, pids: &[Pid], order: Order) -> BTreeMap<Pid, Said> {
        let within = ANSWER_WITHIN.min(self.lease / 2);
        let deadline = Instant::now() + within;
        let mut links = self.agents.lock();
        let mut said = BTreeMap::new();
        let mut waiting = BTreeSet::new();
        for pid in pids {
            match links.get_mut(pid) {
                None => {
                    said.insert(*pid, Said::Gone);
                }
                Some(link) => {
                    link.ended = false;
                    match link.tell(&order) {
                        Ok(()) => {
                            waiting.insert(*pid);
                        }
                        Err(Errno::EAGAIN) => {
                            said.insert(*pid, Said::Silent);
                        }
                        Err(_) => {
                            links.remove(pid);
                            said.insert(*pid, Said::Gone);
                        }
                    }
                }
            }
        }
        while !waiting.is_empty() {
            for pid in waiting.clone() {
                let Some(link) = links.get_mut(&pid) else {
                    continue;
                };
                let heard = match link.answers() {
                    Ok(answers) => answers
                        .into_iter()
                        .find(|answer| answer.sequence == order.sequence)
                        .map(Said::Done),
                    Err(_) => {
                        links.remove(&pid);
                        Some(Said::Gone)
                    }
                };
                if let Some(heard) = heard {
                    waiting.remove(&pid);
                    said.insert(pid, heard);
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if waiting.is_empty() || left.is_zero() {
                break;
            }
            let mut fds: Vec<PollFd<'_>> = waiting
                .iter()
                .filter_map(|pid| links.get(pid))
                .map(|link| PollFd::new(link.stream.as_fd(), PollFlags::POLLIN))
                .collect();
            // EINTR: look again.
            let _ = poll(
                &mut fds,
                PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX),
            );
        }
        said.extend(waiting.into_iter().map(|pid| (pid, Said::Silent)));
        said
    }

    /// Restarts what is held of these.
    fn go(&mut self, pids: &[Pid]) -> Outcome {
        let started = Instant::now();
        let order = self.order(GO, false);
        let said = self.call(pids, order);
        let mut outcome = Outcome::default();
        for (pid, said) in said {
            let mut of = of_process(pid);
            match said {
                Said::Done(answer) if answer.errno == 0 => {
                    self.held.remove(&pid);
                    (of.queues, of.changed) = (answer.queues, answer.changed);
                }
                Said::Gone => {
                    self.held.remove(&pid);
                }
                Said::Done(answer) => of.refusal = Some(failed(answer)),
                Said::Silent => of.refusal = Some(is_silent()),
            }
            outcome.targets.push(of);
        }
        outcome.total_ns = ns(started.elapsed());
        outcome
    }
}

impl Backend for Agent {
    fn kind(&self) -> BackendKind {
        BackendKind::Agent
    }

    fn preempt(
        &mut self,
        targets: &[Target],
        options: &HoldOptions,
    ) -> Result<Outcome, ControlError> {
        self.lease = options.lease;
        let started = Instant::now();
        let (can, cannot): (Vec<&Target>, Vec<&Target>) = targets
            .iter()
            .partition(|target| target.whole && self.agents.has(target.pid, target.start_ticks));
        let pids: Vec<Pid> = can.iter().map(|target| target.pid).collect();
        let order = self.order(STOP, options.no_sdma);
        let said = self.call(&pids, order);
        let mut outcome = Outcome::default();
        let mut silent = Vec::new();
        for (pid, said) in said {
            let mut of = of_process(pid);
            match said {
                Said::Done(answer) if answer.errno == 0 => {
                    self.held.insert(pid);
                    (of.queues, of.changed) = (answer.queues, answer.changed);
                    outcome.hw_ns = outcome.hw_ns.max(Some(answer.took_ns));
                }
                Said::Done(answer) => of.refusal = Some(failed(answer)),
                Said::Gone => of.refusal = Some(gone()),
                Said::Silent => {
                    silent.push(pid);
                    of.refusal = Some(is_silent());
                }
            }
            outcome.targets.push(of);
        }
        // Whenever it gets to that, it must not stay stopped.
        let back = self.order(GO, false);
        for pid in silent {
            if let Some(link) = self.agents.lock().get(&pid) {
                let _ = link.tell(&back);
            }
        }
        outcome.targets.extend(cannot.into_iter().map(|target| {
            let mut of = of_process(target.pid);
            of.refusal = Some(no_agent(target.whole));
            of
        }));
        outcome.total_ns = ns(started.elapsed());
        Ok(outcome)
    }

    fn resume(&mut self, targets: &[Target]) -> Result<Outcome, ControlError> {
        let named = targets.iter().map(|target| target.pid);
        let held: Vec<Pid> = named.filter(|pid| self.held.contains(pid)).collect();
        Ok(self.go(&held))
    }

    fn resume_all(&mut self) -> Result<Outcome, ControlError> {
        let held: Vec<Pid> = self.held.iter().copied().collect();
        Ok(self.go(&held))
    }

    fn renew(&mut self) -> Result<(), ControlError> {
        let order = self.order(LIVES, false);
        let mut links = self.agents.lock();
        for pid in &self.held {
            let Some(link) = links.get_mut(pid) else {
                continue;
            };
            // One that is gone runs, or has ended: whoever looks at processes finds out.
            let _ = link.tell(&order);
            if link.answers().is_ok() && link.ended {
                return Err(ControlError::Failed(anyhow!(
                    "process {pid} restarted its queues: it had not heard of the daemon for a whole lease"
                )));
            }
        }
        Ok(())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Who cannot be told hears nothing more, and restarts its queues when the lease ends.
        let _ = self.resume_all();
    }
}

fn of_process(pid: Pid) -> TargetOutcome {
    TargetOutcome {
        pid,
        queue: None,
        queues: 0,
        changed: 0,
        refusal: None,
        kept_off: None,
    }
}

fn refusal(errno: Option<Errno>, what: &str, fix: &str) -> Refusal {
    Refusal {
        call: CALL,
        errno,
        what: what.to_owned(),
        fix: fix.to_owned(),
    }
}

fn failed(answer: Answer) -> Refusal {
    let errno = Errno::from_raw(i32::try_from(answer.errno).unwrap_or(0));
    refusal(Some(errno), errno.desc(), "see the kernel's log")
}

fn gone() -> Refusal {
    refusal(
        Some(Errno::ESRCH),
        "the process has ended or executes another program",
        "it is tried again when it has queues",
    )
}

fn is_silent() -> Refusal {
    refusal(
        None,
        "the process does not answer",
        "is it stopped? It obeys when it goes on",
    )
}

fn no_agent(whole: bool) -> Refusal {
    match whole {
        true => refusal(
            Some(Errno::EOPNOTSUPP),
            "the process has no agent",
            "start it by `gpreempt run`",
        ),
        false => refusal(
            Some(Errno::EOPNOTSUPP),
            "an agent stops all queues of its process",
            "hold the whole process, or take another backend",
        ),
    }
}

fn ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;

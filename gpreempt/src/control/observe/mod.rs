// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whether queues really stopped and really run again: not what a call returned, but what was seen of the hardware scheduler.
//!
//! Three kinds of evidence, the best first:
//! - **events**: the driver's own calls, probed: an unmap of the node's runlist that was made for us and that the hardware
//!   answered. Also tells what that took. Needs the permissions of `watch`.
//! - **runlist**: the queues are not (or again) in the runlist that the driver shows in debugfs. Needs root. It is also the
//!   judge where no event is to be expected, because nothing had to be taken off: queues that were stopped already.
//! - **driver**: nothing but the driver's answer. GPUs with MES and scheduling without HWS have no runlist, so that nothing
//!   else is to be had there.
//!
//! ```no_run
//! # use std::time::Duration;
//! # use gpreempt::control::observe::{Action, Observer, Want};
//! # use gpreempt::kfd::Root;
//! # let targets = [];
//! let (mut observer, why) = Observer::open(&Root::real(), Want::Auto);
//! observer.begin();
//! // ... backend.preempt(&targets, ...)
//! let seen = observer.confirm(Action::Stopped, &targets, Duration::from_secs(1));
//! assert!(seen.confirmed, "{why}: {:?}", seen.missing);
//! ```

mod events;
mod runlist;

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use schemars::JsonSchema;
use serde::Serialize;

use super::Target;
use crate::event::{GpuId, Pid, QueueId};
use crate::kfd::{module, topology, Root};

pub use events::{Call, CallKind};

use events::Events;
use runlist::{Engine, Runlists};

/// Pauses between two looks while something is missing: the first, and the longest.
const FIRST_PAUSE: Duration = Duration::from_micros(200);
const LONGEST_PAUSE: Duration = Duration::from_millis(10);

/// How long to wait for events where there is no runlist to judge by. The driver acts before it answers, so that what it did
/// is in the ring by then: this covers what its workers do.
const EVENTS_ALONE: Duration = Duration::from_millis(20);

/// Which evidence is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Want {
    /// The best that is to be had here.
    #[default]
    Auto,
    /// Events; the next best where there are none.
    Events,
    /// The runlist in debugfs; the driver's answer where it cannot be read.
    Runlist,
    /// The driver's answer.
    Driver,
}

/// Which evidence there was. The weaker, the greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// The driver's calls were seen.
    Events,
    /// The runlist was read.
    Runlist,
    /// The driver answered; nothing was observed.
    Driver,
}

impl How {
    /// As in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Events => "events",
            Self::Runlist => "runlist",
            Self::Driver => "driver",
        }
    }
}

/// What is to be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Queues were stopped.
    Stopped,
    /// Queues were restarted: submitted, which does not mean that they have work.
    Running,
}

/// What was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    /// The weakest evidence that was needed.
    pub how: How,
    /// Whether it was seen of all targets. What only the driver's answer stands for counts as seen: `how` tells.
    pub confirmed: bool,
    /// Wait for the lock of a node's scheduler, over all changes of the node's runlist that were made for us; of the node
    /// where it was longest. `None` where no such change was seen.
    pub lock_wait_ns: Option<u64>,
    /// Time that the hardware scheduler took to take queues off, likewise.
    pub hw_ns: Option<u64>,
    /// Every change of a runlist that was made for us since [`Observer::begin`], in order of time. Empty without events.
    pub calls: Vec<Call>,
    /// What was not seen: queues by node and id.
    pub missing: Vec<(Pid, Option<(GpuId, QueueId)>)>,
    /// Why weaker evidence had to do than was opened.
    pub why: Option<String>,
}

/// Sees what becomes of queues. Opening takes a moment (programs are loaded and attached); after that it costs next to nothing:
/// open once, confirm many times.
pub struct Observer {
    root: Root,
    how: How,
    events: Option<Events>,
    /// Whether debugfs shows runlists.
    runlists: bool,
    /// Nodes without runlist.
    without: HashSet<GpuId>,
    /// What the runlists listed when the queues were stopped last, which is what can be expected back. Only without events.
    before: Option<Runlists>,
    ran: Option<Runlists>,
}

/// What is to be seen of one process on one node: queues by engine.
#[derive(Clone, Debug, Default)]
struct Expected {
    queues: Vec<QueueId>,
    /// Every queue of the process on that engine is meant.
    whole: bool,
}

type Open = BTreeMap<(Pid, GpuId, Engine), Expected>;

impl Observer {
    /// Opens the best source of evidence that is wanted and to be had. Says which it is, and why no better one.
    #[must_use]
    pub fn open(root: &Root, want: Want) -> (Self, String) {
        let no_runlist = module::is_without_hws(root);
        let without = topology::read(root)
            .iter()
            .filter(|node| no_runlist || node.has_mes())
            .map(|node| node.gpu_id)
            .collect();
        let mut observer = Self {
            root: root.clone(),
            how: How::Driver,
            events: None,
            runlists: false,
            without,
            before: None,
            ran: None,
        };
        if want == Want::Driver {
            return (observer, "the driver's answer, as asked".to_owned());
        }
        let mut why = Vec::new();
        match runlist::readable(root) {
            Ok(()) => observer.runlists = true,
            Err(reason) => why.push(reason),
        }
        if want != Want::Runlist {
            match Events::open(root) {
                Ok(events) => {
                    observer.events = Some(events);
                    observer.how = How::Events;
                    return (observer, "events of the driver".to_owned());
                }
                Err(reason) => why.insert(0, reason),
            }
        }
        let found = if observer.runlists {
            observer.how = How::Runlist;
            "the runlist in debugfs"
        } else {
            "the driver's answer"
        };
        let why = match why.is_empty() {
            true => found.to_owned(),
            false => format!("{found}: {}", why.join("; ")),
        };
        (observer, why)
    }

    /// The evidence that was opened.
    #[must_use]
    pub fn how(&self) -> How {
        self.how
    }

    /// To be called before a backend is: what happened until now is not what is to be confirmed.
    pub fn begin(&mut self) {
        if let Some(events) = &mut self.events {
            events.begin();
        } else if self.runlists {
            self.before = Runlists::read(&self.root).ok();
        }
    }

    /// Waits at most `within` until it is seen that all `targets` stopped or run again. `queues` of a target are those that
    /// were meant: without the SDMA queues where these were left alone, without those that the driver refused.
    ///
    /// Stopped is: the hardware answered an unmap that was made for us on each node of the targets, or the runlist lists none
    /// of the queues. Running is: a runlist was submitted for us, or lists them again. debugfs tells no queue ids: where single
    /// queues of a process are meant, their number decides.
    #[must_use]
    pub fn confirm(&mut self, action: Action, targets: &[Target], within: Duration) -> Observation {
        let deadline = Instant::now() + within;
        let mut open = expected(targets);
        let mut used = How::Events;
        let mut why = None;
        let mut pause = FIRST_PAUSE;
        if let (Action::Stopped, Some(before)) = (action, &self.before) {
            self.ran = Some(before.clone());
        }
        let known = open.len();
        open.retain(|(_, gpu_id, _), _| !self.without.contains(gpu_id));
        if open.len() < known {
            used = How::Driver;
            why = Some("a GPU without runlist: its queues are mapped one by one".to_owned());
        }
        let started = Instant::now();
        while !open.is_empty() {
            if let Some(events) = &mut self.events {
                events.take();
                open.retain(|(pid, gpu_id, _), _| !events.saw(action, *pid, *gpu_id));
                if open.is_empty() {
                    break;
                }
            }
            let now = Instant::now();
            if self.runlists {
                match self.judge(action, &mut open) {
                    Ok(true) => used = used.max(How::Runlist),
                    Ok(false) => {}
                    Err(reason) if now >= deadline => {
                        (used, why) = (How::Driver, Some(reason));
                        open.clear();
                    }
                    Err(_) => {}
                }
            } else if self.events.is_none() || now >= deadline || now - started >= EVENTS_ALONE {
                used = How::Driver;
                if self.events.is_some() {
                    why = Some(
                        "no change of a runlist was seen, and debugfs does not show the runlists"
                            .to_owned(),
                    );
                }
                open.clear();
            }
            if open.is_empty() || now >= deadline {
                break;
            }
            std::thread::sleep(pause.min(deadline - now));
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        if let Some(events) = &mut self.events {
            events.take();
        }
        let calls = self.events.as_ref().map(Events::calls).unwrap_or_default();
        // Nothing to be seen was not seen by events.
        let used = if used == How::Events { self.how } else { used };
        Observation {
            how: used,
            confirmed: open.is_empty(),
            lock_wait_ns: longest(calls, |call| call.lock_wait_ns),
            hw_ns: longest(calls, |call| call.hw_ns),
            calls: calls.to_vec(),
            missing: missing(&open),
            why,
        }
    }

    /// Takes out of `open` what the runlists show; whether that was anything.
    fn judge(&self, action: Action, open: &mut Open) -> Result<bool, String> {
        if action == Action::Stopped
            && runlist::idle(&self.root, open.keys().map(|(_, gpu, _)| *gpu))?
        {
            open.clear();
            return Ok(true);
        }
        let runlists = Runlists::read(&self.root)?;
        let before = open.len();
        let mut failed = None;
        open.retain(|(pid, gpu_id, engine), expected| {
            match runlists.counts(&self.root, *pid, *gpu_id, *engine) {
                // The process ended: nothing of it runs, and nothing can.
                Ok(None) => false,
                Ok(Some(counts)) => {
                    let meant = match expected.whole {
                        true => counts.queues,
                        false => expected.queues.len().min(counts.queues),
                    };
                    let done = match action {
                        Action::Stopped => counts.queues - counts.listed >= meant,
                        Action::Running => {
                            let ran = self.ran.as_ref().and_then(|ran| {
                                ran.counts(&self.root, *pid, *gpu_id, *engine).ok()?
                            });
                            // What had been stopped by somebody else before is not ours to bring back.
                            counts.listed >= ran.map_or(meant, |ran| meant.min(ran.listed))
                        }
                    };
                    !done
                }
                Err(reason) => {
                    failed = Some(reason);
                    true
                }
            }
        });
        match failed {
            Some(reason) => Err(reason),
            None => Ok(open.len() < before),
        }
    }
}

fn expected(targets: &[Target]) -> Open {
    let mut open = Open::new();
    for target in targets {
        for queue in &target.queues {
            let engine = Engine::of(queue.queue_type);
            let entry = open.entry((target.pid, queue.gpu_id, engine)).or_default();
            entry.queues.push(queue.queue_id);
            entry.whole |= target.whole;
        }
    }
    open
}

fn missing(open: &Open) -> Vec<(Pid, Option<(GpuId, QueueId)>)> {
    open.iter()
        .flat_map(|((pid, gpu_id, _), expected)| {
            expected
                .queues
                .iter()
                .map(|queue| (*pid, Some((*gpu_id, *queue))))
        })
        .collect()
}

/// Of the node with the longest sum.
fn longest(calls: &[Call], of: impl Fn(&Call) -> u64) -> Option<u64> {
    let mut sums: BTreeMap<GpuId, u64> = BTreeMap::new();
    for call in calls.iter().filter(|call| call.kind == CallKind::Unmapped) {
        *sums.entry(call.gpu_id).or_default() += of(call);
    }
    sums.into_values().max()
}

#[cfg(test)]
mod tests;

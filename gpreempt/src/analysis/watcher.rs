// SPDX-License-Identifier: MIT OR Apache-2.0
//! Collects runs: a sink that sees every event, and takes pictures when queues came or went.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::process::ExitStatus;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use super::collector::Current;
use super::lock;
use super::member::Membership;
pub use super::member::Who;
use super::noteworthy::Noteworthy;
use super::run::{Machine, Run};
use super::trial::Trials;
use crate::event::{Event, Happening};
use crate::inspect;
use crate::kfd::snapshot::{Snapshot, Want};
use crate::kfd::{boottime_ns, module, Root};
use crate::model::{Context, Model};
use crate::sink::record::{Gpu, Record, Summary};
use crate::sink::{Commands, Sink};

/// Pictures are not closer than this.
const LEAST_BETWEEN_NS: u64 = 200_000_000;

/// A function that only a patched driver has.
const HELD_BY: &str = "kfd_gpreempt_note";

/// Pictures that are not looked at yet, each with when it was begun and done.
pub type Pictures = Rc<RefCell<VecDeque<(Snapshot, u64, u64)>>>;

/// Where pictures come from.
#[derive(Clone, Debug)]
pub enum Look {
    /// The running machine: when something changed, and about once a second.
    Live(Want),
    /// A recording, which puts them there as it comes to them.
    Recorded(Pictures),
    /// Nowhere.
    Never,
}

/// Says something to people.
pub type Tell = &'static dyn Fn(&str);

/// What was collected, for whoever started the watch.
pub type Collected = Arc<Mutex<Vec<Run>>>;

/// The sink.
pub struct Watcher {
    root: Root,
    look: Look,
    members: Membership,
    /// What the next runs are: their names, and the commands of each.
    planned: std::vec::IntoIter<(String, Vec<String>)>,
    machine: Machine,
    gpus: Vec<Gpu>,
    current: Option<Current>,
    done: Collected,
    noteworthy: Noteworthy,
    trials: Option<Trials>,
    tell: Option<Tell>,
    lost: u64,
    lost_before: u64,
    looked_ns: u64,
    changed: bool,
}

impl Watcher {
    /// Collects the runs that are planned, by name and commands: one for each stage of commands, or a single one without any.
    #[must_use]
    pub fn new(root: Root, look: Look, who: Who, planned: Vec<(String, Vec<String>)>) -> Self {
        Self {
            members: Membership::new(root.clone(), who),
            root,
            look,
            planned: planned.into_iter(),
            machine: Machine::default(),
            gpus: Vec::new(),
            current: None,
            done: Collected::default(),
            noteworthy: Noteworthy::default(),
            trials: None,
            tell: None,
            lost: 0,
            lost_before: 0,
            looked_ns: 0,
            changed: false,
        }
    }

    /// Says which run begins.
    #[must_use]
    pub fn telling(mut self, tell: Tell) -> Self {
        self.tell = Some(tell);
        self
    }

    /// Also tries to stop each party of the last run alone.
    #[must_use]
    pub fn with_trials(mut self, trials: Trials) -> Self {
        self.trials = Some(trials);
        self
    }

    /// Where the runs will be.
    #[must_use]
    pub fn collected(&self) -> Collected {
        Arc::clone(&self.done)
    }

    fn begin(&mut self, ts_ns: u64) {
        let Some((name, parties)) = self.planned.next() else {
            return;
        };
        if let (Some(tell), false) = (self.tell, parties.is_empty()) {
            tell(&name);
        }
        let mut run = Run::new(name, parties, ts_ns, self.gpus.clone());
        run.machine = self.machine.clone();
        self.current = Some(Current::new(run));
        self.lost_before = self.lost;
        self.changed = false;
    }

    fn finish(&mut self, model: Option<&Model>, ts_ns: u64) {
        let Some(current) = self.current.take() else {
            return;
        };
        let mut run = current.finish(model, ts_ns);
        run.lost = self.lost - self.lost_before;
        run.findings = self.noteworthy.finish(&run, model);
        lock(&self.done).push(run);
    }

    /// Takes a picture of the running machine.
    fn look(&mut self, want: Want) {
        let from_ns = boottime_ns();
        let snapshot = inspect::look(&self.root, want);
        self.picture(snapshot, from_ns, boottime_ns());
    }

    /// Takes those that a recording came to.
    fn recorded(&mut self) {
        let Look::Recorded(pictures) = &self.look else {
            return;
        };
        if self.current.is_none() {
            return;
        }
        let pictures = std::mem::take(&mut *pictures.borrow_mut());
        for (snapshot, from_ns, to_ns) in pictures {
            self.picture(snapshot, from_ns, to_ns);
        }
    }

    fn picture(&mut self, snapshot: Snapshot, from_ns: u64, to_ns: u64) {
        let Some(current) = &mut self.current else {
            return;
        };
        if let Some(trials) = &mut self.trials {
            trials.picture(&current.run, &snapshot);
        }
        self.noteworthy.picture(&snapshot, from_ns, to_ns);
        current.picture(snapshot, from_ns, to_ns);
        self.looked_ns = to_ns;
        self.changed = false;
    }

    /// Long enough after the last one.
    fn may_look(&self) -> Option<Want> {
        let Look::Live(want) = self.look else {
            return None;
        };
        let rested = boottime_ns().saturating_sub(self.looked_ns) >= LEAST_BETWEEN_NS;
        (rested && self.current.is_some()).then_some(want)
    }
}

impl Sink for Watcher {
    fn record(&mut self, record: &Record) -> io::Result<()> {
        self.noteworthy.record(record);
        match record {
            Record::Startup(startup) => {
                self.gpus.clone_from(&startup.gpus);
                self.machine = Machine {
                    kernel: startup.kernel.clone(),
                    patched: startup
                        .probes
                        .iter()
                        .any(|probe| probe.attached && probe.function == HELD_BY),
                    simulated: module::is_simulated(&self.root),
                };
                if self
                    .planned
                    .as_slice()
                    .iter()
                    .all(|(_, parties)| parties.is_empty())
                {
                    self.begin(startup.ts_ns);
                }
            }
            Record::Lost(lost) => self.lost = lost.total,
            Record::Driver(change) if !change.gpus.is_empty() => {
                self.gpus.clone_from(&change.gpus);
                if let Some(current) = &mut self.current {
                    current.run.gpus.clone_from(&change.gpus);
                }
            }
            Record::Summary(Summary { ts_ns, .. }) => {
                if let Some(trials) = &mut self.trials {
                    trials.finish();
                }
                self.finish(None, *ts_ns);
            }
            _ => {}
        }
        Ok(())
    }

    fn unfiltered(
        &mut self,
        happening: &Happening,
        context: &Context,
        model: &Model,
    ) -> io::Result<()> {
        self.recorded();
        self.noteworthy.event(happening);
        if let Some(current) = &mut self.current {
            self.changed |= current.event(happening, context, model, &mut self.members);
        }
        if let (Event::ProcessExited { .. }, Some(pid)) = (happening.event, happening.pid) {
            self.members.forget(pid);
        }
        Ok(())
    }

    fn commands(&mut self, commands: Commands<'_>, model: &Model, ts_ns: u64) -> io::Result<()> {
        match commands {
            Commands::Started(pids) => {
                self.finish(Some(model), ts_ns);
                self.begin(ts_ns);
                self.members.start(pids);
            }
            Commands::Ended(statuses) => {
                if let Some(current) = &mut self.current {
                    current.run.failed = failure(statuses);
                }
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        if let (true, Some(want)) = (self.changed, self.may_look()) {
            self.look(want);
        }
        if let (Some(trials), Some(current)) = (&mut self.trials, &self.current) {
            trials.turn(&current.run, boottime_ns())?;
        }
        Ok(())
    }

    fn tick(&mut self, _model: &Model) -> io::Result<()> {
        if let Some(want) = self.may_look() {
            self.look(want);
        }
        self.flush()
    }

    fn end(&mut self, model: &Model, ts_ns: u64) -> io::Result<()> {
        self.recorded();
        if let Some(trials) = &mut self.trials {
            trials.finish();
        }
        self.finish(Some(model), ts_ns);
        Ok(())
    }
}

/// What went wrong with commands.
fn failure(statuses: &[ExitStatus]) -> Option<String> {
    let failed: Vec<String> = statuses
        .iter()
        .filter(|status| !status.success())
        .map(ToString::to_string)
        .collect();
    (!failed.is_empty()).then(|| failed.join(", "))
}

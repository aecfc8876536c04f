// SPDX-License-Identifier: MIT OR Apache-2.0
//! A run: rounds of stops and restarts, every row once a round in changing order.

use std::collections::BTreeMap;
use std::time::Duration;

use nix::errno::Errno;

use super::order::Orders;
use super::plan::{Case, Plan};
use super::record::Operation;
use super::stats::Split;
use crate::control::{BackendKind, ControlError, Outcome, Target};
use crate::event::{GpuId, Pid};

/// What a run needs of the machine.
pub trait Rig {
    /// Makes a backend ready, so that what it does only once is not part of a latency: attaching to the job, say.
    ///
    /// # Errors
    /// When the backend cannot be used (any more).
    fn ready(&mut self, backend: BackendKind, targets: &[Target]) -> Result<(), ControlError>;

    /// Stops or restarts.
    ///
    /// # Errors
    /// As [`crate::control::Backend`].
    fn act(
        &mut self,
        backend: BackendKind,
        operation: Operation,
        targets: &[Target],
    ) -> Result<Outcome, ControlError>;

    /// Restarts everything that a backend holds.
    ///
    /// # Errors
    /// When something may be stopped still.
    fn release(&mut self, backend: BackendKind) -> Result<(), ControlError>;

    /// Called before the calls of an operation.
    fn begin(&mut self);

    /// Called after them: looks whether it came true.
    fn seen(&mut self, operation: Operation, targets: &[Target]) -> Seen;

    /// Lets time pass.
    fn pause(&mut self, time: Duration);

    /// Whether the run must end now.
    fn stop(&mut self) -> Option<End>;

    /// Called before each round.
    fn progress(&mut self, round: u32, rounds: u32);
}

/// What was seen of an operation from outside of the backend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Whether it came true; `None` where nothing but the driver's answer tells.
    pub confirmed: Option<bool>,
    /// Wait for GPUs' scheduler locks.
    pub lock_wait_ns: Option<u64>,
    /// GPUs' answers.
    pub hw_ns: Option<u64>,
    /// Times that everything on a GPU was off the hardware for it, `None` where that cannot be seen.
    pub cycles: Option<Vec<Cycle>>,
}

/// Everything on a GPU, also of processes that are not concerned, was taken off the hardware and put back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cycle {
    /// Node.
    pub gpu_id: GpuId,
    /// From UNMAP_QUEUES sent to the runlist submitted again.
    pub off_ns: u64,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// All rounds.
    Complete,
    /// A signal.
    Signal(i32),
    /// A process of the job is gone.
    JobGone(Pid),
    /// A GPU did not answer in time.
    TimedOut(String),
    /// What was stopped could not be restarted.
    Stuck(String),
    /// No row could be measured.
    Nothing,
}

/// One operation of one round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Round, from 0.
    pub round: u32,
    /// As the caller waits for it, calls one by one added up.
    pub total_ns: u64,
    /// Of it, the wait for scheduler locks.
    pub lock_wait_ns: Option<u64>,
    /// Of it, the GPU.
    pub hw_ns: Option<u64>,
    /// How long the disturbed GPU was off the hardware for it.
    pub off_ns: Option<u64>,
    /// In how many cycles.
    pub cycles: Option<usize>,
}

impl Sample {
    /// The parts of its total, if the GPU's is known. A wait that is not known is part of the software.
    #[must_use]
    pub fn split(&self) -> Option<Split> {
        let lock_wait_ns = self.lock_wait_ns.unwrap_or(0);
        Some(Split::new(self.total_ns, lock_wait_ns, self.hw_ns?))
    }
}

/// A case done by a backend.
#[derive(Clone, Debug)]
pub struct Row {
    /// Which backend.
    pub backend: BackendKind,
    /// Number of the case in the plan.
    pub case: usize,
    /// Rounds that stopped and restarted everything.
    pub preempts: Vec<Sample>,
    /// As many.
    pub resumes: Vec<Sample>,
    /// Rounds that failed, by what was said.
    pub failures: BTreeMap<String, u32>,
    /// Stops and restarts that the driver reported done and that were not seen; `None` where nobody looked.
    pub unseen: [Option<u32>; 2],
    /// Why no more of it was measured.
    pub given_up: Option<String>,
    /// Whether that is a permission that is missing.
    pub denied: bool,
}

impl Row {
    /// Samples of an operation.
    #[must_use]
    pub fn samples(&self, operation: Operation) -> &[Sample] {
        match operation {
            Operation::Preempt => &self.preempts,
            Operation::Resume => &self.resumes,
        }
    }

    /// Whether any round of it was measured.
    #[must_use]
    pub fn tried(&self) -> bool {
        !self.preempts.is_empty() || !self.failures.is_empty()
    }

    /// Rounds that failed.
    #[must_use]
    pub fn failed(&self) -> u32 {
        self.failures.values().sum()
    }
}

/// What a run found.
#[derive(Clone, Debug)]
pub struct Findings {
    /// Backends in the given order, cases in the plan's.
    pub rows: Vec<Row>,
    /// Rounds begun.
    pub rounds: u32,
    /// Why it ended.
    pub end: End,
}

/// How to run.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Rounds.
    pub rounds: u32,
    /// Between stop and restart, and between restart and the next stop.
    pub hold: Duration,
    /// Of the order.
    pub seed: u64,
}

/// A row that never worked, or stopped working, costs no more than this.
const MOST_FAILURES_IN_A_ROW: u32 = 3;

/// Runs a plan with each of the backends. `disturbed` are the GPUs whose disturbance counts.
pub fn run(
    rig: &mut dyn Rig,
    plan: &Plan,
    backends: &[BackendKind],
    disturbed: &[GpuId],
    options: &Options,
) -> Findings {
    let mut rows = Vec::new();
    for backend in backends {
        for (case, what) in plan.cases.iter().enumerate() {
            rows.push(Row {
                backend: *backend,
                case,
                preempts: Vec::new(),
                resumes: Vec::new(),
                failures: BTreeMap::new(),
                unseen: [None; 2],
                given_up: what.impossible_for(*backend).map(str::to_owned),
                denied: false,
            });
        }
    }
    let mut run = Run {
        rig,
        disturbed,
        hold: options.hold,
    };
    let mut findings = Findings {
        rows,
        rounds: 0,
        end: End::Complete,
    };
    if let Err(end) = run.all(&mut findings, plan, options) {
        findings.end = end;
    }
    findings
}

struct Run<'a> {
    rig: &'a mut dyn Rig,
    disturbed: &'a [GpuId],
    hold: Duration,
}

/// Why an attempt gave no sample.
enum Failed {
    /// Said by the backend; the next round may do better.
    Row(Why),
    /// Ends the run.
    Run(End),
}

/// What a backend said.
struct Why {
    text: String,
    denied: bool,
}

impl Run<'_> {
    fn all(&mut self, findings: &mut Findings, plan: &Plan, options: &Options) -> Result<(), End> {
        let rows = &mut findings.rows;
        // What does not work at all is known after this, and first times are not measured.
        for row in rows.iter_mut().filter(|row| row.given_up.is_none()) {
            if let Some(end) = self.rig.stop() {
                return Err(end);
            }
            match self.once(row.backend, &plan.cases[row.case], 0) {
                Ok(_) => {}
                Err(Failed::Run(end)) => return Err(end),
                Err(Failed::Row(why)) => {
                    row.given_up = Some(why.text);
                    row.denied = why.denied;
                }
            }
        }
        if rows.iter().all(|row| row.given_up.is_some()) {
            return Err(End::Nothing);
        }
        let mut in_a_row = vec![0; rows.len()];
        let mut orders = Orders::new(rows.len(), options.seed);
        for round in 0..options.rounds {
            self.rig.progress(round, options.rounds);
            findings.rounds = round + 1;
            for at in orders.round() {
                let row = &mut rows[at];
                let case = &plan.cases[row.case];
                if row.given_up.is_some() || round % case.every != 0 {
                    continue;
                }
                if let Some(end) = self.rig.stop() {
                    return Err(end);
                }
                match self.once(row.backend, case, round) {
                    Ok(done) => {
                        in_a_row[at] = 0;
                        row.preempts.push(done[0].0);
                        row.resumes.push(done[1].0);
                        for (unseen, (_, confirmed)) in row.unseen.iter_mut().zip(&done) {
                            if let Some(confirmed) = confirmed {
                                *unseen.get_or_insert(0) += u32::from(!confirmed);
                            }
                        }
                    }
                    Err(Failed::Run(end)) => return Err(end),
                    Err(Failed::Row(why)) => {
                        in_a_row[at] += 1;
                        if in_a_row[at] == MOST_FAILURES_IN_A_ROW {
                            row.given_up = Some(why.text.clone());
                        }
                        *row.failures.entry(why.text).or_default() += 1;
                    }
                }
            }
        }
        Ok(())
    }

    /// Stops and restarts once. Whatever fails, nothing stays stopped, or the run ends.
    fn once(
        &mut self,
        backend: BackendKind,
        case: &Case,
        round: u32,
    ) -> Result<[(Sample, Option<bool>); 2], Failed> {
        let done = self
            .operation(backend, case, Operation::Preempt, round)
            .and_then(|stop| {
                self.rig.pause(self.hold);
                let restart = self.operation(backend, case, Operation::Resume, round)?;
                Ok([stop, restart])
            });
        if let Err(Failed::Row(why)) = &done {
            if let Err(error) = self.rig.release(backend) {
                return Err(Failed::Run(End::Stuck(format!("{}; {error}", why.text))));
            }
        }
        self.rig.pause(self.hold);
        done
    }

    fn operation(
        &mut self,
        backend: BackendKind,
        case: &Case,
        operation: Operation,
        round: u32,
    ) -> Result<(Sample, Option<bool>), Failed> {
        let failed = |error: ControlError| {
            Failed::Row(Why {
                text: error.to_string(),
                denied: matches!(error, ControlError::NoPermission { .. }),
            })
        };
        let targets = case.targets();
        if operation == Operation::Preempt {
            self.rig.ready(backend, &targets).map_err(failed)?;
        }
        self.rig.begin();
        let mut outcomes = Vec::with_capacity(case.parts.len());
        for part in &case.parts {
            let outcome = self.rig.act(backend, operation, part).map_err(failed)?;
            check(&outcome, part)?;
            outcomes.push(outcome);
        }
        let seen = self.rig.seen(operation, &targets);
        let sum =
            |part: fn(&Outcome) -> Option<u64>| outcomes.iter().map(part).sum::<Option<u64>>();
        let (off_ns, cycles) = seen
            .cycles
            .as_deref()
            .map(|cycles| disturbance(cycles, self.disturbed))
            .unzip();
        let sample = Sample {
            round,
            total_ns: outcomes.iter().map(|outcome| outcome.total_ns).sum(),
            lock_wait_ns: sum(|outcome| outcome.lock_wait_ns).or(seen.lock_wait_ns),
            hw_ns: sum(|outcome| outcome.hw_ns).or(seen.hw_ns),
            off_ns,
            cycles,
        };
        Ok((sample, seen.confirmed))
    }
}

/// Whether all was done that was asked for.
fn check(outcome: &Outcome, asked: &[Target]) -> Result<(), Failed> {
    let refusal = outcome
        .targets
        .iter()
        .find_map(|t| t.refusal.as_ref().map(|r| (t.pid, r)));
    if outcome.timed_out() {
        let what = refusal.map_or_else(String::new, |(pid, refusal)| {
            format!("process {pid}: {refusal}")
        });
        return Err(Failed::Run(End::TimedOut(what)));
    }
    if let Some((_, refusal)) = refusal {
        return Err(Failed::Row(Why {
            text: refusal.to_string(),
            denied: matches!(refusal.errno, Some(Errno::EPERM | Errno::EACCES)),
        }));
    }
    let wanted: usize = asked.iter().map(|target| target.queues.len()).sum();
    let changed: u32 = outcome.targets.iter().map(|target| target.changed).sum();
    if (changed as usize) < wanted {
        return Err(Failed::Row(Why {
            text: format!("{changed} of {wanted} queues changed"),
            denied: false,
        }));
    }
    Ok(())
}

/// Of the GPU that was off for longest: how long, and in how many cycles.
fn disturbance(cycles: &[Cycle], gpus: &[GpuId]) -> (u64, usize) {
    gpus.iter()
        .map(|gpu| {
            let here = || cycles.iter().filter(|cycle| cycle.gpu_id == *gpu);
            (here().map(|cycle| cycle.off_ns).sum(), here().count())
        })
        .max()
        .unwrap_or((0, 0))
}

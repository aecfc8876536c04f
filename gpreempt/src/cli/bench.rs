// SPDX-License-Identifier: MIT OR Apache-2.0
//! `bench`: measured latencies on this machine.

use std::io::{self, IsTerminal as _, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Subcommand;

use super::control_args::{Output, Selectors, SELECTORS};
use super::output::{self, Format, Page};
use super::{watch, Exit, Failure, Global};
use crate::bench::record::{BackendState, EndKind, Environment, SCHEMA};
use crate::bench::stats::MOST_SAMPLES;
use crate::bench::{
    environment, html, run, table, Count, Findings, Machine, Options, Plan, Report, Row,
};
use crate::control::choose::{self, PREFERENCE};
use crate::control::lease::{Guard, KernelGuards};
use crate::control::observe::{Observer, Want};
use crate::control::select::{self, Only, Selector};
use crate::control::supervisor::Supervisor;
use crate::control::wait::Signals;
use crate::control::{BackendKind, ControlError, HoldOptions, Target};
use crate::event::GpuId;
use crate::kfd::name::CommGlob;
use crate::kfd::{module, Root};
use crate::sink::json;
use crate::sink::record::Id64;
use crate::sink::units::Nanos;

/// Measure latencies on this machine
#[derive(Debug, clap::Args)]
pub(super) struct Bench {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    Preempt(Box<Preempt>),
}

impl Bench {
    pub(super) fn run(self, global: &Global) -> Result<Exit, Failure> {
        match self.what {
            What::Preempt(what) => what.run(global),
        }
    }
}

/// How long it takes to stop and restart queues of a running job, by every backend that works here
///
/// Stops sets of the job's queues for a moment and restarts them, over and over: one queue, ten, all of a process, of several
/// processes; in one call and one after the other; by all backends, each row once a round in an order that changes. Every
/// latency is split into the wait for the driver's lock, the GPU's answer and software. How long processes that are not
/// concerned are off the GPU for it is measured too. Queues are restarted also if gpreempt is interrupted, killed or hangs.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
#[command(group(clap::ArgGroup::new("whom").args(SELECTORS).multiple(true).required(true)))]
struct Preempt {
    #[command(flatten)]
    selectors: Selectors,
    /// A process whose disturbance is measured, by pid or name; it is never stopped, also if a selector names it
    #[arg(long, value_name = "PID|GLOB")]
    online: Option<String>,
    /// Rounds; percentiles are exact, and P99 needs 100 at least
    #[arg(long, default_value_t = 200, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(MOST_SAMPLES)))]
    rounds: u32,
    /// Backends to measure: patched, debug-trap, criu; all that work here if not given
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        hide_possible_values = true,
        value_name = "LIST"
    )]
    backend: Vec<Measurable>,
    /// How long queues stay stopped, and run before they are stopped again: at most 10s
    #[arg(long, default_value = "2ms", value_parser = hold, value_name = "DURATION")]
    hold: Duration,
    /// Numbers of queues to stop, as far as the job has them
    #[arg(
        long,
        default_value = "1,10,64,all",
        value_delimiter = ',',
        value_name = "LIST"
    )]
    queues: Vec<Count>,
    #[command(flatten)]
    output: Output,
    /// Also write a page with plots, which needs no network
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Of the order of rows; another one each time if not given
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

const EXAMPLES: &str = "\
Examples:
  gpreempt bench preempt --comm train.py --online serve.py --html preempt.html
  gpreempt bench preempt --pid 1234 --backend patched,criu --format json > preempt.jsonl";

/// A backend that does something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Measurable {
    Patched,
    DebugTrap,
    Criu,
}

impl Measurable {
    fn kind(self) -> BackendKind {
        match self {
            Self::Patched => BackendKind::Patched,
            Self::DebugTrap => BackendKind::DebugTrap,
            Self::Criu => BackendKind::Criu,
        }
    }
}

/// How much longer than it should take queues would stay stopped if this program hung. Longer than a GPU may take to answer
/// (`queue_preemption_timeout_ms`, 9 s if nobody changed it), which is to be told and not to be mistaken for a hang.
const LEASE: Duration = Duration::from_secs(30);

/// A signal is seen after this at the latest.
const LONGEST_HOLD: Duration = Duration::from_secs(10);

fn hold(text: &str) -> Result<Duration, String> {
    let hold = watch::duration(text)?;
    if hold > LONGEST_HOLD {
        return Err("expected at most 10s".to_owned());
    }
    Ok(hold)
}

const LOST: &str = "\
A GPU DID NOT ANSWER THE PREEMPTION IN TIME. The driver resets it, and every GPU process of this host is lost, also those
that were not stopped: restart all of them. The kernel log says which GPU. Nothing more is measured.";

const STUCK: &str = "\
QUEUES MAY BE STOPPED STILL, because restarting them failed: `gpreempt resume --strays` or ending the job is what is left.";

impl Preempt {
    fn run(self, global: &Global) -> Result<Exit, Failure> {
        let root = global.root();
        let (job, online) = self.select(&root)?;
        let plan = Plan::new(&job, &self.queues);
        if plan.cases.is_empty() {
            return Err(
                anyhow::anyhow!("the selected processes have no queues: nothing to stop").into(),
            );
        }
        // Before any thread is started, which would get the signals instead.
        let signals = Signals::block().context("cannot block signals")?;
        let (backends, refusals) = self.backends(&root);
        if backends.is_empty() {
            return Err(none(&refusals));
        }
        // Before anything is stopped: a page that cannot be written is no reason to disturb anybody.
        let page = self.html.clone().map(Page::create).transpose()?;
        let (observer, observed) = Observer::open(&root, Want::Auto);
        let seed = self.seed.unwrap_or_else(|| u64::from(fastrand::u32(..)));
        let mut environment = self.environment(&root, &job, &online, &refusals, observed, seed);
        output::say(&format!(
            "{} sets of queues, {} rounds, by {}; seen by {}",
            plan.cases.len(),
            self.rounds,
            backends
                .iter()
                .map(|b| b.name())
                .collect::<Vec<_>>()
                .join(", "),
            environment.observed
        ));
        let disturbed = disturbed(&job, &online);
        let options = Options {
            rounds: self.rounds,
            hold: self.hold,
            seed,
        };
        let findings = {
            let hold = HoldOptions {
                gpu: None,
                no_sdma: false,
                lease: self.hold + LEASE,
            };
            let open = |kind| choose::open(&root, kind);
            let mut machine = Machine::new(
                root.clone(),
                job.clone(),
                guard(&backends, hold.lease)?,
                observer,
                hold,
                Box::new(open),
            )
            .stopping(Box::new(|| signals.ending().ok().flatten()))
            .telling(teller());
            let findings = run(&mut machine, &plan, &backends, &disturbed, &options);
            clear();
            findings
            // Dropping the machine restarts what may be stopped still.
        };
        // A backend none of whose rows gave a sample does not work here.
        for state in environment
            .backends
            .iter_mut()
            .filter(|state| state.why_not.is_none())
        {
            state.why_not = nothing_of(&findings, state.backend);
        }
        let report = Report::new(environment, &plan, &findings);
        if let Some(page) = page {
            page.write(&html::page(&report, &plan, &findings)?)?;
        }
        self.show(&report, global)?;
        Ok(exit(&report, &findings))
    }

    /// The job without the online processes, and these.
    fn select(&self, root: &Root) -> Result<(Vec<Target>, Vec<Target>), Failure> {
        let mut job = self.selectors.resolve(root, Only::default())?;
        let online = match &self.online {
            None => Vec::new(),
            Some(text) => {
                let selector = match text.parse() {
                    Ok(pid) => Selector::Pid(pid),
                    Err(_) => Selector::Comm(text.parse::<CommGlob>().map_err(|error| {
                        Failure::new(Exit::Usage, anyhow::anyhow!("--online {text}: {error}"))
                    })?),
                };
                select::resolve(root, &[selector], Only::default())?
            }
        };
        job.retain(|target| !online.iter().any(|other| other.pid == target.pid));
        if job.is_empty() {
            let error = anyhow::anyhow!(
                "the selectors name nobody but the online process: nothing to stop"
            );
            return Err(Failure::new(Exit::Usage, error));
        }
        Ok((job, online))
    }

    /// Backends that can be opened, and why the others cannot.
    fn backends(&self, root: &Root) -> (Vec<BackendKind>, Vec<(BackendKind, ControlError)>) {
        let wanted: Vec<BackendKind> = match self.backend.is_empty() {
            true => PREFERENCE.to_vec(),
            false => self.backend.iter().map(|backend| backend.kind()).collect(),
        };
        let (mut backends, mut refusals) = (Vec::new(), Vec::new());
        for kind in PREFERENCE.into_iter().filter(|kind| wanted.contains(kind)) {
            match choose::open(root, kind) {
                Ok(_) => backends.push(kind),
                Err(error) => refusals.push((kind, error)),
            }
        }
        (backends, refusals)
    }

    fn environment(
        &self,
        root: &Root,
        job: &[Target],
        online: &[Target],
        refusals: &[(BackendKind, ControlError)],
        observed: String,
        seed: u64,
    ) -> Environment {
        let state = |backend| {
            let refusal = refusals.iter().find(|(kind, _)| *kind == backend);
            BackendState {
                backend,
                why_not: match refusal {
                    Some((_, error)) => Some(error.to_string()),
                    None if self.backend.is_empty() => None,
                    None => (!self.backend.iter().any(|b| b.kind() == backend))
                        .then(|| "not asked for".to_owned()),
                },
            }
        };
        Environment {
            schema: SCHEMA,
            began: environment::now(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            kernel: root
                .text("/proc/sys/kernel/osrelease")
                .unwrap_or_else(|_| "unknown".to_owned()),
            module_version: module::loaded(root).and_then(|module| module.version),
            simulation: environment::simulation(root),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            gpus: environment::gpus(root),
            offline: environment::processes(job),
            online: environment::processes(online),
            backends: PREFERENCE.map(state).to_vec(),
            observed,
            rounds: self.rounds,
            hold_ns: u64::try_from(self.hold.as_nanos()).unwrap_or(u64::MAX),
            seed: Id64(seed),
            percentiles: "exact, nearest rank of all samples".to_owned(),
        }
    }

    fn show(&self, report: &Report, global: &Global) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        match self.output.format {
            Format::Table => table::write(&mut out, report, global.color.on_stdout())?,
            Format::Json => {
                for record in report.records() {
                    json::line(&mut out, &record)?;
                }
            }
        }
        out.flush()?;
        match report.end.end {
            EndKind::GpuTimedOut => output::say(LOST),
            EndKind::Stuck => output::say(STUCK),
            _ => {}
        }
        if let Some(message) = &report.end.message {
            output::say(message);
        }
        Ok(())
    }
}

/// GPUs whose time off the hardware counts.
fn disturbed(job: &[Target], online: &[Target]) -> Vec<GpuId> {
    environment::on(if online.is_empty() { job } else { online })
}

/// Who restarts what is stopped if this process cannot. A patched driver does.
fn guard(backends: &[BackendKind], lease: Duration) -> Result<Box<dyn Guard>, Failure> {
    if backends.iter().all(|kind| *kind == BackendKind::Patched) {
        return Ok(Box::new(KernelGuards));
    }
    Ok(Box::new(Supervisor::start(lease)?))
}

/// Why a backend that could be opened gave nothing.
fn nothing_of(findings: &Findings, backend: BackendKind) -> Option<String> {
    let rows = || findings.rows.iter().filter(|row| row.backend == backend);
    if rows().any(Row::tried) {
        return None;
    }
    rows().find_map(|row| row.given_up.clone())
}

fn none(refusals: &[(BackendKind, ControlError)]) -> Failure {
    let permission = refusals
        .iter()
        .any(|(_, error)| matches!(error, ControlError::NoPermission { .. }));
    let all: Vec<String> = refusals
        .iter()
        .map(|(kind, error)| format!("{kind}: {error}"))
        .collect();
    let exit = if permission {
        Exit::NoPermission
    } else {
        Exit::Unavailable
    };
    Failure::new(
        exit,
        anyhow::anyhow!("no backend works here\n  {}", all.join("\n  ")),
    )
}

fn exit(report: &Report, findings: &Findings) -> Exit {
    match report.end.end {
        EndKind::Nothing if findings.rows.iter().any(|row| row.denied) => Exit::NoPermission,
        EndKind::Complete if report.measured.iter().any(|row| row.failed > 0) => Exit::Failed,
        EndKind::Complete => Exit::Ok,
        EndKind::Signal => Exit::Signal(report.end.signal.unwrap_or(0)),
        _ => Exit::Failed,
    }
}

/// Progress on a terminal: one line, at most twice a second.
fn teller() -> Box<dyn FnMut(u32, u32, Option<Duration>)> {
    if !io::stderr().is_terminal() {
        return Box::new(|_, _, _| {});
    }
    let mut last: Option<Instant> = None;
    Box::new(move |round, rounds, left| {
        if last.is_some_and(|at| at.elapsed() < Duration::from_millis(500)) {
            return;
        }
        last = Some(Instant::now());
        let left = left.map_or_else(String::new, |left| {
            let ns = u64::try_from(left.as_nanos()).unwrap_or(u64::MAX);
            format!(", {} left", Nanos(ns))
        });
        // That nobody reads it is no error.
        let _ = write!(
            io::stderr(),
            "\r\x1b[Kround {} of {rounds}{left}",
            round + 1
        );
    })
}

/// Takes the line of progress away.
fn clear() {
    if io::stderr().is_terminal() {
        let _ = write!(io::stderr(), "\r\x1b[K");
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! `analyze`: how a model uses queues, with evidence, and what follows for whoever wants to preempt it.

use std::ffi::OsString;
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{anyhow, Context as _};

use super::filters::Filters;
use super::output::{self, Format, Page};
use super::probes::{Probes, Span};
use super::{Exit, Failure, Global};
use crate::analysis::{
    self, conclude, html_page, Analysis, Look, Means, Parties, Pictures, Run, Trials, Tried,
    Watcher, Who,
};
use crate::control::choose::Chooser;
use crate::control::BackendKind;
use crate::engine::{Host, LiveHost, Options, RecordedHost, ScriptHost, Words};
use crate::event::Escaped;
use crate::inspect;
use crate::kfd::snapshot::Want;
use crate::kfd::Root;
use crate::sink::json;
use crate::sink::Sink;

/// Find out how a model uses compute queues, and how it can be preempted
///
/// How many queues it has, with which ids, whether they stay, are the same in the next run, and on which hardware slots they are; what its own calls cost everybody on the
/// GPU. Each answer with its evidence; then what follows: fixed ids or identification at run time, and by which means to stop it. Watches COMMAND (--runs times),
/// everything for a while, or recordings, each of which is a run. Pictures of the hardware slots read registers under the driver's lock, once a second at most. Never opens
/// /dev/kfd, unless --concurrent stops the COMMANDs.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Analyze {
    /// Recordings, each of one run of the same model
    #[arg(value_name = "RECORDING", conflicts_with_all = ["command", "runs"])]
    recordings: Vec<PathBuf>,
    /// How often COMMAND is run: only several runs can show that something repeats
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100), requires = "command")]
    runs: u32,
    /// Models that run together: each COMMAND alone, then all of them, and while they run each is stopped for a moment. Without COMMAND, every process is one
    #[arg(long, conflicts_with = "runs")]
    concurrent: bool,
    /// Do not look which hardware slots queues are on
    #[arg(long)]
    no_hqds: bool,
    /// Write a page with plots, too
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// How it is written: for people, or one object a line for programs
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    #[command(flatten)]
    filters: Filters,
    #[command(flatten)]
    span: Span,
    #[command(flatten)]
    probes: Probes,
    /// Records from a file instead of the kernel
    #[arg(long, hide = true, value_name = "FILE")]
    script: Option<PathBuf>,
    /// Watch this command and the processes that it starts; its output goes to stderr. With --concurrent several, with `--` between them
    #[arg(last = true, value_name = "COMMAND", conflicts_with = "duration")]
    command: Vec<OsString>,
}

const EXAMPLES: &str = "\
Examples:
  gpreempt analyze --runs 5 --report resnet.html -- python3 train.py
  gpreempt analyze --concurrent -- python3 train.py -- python3 serve.py
  gpreempt analyze monday.gpr tuesday.gpr --format json | jq 'select(.type == \"conclusion\")'
  gpreempt replay night.gpr analyze --comm 'python*'";

/// What a process had goes within this after its end.
const REST: Duration = Duration::from_millis(500);

impl Analyze {
    pub(super) fn run(self, global: &Global) -> Result<Exit, Failure> {
        if !self.recordings.is_empty() {
            let files = self.recordings.clone();
            return self.recorded(&files, global);
        }
        inspect::use_offsets(self.probes.offsets());
        let root = global.root();
        match self.script.clone() {
            Some(script) => self.live(&ScriptHost::new(root, script)?, global),
            None => {
                let probes = &self.probes;
                let host = LiveHost::new(root, probes.live_options(), probes.attach());
                self.live(&host, global)
            }
        }
    }

    /// The same of a recording.
    pub(super) fn replay(self, file: &Path, global: &Global) -> Result<Exit, Failure> {
        if !self.command.is_empty() || !self.recordings.is_empty() {
            let what = "replay analyzes the recording that it is given: no other, and no COMMAND";
            return Err(Failure::new(Exit::Usage, anyhow!(what)));
        }
        self.recorded(&[file.to_owned()], global)
    }

    fn live<H: Host>(self, host: &H, global: &Global) -> Result<Exit, Failure> {
        let commands = self.commands()?;
        let page = self.report.clone().map(Page::create).transpose()?;
        let (stages, planned) = self.plan(&commands);
        let parties = self.parties(&commands);
        let filter = self.filters.clone().of(Vec::new());
        let who = match commands.is_empty() {
            true => Who::All(filter),
            false => Who::Commands(filter),
        };
        let look = match host.root().is_real() {
            true => Look::Live(Want {
                hqds: !self.no_hqds,
            }),
            false => Look::Never,
        };
        let mut watcher = Watcher::new(host.root().clone(), look, who, planned)
            .telling(&|what| output::say(what));
        let mut tried = Tried::default();
        if parties == Some(Parties::Commands) {
            let program = std::env::current_exe().context("cannot find this program")?;
            let trials = Trials::new(program);
            tried = trials.tried();
            watcher = watcher.with_trials(trials);
        }
        let collected = watcher.collected();
        let options = Options {
            stages,
            rest: REST,
            output_to_stderr: true,
            ..self.span.options()
        };
        let mut sinks: Vec<Box<dyn Sink>> = vec![Box::new(watcher)];
        let outcome = super::run_watch(host, options, &mut sinks);
        drop(sinks);
        let runs = std::mem::take(&mut *analysis::lock(&collected));
        let tried = std::mem::take(&mut *analysis::lock(&tried));
        if runs.is_empty() {
            return Ok(super::exit_of(&outcome?));
        }
        let means = means(host.root(), runs.last());
        self.show(&conclude(runs, tried, parties, &means), page, global)?;
        Ok(super::exit_of(&outcome?))
    }

    fn recorded(self, files: &[PathBuf], global: &Global) -> Result<Exit, Failure> {
        if self.concurrent && files.len() > 1 {
            let what = "--concurrent takes one recording, in which the models run together";
            return Err(Failure::new(Exit::Usage, anyhow!(what)));
        }
        let filter = self.filters.clone().of(Vec::new());
        let page = self.report.clone().map(Page::create).transpose()?;
        let (runs, failed) = collect(files, &filter, self.span.duration)?;
        if !runs.is_empty() {
            let means = recorded_means(runs.last());
            let parties = self.concurrent.then_some(Parties::Processes);
            self.show(&conclude(runs, Vec::new(), parties, &means), page, global)?;
        }
        match failed {
            Some(failure) => Err(failure),
            None => Ok(Exit::Ok),
        }
    }

    /// Of one command its words; of several each.
    fn commands(&self) -> Result<Vec<Words>, Failure> {
        if !self.concurrent {
            let one = Some(self.command.clone()).filter(|words| !words.is_empty());
            return Ok(one.into_iter().collect());
        }
        let commands: Vec<Words> = self
            .command
            .split(|word| word == "--")
            .map(<[OsString]>::to_vec)
            .collect();
        match commands.as_slice() {
            [nothing] if nothing.is_empty() => Ok(Vec::new()),
            [_] => {
                let what = "--concurrent takes several commands: -- COMMAND -- COMMAND";
                Err(Failure::new(Exit::Usage, anyhow!(what)))
            }
            several if several.iter().any(Vec::is_empty) => {
                let what = "an empty command between two --";
                Err(Failure::new(Exit::Usage, anyhow!(what)))
            }
            _ => Ok(commands),
        }
    }

    /// What is run, and what the runs are called.
    #[allow(clippy::type_complexity, reason = "two lists that belong together")]
    fn plan(&self, commands: &[Words]) -> (Vec<Vec<Words>>, Vec<(String, Vec<String>)>) {
        let named = |words: &Words| {
            let words: Vec<String> = words
                .iter()
                .map(|word| Escaped(word.as_encoded_bytes()).to_string())
                .collect();
            words.join(" ")
        };
        let names: Vec<String> = commands.iter().map(named).collect();
        match commands {
            [] => (Vec::new(), vec![("now".to_owned(), Vec::new())]),
            [one] => (0..self.runs)
                .map(|run| {
                    let name = format!("run {}", run + 1);
                    (vec![one.clone()], (name, names.clone()))
                })
                .unzip(),
            several => {
                let alone = several.iter().zip(&names).map(|(words, name)| {
                    (
                        vec![words.clone()],
                        (format!("{name} alone"), vec![name.clone()]),
                    )
                });
                let all = (several.to_vec(), ("together".to_owned(), names.clone()));
                alone.chain([all]).unzip()
            }
        }
    }

    fn parties(&self, commands: &[Words]) -> Option<Parties> {
        match (self.concurrent, commands.len()) {
            (false, _) => None,
            (true, 0) => Some(Parties::Processes),
            (true, _) => Some(Parties::Commands),
        }
    }

    fn show(
        &self,
        analysis: &Analysis,
        page: Option<Page>,
        global: &Global,
    ) -> Result<(), Failure> {
        let mut out = BufWriter::new(io::stdout().lock());
        match self.format {
            Format::Table => {
                let layout = output::layout(global.color.on_stdout());
                analysis::table::write(&mut out, analysis, layout)?;
            }
            Format::Json => {
                for record in analysis.records() {
                    json::line(&mut out, &record)?;
                }
            }
        }
        out.flush()?;
        if let Some(page) = page {
            let title = match self.concurrent {
                true => "GPU queues of models that run together",
                false => "How a model uses GPU queues",
            };
            let simulated = analysis.runs.iter().any(|run| run.machine.simulated);
            page.write(&html_page(title, analysis, simulated)?)?;
        }
        Ok(())
    }
}

/// A run of each recording, and why one could not be read to its end.
pub(super) fn collect(
    files: &[PathBuf],
    filter: &crate::sink::filter::Filter,
    limit: Option<Duration>,
) -> Result<(Vec<Run>, Option<Failure>), Failure> {
    let mut runs = Vec::new();
    let mut failed = None;
    for file in files {
        let mut host = RecordedHost::open(file, limit)?;
        let pictures = Pictures::default();
        let sink = Rc::clone(&pictures);
        host.on_picture(Box::new(move |root, snapped| {
            let picture = inspect::look(root, Want { hqds: true });
            sink.borrow_mut()
                .push_back((picture, snapped.ts_ns, snapped.done_ns()));
        }));
        let name = file.file_stem().unwrap_or(file.as_os_str());
        let name = Escaped(name.as_encoded_bytes()).to_string();
        let who = Who::All(filter.clone());
        let planned = vec![(name, Vec::new())];
        let watcher = Watcher::new(host.root().clone(), Look::Recorded(pictures), who, planned);
        let collected = watcher.collected();
        let watched = super::run_watch(&host, Options::default(), &mut [Box::new(watcher)]);
        runs.append(&mut analysis::lock(&collected));
        if let Err(failure) = watched {
            failed.get_or_insert(failure);
        }
    }
    Ok((runs, failed))
}

/// What this machine has to stop queues by.
fn means(root: &Root, run: Option<&Run>) -> Means {
    match Chooser::new(root, None).usable() {
        Ok((kind, why)) => Means {
            patched: kind == BackendKind::Patched,
            stock: Some(kind != BackendKind::Patched),
            why: format!("here it would be {kind}: {why}"),
        },
        Err(error) => Means {
            patched: run.is_some_and(|run| run.machine.patched),
            stock: Some(false),
            why: format!("{error:#}"),
        },
    }
}

fn recorded_means(run: Option<&Run>) -> Means {
    let patched = run.is_some_and(|run| run.machine.patched);
    let why = match patched {
        true => "the recorded driver has the patches: their probes were attached",
        false => "the recorded driver has no patches; whether its debugger interface can be used was not recorded",
    };
    Means {
        patched,
        stock: None,
        why: why.to_owned(),
    }
}

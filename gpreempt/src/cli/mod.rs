// SPDX-License-Identifier: MIT OR Apache-2.0
//! Arguments, one file per verb, and exit codes.

mod analyze;
mod bench;
mod compare;
mod control_args;
mod control_out;
mod ctl;
mod ctl_out;
mod doctor;
mod exit;
mod export;
mod filters;
mod gen;
mod output;
mod preempt;
mod probes;
mod queues;
mod record;
mod replay;
mod reserve;
mod resume;
mod run;
mod serve;
mod stat;
mod supervise;
mod top;
mod watch;
mod what_if;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};

pub use exit::{Exit, Failure};

use crate::control::command;
use crate::engine::{self, Host, Options, Outcome};
use crate::kfd::Root;
use crate::sink::Sink;

/// See and preempt the compute queues of AMD GPUs.
#[derive(Debug, Parser)]
#[command(name = "gpreempt", version, arg_required_else_help = true, after_help = EXIT_CODES)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    verb: Verb,
}

/// Options of every verb.
#[derive(Clone, Debug, Args)]
struct Global {
    /// Colour; auto is on a terminal, unless NO_COLOR is set
    #[arg(long, value_enum, default_value_t = output::Color::Auto, global = true, value_name = "WHEN")]
    color: output::Color,
    /// Look for /sys and /proc below another directory
    #[arg(long, hide = true, global = true, value_name = "DIR")]
    root: Option<PathBuf>,
}

impl Global {
    fn root(&self) -> Root {
        self.root.clone().map_or_else(Root::real, Root::at)
    }
}

#[derive(Debug, Subcommand)]
enum Verb {
    Watch(watch::Watch),
    Top(top::Top),
    Queues(queues::Queues),
    Stat(stat::Stat),
    Record(record::Record),
    Replay(replay::Replay),
    Analyze(Box<analyze::Analyze>),
    Compare(compare::Compare),
    Preempt(preempt::Preempt),
    Resume(resume::Resume),
    Reserve(reserve::Reserve),
    Run(run::Run),
    Serve(serve::Serve),
    Ctl(ctl::Ctl),
    Bench(bench::Bench),
    Doctor(doctor::Doctor),
    #[command(hide = true)]
    Gen(gen::Gen),
    #[command(hide = true)]
    Supervise(supervise::Supervise),
}

const EXIT_CODES: &str = "\
Exit codes: 0 ok, 1 failed, 2 usage, 69 no GPU, driver, backend or feature, 77 no permission,
128+n ended by signal n; where a COMMAND was run, its own.";

/// Runs the program.
#[must_use]
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(e) => {
            // Help and version go to stdout, whose reader may be gone.
            let _ = e.print();
            return if e.use_stderr() {
                Exit::Usage.into()
            } else {
                Exit::Ok.into()
            };
        }
    };
    let exit = match cli.verb {
        Verb::Watch(verb) => verb.run(&cli.global),
        Verb::Top(verb) => verb.run(&cli.global),
        Verb::Queues(verb) => verb.run(&cli.global),
        Verb::Stat(verb) => verb.run(&cli.global),
        Verb::Record(verb) => verb.run(&cli.global),
        Verb::Replay(verb) => verb.run(&cli.global),
        Verb::Analyze(verb) => verb.run(&cli.global),
        Verb::Compare(verb) => verb.run(&cli.global),
        Verb::Preempt(verb) => verb.run(&cli.global),
        Verb::Resume(verb) => verb.run(&cli.global),
        Verb::Reserve(verb) => verb.run(&cli.global),
        Verb::Run(verb) => verb.run(),
        Verb::Serve(verb) => verb.run(&cli.global),
        Verb::Ctl(verb) => verb.run(&cli.global),
        Verb::Bench(verb) => verb.run(&cli.global),
        Verb::Doctor(verb) => verb.run(&cli.global),
        Verb::Gen(verb) => verb.run(),
        Verb::Supervise(verb) => verb.run(),
    };
    match exit {
        Ok(exit) => exit.into(),
        Err(failure) => {
            if let Some(message) = failure.message() {
                output::say(&message);
            }
            failure.exit.into()
        }
    }
}

/// Runs a watch to its end.
fn run_watch<H: Host>(
    host: &H,
    options: Options,
    sinks: &mut [Box<dyn Sink>],
) -> Result<Outcome, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start")?;
    Ok(runtime.block_on(engine::watch(host, options, sinks, &mut output::say))?)
}

/// The command's exit code, where there was one.
fn exit_of(outcome: &Outcome) -> Exit {
    match outcome.command {
        Some(status) => Exit::Command(command::exit_code(status)),
        None => outcome.end.map_or(Exit::Ok, Exit::from),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn arguments_are_consistent() {
        super::Cli::command().debug_assert();
    }
}

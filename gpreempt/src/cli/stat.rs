// SPDX-License-Identifier: MIT OR Apache-2.0
//! `stat`: how long things took, how often they happened, and what is worth knowing about it.

use std::cell::RefCell;
use std::ffi::OsString;
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use super::filters::Filters;
use super::output::{self, Format};
use super::probes::{Probes, Span};
use super::{Exit, Failure, Global};
use crate::engine::{self, Host, LiveHost, RecordedHost, ScriptHost};
use crate::findings::History;
use crate::kfd::snapshot::Want;
use crate::sink::{Named, Sink};
use crate::stat::{By, Options, StatSink};

/// Show how long operations on queues take and how often they happen
///
/// Distributions of the time to create, update and destroy queues, to take runlists off the GPU and submit them, to evict, restore, hold
/// and release processes, and of the time that queues were off the hardware; counts, what became of each process, and findings. Over a
/// time, while COMMAND runs, or until SIGINT. Durations are measured in the kernel. Never opens /dev/kfd.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Stat {
    /// For how long: seconds, or 500ms, 5m, 1h30m
    #[arg(value_name = "SECONDS", value_parser = super::watch::duration, conflicts_with_all = ["duration", "command"])]
    seconds: Option<Duration>,
    /// How the report is written: for people, or one object a line for programs
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// Also by what caused it, process or GPU
    #[arg(long, value_enum)]
    by: Option<By>,
    /// Also report each such period when it is over, at least a second
    #[arg(long, value_name = "DURATION", value_parser = interval)]
    interval: Option<Duration>,
    /// Draw the distributions
    #[arg(long)]
    histogram: bool,
    #[command(flatten)]
    filters: Filters,
    #[command(flatten)]
    span: Span,
    #[command(flatten)]
    probes: Probes,
    /// Records from a file instead of the kernel
    #[arg(long, hide = true, value_name = "FILE")]
    script: Option<PathBuf>,
    /// Measure while this command runs, and exit with its code
    #[arg(last = true, value_name = "COMMAND", conflicts_with = "duration")]
    command: Vec<OsString>,
}

const EXAMPLES: &str = "\
Examples:
  gpreempt stat 5
  gpreempt stat --by process --histogram -- python3 train.py
  gpreempt stat --interval 1 --format json | jq 'select(.type == \"stat_latency\" and .data.what == \"unmap\")'
  gpreempt replay night.gpr stat --by cause";

const LEAST_INTERVAL: Duration = Duration::from_secs(1);

fn interval(text: &str) -> Result<Duration, String> {
    let interval = super::watch::duration(text)?;
    match interval < LEAST_INTERVAL {
        true => Err("at least one second".to_owned()),
        false => Ok(interval),
    }
}

impl Stat {
    pub(super) fn run(self, global: &Global) -> Result<Exit, Failure> {
        let root = global.root();
        match self.script.clone() {
            Some(script) => self.stat(&ScriptHost::new(root, script)?, None, global),
            None => {
                let probes = &self.probes;
                let host = LiveHost::new(root, probes.live_options(), probes.attach());
                self.stat(&host, None, global)
            }
        }
    }

    /// The same of a recording.
    pub(super) fn replay(self, file: &Path, global: &Global) -> Result<Exit, Failure> {
        if !self.command.is_empty() {
            let error = anyhow::anyhow!("a recording has its own end: no COMMAND with replay");
            return Err(Failure::new(Exit::Usage, error));
        }
        let limit = self.seconds.or(self.span.duration);
        let mut host = RecordedHost::open(file, limit)?;
        let history = super::queues::pictures(&mut host, Want::default());
        self.stat(&host, Some(history), global)
    }

    fn stat<H: Host>(
        self,
        host: &H,
        history: Option<Rc<RefCell<History>>>,
        global: &Global,
    ) -> Result<Exit, Failure> {
        let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let table = match self.format {
            Format::Table => Some(output::layout(global.color.on_stdout())),
            Format::Json => None,
        };
        let filter = self.filters.of(Vec::new());
        let options = Options {
            filter: filter.clone(),
            by: self.by,
            interval_ns: self.interval.map(nanos),
            bars: self.histogram,
            table,
            history,
            clock: H::clock,
        };
        let sink = StatSink::new(BufWriter::new(io::stdout()), options);
        let mut sinks: Vec<Box<dyn Sink>> = vec![Box::new(Named::new("stdout", sink))];
        let span = self.span.options();
        let options = engine::Options {
            filter,
            duration: self.seconds.or(span.duration),
            stages: engine::Options::one_command(self.command),
            ..span
        };
        let outcome = super::run_watch(host, options, &mut sinks)?;
        Ok(super::exit_of(&outcome))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_seconds_at_least() {
        assert_eq!(interval("1"), Ok(LEAST_INTERVAL));
        assert_eq!(interval("2m"), Ok(Duration::from_secs(120)));
        assert!(interval("500ms").is_err());
        assert!(interval("x").is_err());
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! `watch`: the live stream of events.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::export::Exports;
use super::filters::Filters;
use super::output::{self, Format};
use super::probes::{Probes, Span};
use super::{Exit, Failure, Global};
use crate::engine::{Host, LiveHost, Options, RecordedHost, ScriptHost};
use crate::event::Kind;
use crate::sink::json::Json;
use crate::sink::summary::ForPeople;
use crate::sink::table::Table;
use crate::sink::Named;

/// Show what happens to compute queues, as it happens
///
/// Processes, queues, runlists, evictions, suspends and resets of every GPU on the machine, with durations measured in the
/// kernel. Never opens /dev/kfd. Filters decide what is shown; within one option any value will do.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Watch {
    /// How events are written: for people, or one object a line for programs
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    #[command(flatten)]
    span: Span,
    /// Stop after this many events
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..), value_name = "N")]
    count: Option<u64>,
    #[command(flatten)]
    filters: Filters,
    /// Only events of these types
    #[arg(long, value_enum, value_delimiter = ',', hide_possible_values = true)]
    kind: Vec<Kind>,
    #[command(flatten)]
    probes: Probes,
    #[command(flatten)]
    exports: Exports,
    /// Records from a file instead of the kernel
    #[arg(long, hide = true, value_name = "FILE")]
    script: Option<PathBuf>,
}

const EXAMPLES: &str = "\
Examples:
  gpreempt watch --comm 'python*' --kind runlist_unmapped,process_evicted
  gpreempt watch --export perfetto=trace.pftrace --duration 10s
  gpreempt watch --format json --duration 10s | jq 'select(.type == \"runlist_unmapped\")'

Types: process_attached process_exited queue_existing queue_created queue_updated
  queue_destroyed queue_rejected runlist_unmapped runlist_mapped process_evicted
  process_restored queues_suspended queues_resumed gpu_reset
  queues_held queues_released (by a patched driver)";

/// A plain number is seconds.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string());
    }
    humantime::parse_duration(text).map_err(|error| error.to_string())
}

impl Watch {
    pub(super) fn run(self, global: &Global) -> Result<Exit, Failure> {
        let root = global.root();
        match self.script.clone() {
            Some(script) => self.watch(&ScriptHost::new(root, script)?, global),
            None => {
                let probes = &self.probes;
                let host = LiveHost::new(root, probes.live_options(), probes.attach());
                self.watch(&host, global)
            }
        }
    }

    /// The same of a recording.
    pub(super) fn replay(self, file: &Path, global: &Global) -> Result<Exit, Failure> {
        let host = RecordedHost::open(file, self.span.duration)?;
        self.watch(&host, global)
    }

    fn watch<H: Host>(self, host: &H, global: &Global) -> Result<Exit, Failure> {
        let mut sinks = self.exports.open()?;
        match self.format {
            Format::Json => sinks.push(Box::new(Named::new("stdout", Json::new(io::stdout())))),
            Format::Table => {
                let layout = output::layout(global.color.on_stdout());
                let table = Table::new(io::stdout(), layout).following(|| output::layout(false));
                sinks.push(Box::new(Named::new("stdout", table)));
            }
        }
        let options = Options {
            filter: self.filters.of(self.kind),
            count: self.count,
            ..self.span.options()
        };
        let outcome = super::run_watch(host, options, &mut sinks)?;
        if let (Format::Table, Some(summary)) = (self.format, &outcome.summary) {
            output::say(&ForPeople(summary).to_string());
        }
        Ok(super::exit_of(&outcome))
    }
}

#[cfg(test)]
mod tests {
    use super::duration;
    use std::time::Duration;

    #[test]
    fn durations_are_seconds_unless_they_say_otherwise() {
        assert_eq!(duration("10"), Ok(Duration::from_secs(10)));
        assert_eq!(duration("0.5"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("5m"), Ok(Duration::from_secs(300)));
        for wrong in ["", "-1", "nan", "inf", "1e30", "5 parsecs"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}

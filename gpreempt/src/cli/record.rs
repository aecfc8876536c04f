// SPDX-License-Identifier: MIT OR Apache-2.0
//! `record`: keep what happens to compute queues in a file, to be looked at elsewhere and later.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;

use super::export::Exports;
use super::output;
use super::probes::{Probes, Span};
use super::{Exit, Failure, Global};
use crate::engine::{CaptureHost, Host, LiveHost, Options, ScriptHost};
use crate::inspect;
use crate::kfd::module;
use crate::kfd::snapshot::Want;
use crate::sink::summary::ForPeople;

/// Record what happens to compute queues
///
/// Writes events, the machine's GPUs, processes and queues, and counts of what was lost to FILE, compressed. `gpreempt replay FILE
/// VERB` shows them anywhere: without root, GPU or driver. Never opens /dev/kfd.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Record {
    /// Where to write
    file: PathBuf,
    #[command(flatten)]
    span: Span,
    /// Take a picture of all queues this often, beside those of the start, the end, and whenever queues came, went, were stopped or restarted
    #[arg(long, value_name = "DURATION", value_parser = super::watch::duration)]
    snapshot_every: Option<Duration>,
    /// Pictures also of the hardware slots that queues are on: reads thousands of registers under the driver's lock
    #[arg(long)]
    hqds: bool,
    /// Overwrite FILE
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    exports: Exports,
    #[command(flatten)]
    probes: Probes,
    /// Records from a file instead of the kernel
    #[arg(long, hide = true, value_name = "FILE")]
    script: Option<PathBuf>,
    /// Record while this command runs, and exit with its code
    #[arg(last = true, value_name = "COMMAND", conflicts_with = "duration")]
    command: Vec<OsString>,
}

const EXAMPLES: &str = "\
Examples:
  gpreempt record night.gpr --duration 8h --snapshot-every 1m
  gpreempt record train.gpr -- python3 train.py
  gpreempt replay train.gpr watch --comm 'python*'
  tar --zstd -tvf train.gpr";

impl Record {
    pub(super) fn run(self, global: &Global) -> Result<Exit, Failure> {
        match &self.script {
            Some(script) => {
                let host = ScriptHost::new(global.root(), script.clone())?;
                self.record(host)
            }
            None => {
                let options = self.probes.live_options();
                let host = LiveHost::new(global.root(), options, self.probes.attach());
                self.record(host)
            }
        }
    }

    fn record<H: Host>(self, host: H) -> Result<Exit, Failure> {
        let name = self.file.display().to_string();
        let mut sinks = self.exports.open()?;
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .create_new(!self.force)
            .open(&self.file)
            .with_context(|| match self.file.exists() && !self.force {
                true => format!("{name} exists; --force overwrites it"),
                false => format!("cannot write {name}"),
            })?;
        inspect::use_offsets(self.probes.offsets());
        let want = Want { hqds: self.hqds };
        let look = Box::new(move |root: &crate::kfd::Root| {
            let _ = inspect::look(root, want);
            // A page that is made of it says so.
            let _ = module::is_simulated(root);
        });
        let host = CaptureHost::new(host, file, look, self.snapshot_every)
            .with_context(|| format!("cannot write {name}"))?;
        let capture = host.capture();
        let options = Options {
            stages: Options::one_command(self.command),
            ..self.span.options()
        };
        let watched = super::run_watch(&host, options, &mut sinks);
        // Whatever ended it: what was recorded is to be had.
        let records = capture.finish(host.now_ns());
        let outcome = match watched {
            Ok(outcome) => outcome,
            Err(failure) => {
                if records.as_ref().is_ok_and(|records| *records == 0) {
                    // Nothing was attached: an empty recording is of no use.
                    let _ = std::fs::remove_file(&self.file);
                }
                return Err(failure);
            }
        };
        let records = records.with_context(|| format!("cannot write {name}"))?;
        if let Some(summary) = &outcome.summary {
            output::say(&ForPeople(summary).to_string());
        }
        output::say(&format!("{name}: {records} records"));
        Ok(super::exit_of(&outcome))
    }
}

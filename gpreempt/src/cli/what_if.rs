// SPDX-License-Identifier: MIT OR Apache-2.0
//! `replay FILE --config FILE`: what a policy would have held, had it been in force during a recording.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::{anyhow, Context as _};
use serde::Serialize;

use super::output::{self, Format};
use super::{Exit, Failure, Global};
use crate::engine::{Options, RecordedHost};
use crate::event::Happening;
use crate::inspect;
use crate::kfd::snapshot::Want;
use crate::model::{Context, Model};
use crate::policy::{what_if, Config, Decision, Facts, JobId, Known, PolicyName, Totals, WhatIf};
use crate::sink::json;
use crate::sink::record::{Record, Summary};
use crate::sink::table::{strong, Layout};
use crate::sink::units::Nanos;
use crate::sink::Sink;

/// What would have been held, had a policy been in force.
#[derive(Debug, clap::Args)]
pub(super) struct PolicyArgs {
    /// Say what the policy of this configuration of `serve` would have held: when, why, and what guards forbade
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Another policy than the one that the configuration names
    #[arg(long, value_enum, requires = "config")]
    policy: Option<PolicyName>,
    /// How that is written: for people, or one object a line for programs
    #[arg(long, value_enum, default_value_t = Format::Table, requires = "config")]
    format: Format,
}

/// One line of JSON.
#[derive(Serialize)]
#[serde(tag = "type", content = "data", rename_all = "snake_case")]
enum Line<'a> {
    Decision(&'a Decision),
    Job(JobLine<'a>),
}

#[derive(Serialize)]
struct JobLine<'a> {
    job: &'a JobId,
    #[serde(flatten)]
    totals: &'a Totals,
}

impl PolicyArgs {
    pub(super) fn is_given(&self) -> bool {
        self.config.is_some()
    }

    pub(super) fn run(&self, file: &Path, global: &Global) -> Result<Exit, Failure> {
        let Some(path) = &self.config else {
            let error = anyhow!("a verb, or --config FILE for what a policy would have held");
            return Err(Failure::new(Exit::Usage, error));
        };
        let named = || path.display().to_string();
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", named()))?;
        let mut config = Config::parse(&text).with_context(named)?;
        if let Some(policy) = self.policy {
            config.policy.name = policy;
            if let Some(fault) = config.policy.fault() {
                return Err(Failure::new(Exit::Usage, anyhow!("{}: {fault}", named())));
            }
        }
        let mut host = RecordedHost::open(file, None)?;
        let known = Rc::new(RefCell::new(BTreeMap::new()));
        let facts = Rc::clone(&known);
        host.on_picture(Box::new(move |root, _| {
            let mut facts = facts.borrow_mut();
            for process in inspect::look(root, Want::default()).processes {
                let of = facts
                    .entry(process.pid)
                    .or_insert_with(|| Facts::new(process.pid));
                // What one picture does not tell stays as another told it.
                of.comm = process.comm.or(of.comm);
                of.cgroup = process.cgroup.or_else(|| of.cgroup.take());
                of.uid = process.uid.or(of.uid);
                of.container = process.container.or_else(|| of.container.take());
            }
        }));
        let heard = Rc::new(RefCell::new(Heard::default()));
        let watched = super::run_watch(
            &host,
            Options::default(),
            &mut [Box::new(Rc::clone(&heard))],
        );
        let heard = heard.take();
        let known = Known {
            facts: known.take(),
            ..Known::default()
        };
        let what = what_if(&config, &known, &heard.happenings, heard.end_ns);
        let mut out = BufWriter::new(io::stdout().lock());
        match self.format {
            Format::Table => table(
                &mut out,
                &config,
                &known,
                &heard,
                &what,
                output::layout(global.color.on_stdout()),
            )?,
            Format::Json => {
                let decisions = what.decisions.iter().map(Line::Decision);
                let jobs = what
                    .jobs
                    .iter()
                    .map(|(job, totals)| Line::Job(JobLine { job, totals }));
                for line in decisions.chain(jobs) {
                    json::line(&mut out, &line)?;
                }
            }
        }
        out.flush()?;
        watched.map(|_| Exit::Ok)
    }
}

/// Every event of a recording.
#[derive(Default)]
struct Heard {
    happenings: Vec<Happening>,
    start_ns: u64,
    end_ns: u64,
    lost: u64,
}

impl Sink for Rc<RefCell<Heard>> {
    fn record(&mut self, record: &Record) -> io::Result<()> {
        let mut heard = self.borrow_mut();
        match record {
            Record::Startup(startup) => heard.start_ns = startup.ts_ns,
            Record::Summary(Summary { ts_ns, lost, .. }) => {
                heard.end_ns = *ts_ns;
                heard.lost = *lost;
            }
            _ => {}
        }
        Ok(())
    }

    fn unfiltered(&mut self, happening: &Happening, _: &Context, _: &Model) -> io::Result<()> {
        self.borrow_mut().happenings.push(*happening);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn table(
    out: &mut impl Write,
    config: &Config,
    known: &Known,
    heard: &Heard,
    what: &WhatIf,
    layout: Layout,
) -> io::Result<()> {
    let length = heard.end_ns.saturating_sub(heard.start_ns);
    let lost = match heard.lost {
        0 => String::new(),
        lost => format!(", {lost} records lost: decisions may be missing"),
    };
    let head = format!(
        "policy {} on {} events of {}{lost}",
        config.policy.name,
        heard.happenings.len(),
        Nanos(length)
    );
    writeln!(out, "{}", strong(&head, layout))?;
    for facts in known.facts.values() {
        let explained = config.rules.explain(facts);
        let name = facts.comm.map_or_else(String::new, |comm| comm.to_string());
        writeln!(
            out,
            "  {name}[{}] is {}, job {}: {}",
            facts.pid,
            explained.class.name(),
            explained.job,
            explained.why
        )?;
    }
    writeln!(
        out,
        "{}",
        strong(
            &format!("{:>10} {:8} {:20} WHY", "TIME", "DECISION", "JOB"),
            layout
        )
    )?;
    for decision in &what.decisions {
        let since = decision.now_ns.saturating_sub(heard.start_ns);
        let time = format!("{:.6}", since as f64 / 1e9);
        for order in &decision.to_release {
            let by = order
                .guard
                .map_or_else(String::new, |guard| format!("{guard}: "));
            writeln!(
                out,
                "{time:>10} {:8} {:20} {by}{}",
                "release", order.job.0, order.why
            )?;
        }
        for order in &decision.to_hold {
            let until = order.until_ns.saturating_sub(decision.now_ns);
            writeln!(
                out,
                "{time:>10} {:8} {:20} {}: {}; for {} at most",
                "hold",
                order.job.0,
                order.trigger,
                order.why,
                Nanos(until)
            )?;
        }
        for denied in &decision.denied {
            writeln!(
                out,
                "{time:>10} {:8} {:20} {}: {}",
                "denied", denied.job.0, denied.guard, denied.why
            )?;
        }
    }
    let head = format!(
        "{:20} {:>8} {:>8} {:>6} {:>7} {:>9}",
        "JOB", "HELD", "RUN", "HOLDS", "DENIED", "RECORDED"
    );
    writeln!(out, "{}", strong(&head, layout))?;
    for (job, totals) in &what.jobs {
        writeln!(
            out,
            "{:20} {:>8} {:>8} {:>6} {:>7} {:>9}",
            job.0,
            Nanos(totals.held_ns).to_string(),
            Nanos(totals.run_ns).to_string(),
            totals.holds,
            totals.denials,
            Nanos(totals.recorded_ns).to_string()
        )?;
    }
    writeln!(
        out,
        "\nRECORDED: how long any of it was held in the recording by a patched driver. An online job counts as active as long as it has compute queues: events\n\
         tell no packets. What a job that is held would have done otherwise nobody knows."
    )
}

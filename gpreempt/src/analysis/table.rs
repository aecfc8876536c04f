// SPDX-License-Identifier: MIT OR Apache-2.0
//! An analysis for people.

use std::collections::BTreeSet;
use std::io::{self, Write};

use super::conclude::{About, Analysis, Conclusion, Decision};
use super::run::{Life, Run};
use crate::sink::finding::grouped;
use crate::sink::table::{strong, Layout};
use crate::sink::units::{Bytes, Nanos};

/// Queues of each run in the table; JSON has all.
const MOST_QUEUES: usize = 40;

/// Writes it: what was seen, what it means, what follows.
///
/// # Errors
/// When it cannot be written.
pub fn write(out: &mut impl Write, analysis: &Analysis, layout: Layout) -> io::Result<()> {
    for run in &analysis.runs {
        one_run(out, run, layout)?;
    }
    for conclusion in &analysis.conclusions {
        conclude(out, conclusion, layout)?;
    }
    for decision in &analysis.decisions {
        decide(out, decision, layout)?;
    }
    Ok(())
}

fn one_run(out: &mut impl Write, run: &Run, layout: Layout) -> io::Result<()> {
    let gpus: Vec<String> = run
        .gpus
        .iter()
        .map(|gpu| {
            format!(
                "{} ({}, {} XCC, {} slots)",
                gpu.gpu_id, gpu.gfx, gpu.num_xcc, gpu.num_cp_queues
            )
        })
        .collect();
    let mut head = format!("{}: {}", run.name, Nanos(run.duration_ns()));
    if !run.parties.is_empty() {
        head = format!("{head} of {}", run.parties.join(" and "));
    }
    writeln!(out, "{}", strong(&head, layout))?;
    writeln!(out, "  GPUs {}; {} lost", gpus.join(", "), run.lost)?;
    if let Some(failed) = &run.failed {
        writeln!(out, "  a command failed: {failed}")?;
    }
    if run.lives.is_empty() {
        return writeln!(out, "  no queue was seen\n");
    }
    writeln!(
        out,
        "  {:22} {:>9} {:7} {:>7} {:>8} {:>8} {:>9}  SLOTS",
        "PROCESS", "GPU:Q", "TYPE", "RING", "CREATED", "LIVED", "PACKETS"
    )?;
    for life in run.lives.iter().take(MOST_QUEUES) {
        queue(out, run, life)?;
    }
    if run.lives.len() > MOST_QUEUES {
        let more = run.lives.len() - MOST_QUEUES;
        writeln!(out, "  and {more} more: --format json has them")?;
    }
    for finding in grouped(&run.findings) {
        writeln!(out, "  {}", finding.to_string().replace('\n', "\n  "))?;
    }
    writeln!(out)
}

fn queue(out: &mut impl Write, run: &Run, life: &Life) -> io::Result<()> {
    let member = &run.members[life.member];
    let process = match member.comm {
        Some(comm) => format!("{comm}[{}]", member.pid),
        None => format!("[{}]", member.pid),
    };
    let created = life.created_ns.map_or_else(
        || "before".to_owned(),
        |at| Nanos(at.saturating_sub(run.from_ns)).to_string(),
    );
    let lived = life.gone_ns(run).saturating_sub(life.born_ns(run));
    let packets = life
        .packets
        .map_or_else(|| "-".to_owned(), |n| n.to_string());
    writeln!(
        out,
        "  {process:22} {:>9} {:7} {:>7} {created:>8} {:>8} {packets:>9}  {}",
        format!("{}:{}", life.key.gpu_id, life.key.queue_id),
        life.queue_type.name(),
        Bytes(life.ring_bytes).to_string(),
        Nanos(lived).to_string(),
        slots(life)
    )
}

/// `XCC 0 to 3: 0.2`, that is pipe 0, queue 2; each XCC by itself where they differ.
fn slots(life: &Life) -> String {
    let mut places: Vec<((u32, u32), BTreeSet<u32>)> = Vec::new();
    for slot in &life.slots.last {
        let place = (slot.pipe, slot.queue);
        match places.iter_mut().find(|(known, _)| *known == place) {
            Some((_, xccs)) => {
                xccs.insert(slot.xcc);
            }
            None => places.push((place, BTreeSet::from([slot.xcc]))),
        }
    }
    let text = |((pipe, queue), xccs): &((u32, u32), BTreeSet<u32>)| {
        format!("XCC {}: {pipe}.{queue}", super::conclude::ranges(xccs))
    };
    match places.as_slice() {
        [] => "-".to_owned(),
        some => some.iter().map(text).collect::<Vec<_>>().join(", "),
    }
}

fn conclude(out: &mut impl Write, conclusion: &Conclusion, layout: Layout) -> io::Result<()> {
    let verdict = match conclusion.holds {
        Some(true) => "yes",
        Some(false) => "NO",
        None => "-",
    };
    let head = format!(
        "{:9} {verdict:4}",
        conclusion.question.name().to_uppercase()
    );
    writeln!(out, "{} {}", strong(&head, layout), conclusion.answer)?;
    conclusion
        .evidence
        .iter()
        .try_for_each(|line| writeln!(out, "               {line}"))
}

fn decide(out: &mut impl Write, decision: &Decision, layout: Layout) -> io::Result<()> {
    let head = match decision.about {
        About::Identification => "identification",
        About::Scheme => "scheme",
    };
    let head = format!("DECISION  {head}: {}", choice(decision));
    writeln!(out, "\n{}", strong(&head, layout))?;
    decision
        .because
        .iter()
        .try_for_each(|line| writeln!(out, "               {line}"))
}

/// In words.
pub(super) fn choice(decision: &Decision) -> &'static str {
    match decision.choice {
        "fixed_ids" => "fixed ids would do, within a process",
        "dynamic" => "dynamic: find queues at run time, by process and event",
        "A" => "A: what a stock driver has (debug-trap)",
        "B" => "B: the ioctls of a patched driver",
        "C" => "C: A now, B where the driver is patched (--backend auto does that)",
        _ => "none is possible here",
    }
}

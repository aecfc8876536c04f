// SPDX-License-Identifier: MIT OR Apache-2.0
//! A finding: a fact with its evidence and an advice, as people and programs read it. What is one, `findings` judges.

use std::fmt::{self, Write as _};
use std::io::{self, Write};

use schemars::JsonSchema;
use serde::Serialize;
use unicode_width::UnicodeWidthStr as _;

use super::table::Layout;
use crate::event::{Comm, GpuId, Pid, QueueId};

/// What a finding is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "FindingKind")]
pub enum Kind {
    /// A runlist holds more than the hardware does, or did: its queues take turns.
    Oversubscribed,
    /// A queue is mapped and its owner wrote no packet for a while.
    IdleQueue,
    /// A queue into which no packet was ever written.
    UnusedQueue,
    /// A process has queues on a node, and none of them can run: it still counts for oversubscription.
    PlaceOnly,
    /// The queues of a node were taken off the GPU.
    Preempted,
    /// What the firmware noted of the last wave save and restore of a queue.
    SaveRestore,
}

/// How much it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "FindingSeverity")]
pub enum Severity {
    /// It costs time.
    Warn,
    /// Good to know.
    Info,
}

/// A fact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Finding {
    /// What it is about.
    pub kind: Kind,
    /// How much it matters.
    pub severity: Severity,
    /// Node; null if it is about none.
    pub gpu_id: Option<GpuId>,
    /// Process; null if it is about none.
    pub pid: Option<Pid>,
    /// Its name, escaped.
    #[schemars(with = "Option<String>")]
    pub comm: Option<Comm>,
    /// Queue; null if it is about none.
    pub queue_id: Option<QueueId>,
    /// What was seen.
    pub evidence: String,
    /// What to do about it.
    pub advice: String,
}

/// `WARN oversubscribed GPU 52a1: 25 compute queues for 24 slots ...`, then the advice in a line of its own.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Warn => "WARN",
            Severity::Info => "info",
        };
        write!(
            f,
            "{severity} {}: {}\n     {}",
            self.subject(),
            self.evidence,
            self.advice
        )
    }
}

impl Finding {
    /// What it is about: `unused GPU 52a1 train[7] queue 0`.
    #[must_use]
    pub fn subject(&self) -> String {
        let mut text = self.kind.name().to_owned();
        if let Some(gpu_id) = self.gpu_id {
            let _ = write!(text, " GPU {gpu_id}");
        }
        if let Some(pid) = self.pid {
            let _ = write!(text, " {}", Named(self.comm, pid));
        }
        if let Some(queue_id) = self.queue_id {
            let _ = write!(text, " queue {queue_id}");
        }
        text
    }
}

impl Kind {
    /// Whether it is of a node as a whole; else of a queue or a process.
    #[must_use]
    pub fn is_of_node(self) -> bool {
        match self {
            Self::Oversubscribed | Self::Preempted => true,
            Self::IdleQueue | Self::UnusedQueue | Self::PlaceOnly | Self::SaveRestore => false,
        }
    }

    /// Its name for people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Oversubscribed => "oversubscribed",
            Self::IdleQueue => "idle",
            Self::UnusedQueue => "unused",
            Self::PlaceOnly => "place only",
            Self::Preempted => "preempted",
            Self::SaveRestore => "save/restore",
        }
    }
}

/// A process by name, as far as it is known.
pub(crate) struct Named(pub(crate) Option<Comm>, pub(crate) Pid);

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(comm) => write!(f, "{comm}[{}]", self.1),
            None => write!(f, "[{}]", self.1),
        }
    }
}

/// For people: what is said of several queues of a process in the same words is said once, of the first.
#[must_use]
pub fn grouped(findings: &[Finding]) -> Vec<Finding> {
    let mut groups: Vec<(Finding, Vec<u32>)> = Vec::new();
    for finding in findings {
        let same = |(first, _): &&mut (Finding, Vec<u32>)| {
            (first.kind, first.severity, first.gpu_id, first.pid)
                == (finding.kind, finding.severity, finding.gpu_id, finding.pid)
                && first.queue_id.is_some()
        };
        let group = groups.last_mut().filter(same);
        match (group, finding.queue_id) {
            (Some((_, others)), Some(queue_id)) => others.push(queue_id.0),
            _ => groups.push((finding.clone(), Vec::new())),
        }
    }
    groups
        .into_iter()
        .map(|(mut first, others)| {
            match others.len() {
                0 => {}
                1 => {
                    let _ = write!(first.evidence, "; likewise queue {}", ranges(&others));
                }
                _ => {
                    let _ = write!(first.evidence, "; likewise queues {}", ranges(&others));
                }
            }
            first
        })
        .collect()
}

/// `1-6 9`.
fn ranges(ids: &[u32]) -> String {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for id in ids {
        match ranges.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(*id) => *last = *id,
            _ => ranges.push((*id, *id)),
        }
    }
    let text = ranges.into_iter().map(|(from, to)| match from == to {
        true => from.to_string(),
        false => format!("{from}-{to}"),
    });
    text.collect::<Vec<_>>().join(" ")
}

/// Writes them for people, below a title; nothing where there are none.
///
/// # Errors
/// Those of `out`.
pub fn write(out: &mut impl Write, findings: &[Finding], layout: Layout) -> io::Result<()> {
    if findings.is_empty() {
        return Ok(());
    }
    match layout.color {
        true => {
            let style = anstyle::Style::new().bold();
            writeln!(out, "{style}FINDINGS{style:#}")?;
        }
        false => writeln!(out, "FINDINGS")?,
    }
    for finding in &grouped(findings) {
        let text = wrapped(&finding.to_string(), layout.width.unwrap_or(usize::MAX));
        match text.strip_prefix("WARN") {
            Some(rest) if layout.color && finding.severity == Severity::Warn => {
                let style = anstyle::AnsiColor::Yellow.on_default();
                writeln!(out, "{style}WARN{style:#}{rest}")?;
            }
            _ => writeln!(out, "{text}")?,
        }
    }
    Ok(())
}

/// Lines no wider than that where words allow it; what is broken goes on below the text of a finding.
fn wrapped(text: &str, columns: usize) -> String {
    const INDENT: &str = "     ";
    let mut lines: Vec<String> = Vec::new();
    for line in text.lines() {
        let indent = if line.starts_with(INDENT) { INDENT } else { "" };
        let mut open = indent.to_owned();
        let mut empty = true;
        for word in line.trim_start().split(' ') {
            if !empty && open.width() + 1 + word.width() > columns {
                lines.push(std::mem::replace(&mut open, INDENT.to_owned()));
                empty = true;
            }
            if !empty {
                open.push(' ');
            }
            open.push_str(word);
            empty = false;
        }
        lines.push(open);
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(kind: Kind, pid: u32, queue_id: Option<u32>) -> Finding {
        Finding {
            kind,
            severity: Severity::Info,
            gpu_id: Some(GpuId(1)),
            pid: Some(Pid(pid)),
            comm: None,
            queue_id: queue_id.map(QueueId),
            evidence: format!("of {queue_id:?}"),
            advice: String::new(),
        }
    }

    #[test]
    fn queues_of_a_process_are_told_together() {
        use Kind::{IdleQueue, PlaceOnly, UnusedQueue};
        let mut findings: Vec<Finding> = [0, 1, 2, 3, 7, 9, 10]
            .map(|id| finding(IdleQueue, 7, Some(id)))
            .to_vec();
        findings.push(finding(IdleQueue, 8, Some(0)));
        findings.push(finding(UnusedQueue, 8, Some(1)));
        findings.push(finding(UnusedQueue, 8, Some(2)));
        findings.push(finding(PlaceOnly, 8, None));
        findings.push(finding(PlaceOnly, 8, None));
        let told: Vec<String> = grouped(&findings).into_iter().map(|f| f.evidence).collect();
        assert_eq!(
            told,
            [
                "of Some(0); likewise queues 1-3 7 9-10",
                "of Some(0)",
                "of Some(1); likewise queue 2",
                "of None",
                "of None",
            ]
        );
    }
}

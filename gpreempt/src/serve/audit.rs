// SPDX-License-Identifier: MIT OR Apache-2.0
//! The audit log: one JSON object a line for every decision and what came of it. The JSON schema is generated from here.
//!
//! The file may be renamed or removed at any time: the next line goes into a new one. Lines are written whole, by one write each.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

use super::access::Caller;
use crate::control::report::Observed;
use crate::control::BackendKind;
use crate::event::{GpuId, Pid};
use crate::kfd::boottime_ns;
use crate::policy::{GuardName, JobId, PolicyName, Trigger};

/// Lines that are kept in memory for `GET /v1/audit`.
const KEPT: usize = 1000;

/// Lines that a slow reader of `GET /v1/audit?follow=true` may be behind before it is told that it lost some.
const BEHIND: usize = 1024;

/// One line.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Line {
    /// The time of day, UTC.
    pub time: String,
    /// The same moment, CLOCK_BOOTTIME.
    pub ts_ns: u64,
    /// What happened.
    #[serde(flatten)]
    pub record: AuditRecord,
}

/// What happened.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", content = "data", rename_all = "snake_case")]
pub enum AuditRecord {
    /// The daemon began.
    Started(Started),
    /// A job was stopped, and that was seen.
    Held(Held),
    /// A job runs again.
    Released(Released),
    /// A job was to be stopped, and could not be, or was not seen to stop: it runs.
    Refused(Refused),
    /// A policy wanted a job stopped, and a guard did not allow it.
    Denied(Denied),
    /// Somebody asked for something by name.
    Asked(Asked),
    /// A process said what it is.
    Registered(Registered),
    /// Another policy decides.
    Policy(PolicyChanged),
    /// The configuration was read again.
    Reloaded(Reloaded),
    /// What was held runs again without having been asked to: the hold ended.
    Lost(Lost),
    /// A GPU did not answer or was reset: nothing is stopped until somebody says so.
    Hung(Hung),
    /// Somebody said that jobs may be stopped again after a GPU had not answered.
    WentOn(WentOn),
    /// The daemon ended.
    Ended(Ended),
    /// Only to a reader that follows and is too slow: lines were left out here.
    Behind(Behind),
}

/// Lines were left out.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Behind {
    /// How many.
    pub lines: u64,
}

/// The daemon began.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Started {
    /// Version of the daemon.
    pub version: String,
    /// Its process.
    pub pid: Pid,
    /// Who decides.
    pub policy: PolicyName,
    /// It acts on nothing.
    pub dry_run: bool,
}

/// A job was stopped, and that was seen.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Held {
    /// It.
    pub job: JobId,
    /// The rule that made it offline, counted from 1.
    pub rule: Option<usize>,
    /// Who decided.
    pub policy: PolicyName,
    /// What made it decide so.
    pub trigger: Trigger,
    /// That in words.
    pub why: String,
    /// Its processes.
    pub pids: Vec<Pid>,
    /// The nodes concerned.
    pub gpus: Vec<GpuId>,
    /// Queues that are stopped.
    pub queues: u32,
    /// When it must run again at the latest.
    pub until_ns: u64,
    /// By which means; `dry-run` stopped nothing.
    pub backend: Option<BackendKind>,
    /// How it was seen.
    pub observed: Option<Observed>,
    /// From the decision until it was seen.
    pub latency_ns: u64,
    /// Longest time that a GPU took to answer.
    pub hw_ns: Option<u64>,
    /// From what made the daemon decide until the thread that decides had it: from when a call on the socket came, or from when the
    /// kernel noted an event of the driver. Null if it was neither: it was time.
    pub message_ns: Option<u64>,
    /// From there to the decision.
    pub decision_ns: Option<u64>,
    /// From the decision until the driver was called, at most.
    #[serde(default)]
    pub order_ns: u64,
}

/// A job runs again.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Released {
    /// It.
    pub job: JobId,
    /// The guard that demanded it; null if the policy wants it held no more.
    pub guard: Option<GuardName>,
    /// Why.
    pub why: String,
    /// Its processes.
    pub pids: Vec<Pid>,
    /// How long it was held.
    pub held_ns: u64,
    /// How it was seen; null if it was not: nothing of it had work, or something else keeps it off.
    pub observed: Option<Observed>,
    /// From the decision to the driver's answer.
    pub latency_ns: u64,
}

/// A job was to be stopped, and could not be.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Refused {
    /// It.
    pub job: JobId,
    /// Who wanted it.
    pub policy: PolicyName,
    /// To be stopped (true) or restarted.
    pub hold: bool,
    /// The processes that could not be, and why.
    pub pids: Vec<Pid>,
    /// What the driver said.
    pub why: String,
}

/// A guard did not allow a stop.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Denied {
    /// The job.
    pub job: JobId,
    /// The rule that classified it, counted from 1.
    pub rule: Option<usize>,
    /// Who wanted it.
    pub policy: PolicyName,
    /// What made it want that.
    pub trigger: Trigger,
    /// Which guard.
    pub guard: GuardName,
    /// That in words.
    pub why: String,
}

/// Who asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct By {
    /// User.
    pub uid: u32,
    /// Process, if it is in the daemon's pid namespace.
    pub pid: Option<Pid>,
}

impl From<Caller> for By {
    fn from(caller: Caller) -> Self {
        Self {
            uid: caller.uid,
            pid: caller.pid,
        }
    }
}

/// Somebody asked for something by name.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Asked {
    /// Who.
    pub by: By,
    /// `hold`, `resume` or `free`.
    pub what: String,
    /// Of which jobs.
    pub jobs: Vec<JobId>,
    /// For how long; null = until it is taken back.
    pub for_ms: Option<u64>,
}

/// A process said what it is.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Registered {
    /// Who said so.
    pub by: By,
    /// The process.
    pub pid: Pid,
    /// What it is.
    pub class: crate::policy::Class,
    /// The job that it belongs to.
    pub job: JobId,
}

/// Another policy decides.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct PolicyChanged {
    /// Who wanted that.
    pub by: By,
    /// Who decided.
    pub from: PolicyName,
    /// Who decides.
    pub to: PolicyName,
}

/// The configuration was read again.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Reloaded {
    /// Who wanted that; null = SIGHUP.
    pub by: Option<By>,
    /// What is wrong with it: the one before stays in force. null = nothing.
    pub error: Option<String>,
}

/// A hold ended by itself.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Lost {
    /// What is known of why.
    pub why: String,
}

/// A GPU did not answer or was reset.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Hung {
    /// What was seen.
    pub why: String,
}

/// Jobs may be stopped again.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema)]
pub struct WentOn {
    /// Who said so.
    pub by: By,
}

/// The daemon ended.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Ended {
    /// Why.
    pub why: String,
    /// Jobs that it had held and that run again.
    pub released: u32,
}

/// What a reader that is too slow gets in place of the lines that it missed.
pub(super) fn behind(lines: u64) -> String {
    text(AuditRecord::Behind(Behind { lines }))
}

fn text(record: AuditRecord) -> String {
    let line = Line {
        time: humantime::format_rfc3339_micros(SystemTime::now()).to_string(),
        ts_ns: boottime_ns(),
        record,
    };
    let mut text = serde_json::to_string(&line).unwrap_or_default();
    text.push('\n');
    text
}

/// Lines that were written, and those to come.
pub(super) type Reading = (Vec<Arc<str>>, broadcast::Receiver<Arc<str>>);

/// The log.
#[derive(Debug)]
pub(super) struct Audit {
    path: Option<PathBuf>,
    file: Option<File>,
    /// Complained of already.
    failed: bool,
    kept: VecDeque<Arc<str>>,
    readers: broadcast::Sender<Arc<str>>,
}

impl Audit {
    pub(super) fn new(path: Option<PathBuf>) -> Self {
        Self {
            path,
            file: None,
            failed: false,
            kept: VecDeque::new(),
            readers: broadcast::Sender::new(BEHIND),
        }
    }

    /// From now on into this file.
    pub(super) fn set_path(&mut self, path: Option<PathBuf>) {
        if self.path != path {
            self.path = path;
            self.file = None;
        }
        self.failed = false;
    }

    /// Writes a line. What cannot be written is said once and stays readable over the socket.
    pub(super) fn put(&mut self, record: AuditRecord) {
        let text = text(record);
        if let Err(error) = self.write(text.as_bytes()) {
            if !self.failed {
                let path = self.path.as_deref().unwrap_or_else(|| "".as_ref());
                super::say(&format!(
                    "cannot write the audit log {}: {error}; its lines are to be had by `gpreempt ctl audit` only",
                    path.display()
                ));
            }
            self.failed = true;
            self.file = None;
        }
        let text: Arc<str> = text.into();
        if self.kept.len() == KEPT {
            self.kept.pop_front();
        }
        self.kept.push_back(Arc::clone(&text));
        // Nobody may be reading.
        let _ = self.readers.send(text);
    }

    /// The last lines, and those to come.
    pub(super) fn read(&self, last: usize) -> Reading {
        let skip = self.kept.len().saturating_sub(last);
        let lines = self.kept.iter().skip(skip).cloned().collect();
        (lines, self.readers.subscribe())
    }

    fn write(&mut self, text: &[u8]) -> io::Result<()> {
        let Some(path) = &self.path else {
            return Ok(());
        };
        let is_there = |file: &File| -> io::Result<bool> {
            let ours = file.metadata()?;
            Ok(std::fs::metadata(path)
                .is_ok_and(|there| (there.dev(), there.ino()) == (ours.dev(), ours.ino())))
        };
        if let Some(file) = &self.file {
            if !is_there(file)? {
                self.file = None;
            }
        }
        let file = match &mut self.file {
            Some(file) => file,
            None => {
                let mut options = OpenOptions::new();
                options.append(true).create(true).mode(0o640);
                self.file.insert(options.open(path)?)
            }
        };
        file.write_all(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(why: &str) -> AuditRecord {
        AuditRecord::Ended(Ended {
            why: why.to_owned(),
            released: 0,
        })
    }

    #[test]
    fn lines_survive_a_rotation() {
        let dir = tempfile::tempdir().unwrap();
        let (path, old) = (dir.path().join("audit"), dir.path().join("audit.1"));
        let mut audit = Audit::new(Some(path.clone()));
        audit.put(ended("one"));
        std::fs::rename(&path, &old).unwrap();
        audit.put(ended("two"));
        audit.put(ended("three"));
        let lines = |path| std::fs::read_to_string(path).unwrap().lines().count();
        assert_eq!((lines(&old), lines(&path)), (1, 2));
        for line in std::fs::read_to_string(&path).unwrap().lines() {
            let line: Line = serde_json::from_str(line).unwrap();
            assert!(matches!(line.record, AuditRecord::Ended(_)));
            assert!(line.time.ends_with('Z'), "{}", line.time);
        }
    }

    #[test]
    fn what_cannot_be_written_can_be_read() {
        let mut audit = Audit::new(Some("/nonexistent/audit".into()));
        let (_, mut readers) = audit.read(0);
        for n in 0..KEPT + 5 {
            audit.put(ended(&n.to_string()));
        }
        assert_eq!(audit.read(usize::MAX).0.len(), KEPT);
        assert!(audit.read(1).0[0].contains(&(KEPT + 4).to_string()));
        // One that did not read meanwhile is told so.
        assert!(matches!(
            readers.try_recv(),
            Ok(_) | Err(broadcast::error::TryRecvError::Lagged(_))
        ));
    }
}

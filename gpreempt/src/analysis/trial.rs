// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whether each of several models can be stopped alone: `gpreempt preempt` is run on the processes of one after the other while all
//! of them run, and pictures taken meanwhile show whose queues are off.

use std::collections::HashSet;
use std::io::{self, Read as _};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::lock;
use super::run::Run;
use crate::event::Pid;
use crate::kfd::snapshot::{Snapshot, State};

/// All have had their queues for so long before the first is stopped.
const SETTLED_NS: u64 = 500_000_000;
/// A queue that was stopped is back within this.
const BACK_WITHIN_NS: u64 = 3_000_000_000;
/// How long each is stopped: long enough for a picture.
const FOR: &str = "1200ms";

/// An attempt to stop one of several models alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Trial {
    /// Which of the commands.
    #[serde(rename = "command")]
    pub party: usize,
    /// Its processes.
    pub pids: Vec<Pid>,
    /// By which means.
    pub backend: Option<String>,
    /// Queues that `preempt` reported as held.
    pub held: u64,
    /// And as released.
    pub released: u64,
    /// How `preempt` saw it.
    pub observed: Option<String>,
    /// Pictures that showed all of its queues off and all of the others mapped.
    pub alone: u64,
    /// Pictures that showed some of the others off while all of its were.
    pub others_off: u64,
    /// A picture after it showed all of its queues mapped.
    pub back: bool,
    /// Why it could not be done.
    pub failed: Option<String>,
}

/// What was tried.
pub type Tried = Arc<Mutex<Vec<Trial>>>;

/// Tries.
pub struct Trials {
    program: PathBuf,
    next: usize,
    state: Turn,
    done: Tried,
}

enum Turn {
    /// Nothing is stopped.
    Idle,
    /// One is, or will be.
    Running(Box<Child>, Trial),
    /// It should be back.
    After(Trial, u64),
}

impl Trials {
    /// By running `program`, which is this one.
    #[must_use]
    pub fn new(program: PathBuf) -> Self {
        Self {
            program,
            next: 0,
            state: Turn::Idle,
            done: Tried::default(),
        }
    }

    /// What was tried, for whoever started it.
    #[must_use]
    pub fn tried(&self) -> Tried {
        Arc::clone(&self.done)
    }

    /// Goes on: starts the next one, or sees that one has ended.
    pub(super) fn turn(&mut self, run: &Run, now_ns: u64) -> io::Result<()> {
        match std::mem::replace(&mut self.state, Turn::Idle) {
            Turn::Idle => self.start(run, now_ns),
            Turn::Running(mut child, mut trial) => {
                self.state = match child.try_wait()? {
                    None => Turn::Running(child, trial),
                    Some(_) => {
                        finished(*child, &mut trial);
                        match trial.failed {
                            Some(_) => {
                                self.push(trial);
                                Turn::Idle
                            }
                            None => Turn::After(trial, now_ns),
                        }
                    }
                };
                Ok(())
            }
            Turn::After(trial, since_ns) => {
                if trial.back || now_ns.saturating_sub(since_ns) > BACK_WITHIN_NS {
                    self.push(trial);
                } else {
                    self.state = Turn::After(trial, since_ns);
                }
                Ok(())
            }
        }
    }

    fn start(&mut self, run: &Run, now_ns: u64) -> io::Result<()> {
        if run.parties.len() < 2 || self.next >= run.parties.len() {
            return Ok(());
        }
        let mut pids: Vec<HashSet<Pid>> = vec![HashSet::new(); run.parties.len()];
        let mut last_ns = 0;
        for life in &run.lives {
            last_ns = last_ns.max(life.born_ns(run));
            if let (None, Some(party)) = (life.destroyed_ns, run.members[life.member].party) {
                pids[party].insert(life.key.pid);
            }
        }
        if pids.iter().any(HashSet::is_empty) || now_ns.saturating_sub(last_ns) < SETTLED_NS {
            return Ok(());
        }
        let party = self.next;
        self.next += 1;
        let mut pids: Vec<Pid> = pids[party].iter().copied().collect();
        pids.sort_unstable();
        let mut trial = Trial {
            party,
            ..Trial::default()
        };
        let mut command = Command::new(&self.program);
        command.args(["preempt", "--format", "json", "--for", FOR]);
        for pid in &pids {
            command.args(["--pid", &pid.to_string()]);
        }
        trial.pids = pids;
        let spawned = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        match spawned {
            Ok(child) => self.state = Turn::Running(Box::new(child), trial),
            Err(error) => {
                trial.failed = Some(format!("cannot start preempt: {error}"));
                self.push(trial);
            }
        }
        Ok(())
    }

    /// Judges a picture that was taken meanwhile.
    pub(super) fn picture(&mut self, run: &Run, snapshot: &Snapshot) {
        let (Turn::Running(_, trial) | Turn::After(trial, _)) = &mut self.state else {
            return;
        };
        let mut own = Vec::new();
        let mut others = Vec::new();
        for queue in &snapshot.queues {
            let member = run.members.iter().rev().find(|m| m.pid == queue.pid);
            match member.and_then(|member| member.party) {
                Some(party) if party == trial.party => own.push(queue.state),
                Some(_) => others.push(queue.state),
                None => {}
            }
        }
        let off = |state: &State| {
            matches!(
                state,
                State::Held | State::Suspended | State::Evicted | State::Parked
            )
        };
        let mapped = |states: &[State]| {
            !states.is_empty() && states.iter().all(|state| *state == State::Mapped)
        };
        let all_off = !own.is_empty() && own.iter().all(off);
        trial.alone += u64::from(all_off && mapped(&others));
        trial.others_off += u64::from(all_off && others.iter().any(off));
        if matches!(self.state, Turn::After(..)) {
            if let Turn::After(trial, _) = &mut self.state {
                trial.back |= mapped(&own);
            }
        }
    }

    /// Nothing runs any more: what is going on is waited for.
    pub(super) fn finish(&mut self) {
        match std::mem::replace(&mut self.state, Turn::Idle) {
            Turn::Idle => {}
            Turn::Running(mut child, mut trial) => {
                let _ = child.wait();
                finished(*child, &mut trial);
                trial
                    .failed
                    .get_or_insert_with(|| "the models ended before it was restarted".to_owned());
                self.push(trial);
            }
            Turn::After(trial, _) => self.push(trial),
        }
    }

    fn push(&mut self, trial: Trial) {
        lock(&self.done).push(trial);
    }
}

impl Drop for Trials {
    /// What is stopped is restarted, by the program that stopped it.
    fn drop(&mut self) {
        self.finish();
    }
}

/// Takes what `preempt` wrote.
fn finished(mut child: Child, trial: &mut Trial) {
    let (mut out, mut err) = (String::new(), String::new());
    if let Some(pipe) = &mut child.stdout {
        let _ = pipe.read_to_string(&mut out);
    }
    if let Some(pipe) = &mut child.stderr {
        let _ = pipe.read_to_string(&mut err);
    }
    let status = child.wait();
    for record in out
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
    {
        let data = &record["data"];
        let queues = data["queues"].as_u64().unwrap_or(0);
        match record["type"].as_str() {
            Some("preempted") => {
                trial.held = queues;
                trial.backend = data["backend"].as_str().map(str::to_owned);
                trial.observed = data["observed"].as_str().map(str::to_owned);
            }
            Some("resumed") => trial.released = queues,
            _ => {}
        }
    }
    if !status.is_ok_and(|status| status.success()) {
        let last = err.lines().last().unwrap_or("preempt failed");
        trial.failed = Some(last.trim_start_matches("gpreempt: ").to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    use super::super::run::tests::{queue, two_parties, S};

    /// A program that acts as `preempt` does, as far as is looked at here.
    fn program(name: &str, script: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("gpreempt-{name}-{}", std::process::id()));
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    fn snapshot(states: &[(u32, State)]) -> Snapshot {
        let one = |(at, (pid, state)): (usize, &(u32, State))| {
            queue(*pid, u32::try_from(at).unwrap(), *state)
        };
        Snapshot {
            queues: states.iter().enumerate().map(one).collect(),
            ..Snapshot::default()
        }
    }

    fn until_done(trials: &mut Trials, run: &Run, count: usize) -> Vec<Trial> {
        let tried = trials.tried();
        let mut now_ns = 100 * S;
        while tried.lock().unwrap().len() < count {
            std::thread::sleep(std::time::Duration::from_millis(5));
            now_ns += S / 10;
            trials.turn(run, now_ns).unwrap();
        }
        let tried = tried.lock().unwrap();
        tried.clone()
    }

    #[test]
    fn one_after_the_other_is_stopped_and_pictures_are_the_judge() {
        let path = program(
            "trial",
            "echo '{\"type\":\"preempted\",\"data\":{\"backend\":\"debug-trap\",\"queues\":2,\"observed\":\"events\"}}'
             echo '{\"type\":\"resumed\",\"data\":{\"queues\":2}}'",
        );
        let run = two_parties();
        let mut trials = Trials::new(path.clone());
        trials.turn(&run, 100 * S).unwrap();
        trials.picture(&run, &snapshot(&[(7, State::Mapped), (8, State::Mapped)]));
        trials.picture(
            &run,
            &snapshot(&[(7, State::Suspended), (8, State::Mapped)]),
        );
        // Others than the two are nobody's.
        trials.picture(
            &run,
            &snapshot(&[(7, State::Held), (8, State::Mapped), (9, State::Disabled)]),
        );
        while !matches!(trials.state, Turn::After(..)) {
            trials.turn(&run, 100 * S).unwrap();
        }
        trials.picture(&run, &snapshot(&[(7, State::Mapped), (8, State::Mapped)]));
        trials.turn(&run, 101 * S).unwrap();
        trials.turn(&run, 101 * S).unwrap();
        trials.picture(&run, &snapshot(&[(7, State::Held), (8, State::Held)]));
        let tried = until_done(&mut trials, &run, 2);
        let first = Trial {
            party: 0,
            pids: vec![Pid(7)],
            backend: Some("debug-trap".to_owned()),
            held: 2,
            released: 2,
            observed: Some("events".to_owned()),
            alone: 2,
            others_off: 0,
            back: true,
            failed: None,
        };
        assert_eq!(tried[0], first);
        let second = &tried[1];
        assert_eq!((second.party, second.alone, second.others_off), (1, 0, 1));
        assert!(!second.back, "no picture showed that");
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn what_preempt_says_is_told() {
        let path = program("refused", "echo 'gpreempt: no backend' >&2; exit 69");
        let run = two_parties();
        let mut trials = Trials::new(path.clone());
        let tried = until_done(&mut trials, &run, 2);
        assert_eq!(tried[0].failed.as_deref(), Some("no backend"));
        assert_eq!(tried[0].held, 0);
        std::fs::remove_file(&path).unwrap();
        let mut trials = Trials::new(path);
        let tried = until_done(&mut trials, &run, 2);
        assert!(tried[1].failed.as_deref().unwrap().contains("cannot start"));
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! `preempt`: stop queues of other processes for a while.

use std::ffi::OsString;
use std::time::{Duration, Instant};

use anyhow::{anyhow, Context as _};

use super::control_args::{self, Output, Restrict, Selectors, WantedBackend, SELECTORS};
use super::control_out::Out;
use super::{output, watch, Exit, Failure, Global};
use crate::control::choose::{Choice, Chooser};
use crate::control::command::{self, Running};
use crate::control::lease::Hold;
use crate::control::observe::{Action, How, Observation, Observer, Want};
use crate::control::report::{self, ControlRecord, EndCause, Observed, TargetStatus};
use crate::control::supervisor;
use crate::control::wait::{self, Ended, Signals};
use crate::control::{
    Backend, BackendKind, ControlError, HoldOptions, Outcome, Refusal, Target, TargetOutcome,
};
use crate::event::{GpuId, Pid, QueueId};
use crate::kfd::{boottime_ns, Root};

/// Longest wait for queues to be seen to stop, or to run again.
const SEEN_WITHIN: Duration = Duration::from_secs(1);

/// Stop queues of other processes for a while
///
/// Queues leave the GPU where they are and go on from there: nothing is lost, and the processes do not notice but for the time.
/// They are restarted when the time is over, when COMMAND ends, by a signal, and also if gpreempt dies or hangs: what is
/// stopped is a lease that gpreempt must renew. Selectors are looked up once, at the start.
///
/// Every GPU that schedules by HWS (MI200, MI300) takes all its queues off for a moment whenever some are stopped or restarted,
/// those of other processes too.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
#[command(
    override_usage = "gpreempt preempt [OPTIONS] <SELECTOR>... (--for <DURATION> | -- <COMMAND>...)"
)]
#[command(group(clap::ArgGroup::new("whom").args(SELECTORS).multiple(true).required(true)))]
pub(super) struct Preempt {
    #[command(flatten)]
    selectors: Selectors,
    #[command(flatten)]
    restrict: Restrict,
    /// Restart them after this time: seconds, or 500ms, 5m, 1h30m
    #[arg(long = "for", value_name = "DURATION", value_parser = watch::duration, required_unless_present_any = ["command", "dry_run"])]
    duration: Option<Duration>,
    /// Restart them when this command ends, and exit with its code
    #[arg(last = true, value_name = "COMMAND", conflicts_with = "duration")]
    command: Vec<OsString>,
    /// By which means
    #[arg(long, value_enum, default_value_t = WantedBackend::Auto)]
    backend: WantedBackend,
    /// How long they stay stopped if gpreempt hangs: 100ms to 1h
    #[arg(long, default_value = "5s", value_parser = control_args::lease, value_name = "DURATION")]
    lease: Duration,
    /// How it is seen that they stopped: auto takes the best that works here, events, runlist or driver
    #[arg(long, value_enum, default_value_t = Want::Auto, hide_possible_values = true)]
    observe: Want,
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    output: Output,
}

const EXAMPLES: &str = "\
Examples:
  gpreempt preempt --comm 'python*' --for 500ms
  gpreempt preempt --cgroup /batch.slice --format json -- ./online-request
  gpreempt preempt --queue 1234:52a1:0 --queue 1234:52a1:1 --for 10 --backend debug-trap

What cannot be stopped is listed; the rest is stopped nevertheless, and the exit code is 1. If nothing
could be stopped, COMMAND does not run. With COMMAND, reports for people go to stderr.
Ctrl-C is for COMMAND to handle; SIGTERM is passed to it, and the queues are restarted at once.";

impl Preempt {
    pub(super) fn run(self, global: &Global) -> Result<Exit, Failure> {
        let root = global.root();
        let only = self.restrict.only(&root)?;
        let targets = self.selectors.resolve(&root, only)?;
        // Before any thread is started, which would get the signals instead.
        let signals = Signals::block().context("cannot block signals")?;
        let out = Out::new(self.output.format, global, !self.command.is_empty());
        let mut chooser = Chooser::new(&root, self.backend.kind());
        let mut act = Act {
            options: HoldOptions {
                gpu: only.gpu,
                no_sdma: only.no_sdma,
                lease: self.lease,
            },
            root: root.clone(),
            out,
            reason: String::new(),
        };
        if self.dry_run {
            let choice = chooser.dry_run()?;
            act.say_chosen(&choice);
            return act.dry_run(choice.backend, &targets);
        }
        let mut choice = chooser.choose()?;
        let mut seen = act.observer(self.observe);
        let (mut hold, mut outcome) = loop {
            act.say_chosen(&choice);
            let kind = choice.backend.kind();
            let guard = supervisor::guard(kind, act.options.lease)?;
            seen.begin();
            let (hold, outcome) = Hold::take(choice.backend, guard, targets.clone(), &act.options)?;
            if outcome.timed_out() || !chooser.reject(kind, &outcome) {
                break (hold, outcome);
            }
            match chooser.choose() {
                Ok(other) => {
                    // Nothing may be held by two means.
                    drop(hold);
                    choice = other;
                }
                Err(_) => break (hold, outcome),
            }
        };
        let observation = act.confirm_stopped(&mut seen, &mut hold, &mut outcome)?;
        act.report_stopped(&hold, &outcome, &targets, observation.as_ref())?;
        if hold.timed_out() {
            output::say(LOST);
            act.release(hold, &mut seen, EndCause::Error)?;
            return Ok(Exit::Failed);
        }
        if hold.targets().is_empty() {
            return Ok(control_args::refused(&outcome));
        }
        let partial = !outcome.complete();
        // Counted from when they stopped: seeing that takes time, too.
        let deadline = self.duration.map(|duration| hold.taken() + duration);
        let exit = if self.command.is_empty() {
            act.hold_until(hold, &mut seen, &signals, deadline)?
        } else {
            act.hold_while(hold, &mut seen, &signals, &self.command)?
        };
        Ok(match exit {
            Exit::Ok | Exit::Command(0) if partial => Exit::Failed,
            exit => exit,
        })
    }
}

const LOST: &str = "\
A GPU DID NOT ANSWER THE PREEMPTION IN TIME. The driver resets it, and every GPU process of this host is lost, also those
that were not stopped: restart all of them. The kernel log says which GPU. gpreempt stops nothing more.";

/// What all steps need.
struct Act {
    root: Root,
    out: Out,
    reason: String,
    options: HoldOptions,
}

impl Act {
    fn dry_run(self, mut backend: Box<dyn Backend>, targets: &[Target]) -> Result<Exit, Failure> {
        let outcome = backend.preempt(targets, &self.options)?;
        self.out.put(&self.preempted(
            backend.kind(),
            &outcome,
            targets,
            Observed::DryRun,
            TargetStatus::WouldHold,
        ))?;
        Ok(match outcome.complete() {
            true => Exit::Ok,
            false if report::totals(&outcome).0 == 0 => control_args::refused(&outcome),
            false => Exit::Failed,
        })
    }

    fn say_chosen(&mut self, choice: &Choice) {
        // A dry run's reason names the backend that it would be.
        match choice.backend.kind() {
            BackendKind::DryRun => output::say(&choice.reason),
            kind => output::say(&format!("backend {kind}: {}", choice.reason)),
        }
        self.reason.clone_from(&choice.reason);
    }

    fn observer(&self, want: Want) -> Observer {
        let (observer, why) = Observer::open(&self.root, want);
        let lacking = match want {
            Want::Auto | Want::Driver => false,
            Want::Events => observer.how() != How::Events,
            Want::Runlist => observer.how() != How::Runlist,
        };
        if lacking {
            output::say(&format!("observed by {why}"));
        }
        observer
    }

    /// Success is what was seen. What was not seen to stop is let go again and counts as refused.
    fn confirm_stopped(
        &self,
        seen: &mut Observer,
        hold: &mut Hold,
        outcome: &mut Outcome,
    ) -> Result<Option<Observation>, Failure> {
        if hold.targets().is_empty() || hold.timed_out() {
            return Ok(None);
        }
        let within = SEEN_WITHIN.min(self.options.lease / 2);
        let observation = seen.confirm(Action::Stopped, hold.targets(), within);
        if !observation.confirmed {
            let missing: Vec<Pid> = observation.missing.iter().map(|(pid, _)| *pid).collect();
            let unseen: Vec<Target> = hold
                .targets()
                .iter()
                .filter(|target| missing.contains(&target.pid))
                .cloned()
                .collect();
            hold.let_go(&unseen)?;
            let still: Vec<Pid> = hold.targets().iter().map(|target| target.pid).collect();
            for target in &mut outcome.targets {
                if missing.contains(&target.pid) && !still.contains(&target.pid) {
                    *target = TargetOutcome {
                        queues: 0,
                        changed: 0,
                        refusal: Some(unseen_refusal(&observation, "stop")),
                        ..target.clone()
                    };
                }
            }
        }
        Ok(Some(observation))
    }

    fn report_stopped(
        &self,
        hold: &Hold,
        outcome: &Outcome,
        targets: &[Target],
        observation: Option<&Observation>,
    ) -> Result<(), Failure> {
        let outcome = with_times(outcome.clone(), observation);
        let observed = observation.map_or(Observed::Driver, |seen| seen.how.into());
        let record = self.preempted(
            hold.backend(),
            &outcome,
            targets,
            observed,
            TargetStatus::Held,
        );
        Ok(self.out.put(&record)?)
    }

    fn preempted(
        &self,
        backend: BackendKind,
        outcome: &Outcome,
        targets: &[Target],
        observed: Observed,
        status: TargetStatus,
    ) -> ControlRecord {
        let (processes, queues) = report::totals(outcome);
        ControlRecord::Preempted(report::Preempted {
            ts_ns: boottime_ns(),
            backend,
            reason: self.reason.clone(),
            owner_pid: Pid(std::process::id()),
            processes,
            queues,
            lock_wait_ns: outcome.lock_wait_ns,
            hw_ns: outcome.hw_ns,
            total_ns: outcome.total_ns,
            lease_ms: u64::try_from(self.options.lease.as_millis()).unwrap_or(u64::MAX),
            observed,
            targets: report::targets(outcome, targets, |_| status),
        })
    }

    /// Holds until the time is over or something else ends it.
    fn hold_until(
        &self,
        mut hold: Hold,
        seen: &mut Observer,
        signals: &Signals,
        deadline: Option<Instant>,
    ) -> Result<Exit, Failure> {
        let ended = wait::wait(&mut hold, &self.root, signals, deadline, None)?;
        let (cause, exit) = match ended {
            Ended::Duration | Ended::Command(_) => (EndCause::Duration, Exit::Ok),
            Ended::Signal(signal) => (EndCause::Signal, Exit::signal(signal)),
            Ended::Gone => {
                output::say("all of them ended");
                (EndCause::Lost, Exit::Ok)
            }
            Ended::Lost(error) => {
                output::say(&lost(&error));
                (EndCause::Lost, Exit::Failed)
            }
        };
        let released = self.release(hold, seen, cause)?;
        Ok(if released || exit != Exit::Ok {
            exit
        } else {
            Exit::Failed
        })
    }

    /// Holds while the command runs.
    fn hold_while(
        &self,
        mut hold: Hold,
        seen: &mut Observer,
        signals: &Signals,
        words: &[OsString],
    ) -> Result<Exit, Failure> {
        let mut running = match Running::start(words) {
            Ok(running) => running,
            Err(error) => {
                self.release(hold, seen, EndCause::Error)?;
                let code = command::start_failure_code(&error);
                let program = words
                    .first()
                    .map(|word| word.to_string_lossy().into_owned());
                let error = anyhow!(error).context(format!(
                    "cannot run {}",
                    crate::event::Escaped(program.unwrap_or_default().as_bytes())
                ));
                return Err(Failure::new(Exit::Command(code), error));
            }
        };
        let ended = wait::wait(&mut hold, &self.root, signals, None, Some(&mut running))?;
        let mut failed = false;
        let (cause, status) = match ended {
            Ended::Command(status) => (EndCause::Command, Some(status)),
            Ended::Signal(_) => (EndCause::Signal, None),
            Ended::Duration | Ended::Gone => (EndCause::Lost, None),
            Ended::Lost(error) => {
                output::say(&lost(&error));
                failed = true;
                (EndCause::Lost, None)
            }
        };
        // Even if nobody reads the report any more: the command runs on and must be waited for.
        let released = self.release(hold, seen, cause);
        let status = match status {
            Some(status) => status,
            None => wait::wait_for_command(signals, &mut running)?,
        };
        let code = command::exit_code(status);
        Ok(if code == 0 && (failed || !released?) {
            Exit::Failed
        } else {
            Exit::Command(code)
        })
    }

    /// Restarts everything and says so. Whether all of it was.
    fn release(
        &self,
        mut hold: Hold,
        seen: &mut Observer,
        cause: EndCause,
    ) -> Result<bool, Failure> {
        let (backend, targets) = (hold.backend(), hold.targets().to_vec());
        seen.begin();
        let lost_gpu = hold.timed_out();
        let released = hold.release();
        let mut outcome = released.outcome.map_err(|error| {
            anyhow!("{error}; what is still stopped is restarted when gpreempt ends, or by `gpreempt resume --all`")
        })?;
        let alive: Vec<Target> = targets
            .iter()
            .filter(|target| {
                crate::kfd::process::is_alive(&self.root, target.pid, target.start_ticks)
            })
            .cloned()
            .collect();
        let mut observation = None;
        let expected = without_kept_off(&alive, &outcome);
        if !lost_gpu && !expected.is_empty() {
            let seen = seen.confirm(Action::Running, &expected, SEEN_WITHIN);
            if !seen.confirmed {
                for target in &mut outcome.targets {
                    let missing = seen.missing.iter().any(|(pid, _)| *pid == target.pid);
                    let alive = alive.iter().any(|alive| {
                        alive.pid == target.pid
                            && crate::kfd::process::is_alive(
                                &self.root,
                                alive.pid,
                                alive.start_ticks,
                            )
                    });
                    if missing && alive && target.refusal.is_none() {
                        target.refusal = Some(unseen_refusal(&seen, "run again"));
                    }
                }
            }
            observation = Some(seen);
        }
        let outcome = with_times(outcome, observation.as_ref());
        let (processes, queues) = report::totals(&outcome);
        let gone = |pid: Pid| !alive.iter().any(|target| target.pid == pid);
        let record = ControlRecord::Resumed(report::Resumed {
            ts_ns: boottime_ns(),
            backend,
            reason: self.reason.clone(),
            owner_pid: Some(Pid(std::process::id())),
            processes,
            queues,
            lock_wait_ns: outcome.lock_wait_ns,
            hw_ns: outcome.hw_ns,
            total_ns: outcome.total_ns,
            lease_ms: Some(u64::try_from(self.options.lease.as_millis()).unwrap_or(u64::MAX)),
            observed: observation.map_or(Observed::Driver, |seen| seen.how.into()),
            cause,
            held_ns: Some(u64::try_from(released.held.as_nanos()).unwrap_or(u64::MAX)),
            targets: report::targets(&outcome, &targets, |target| {
                if gone(target.pid) {
                    TargetStatus::Gone
                } else {
                    TargetStatus::Released
                }
            }),
        });
        self.out.put(&record)?;
        Ok(outcome.complete())
    }
}

/// Without what something else keeps off: that is not to be seen to run.
fn without_kept_off(targets: &[Target], outcome: &Outcome) -> Vec<Target> {
    let is_kept_off = |pid: Pid, queue: Option<(GpuId, QueueId)>| {
        outcome
            .targets
            .iter()
            .any(|target| target.pid == pid && target.queue == queue && target.kept_off.is_some())
    };
    let mut left = Vec::new();
    for target in targets {
        let mut target = target.clone();
        if target.whole && is_kept_off(target.pid, None) {
            continue;
        }
        if !target.whole {
            target
                .queues
                .retain(|queue| !is_kept_off(target.pid, Some((queue.gpu_id, queue.queue_id))));
            if target.queues.is_empty() {
                continue;
            }
        }
        left.push(target);
    }
    left
}

fn lost(error: &ControlError) -> String {
    format!("the hold is lost: {error}")
}

/// What the backend does not tell, the observation may.
fn with_times(mut outcome: Outcome, observation: Option<&Observation>) -> Outcome {
    if let Some(seen) = observation {
        outcome.lock_wait_ns = outcome.lock_wait_ns.or(seen.lock_wait_ns);
        outcome.hw_ns = outcome.hw_ns.or(seen.hw_ns);
    }
    outcome
}

fn unseen_refusal(seen: &Observation, what: &str) -> Refusal {
    Refusal {
        call: "observation",
        errno: None,
        what: format!(
            "the driver answered success, but its queues were not seen to {what} ({})",
            seen.how.name()
        ),
        fix: "something else may keep them off (eviction, 0 %, a debugger): look with `gpreempt watch`; --observe driver takes the \
              driver's word"
            .to_owned(),
    }
}

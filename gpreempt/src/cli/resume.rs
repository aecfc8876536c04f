// SPDX-License-Identifier: MIT OR Apache-2.0
//! `resume`: restart queues that somebody stopped, whoever that was.

use std::time::Instant;

use super::control_args::{Output, Selectors, SELECTORS};
use super::control_out::Out;
use super::{output, Exit, Failure, Global};
use crate::control::patched::{self, Patched};
use crate::control::report::{self, ControlRecord, EndCause, Observed, TargetStatus};
use crate::control::select::{self, Only};
use crate::control::strays::{self, Stray};
use crate::control::{BackendKind, Outcome, Refusal, Target, TargetOutcome};
use crate::event::Pid;
use crate::kfd::{boottime_ns, process, Root};

/// Restart queues that stay stopped, whoever stopped them
///
/// Needed only if something went wrong: what `gpreempt preempt` stops, it restarts. By selector and by --all this breaks the
/// holds of programs that run, too, on a patched driver. Needs root.
///
/// Tried in this order: release by a patched driver; end of a debugger that no longer traces; end of a checkpoint's pause.
#[derive(Debug, clap::Args)]
#[command(override_usage = "gpreempt resume [OPTIONS] (<SELECTOR>... | --all | --strays)")]
#[command(group(clap::ArgGroup::new("whom").args(SELECTORS).multiple(true).conflicts_with_all(["all", "strays"])))]
#[command(group(clap::ArgGroup::new("which").args(SELECTORS).args(["all", "strays"]).multiple(true).required(true)))]
pub(super) struct Resume {
    #[command(flatten)]
    selectors: Selectors,
    /// Every KFD process
    #[arg(long, conflicts_with = "strays")]
    all: bool,
    /// Only what nobody holds any more: left over by a program that was killed
    #[arg(long)]
    strays: bool,
    #[command(flatten)]
    output: Output,
}

impl Resume {
    pub(super) fn run(self, global: &Global) -> Result<Exit, Failure> {
        let root = global.root();
        select::check_host(&root)?;
        let out = Out::new(self.output.format, global, false);
        let targets = if self.all || self.strays {
            select::everybody(&root, Only::default())?
        } else {
            self.selectors.resolve(&root, Only::default())?
        };
        let mut exit = Exit::Ok;
        let mut resumed = 0;
        // A patched driver releases what a holder leaves behind when that ends: there are no strays.
        if !self.strays && patched::advertised(&root).is_ok() {
            let outcome = changed(Patched::new(&root)?.force(&targets, None)?);
            resumed += report::totals(&outcome).0;
            if !outcome.complete() {
                exit = Exit::Failed;
            }
            if !outcome.targets.is_empty() {
                let reason = "the driver is patched".to_owned();
                put(&out, BackendKind::Patched, reason, &outcome, &targets)?;
            }
        }
        let started = Instant::now();
        let pids: Vec<Pid> = targets.iter().map(|target| target.pid).collect();
        let found = strays::heal(&root, Some(&pids));
        for stray in found {
            let outcome = healed(&stray, started);
            resumed += u32::from(stray.healed);
            if !stray.healed {
                exit = match exit {
                    Exit::Ok if foreign(&root, stray.pid) => Exit::NoPermission,
                    _ => Exit::Failed,
                };
            }
            put(&out, BackendKind::Criu, stray.what, &outcome, &targets)?;
        }
        if resumed == 0 && exit == Exit::Ok {
            output::say("nothing was stopped");
        }
        Ok(exit)
    }
}

/// Without those that were not stopped.
fn changed(mut outcome: Outcome) -> Outcome {
    outcome
        .targets
        .retain(|target| target.changed > 0 || target.refusal.is_some());
    outcome
}

/// Whether it is another user's, and this user may not act on others'.
fn foreign(root: &Root, pid: Pid) -> bool {
    let me = nix::unistd::geteuid();
    !me.is_root() && process::owner(root, pid).is_some_and(|owner| owner != me.as_raw())
}

/// Queues are no unit of what the stock ways leave: the whole process was debugged, or paused.
fn healed(stray: &Stray, started: Instant) -> Outcome {
    Outcome {
        targets: vec![TargetOutcome {
            pid: stray.pid,
            queue: None,
            queues: 0,
            changed: 0,
            refusal: (!stray.healed).then(|| Refusal {
                call: "strays",
                errno: None,
                what: stray.what.clone(),
                fix: "run as root, and end whatever traces or holds it".to_owned(),
            }),
            kept_off: None,
        }],
        total_ns: u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX),
        ..Outcome::default()
    }
}

fn put(
    out: &Out,
    backend: BackendKind,
    reason: String,
    outcome: &Outcome,
    chosen: &[Target],
) -> Result<(), Failure> {
    let (processes, queues) = report::totals(outcome);
    Ok(out.put(&ControlRecord::Resumed(report::Resumed {
        ts_ns: boottime_ns(),
        backend,
        reason,
        owner_pid: None,
        processes,
        queues,
        lock_wait_ns: outcome.lock_wait_ns,
        hw_ns: outcome.hw_ns,
        total_ns: outcome.total_ns,
        lease_ms: None,
        observed: Observed::Driver,
        cause: EndCause::Released,
        held_ns: None,
        targets: report::targets(outcome, chosen, |_| TargetStatus::Released),
    }))?)
}

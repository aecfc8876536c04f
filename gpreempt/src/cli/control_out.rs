// SPDX-License-Identifier: MIT OR Apache-2.0
//! What `preempt`, `resume` and `reserve` did, as lines for people or for programs.

use std::fmt::Write as _;
use std::io::{self, Write};

use super::output::{Format, Paint};
use super::Global;
use crate::control::report::{
    ControlRecord, EndCause, Observed, Preempted, ReservationState, Resumed, TargetReport,
    TargetStatus,
};
use crate::sink::units::Nanos;

/// Where the lines go. Lines for programs go to stdout. So do those for people, unless a command writes there too.
pub(super) struct Out {
    format: Format,
    color: bool,
    beside_command: bool,
}

impl Out {
    pub(super) fn new(format: Format, global: &Global, beside_command: bool) -> Self {
        Self {
            format,
            color: !beside_command && global.color.on_stdout(),
            beside_command,
        }
    }

    /// Writes one record.
    pub(super) fn put(&self, record: &ControlRecord) -> io::Result<()> {
        let mut text = match self.format {
            Format::Json => serde_json::to_string(record)?,
            Format::Table => lines(record, self.color),
        };
        text.push('\n');
        if self.beside_command && self.format == Format::Table {
            // That nobody reads it must not keep the command from running.
            let _ = io::stderr().write_all(text.as_bytes());
            return Ok(());
        }
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())?;
        out.flush()
    }
}

fn lines(record: &ControlRecord, color: bool) -> String {
    match record {
        ControlRecord::Preempted(record) => preempted(record, color),
        ControlRecord::Resumed(record) => resumed(record, color),
        ControlRecord::Reserved(record) => {
            let offline: Vec<&TargetReport> = record.targets.iter().collect();
            let mut text = format!(
                "{} {} for {}",
                Paint::Attention.text("reserved", color),
                slots(&record.state),
                processes(&offline)
            );
            refusals(&mut text, &record.targets, color);
            text
        }
        ControlRecord::Unreserved(record) => {
            let mut text = format!(
                "{} slots of GPU {}",
                Paint::Good.text("unreserved", color),
                record.gpu_id
            );
            if let Some(held_ns) = record.held_ns {
                let _ = write!(text, " after {}", Nanos(held_ns));
            }
            let _ = write!(text, " ({})", cause(record.cause));
            text
        }
        ControlRecord::Reservation(record) => {
            let state = &record.state;
            let mut text = format!("GPU {}: ", state.gpu_id);
            match state.reserved_by {
                None => {
                    let _ = write!(text, "none of {} slots reserved", state.slots_total);
                }
                Some(owner) => {
                    let _ = write!(
                        text,
                        "{} of {} slots reserved by process {owner}",
                        state.slots_reserved, state.slots_total
                    );
                }
            }
            let _ = write!(
                text,
                "; {} compute queues mapped, {} parked; {} of {} processes",
                state.cp_queues_active, state.queues_capped, state.processes, state.processes_max
            );
            if state.oversubscribed {
                let _ = write!(text, "; {}", Paint::Bad.text("oversubscribed", color));
            }
            text
        }
    }
}

fn slots(state: &ReservationState) -> String {
    format!(
        "{} of {} slots of GPU {}",
        state.slots_reserved, state.slots_total, state.gpu_id
    )
}

fn preempted(record: &Preempted, color: bool) -> String {
    let dry = record.observed == Observed::DryRun;
    let (word, paint) = match (dry, record.processes) {
        (true, _) => ("would stop", Paint::Attention),
        (false, 0) => ("stopped", Paint::Bad),
        (false, _) => ("stopped", Paint::Attention),
    };
    let mut text = format!(
        "{} {}",
        paint.text(word, color),
        what(record.queues, &record.targets)
    );
    if !dry {
        took(
            &mut text,
            record.total_ns,
            record.lock_wait_ns,
            record.hw_ns,
        );
    }
    let _ = write!(text, ", {}", record.backend);
    seen(&mut text, record.observed);
    refusals(&mut text, &record.targets, color);
    text
}

fn resumed(record: &Resumed, color: bool) -> String {
    let dry = record.observed == Observed::DryRun;
    let word = if dry { "would resume" } else { "resumed" };
    let mut text = format!(
        "{} {}",
        Paint::Good.text(word, color),
        what(record.queues, &record.targets)
    );
    if let Some(held_ns) = record.held_ns {
        let _ = write!(text, " after {} ({})", Nanos(held_ns), cause(record.cause));
    }
    if !dry {
        took(
            &mut text,
            record.total_ns,
            record.lock_wait_ns,
            record.hw_ns,
        );
    }
    let _ = write!(text, ", {}", record.backend);
    seen(&mut text, record.observed);
    refusals(&mut text, &record.targets, color);
    text
}

fn took(text: &mut String, total_ns: u64, lock_wait_ns: Option<u64>, hw_ns: Option<u64>) {
    let _ = write!(text, " in {}", Nanos(total_ns));
    let parts: Vec<String> = [("lock", lock_wait_ns), ("GPU", hw_ns)]
        .into_iter()
        .filter_map(|(name, ns)| Some(format!("{name} {}", Nanos(ns?))))
        .collect();
    if !parts.is_empty() {
        let _ = write!(text, " ({})", parts.join(" "));
    }
}

fn seen(text: &mut String, observed: Observed) {
    text.push_str(match observed {
        Observed::Events => ", seen by events",
        Observed::Runlist => ", seen in the runlist",
        Observed::Driver => ", the driver's answer",
        Observed::DryRun => "",
    });
}

fn what(queues: u32, targets: &[TargetReport]) -> String {
    let done: Vec<&TargetReport> = targets
        .iter()
        .filter(|target| target.status != TargetStatus::Refused)
        .collect();
    if done.is_empty() {
        return "nothing".to_owned();
    }
    let plural = if queues == 1 { "" } else { "s" };
    format!("{queues} queue{plural} of {}", processes(&done))
}

fn processes(targets: &[&TargetReport]) -> String {
    let mut pids: Vec<_> = targets.iter().map(|target| target.pid).collect();
    pids.sort_unstable();
    pids.dedup();
    match pids.as_slice() {
        [pid] => {
            let comm = targets.first().and_then(|target| target.comm);
            comm.map_or_else(|| format!("process {pid}"), |comm| format!("{comm}[{pid}]"))
        }
        many => format!("{} processes", many.len()),
    }
}

fn refusals(text: &mut String, targets: &[TargetReport], color: bool) {
    for target in targets {
        if target.status == TargetStatus::Gone {
            let _ = write!(text, "\n  {} ended", who(target));
        }
        if target.status == TargetStatus::KeptOff {
            let _ = write!(
                text,
                "\n  {} still does not run: {}",
                who(target),
                target.message.as_deref().unwrap_or_default()
            );
        }
        if target.status != TargetStatus::Refused {
            continue;
        }
        let _ = write!(
            text,
            "\n  {} {}: {}",
            Paint::Bad.text("refused", color),
            who(target),
            target.call.unwrap_or_default()
        );
        if let Some(errno) = &target.errno {
            let _ = write!(text, " {errno}");
        }
        if let Some(message) = &target.message {
            let _ = write!(text, ": {message}");
        }
        if let Some(fix) = &target.fix {
            let _ = write!(text, "; {fix}");
        }
    }
}

fn who(target: &TargetReport) -> String {
    let mut name = target.comm.map_or_else(
        || format!("process {}", target.pid),
        |comm| format!("{comm}[{}]", target.pid),
    );
    if let (Some(gpu), Some(queue)) = (target.gpu_id, target.queue_id) {
        let _ = write!(name, " queue {gpu}:{queue}");
    }
    name
}

fn cause(cause: EndCause) -> &'static str {
    match cause {
        EndCause::Released => "on request",
        EndCause::Duration => "time over",
        EndCause::Command => "command ended",
        EndCause::Signal => "signal",
        EndCause::Lost => "lost",
        EndCause::Error => "error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::report::{self, Reservation};
    use crate::control::{BackendKind, Outcome, Refusal, Target, TargetOutcome};
    use crate::event::{Comm, GpuId, Pid, QueueId};

    fn target(pid: u32, comm: &[u8]) -> Target {
        Target {
            pid: Pid(pid),
            start_ticks: 1,
            comm: Comm::from_procfs(comm),
            queues: Vec::new(),
            whole: true,
        }
    }

    fn done(pid: u32, queues: u32) -> TargetOutcome {
        TargetOutcome {
            pid: Pid(pid),
            queue: None,
            queues,
            changed: queues,
            refusal: None,
            kept_off: None,
        }
    }

    fn refused(pid: u32) -> TargetOutcome {
        TargetOutcome {
            queue: Some((GpuId(0x52a1), QueueId(3))),
            refusal: Some(Refusal {
                call: "AMDKFD_IOC_BATCH_UNMAP_QUEUES",
                errno: Some(nix::errno::Errno::EPERM),
                what: "not permitted".to_owned(),
                fix: "run as root".to_owned(),
            }),
            ..done(pid, 0)
        }
    }

    fn record(targets: Vec<TargetOutcome>, observed: Observed) -> ControlRecord {
        let outcome = Outcome {
            targets,
            lock_wait_ns: Some(12_000),
            hw_ns: Some(1_050_000),
            total_ns: 1_200_000,
        };
        let chosen = [target(141, b"kfd-load"), target(200, b"evil\x1b[2J\tx")];
        let (processes, queues) = report::totals(&outcome);
        ControlRecord::Preempted(Preempted {
            ts_ns: 1,
            backend: BackendKind::Patched,
            reason: "the driver is patched".to_owned(),
            owner_pid: Pid(7),
            processes,
            queues,
            lock_wait_ns: outcome.lock_wait_ns,
            hw_ns: outcome.hw_ns,
            total_ns: outcome.total_ns,
            lease_ms: 5000,
            observed,
            targets: report::targets(&outcome, &chosen, |_| TargetStatus::Held),
        })
    }

    #[test]
    fn what_somebody_else_keeps_off_is_told() {
        let kept = TargetOutcome {
            kept_off: Some("its memory is evicted"),
            ..done(141, 3)
        };
        let text = lines(&record(vec![kept], Observed::Driver), false);
        assert!(
            text.ends_with("\n  kfd-load[141] still does not run: its memory is evicted"),
            "{text}"
        );
    }

    #[test]
    fn one_line_and_one_for_each_refusal() {
        assert_eq!(
            lines(&record(vec![done(141, 3)], Observed::Events), false),
            "stopped 3 queues of kfd-load[141] in 1.20ms (lock 12µs GPU 1.05ms), patched, seen by events"
        );
        assert_eq!(
            lines(&record(vec![done(141, 1), refused(200)], Observed::Driver), false),
            "stopped 1 queue of kfd-load[141] in 1.20ms (lock 12µs GPU 1.05ms), patched, the driver's answer\n  \
             refused evil\\x1b[2J\\tx[200] queue 52a1:3: AMDKFD_IOC_BATCH_UNMAP_QUEUES EPERM: not permitted; run as root"
        );
        assert_eq!(
            lines(
                &record(vec![done(141, 1), done(200, 4)], Observed::DryRun),
                false
            ),
            "would stop 5 queues of 2 processes, patched"
        );
    }

    #[test]
    fn nothing_is_called_nothing() {
        let text = lines(&record(vec![refused(200)], Observed::Driver), false);
        assert!(text.starts_with("stopped nothing in 1.20ms"), "{text}");
    }

    #[test]
    fn colour_is_around_words_only() {
        let plain = lines(&record(vec![refused(200)], Observed::Driver), false);
        let painted = lines(&record(vec![refused(200)], Observed::Driver), true);
        assert!(painted.contains("\x1b["));
        assert!(!plain.contains('\x1b'));
        assert_eq!(anstream::adapter::strip_str(&painted).to_string(), plain);
    }

    #[test]
    fn json_has_every_field_of_the_contract() {
        let record = record(vec![done(141, 1), refused(200)], Observed::Runlist);
        let value: serde_json::Value =
            serde_json::from_str(&serde_json::to_string(&record).unwrap()).unwrap();
        assert_eq!(
            value,
            serde_json::json!({"type": "preempted", "data": {
                "ts_ns": 1, "backend": "patched", "reason": "the driver is patched", "owner_pid": 7, "processes": 1,
                "queues": 1, "lock_wait_ns": 12_000, "hw_ns": 1_050_000, "total_ns": 1_200_000, "lease_ms": 5000,
                "observed": "runlist", "targets": [
                    {"pid": 141, "comm": "kfd-load", "gpu_id": null, "queue_id": null, "queues": 1, "changed": 1,
                     "status": "held", "call": null, "errno": null, "message": null, "fix": null},
                    {"pid": 200, "comm": "evil\\x1b[2J\\tx", "gpu_id": 0x52a1, "queue_id": 3, "queues": 0, "changed": 0,
                     "status": "refused", "call": "AMDKFD_IOC_BATCH_UNMAP_QUEUES", "errno": "EPERM",
                     "message": "not permitted", "fix": "run as root"},
                ],
            }})
        );
    }

    #[test]
    fn a_reservation_is_one_line() {
        let state = ReservationState {
            gpu_id: GpuId(0x52a1),
            slots_total: 24,
            slots_reserved: 4,
            reserved_by: Some(Pid(77)),
            rotate_ms: Some(1000),
            cp_queues_active: 20,
            queues_capped: 12,
            processes: 3,
            processes_max: 13,
            oversubscribed: false,
        };
        let show = |state| {
            lines(
                &ControlRecord::Reservation(Reservation { ts_ns: 1, state }),
                false,
            )
        };
        assert_eq!(
            show(state),
            "GPU 52a1: 4 of 24 slots reserved by process 77; 20 compute queues mapped, 12 parked; 3 of 13 processes"
        );
        let none = ReservationState {
            reserved_by: None,
            oversubscribed: true,
            ..state
        };
        assert!(show(none).starts_with("GPU 52a1: none of 24 slots reserved;"));
        assert!(show(none).ends_with("; oversubscribed"));
    }
}

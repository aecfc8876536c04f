// SPDX-License-Identifier: MIT OR Apache-2.0
//! `reserve`: keep compute slots of a GPU free of offline jobs.

use std::ffi::OsString;
use std::time::{Duration, Instant};

use anyhow::{anyhow, Context as _};

use super::control_args::{self, Output, Selectors, SELECTORS};
use super::control_out::Out;
use super::{output, watch, Exit, Failure, Global};
use crate::control::command::{self, Running};
use crate::control::report::{self, ControlRecord, EndCause, TargetStatus};
use crate::control::reserve::{Amount, Reservations};
use crate::control::select::{self, Only, SelectError, Selector};
use crate::control::wait::{self, Ended, Kept, Signals};
use crate::control::{ControlError, Outcome, Target};
use crate::event::{GpuId, Pid};
use crate::kfd::name::GpuArg;
use crate::kfd::{boottime_ns, topology, Root};

/// How often the selectors are looked up again.
const LOOK: Duration = Duration::from_secs(1);

/// Keep compute slots of a GPU free of offline jobs
///
/// The selected processes are offline: together they get at most the slots that are not reserved. Their queues beyond that are
/// parked and take turns. Everybody else finds a free slot at once, without time slicing. It reserves neither compute
/// units nor bandwidth, and needs a patched driver and a GPU that schedules by HWS (MI200, MI300).
///
/// The reservation ends with this program, however that ends. Processes that come to match are added every second.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
#[command(override_usage = USAGE)]
#[command(group(clap::ArgGroup::new("whom").args(SELECTORS).multiple(true)))]
#[command(group(clap::ArgGroup::new("amount").args(["slots", "percent"])))]
#[command(group(clap::ArgGroup::new("what").args(["slots", "percent", "show", "clear"]).required(true)))]
pub(super) struct Reserve {
    #[command(flatten)]
    selectors: Selectors,
    /// The GPU: gpu_id, hexadecimal as in tables or decimal as in JSON
    #[arg(long, value_name = "GPU_ID", required_unless_present_any = ["show", "clear"])]
    gpu: Option<GpuArg>,
    /// Slots to keep free
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), requires = "whom")]
    slots: Option<u32>,
    /// Hundredths of all slots to keep free, rounded up
    #[arg(long, value_name = "P", value_parser = clap::value_parser!(u8).range(1..100), requires = "whom")]
    percent: Option<u8>,
    /// How often parked queues take turns: 1ms to 1h
    #[arg(long, value_name = "DURATION", value_parser = rotate, default_value = "1s", requires = "amount")]
    rotate: Duration,
    /// End it after this time: seconds, or 500ms, 5m, 1h30m
    #[arg(long = "for", value_name = "DURATION", value_parser = watch::duration, requires = "amount")]
    duration: Option<Duration>,
    /// End it when this command ends, and exit with its code
    #[arg(last = true, value_name = "COMMAND", conflicts_with_all = ["duration", "show", "clear"])]
    command: Vec<OsString>,
    /// Show the slots of the GPU, or of all GPUs
    #[arg(long, conflicts_with = "whom")]
    show: bool,
    /// End the reservation of the GPU, or of all GPUs, whoever made it
    #[arg(long, conflicts_with = "whom")]
    clear: bool,
    #[command(flatten)]
    output: Output,
}

const USAGE: &str = "\
gpreempt reserve [OPTIONS] --gpu <GPU_ID> (--slots <N> | --percent <P>) <SELECTOR>... [--for <DURATION> | -- <COMMAND>...]
       gpreempt reserve [OPTIONS] (--show | --clear) [--gpu <GPU_ID>]";

const EXAMPLES: &str = "\
Examples:
  gpreempt reserve --gpu 52a1 --slots 4 --cgroup /batch.slice --for 1h
  gpreempt reserve --gpu 52a1 --percent 25 --comm 'train*' -- ./serve
  gpreempt reserve --show";

/// A plain number is seconds.
fn rotate(text: &str) -> Result<Duration, String> {
    let rotate = watch::duration(text)?;
    if (Duration::from_millis(1)..=Duration::from_secs(3600)).contains(&rotate) {
        return Ok(rotate);
    }
    Err("expected 1ms to 1h".to_owned())
}

impl Reserve {
    pub(super) fn run(self, global: &Global) -> Result<Exit, Failure> {
        let root = global.root();
        select::check_host(&root)?;
        let out = Out::new(self.output.format, global, !self.command.is_empty());
        if self.show {
            return self.show(&root, &out);
        }
        if self.clear {
            return self.clear(&root, &out);
        }
        self.reserve(&root, &out)
    }

    /// The GPU asked for, or all.
    fn gpus(&self, root: &Root) -> Result<Vec<GpuId>, Failure> {
        if let Some(gpu) = self.gpu {
            return Ok(vec![control_args::gpu_id(root, gpu)?]);
        }
        let gpus: Vec<GpuId> = topology::read(root)
            .into_iter()
            .map(|node| node.gpu_id)
            .collect();
        if gpus.is_empty() {
            return Err(ControlError::Unavailable {
                what: "there is no GPU".to_owned(),
                fix: "`gpreempt doctor` says why".to_owned(),
            }
            .into());
        }
        Ok(gpus)
    }

    fn show(&self, root: &Root, out: &Out) -> Result<Exit, Failure> {
        let gpus = self.gpus(root)?;
        let reservations = Reservations::new(root)?;
        let mut last = None;
        let mut shown = 0;
        for gpu in gpus {
            match reservations.query(gpu) {
                Ok(state) => {
                    shown += 1;
                    out.put(&ControlRecord::Reservation(report::Reservation {
                        ts_ns: boottime_ns(),
                        state,
                    }))?;
                }
                // One GPU of several that schedules through MES is no reason not to show the others.
                Err(error) => {
                    if self.gpu.is_none() {
                        output::say(&error.to_string());
                    }
                    last = Some(error);
                }
            }
        }
        match last {
            Some(error) if shown == 0 => Err(error.into()),
            _ => Ok(Exit::Ok),
        }
    }

    fn clear(&self, root: &Root, out: &Out) -> Result<Exit, Failure> {
        let gpus = self.gpus(root)?;
        let mut reservations = Reservations::new(root)?;
        let mut cleared = false;
        for gpu in gpus {
            // With one GPU named, its error is the answer; of all, those without a reservation are passed over.
            let reserved = match reservations.query(gpu) {
                Ok(state) => state.reserved_by.is_some(),
                Err(error) if self.gpu.is_some() => return Err(error.into()),
                Err(_) => false,
            };
            if !reserved {
                continue;
            }
            reservations.clear(gpu, true)?;
            cleared = true;
            out.put(&ControlRecord::Unreserved(report::Unreserved {
                ts_ns: boottime_ns(),
                gpu_id: gpu,
                cause: EndCause::Released,
                held_ns: None,
            }))?;
        }
        if !cleared {
            output::say("nothing was reserved");
        }
        Ok(Exit::Ok)
    }

    fn reserve(self, root: &Root, out: &Out) -> Result<Exit, Failure> {
        let gpu = *self
            .gpus(root)?
            .first()
            .ok_or_else(|| anyhow!("there is no GPU"))?;
        if self.selectors.names_queues() {
            return Err(Failure::new(
                Exit::Usage,
                anyhow!("a reservation concerns whole processes: use --pid, --comm or --cgroup"),
            ));
        }
        let targets = self.selectors.resolve(root, Only::default())?;
        let signals = Signals::block().context("cannot block signals")?;
        let mut reservations = Reservations::new(root)?;
        let amount = match (self.slots, self.percent) {
            (Some(slots), _) => Amount::Slots(slots),
            (None, Some(percent)) => Amount::Percent(percent),
            (None, None) => return Err(anyhow!("neither --slots nor --percent").into()),
        };
        let slots = amount.slots(reservations.query(gpu)?.slots_total)?;
        let started = Instant::now();
        let (state, outcomes) = reservations.set(gpu, slots, Some(self.rotate), &targets)?;
        let refused = outcomes.iter().any(|outcome| outcome.refusal.is_some());
        let outcome = Outcome {
            targets: outcomes,
            ..Outcome::default()
        };
        out.put(&ControlRecord::Reserved(report::Reserved {
            ts_ns: boottime_ns(),
            owner_pid: Pid(std::process::id()),
            state,
            targets: report::targets(&outcome, &targets, |_| TargetStatus::Offline),
        }))?;
        if refused {
            output::say("a process was refused, so nothing is reserved");
            return Ok(control_args::refused(&outcome));
        }
        output::say("the reservation lasts as long as this program does");
        let mut kept = Follow {
            root: root.clone(),
            reservations,
            gpu,
            slots,
            rotate: self.rotate,
            selectors: self.selectors.list(),
            offline: targets,
            looked: Instant::now(),
        };
        let deadline = self.duration.map(|duration| started + duration);
        let (cause, exit) = if self.command.is_empty() {
            match wait::wait(&mut kept, root, &signals, deadline, None)? {
                Ended::Signal(signal) => (EndCause::Signal, Exit::signal(signal)),
                Ended::Lost(error) => {
                    output::say(&format!("the reservation is lost: {error}"));
                    (EndCause::Lost, Exit::Failed)
                }
                Ended::Duration | Ended::Command(_) | Ended::Gone => (EndCause::Duration, Exit::Ok),
            }
        } else {
            run(&mut kept, root, &signals, &self.command)?
        };
        let held = started.elapsed();
        if cause != EndCause::Lost {
            kept.reservations.clear(gpu, false)?;
        }
        out.put(&ControlRecord::Unreserved(report::Unreserved {
            ts_ns: boottime_ns(),
            gpu_id: gpu,
            cause,
            held_ns: Some(u64::try_from(held.as_nanos()).unwrap_or(u64::MAX)),
        }))?;
        Ok(exit)
    }
}

/// Reserves while the command runs.
fn run(
    kept: &mut Follow,
    root: &Root,
    signals: &Signals,
    words: &[OsString],
) -> Result<(EndCause, Exit), Failure> {
    let mut running = Running::start(words).map_err(|error| {
        let code = command::start_failure_code(&error);
        let name = words
            .first()
            .map(|word| word.to_string_lossy().into_owned());
        let name = name.unwrap_or_default();
        let name = crate::event::Escaped(name.as_bytes()).to_string();
        Failure::new(
            Exit::Command(code),
            anyhow!(error).context(format!("cannot run {name}")),
        )
    })?;
    let (cause, status) = match wait::wait(kept, root, signals, None, Some(&mut running))? {
        Ended::Command(status) => (EndCause::Command, status),
        Ended::Lost(error) => {
            output::say(&format!("the reservation is lost: {error}"));
            (
                EndCause::Lost,
                wait::wait_for_command(signals, &mut running)?,
            )
        }
        Ended::Signal(_) | Ended::Duration | Ended::Gone => (
            EndCause::Signal,
            wait::wait_for_command(signals, &mut running)?,
        ),
    };
    let code = command::exit_code(status);
    Ok(match (cause, code) {
        (EndCause::Lost, 0) => (cause, Exit::Failed),
        _ => (cause, Exit::Command(code)),
    })
}

/// A reservation whose selectors are looked up again and again.
struct Follow {
    root: Root,
    reservations: Reservations,
    gpu: GpuId,
    slots: u32,
    rotate: Duration,
    selectors: Vec<Selector>,
    offline: Vec<Target>,
    looked: Instant,
}

impl Kept for Follow {
    fn renewal_due(&self) -> Instant {
        self.looked + LOOK
    }

    fn renew(&mut self) -> Result<(), ControlError> {
        self.looked = Instant::now();
        let owner = self.reservations.query(self.gpu)?.reserved_by;
        if owner != Some(Pid(std::process::id())) {
            return Err(ControlError::Failed(anyhow!(
                "somebody ended it (`gpreempt reserve --clear`), or the GPU was reset"
            )));
        }
        let key = |target: &Target| (target.pid, target.start_ticks);
        let now: Vec<Target> = match each(&self.root, &self.selectors) {
            Ok(now) => now,
            Err(SelectError::Control(error)) => return Err(error),
            Err(_) => return Ok(()),
        };
        // Those that ended need no call: the driver knows.
        let new = now
            .iter()
            .any(|target| !self.offline.iter().any(|known| key(known) == key(target)));
        if !new {
            return Ok(());
        }
        let (_, outcomes) = self
            .reservations
            .set(self.gpu, self.slots, Some(self.rotate), &now)?;
        // Refused as a whole if one is refused: the others stay as they were, and the next look tries again.
        if outcomes.iter().all(|outcome| outcome.refusal.is_none()) {
            self.offline = now;
        }
        Ok(())
    }

    fn any_alive(&self, _: &Root) -> bool {
        true
    }
}

/// What the selectors name now; a selector that names nothing any more is passed over.
fn each(root: &Root, selectors: &[Selector]) -> Result<Vec<Target>, SelectError> {
    let mut all: Vec<Target> = Vec::new();
    for selector in selectors {
        match select::resolve(root, std::slice::from_ref(selector), Only::default()) {
            Ok(targets) => all.extend(targets),
            Err(SelectError::Control(error)) => return Err(error.into()),
            Err(_) => {}
        }
    }
    all.sort_by_key(|target| target.pid);
    all.dedup_by_key(|target| target.pid);
    Ok(all)
}

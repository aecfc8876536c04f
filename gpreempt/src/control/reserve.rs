// SPDX-License-Identifier: MIT OR Apache-2.0
//! `AMDKFD_IOC_SET_HQD_RESERVATION`: slots of a GPU that offline processes leave free. Admission control where the driver
//! builds the runlist; it reserves neither compute units nor bandwidth. It ends with the process that made it.
//!
//! Kernel support: drivers with the patches of `kernel-patch/`.

use std::time::Duration;

use anyhow::anyhow;
use nix::errno::Errno;

use super::errno::{self, Call};
use super::report::ReservationState;
use super::{patched, ControlError, Target, TargetOutcome};
use crate::event::{GpuId, Pid};
use crate::kfd::uapi::gpreempt::{self as abi, Device, Entry, ReserveArgs};
use crate::kfd::Root;

/// How much to reserve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    /// So many slots.
    Slots(u32),
    /// So many hundredths of all slots, rounded up.
    Percent(u8),
}

impl Amount {
    /// In slots.
    ///
    /// # Errors
    /// More than can be reserved: one slot must be left.
    pub fn slots(self, total: u32) -> Result<u32, ControlError> {
        let slots = match self {
            Self::Slots(slots) => slots,
            Self::Percent(percent) => (total * u32::from(percent)).div_ceil(100),
        };
        if slots == 0 || slots >= total {
            return Err(ControlError::Failed(anyhow!(
                "cannot reserve {slots} of {total} slots: at least 1 can be, and 1 must be left; use --slots 1 to {}",
                total.saturating_sub(1)
            )));
        }
        Ok(slots)
    }
}

/// The reservations of a machine. What this process reserved ends when it is dropped.
pub struct Reservations {
    device: Device,
    set: Option<GpuId>,
}

impl Reservations {
    /// Opens the device.
    ///
    /// # Errors
    /// The driver is not patched, or cannot be opened.
    pub fn new(root: &Root) -> Result<Self, ControlError> {
        let device = patched::open(root).map_err(|error| match error {
            ControlError::Unavailable { what, .. } => ControlError::Unavailable {
                what,
                fix:
                    "load amdgpu with the patches of kernel-patch/: nothing else can reserve slots"
                        .to_owned(),
            },
            other => other,
        })?;
        Ok(Self { device, set: None })
    }

    /// State of one GPU.
    ///
    /// # Errors
    /// The GPU cannot have reservations.
    pub fn query(&self, gpu: GpuId) -> Result<ReservationState, ControlError> {
        let args = ReserveArgs {
            gpu_id: gpu.0,
            op: abi::RESERVE_QUERY,
            ..ReserveArgs::default()
        };
        self.device
            .reservation(args, &mut [])
            .map(|args| state(gpu, &args))
            .map_err(|errno| failed(gpu, errno, "look at"))
    }

    /// Reserves, or replaces what this process had reserved. If any process is refused, nothing is reserved.
    ///
    /// # Errors
    /// Somebody else has reserved slots of this GPU, a permission is missing, or the GPU cannot have reservations.
    pub fn set(
        &mut self,
        gpu: GpuId,
        slots: u32,
        rotate: Option<Duration>,
        offline: &[Target],
    ) -> Result<(ReservationState, Vec<TargetOutcome>), ControlError> {
        let mut entries = offline
            .iter()
            .map(|target| {
                Ok(Entry {
                    pid: i32::try_from(target.pid.0)
                        .map_err(|_| anyhow!("{} is no process id", target.pid))?,
                    start_ticks: target.start_ticks,
                    ..Entry::default()
                })
            })
            .collect::<Result<Vec<_>, ControlError>>()?;
        if entries.len() > abi::MAX_ENTRIES {
            return Err(ControlError::Failed(anyhow!(
                "{} processes are more than one reservation can have ({}): select fewer",
                entries.len(),
                abi::MAX_ENTRIES
            )));
        }
        let rotate_ms = rotate.map_or(0, |rotate| {
            u32::try_from(rotate.as_millis()).unwrap_or(abi::MAX_MS)
        });
        let args = ReserveArgs {
            gpu_id: gpu.0,
            op: abi::RESERVE_SET,
            slots_reserved: slots,
            rotate_ms,
            ..ReserveArgs::default()
        };
        let args = self
            .device
            .reservation(args, &mut entries)
            .map_err(|errno| failed(gpu, errno, "reserve slots of"))?;
        if args.num_failed == 0 {
            self.set = Some(gpu);
        }
        Ok((state(gpu, &args), entries.iter().map(outcome).collect()))
    }

    /// Ends the reservation of a GPU; with `force`, also another's.
    ///
    /// # Errors
    /// It is another's, or a permission is missing.
    pub fn clear(&mut self, gpu: GpuId, force: bool) -> Result<(), ControlError> {
        let args = ReserveArgs {
            gpu_id: gpu.0,
            op: abi::RESERVE_CLEAR,
            flags: if force { abi::FORCE } else { 0 },
            ..ReserveArgs::default()
        };
        self.device
            .reservation(args, &mut [])
            .map_err(|errno| failed(gpu, errno, "end the reservation of"))?;
        self.set = None;
        Ok(())
    }
}

impl Drop for Reservations {
    fn drop(&mut self) {
        if let Some(gpu) = self.set {
            // The kernel does the same when the descriptor is closed.
            let _ = self.clear(gpu, false);
        }
    }
}

fn state(gpu_id: GpuId, args: &ReserveArgs) -> ReservationState {
    ReservationState {
        gpu_id,
        slots_total: args.slots_total,
        slots_reserved: args.slots_reserved,
        reserved_by: Pid::known(args.owner_pid),
        rotate_ms: (args.owner_pid != 0).then_some(args.rotate_ms),
        cp_queues_active: args.cp_queues_active,
        queues_capped: args.queues_capped,
        processes: args.processes,
        processes_max: args.processes_max,
        oversubscribed: args.oversubscribed != 0,
    }
}

fn outcome(entry: &Entry) -> TargetOutcome {
    let refusal = (entry.status != 0).then(|| {
        let errno = Errno::from_raw(entry.status.saturating_neg());
        errno::refusal(Call::Reserve, errno, entry)
    });
    TargetOutcome {
        pid: Pid(entry.pid.unsigned_abs()),
        queue: None,
        queues: entry.n_matched,
        changed: entry.n_changed,
        refusal,
        kept_off: None,
    }
}

fn failed(gpu: GpuId, errno: Errno, what: &str) -> ControlError {
    let call = Call::Reserve.name();
    let name = errno::name(errno);
    match errno {
        Errno::EPERM | Errno::EACCES => ControlError::NoPermission {
            what: format!("{call}: not permitted to {what} GPU {gpu} ({name})"),
            fix: "run as root, or with CAP_SYS_NICE; the device cgroup must admit the GPU".to_owned(),
        },
        Errno::EOPNOTSUPP => ControlError::Unavailable {
            what: format!(
                "{call}: GPU {gpu} cannot have reservations ({name}): it schedules through MES, or without a hardware scheduler"
            ),
            fix: "use --gpu with a GPU of gfx9, and amdgpu with sched_policy=0".to_owned(),
        },
        Errno::EBUSY => ControlError::Failed(anyhow!(
            "{call}: somebody else has reserved slots of GPU {gpu} ({name}); `gpreempt reserve --show` names the owner, and \
             `gpreempt reserve --clear --gpu {gpu}` ends it as root"
        )),
        _ => ControlError::Failed(anyhow!("{call}: cannot {what} GPU {gpu}: {} ({name})", errno.desc())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_is_rounded_up_and_one_slot_is_left() {
        assert_eq!(Amount::Percent(25).slots(24).unwrap(), 6);
        assert_eq!(Amount::Percent(1).slots(24).unwrap(), 1);
        assert_eq!(Amount::Percent(26).slots(24).unwrap(), 7);
        assert_eq!(Amount::Slots(23).slots(24).unwrap(), 23);
        for wrong in [Amount::Slots(0), Amount::Slots(24), Amount::Percent(99)] {
            let message = wrong.slots(24).unwrap_err().to_string();
            assert!(message.contains("--slots 1 to 23"), "{message}");
        }
        assert!(Amount::Slots(1).slots(1).is_err());
        assert!(Amount::Slots(1).slots(0).is_err());
    }
}

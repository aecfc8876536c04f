// SPDX-License-Identifier: MIT OR Apache-2.0
//! `[reservation]`: slots of every GPU that the offline jobs together leave free. The driver keeps them; this tells it who is
//! offline, whenever that changes. They end with the daemon.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::api::ReservationInfo;
use crate::control::reserve::{Amount, Reservations};
use crate::control::{ControlError, Target};
use crate::event::{GpuId, Pid};
use crate::kfd::{topology, Root};
use crate::policy::Reservation;

/// One for each GPU.
#[derive(Default)]
pub(super) struct Reserver {
    wanted: Reservation,
    made: BTreeMap<GpuId, Reservations>,
    /// Whom the driver was told of.
    told: Option<BTreeSet<(Pid, u64)>>,
    state: Vec<ReservationInfo>,
}

impl Reserver {
    pub(super) fn new(wanted: &Reservation) -> Self {
        Self {
            wanted: wanted.clone(),
            ..Self::default()
        }
    }

    /// Another configuration. What was reserved by the one before ends, unless it is the same.
    pub(super) fn reconfigure(&mut self, wanted: &Reservation) {
        if self.wanted != *wanted {
            *self = Self::new(wanted);
        }
    }

    /// What is reserved, or why not.
    pub(super) fn state(&self) -> &[ReservationInfo] {
        &self.state
    }

    /// Has what failed tried again.
    pub(super) fn again(&mut self) {
        if self.state.iter().any(|of| of.error.is_some()) {
            self.told = None;
        }
    }

    /// Tells the driver who is offline, if that has changed.
    pub(super) fn keep(&mut self, root: &Root, offline: &[Target]) {
        let Some(slots) = self.wanted.slots else {
            return;
        };
        let now: BTreeSet<(Pid, u64)> = offline
            .iter()
            .map(|target| (target.pid, target.start_ticks))
            .collect();
        if self.told.as_ref() == Some(&now) {
            return;
        }
        let gpus = topology::read(root).into_iter().map(|node| node.gpu_id);
        let before = std::mem::take(&mut self.state);
        for gpu_id in gpus {
            let done = self.set(root, gpu_id, slots.get(), offline);
            let info = done.unwrap_or_else(|error| ReservationInfo {
                gpu_id,
                slots_reserved: 0,
                slots_total: None,
                processes: 0,
                error: Some(error.to_string()),
            });
            if let Some(error) = &info.error {
                let known = before.iter().any(|of| of.error.as_ref() == Some(error));
                if !known {
                    super::say(&format!("no slots of GPU {gpu_id} are reserved: {error}"));
                }
            }
            self.state.push(info);
        }
        self.told = Some(now);
    }

    fn set(
        &mut self,
        root: &Root,
        gpu_id: GpuId,
        slots: u32,
        offline: &[Target],
    ) -> Result<ReservationInfo, ControlError> {
        if offline.is_empty() {
            // Nobody is to be kept out. Dropping it ends it.
            self.made.remove(&gpu_id);
            return Ok(ReservationInfo {
                gpu_id,
                slots_reserved: 0,
                slots_total: None,
                processes: 0,
                error: None,
            });
        }
        let mut of = match self.made.remove(&gpu_id) {
            Some(of) => of,
            None => Reservations::new(root)?,
        };
        Amount::Slots(slots).slots(of.query(gpu_id)?.slots_total)?;
        let rotate = Some(Duration::from_nanos(self.wanted.rotate));
        let (state, outcomes) = of.set(gpu_id, slots, rotate, offline)?;
        // If one is refused, none is told: as one that has just ended is, which is looked at again soon.
        let refused = outcomes.into_iter().find_map(|of| of.refusal);
        if refused.is_none() {
            self.made.insert(gpu_id, of);
        }
        Ok(ReservationInfo {
            gpu_id,
            slots_reserved: state.slots_reserved,
            slots_total: Some(state.slots_total),
            processes: u32::try_from(offline.len()).unwrap_or(u32::MAX),
            error: refused.map(|refusal| refusal.to_string()),
        })
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! Compute slots of a GPU: how many there are, how many are taken, and keeping some of them free.

use std::time::Duration;

use gpreempt::control::report::ReservationState;
use gpreempt::control::reserve::{Amount, Reservations};
use gpreempt::control::{patched, Target};
use gpreempt::event::{Comm, GpuId, Pid};
use gpreempt::kfd::snapshot::{self, Snapshot, Want};
use gpreempt::kfd::topology::GpuNode;
use gpreempt::kfd::{process, topology, Root};

use crate::abi::*;
use crate::error::{of_refusal, Error, Result};

pub(crate) struct Slots {
    root: Root,
    driver: Option<Reservations>,
}

impl Slots {
    pub(crate) fn new(root: &Root) -> Self {
        Self {
            root: root.clone(),
            driver: None,
        }
    }

    /// Reserves; nothing, if any process is refused. Says of each process what became of it.
    pub(crate) fn reserve(
        &mut self,
        asked: &gpreempt_reservation,
        offline: &[i32],
    ) -> (Vec<gpreempt_result>, Result<()>) {
        let mut results = vec![gpreempt_result::default(); offline.len()];
        let done = self.try_reserve(asked, offline, &mut results);
        (results, done)
    }

    fn try_reserve(
        &mut self,
        asked: &gpreempt_reservation,
        offline: &[i32],
        results: &mut [gpreempt_result],
    ) -> Result<()> {
        let amount = amount(asked)?;
        let gpu = node(&self.root, asked.gpu_id)?.gpu_id;
        let Some(amount) = amount else {
            return match &mut self.driver {
                // Nothing was reserved.
                None => Ok(()),
                Some(driver) => Ok(driver.clear(gpu, false)?),
            };
        };
        let targets = self.targets(offline, results)?;
        let driver = self.driver()?;
        let total = driver.query(gpu)?.slots_total;
        let slots = amount
            .slots(total)
            .map_err(|error| Error::invalid(error.to_string()))?;
        let rotate = (asked.rotate_ms != 0).then(|| Duration::from_millis(asked.rotate_ms.into()));
        let (_, outcomes) = driver.set(gpu, slots, rotate, &targets)?;
        let mut error = None;
        for (result, outcome) in results.iter_mut().zip(outcomes) {
            if let Some(refusal) = outcome.refusal {
                result.code = of_refusal(&refusal);
                error.get_or_insert_with(|| {
                    Error::new(
                        of_refusal(&refusal),
                        format!("process {}: {refusal}; nothing is reserved", outcome.pid),
                    )
                });
            }
        }
        error.map_or(Ok(()), Err)
    }

    fn targets(&self, offline: &[i32], results: &mut [gpreempt_result]) -> Result<Vec<Target>> {
        let mut targets = Vec::with_capacity(offline.len());
        for (pid, result) in offline.iter().zip(results) {
            let started = u32::try_from(*pid)
                .ok()
                .filter(|pid| *pid != 0)
                .and_then(|pid| Some((Pid(pid), process::start_ticks(&self.root, Pid(pid))?)));
            let Some((pid, start_ticks)) = started else {
                result.code = GPREEMPT_ESRCH;
                return Err(Error::new(
                    GPREEMPT_ESRCH,
                    format!("there is no process {pid}; nothing is reserved"),
                ));
            };
            targets.push(Target {
                pid,
                start_ticks,
                comm: Comm::from_procfs(b""),
                queues: Vec::new(),
                whole: true,
            });
        }
        Ok(targets)
    }

    /// What is known without a patched driver, and with it what that says.
    pub(crate) fn status(&mut self, gpu_id: u32) -> Result<gpreempt_hqd_status> {
        let node = node(&self.root, gpu_id)?;
        let patched = patched::advertised(&self.root).is_ok();
        if patched {
            // Who may not open the device still gets the rest.
            if let Ok(state) = self
                .driver()
                .and_then(|driver| Ok(driver.query(node.gpu_id)?))
            {
                return Ok(of_driver(&state));
            }
        }
        let picture = snapshot::collect(&self.root, Want::default());
        Ok(of_picture(&node, &picture, patched))
    }

    fn driver(&mut self) -> Result<&mut Reservations> {
        if self.driver.is_none() {
            self.driver = Some(Reservations::new(&self.root)?);
        }
        // It was just put there.
        self.driver
            .as_mut()
            .ok_or_else(|| Error::new(GPREEMPT_EINTERNAL, "no driver"))
    }
}

/// `None`: the reservation is to end.
fn amount(asked: &gpreempt_reservation) -> Result<Option<Amount>> {
    match (asked.slots, asked.percent) {
        (0, 0) => Ok(None),
        (slots, 0) => Ok(Some(Amount::Slots(slots))),
        (0, percent @ 1..=99) => Ok(u8::try_from(percent).ok().map(Amount::Percent)),
        (0, percent) => Err(Error::invalid(format!(
            "percent is {percent}: 1 to 99 can be"
        ))),
        _ => Err(Error::invalid("slots or percent, not both")),
    }
}

fn node(root: &Root, gpu_id: u32) -> Result<GpuNode> {
    let mut nodes = topology::read(root);
    let at = nodes
        .iter()
        .position(|node| node.gpu_id == GpuId(gpu_id) && gpu_id != 0);
    match at {
        Some(at) => Ok(nodes.swap_remove(at)),
        None => {
            let there: Vec<String> = nodes.iter().map(|node| node.gpu_id.0.to_string()).collect();
            Err(Error::new(
                GPREEMPT_ENOENT,
                format!(
                    "there is no GPU with gpu_id {gpu_id}; there {}",
                    match there.is_empty() {
                        true => "is none at all".to_owned(),
                        false => format!("are {}", there.join(", ")),
                    }
                ),
            ))
        }
    }
}

fn of_driver(state: &ReservationState) -> gpreempt_hqd_status {
    let used = state.cp_queues_active.min(state.slots_total);
    gpreempt_hqd_status {
        struct_size: 0,
        gpu_id: state.gpu_id.0,
        slots_total: state.slots_total,
        slots_used: used,
        slots_free: state.slots_total - used,
        slots_reserved: state.slots_reserved,
        queues_mapped: state.cp_queues_active,
        queues_parked: state.queues_capped,
        reserved_by: state
            .reserved_by
            .map_or(0, |pid| i32::try_from(pid.0).unwrap_or(i32::MAX)),
        oversubscribed: state.oversubscribed.into(),
    }
}

fn of_picture(node: &GpuNode, picture: &Snapshot, patched: bool) -> gpreempt_hqd_status {
    let total = u32::try_from(node.num_cp_queues()).unwrap_or(u32::MAX);
    let gpu = picture
        .gpus
        .iter()
        .find(|gpu| gpu.node.gpu_id == node.gpu_id);
    let runlist = gpu.and_then(|gpu| gpu.runlist);
    let mapped = runlist.map(|list| list.compute_queues);
    let used = mapped.map(|mapped| mapped.min(total));
    // A driver without reservations has reserved nothing.
    let reserved = if patched { GPREEMPT_UNKNOWN } else { 0 };
    gpreempt_hqd_status {
        struct_size: 0,
        gpu_id: node.gpu_id.0,
        slots_total: total,
        slots_used: used.unwrap_or(GPREEMPT_UNKNOWN),
        slots_free: used.map_or(GPREEMPT_UNKNOWN, |used| total - used),
        slots_reserved: reserved,
        queues_mapped: mapped.unwrap_or(GPREEMPT_UNKNOWN),
        queues_parked: reserved,
        reserved_by: 0,
        oversubscribed: runlist.map_or(GPREEMPT_UNKNOWN, |list| list.oversubscribed.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(slots: u32, percent: u32) -> gpreempt_reservation {
        gpreempt_reservation {
            struct_size: 0,
            gpu_id: 1,
            slots,
            percent,
            rotate_ms: 0,
            offline_count: 0,
            offline: std::ptr::null(),
        }
    }

    #[test]
    fn slots_or_hundredths_or_the_end() {
        assert_eq!(amount(&asked(0, 0)).unwrap(), None);
        assert_eq!(amount(&asked(4, 0)).unwrap(), Some(Amount::Slots(4)));
        assert_eq!(amount(&asked(0, 25)).unwrap(), Some(Amount::Percent(25)));
        for wrong in [asked(0, 100), asked(0, 256 + 25), asked(4, 25)] {
            assert_eq!(amount(&wrong).unwrap_err().code, GPREEMPT_EINVAL);
        }
    }

    #[test]
    fn more_queues_than_slots_take_all_of_them() {
        let state = ReservationState {
            gpu_id: GpuId(7),
            slots_total: 24,
            slots_reserved: 0,
            reserved_by: None,
            rotate_ms: None,
            cp_queues_active: 30,
            queues_capped: 0,
            processes: 1,
            processes_max: 8,
            oversubscribed: true,
        };
        let status = of_driver(&state);
        assert_eq!((status.slots_used, status.slots_free), (24, 0));
        assert_eq!((status.queues_mapped, status.oversubscribed), (30, 1));
    }
}

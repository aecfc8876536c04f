// SPDX-License-Identifier: MIT OR Apache-2.0
//! A node as the header shows it.

use std::collections::VecDeque;

use super::history::{Rate, MOST_SAMPLES, WINDOW_NS};
use crate::event::{Cause, GpuId};
use crate::kfd::snapshot::Snapshot;
use crate::model::{self, Model, Rule};
use crate::top::feed::Unmap;

/// A node.
#[derive(Clone, Debug)]
pub(in crate::top) struct GpuPane {
    pub(in crate::top) gpu_id: GpuId,
    /// `gfx942`; empty where the topology does not tell.
    pub(in crate::top) gfx: String,
    /// Compute slots of an XCC that the scheduler may use.
    pub(in crate::top) slots_total: u32,
    /// Compute queues in the runlist; each takes a slot on every XCC while it is on the hardware.
    pub(in crate::top) compute_queues: Option<u32>,
    /// Slots of XCC 0 that are connected to a queue, where that was read.
    pub(in crate::top) slots_used: Option<u32>,
    /// Queues that a reservation keeps off.
    pub(in crate::top) parked: u32,
    pub(in crate::top) processes: Option<u32>,
    pub(in crate::top) processes_max: Option<u32>,
    /// More is in the runlist than the hardware holds at once.
    pub(in crate::top) over: Option<Over>,
    /// Runlists submitted and taken off.
    pub(in crate::top) ops_per_s: Option<f64>,
    /// Median of the last minute.
    pub(in crate::top) unmap_ns: Option<u64>,
    /// The same between looks; 0 where there was none.
    pub(in crate::top) unmaps_ns: Vec<u64>,
}

/// An oversubscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::top) struct Over {
    /// How long, if its beginning was seen or watching began in it.
    pub(in crate::top) for_ns: Option<u64>,
    /// Whose call made it so, and which.
    pub(in crate::top) by: Option<(String, Cause)>,
    pub(in crate::top) rule: Option<Rule>,
}

impl GpuPane {
    pub(super) fn of(
        gpu_id: GpuId,
        model: &Model,
        picture: &Snapshot,
        history: Option<&GpuHistory>,
        processes_max: Option<u32>,
        now_ns: u64,
    ) -> Self {
        let gpu = picture.gpus.iter().find(|gpu| gpu.node.gpu_id == gpu_id);
        let told = model.gpu(gpu_id).filter(|told| told.maps > 0);
        let runlist = gpu.and_then(|gpu| gpu.runlist);
        // The model knows the runlist of the last event; where there was none, the picture does.
        let over = told.map_or_else(
            || runlist.is_some_and(|runlist| runlist.oversubscribed),
            |told| told.oversubscribed,
        );
        let parked = model
            .processes()
            .map(|(pid, _)| model.held(pid, gpu_id).parked)
            .sum();
        Self {
            gpu_id,
            gfx: gpu.map(|gpu| gpu.node.gfx()).unwrap_or_default(),
            slots_total: gpu.map_or(0, |gpu| gpu.slots_total),
            compute_queues: told
                .map(|told| told.cp_queues)
                .or_else(|| runlist.map(|runlist| runlist.compute_queues)),
            slots_used: gpu.and_then(|gpu| gpu.slots_used),
            parked,
            processes: told
                .map(|told| told.processes)
                .or_else(|| runlist.map(|runlist| runlist.processes)),
            processes_max,
            over: over.then(|| {
                let since = told.and_then(|told| told.oversubscription);
                Over {
                    for_ns: since.map(|since| now_ns.saturating_sub(since.since_ns)),
                    by: since.and_then(|since| {
                        Some((super::named(model, picture, since.by?), since.cause))
                    }),
                    rule: since.and_then(|since| since.rule),
                }
            }),
            ops_per_s: history.and_then(|history| history.ops_per_s),
            unmap_ns: history.and_then(|history| history.median_ns),
            unmaps_ns: history
                .map(|history| history.medians_ns.iter().copied().collect())
                .unwrap_or_default(),
        }
    }
}

/// A node over time.
#[derive(Clone, Debug, Default)]
pub(super) struct GpuHistory {
    ops: Rate,
    ops_per_s: Option<f64>,
    median_ns: Option<u64>,
    medians_ns: VecDeque<u64>,
    looked_ns: u64,
}

impl GpuHistory {
    pub(super) fn look(
        &mut self,
        now_ns: u64,
        told: Option<&model::Gpu>,
        unmaps: Option<&VecDeque<Unmap>>,
    ) {
        let Some(told) = told else {
            *self = Self::default();
            return;
        };
        self.ops_per_s = self.ops.look(now_ns, told.maps + told.unmaps);
        let since = |from_ns: u64| {
            let of = unmaps.into_iter().flatten();
            median(
                of.filter(|unmap| unmap.ts_ns > from_ns)
                    .map(|unmap| unmap.total_ns),
            )
        };
        self.median_ns = since(now_ns.saturating_sub(WINDOW_NS));
        if now_ns > self.looked_ns {
            self.medians_ns
                .push_back(since(self.looked_ns).unwrap_or(0));
            if self.medians_ns.len() > MOST_SAMPLES {
                self.medians_ns.pop_front();
            }
        }
        self.looked_ns = now_ns;
    }
}

/// The lower one of two in the middle.
fn median(values: impl Iterator<Item = u64>) -> Option<u64> {
    let mut values: Vec<u64> = values.collect();
    let middle = values.len().checked_sub(1)? / 2;
    Some(*values.select_nth_unstable(middle).1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_values_that_were() {
        assert_eq!(median([].into_iter()), None);
        assert_eq!(median([7].into_iter()), Some(7));
        assert_eq!(median([9, 1, 5, 3].into_iter()), Some(3));
    }

    #[test]
    fn unmaps_of_more_than_a_minute_ago_do_not_count() {
        let at = |second: u64, total_ns| Unmap {
            ts_ns: second * 1_000_000_000,
            total_ns,
        };
        let told = model::Gpu::default();
        let unmaps = VecDeque::from([at(1, 1000), at(100, 7)]);
        let mut history = GpuHistory::default();
        history.look(
            2_000_000_000,
            Some(&told),
            Some(&VecDeque::from([at(1, 1000)])),
        );
        assert_eq!(history.median_ns, Some(1000));
        history.look(101_000_000_000, Some(&told), Some(&unmaps));
        assert_eq!(history.median_ns, Some(7));
        assert_eq!(history.medians_ns, [1000, 7]);
    }
}

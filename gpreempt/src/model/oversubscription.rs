// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which rule makes a runlist oversubscribed (`pm_calc_rlib_size`, Linux 6.1 to 7.3): more registered processes than the scheduler
//! takes at once, more active compute queues than slots, or more than one queue with global wave sync.
//!
//! How many processes a scheduler takes is in no file: it is the number of VMIDs that amdgpu leaves to amdkfd, or the module's
//! parameter `hws_max_conc_proc` where that is less (`kgd2kfd_device_init`). So runlists teach it: one that is not oversubscribed
//! proves that its processes fit.

use super::usage::Rule;

/// What a node's scheduler takes at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Slots for compute queues (`num_cp_queues`).
    pub slots: Option<u32>,
    /// No more processes than that; it can be less.
    pub max_processes: Option<u32>,
}

impl Limits {
    /// By the `num_cp_queues` of the topology, where 0 is not told, and what the driver was told of processes.
    #[must_use]
    pub fn new(num_cp_queues: u64, max_processes: Option<u32>) -> Self {
        let slots = u32::try_from(num_cp_queues).unwrap_or(u32::MAX);
        Self {
            slots: (slots > 0).then_some(slots),
            max_processes,
        }
    }
}

/// The rule that an oversubscribed runlist breaks, where it can be told; `fitting` processes were seen to fit.
pub(super) fn rule(limits: Limits, fitting: u32, cp_queues: u32, processes: u32) -> Option<Rule> {
    let too_many_processes = match limits.max_processes {
        Some(max) if processes > max.max(1) => Some(true),
        // One process always fits.
        _ if processes <= fitting.max(1) => Some(false),
        _ => None,
    };
    let too_many_queues = limits.slots.map(|slots| cp_queues > slots);
    match (too_many_processes, too_many_queues) {
        (Some(true), _) => Some(Rule::Processes),
        (_, Some(true)) => Some(Rule::Queues),
        (Some(false), Some(false)) => Some(Rule::Gws),
        (None, _) | (_, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_can_be_told_is_told() {
        let limits = |slots, max_processes| Limits {
            slots,
            max_processes,
        };
        for (limits, fitting, cp_queues, processes, told) in [
            (limits(Some(24), None), 3, 25, 4, Some(Rule::Queues)),
            (limits(Some(24), None), 3, 24, 4, None),
            (limits(Some(24), None), 4, 24, 4, Some(Rule::Gws)),
            (limits(Some(24), None), 0, 2, 1, Some(Rule::Gws)),
            (limits(Some(24), Some(8)), 3, 24, 9, Some(Rule::Processes)),
            (limits(Some(24), Some(8)), 3, 30, 9, Some(Rule::Processes)),
            (limits(Some(24), Some(8)), 3, 24, 5, None),
            (limits(None, Some(8)), 3, 24, 3, None),
            (limits(None, None), 0, 99, 9, None),
        ] {
            let rule = rule(limits, fitting, cp_queues, processes);
            assert_eq!(rule, told, "{limits:?} {fitting} {cp_queues} {processes}");
        }
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! `[guards]`: the figures that no policy can override.

use serde::Deserialize;

use super::super::config::part;
use super::super::duration;
use super::ledger::HISTORY_NS;
use super::rate::LONGEST_WINDOW_NS;
use super::STEP_NS;

/// The guards' figures. Times are in nanoseconds.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Longest pause of any job. A rule can only shorten it.
    #[serde(deserialize_with = "duration::positive")]
    pub max_pause: u64,
    /// Least run of any job between two pauses. A rule can only lengthen it.
    #[serde(deserialize_with = "duration::required")]
    pub min_run: u64,
    /// Greatest part of `window` in which a job may be held, 0 to 1.
    #[serde(deserialize_with = "part")]
    pub pause_share: f64,
    /// The time over which `pause_share` counts.
    #[serde(deserialize_with = "duration::positive")]
    pub window: u64,
    /// Most preemptions of a GPU in `rate_window`. Each one takes every queue off the GPU, online ones too.
    pub preemptions: u32,
    /// The time over which `preemptions` counts.
    #[serde(deserialize_with = "duration::positive")]
    pub rate_window: u64,
    /// When the jobs' collective operations give up: their RCCL or process group timeout. No pause is longer than half of it.
    #[serde(deserialize_with = "duration::positive")]
    pub collective_timeout: u64,
    /// A release is ordered so much before it is due, or as much as a preemption costs, if that is more.
    #[serde(deserialize_with = "duration::required")]
    pub margin: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_pause: 10_000_000_000,
            min_run: 200_000_000,
            pause_share: 0.5,
            window: 60_000_000_000,
            preemptions: 10,
            rate_window: 1_000_000_000,
            // torch.distributed gives up after ten minutes unless it is told otherwise.
            collective_timeout: 600_000_000_000,
            margin: 20_000_000,
        }
    }
}

impl Limits {
    /// What is wrong with it, beside what is wrong with single keys.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        let least = shortest_pause_ns(self.margin);
        if self.window > HISTORY_NS {
            let most = duration::show(HISTORY_NS);
            return Some(format!("guards.window is longer than {most}"));
        }
        if self.rate_window > LONGEST_WINDOW_NS {
            let most = duration::show(LONGEST_WINDOW_NS);
            return Some(format!("guards.rate_window is longer than {most}"));
        }
        if self.preemptions > 1000 {
            return Some("guards.preemptions is more than 1000".to_owned());
        }
        for (name, ns) in [
            ("max_pause", self.max_pause),
            ("collective_timeout", self.collective_timeout / 2),
        ] {
            if ns < least {
                return Some(format!(
                    "guards.{name} leaves no pause at all: the release alone needs {}",
                    duration::show(least)
                ));
            }
        }
        None
    }

    /// The part of the window that a job may be held.
    pub(super) fn budget_ns(&self) -> u64 {
        // Rounds towards 0, so that the budget is never more than the part says; a window has far less than 2^53 ns.
        (self.window as f64 * self.pause_share) as u64
    }
}

/// A shorter pause is not begun: it would be over before it took effect.
pub(super) fn shortest_pause_ns(margin_ns: u64) -> u64 {
    margin_ns.saturating_mul(2).saturating_add(STEP_NS)
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! What became of each queue over time: how often it was taken off the GPU, by whom, and how long it was off.

use crate::event::{Cause, Pid};

/// Of one queue, since its creation or since watching began, whichever is later.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// When watching it began.
    pub since_ns: u64,
    /// Times it was taken off while it was mapped.
    pub preemptions: u64,
    /// The same by cause, in the order of [`Cause::ALL`].
    pub by_cause: [u64; Cause::COUNT],
    /// Time off the GPU so far, all stretches that have ended.
    pub off_ns: u64,
    /// It is off since then; `None` while it is mapped.
    pub off_since_ns: Option<u64>,
    /// Why it was taken off last, and on whose behalf.
    pub last_cause: Option<(Cause, Option<Pid>)>,
}

impl Usage {
    /// Time off the GPU until `now_ns`.
    #[must_use]
    pub fn off_until(&self, now_ns: u64) -> u64 {
        let open = self
            .off_since_ns
            .map_or(0, |since| now_ns.saturating_sub(since));
        self.off_ns + open
    }
}

/// Which rule of the driver says that a runlist holds more than the hardware does (`pm_calc_rlib_size`, Linux 6.12).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// More processes than VMIDs.
    Processes,
    /// More compute queues than slots.
    Queues,
    /// Neither by the numbers that were seen: more than one queue with global wave sync.
    Gws,
}

/// An oversubscribed runlist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Oversubscription {
    /// Since when; the start of watching if it was so then.
    pub since_ns: u64,
    /// Whose call made it so, if that was seen.
    pub by: Option<Pid>,
    /// What that call was.
    pub cause: Cause,
    /// Which rule; `None` where the number of slots is not known.
    pub rule: Option<Rule>,
}

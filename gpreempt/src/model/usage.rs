// SPDX-License-Identifier: MIT OR Apache-2.0
//! What became of each queue over time: how often it was taken off the GPU, by whom, and how long it was off.

use crate::event::{Cause, Comm, GpuId, Pid};

use super::stops::Counts;

/// Of one queue, since it was first mapped or since watching began, whichever is later.
///
/// It is off from the return of the call that took its node's runlist off to the return of the one that submitted a runlist with it:
/// the time that saving its waves takes before, and going on after, is not in it. Its own destruction does not count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// When watching it began.
    pub since_ns: u64,
    /// Times it was taken off while it was mapped.
    pub preemptions: u64,
    /// The same by cause, in the order of [`Cause::ALL`].
    pub by_cause: [u64; Cause::COUNT],
    /// Of these, on behalf of its own process: by its calls, or because it was evicted.
    pub by_own: u64,
    /// Time off the GPU so far, all stretches that have ended.
    pub off_ns: u64,
    /// It is off since then; `None` while it is mapped.
    pub off_since_ns: Option<u64>,
    /// Why it was taken off last, and on whose behalf.
    pub last_cause: Option<(Cause, Option<Pid>)>,
}

impl Usage {
    pub(super) fn new(since_ns: u64, counts: &Counts) -> Self {
        Self {
            since_ns,
            preemptions: counts.stops,
            by_cause: counts.by_cause.map(u64::from),
            by_own: counts.own.min(counts.stops),
            off_ns: counts.off_ns,
            off_since_ns: counts.off_since_ns,
            last_cause: counts.last,
        }
    }

    /// Time off the GPU until `now_ns`.
    #[must_use]
    pub fn off_until(&self, now_ns: u64) -> u64 {
        let open = self
            .off_since_ns
            .map_or(0, |since| now_ns.saturating_sub(since));
        self.off_ns.saturating_add(open)
    }
}

/// A time off the GPU that an event ended: of a node's runlist, of a process that was evicted, held or suspended, or of a queue that
/// may run again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Off {
    /// How long: as in [`Usage`].
    pub ns: u64,
    /// Why it was taken off.
    pub cause: Cause,
    /// On whose behalf.
    pub by: Option<Pid>,
}

/// Of all queues of one process on one node, those that are gone too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessUsage {
    /// It.
    pub pid: Pid,
    /// Node.
    pub gpu_id: GpuId,
    /// Its name, if it was ever told.
    pub comm: Option<Comm>,
    /// Queues that it has.
    pub queues: u32,
    /// Queues that it has or had.
    pub queues_seen: u64,
    /// The process has ended.
    pub ended: bool,
    /// Times that a queue was taken off while it was mapped, summed over its queues.
    pub preemptions: u64,
    /// The same by cause.
    pub by_cause: [u64; Cause::COUNT],
    /// Of these, on its own behalf.
    pub by_own: u64,
    /// Time off the GPU, summed over its queues.
    pub off_ns: u64,
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

impl Rule {
    /// Its word, as in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Processes => "processes",
            Self::Queues => "queues",
            Self::Gws => "gws",
        }
    }
}

/// An oversubscribed runlist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Oversubscription {
    /// Since when; the start of watching if it was so then.
    pub since_ns: u64,
    /// Whose call made it so, if that was seen. A runlist that was so when it was first seen may be older.
    pub by: Option<Pid>,
    /// What that call was.
    pub cause: Cause,
    /// Which rule; `None` where the number of slots is not known.
    pub rule: Option<Rule>,
    /// Compute queues in the runlist that made it so.
    pub cp_queues: u32,
    /// Processes registered then.
    pub processes: u32,
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! `timeslice`: offline jobs run a fixed part of each period.
//!
//! **Algorithm.** Time is cut into periods that begin at multiples of `period`. In the first `share` of each, offline jobs run; in the
//! rest, those that can meet an online job on a GPU are held. All turn at the same moment, so that one call is enough. What the
//! online job does is not looked at.
//!
//! **Failure mode.** The GPU idles when the online job has nothing to do in its part, and a request that comes in the offline part
//! waits for up to `share` of a period. It is for services whose activity cannot be seen, and for measurements. A period shorter than
//! some ten times the cost of a preemption is spent on preemptions; the rate guard then leaves jobs running.

use super::duration::show;
use super::{config, Class, Policy, PolicyName, Trigger, View, Want, Wanted};

/// The offline part of a period.
pub(super) fn offline_ns(period_ns: u64, share: f64) -> u64 {
    ((period_ns as f64 * share) as u64).min(period_ns)
}

#[derive(Debug)]
pub(super) struct Timeslice {
    period_ns: u64,
    offline_ns: u64,
}

impl Timeslice {
    pub(super) fn new(parameters: &config::Timeslice) -> Self {
        Self {
            period_ns: parameters.period,
            offline_ns: offline_ns(parameters.period, parameters.share),
        }
    }
}

impl Policy for Timeslice {
    fn name(&self) -> PolicyName {
        PolicyName::Timeslice
    }

    fn want(&mut self, view: &View, now_ns: u64) -> Wanted {
        let at = now_ns.checked_rem(self.period_ns).unwrap_or(0);
        let begin = now_ns - at;
        let online_turn = at >= self.offline_ns;
        let mut wanted = Wanted::default();
        wanted.ask_at(begin.saturating_add(match online_turn {
            true => self.period_ns,
            false => self.offline_ns,
        }));
        if online_turn {
            for job in view.of(Class::Offline) {
                if view.of(Class::Online).any(|online| online.meets(job)) {
                    wanted.hold.push(Want {
                        job: job.id.clone(),
                        trigger: Trigger::Slice,
                        why: format!(
                            "offline jobs have the first {} of each {}",
                            show(self.offline_ns),
                            show(self.period_ns)
                        ),
                    });
                }
            }
        }
        wanted
    }
}

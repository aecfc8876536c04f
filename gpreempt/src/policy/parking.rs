// SPDX-License-Identifier: MIT OR Apache-2.0
//! Parking: an offline job whose queues have been empty for a while is held until it has work again. An empty queue that is mapped
//! takes a slot of the GPU (HQD), and beyond the last slot everybody takes turns.
//!
//! **Algorithm.** Beside what the policy wants, every offline job is wanted held in whose queues no packet has waited and none was
//! taken for `idle_after`. The first packet ends that. A job that has a queue whose packets cannot be counted (PM4) is left alone.
//!
//! **Failure mode.** The first packet after a pause waits until it is seen (`poll_idle`) and the queues are back. The guards count
//! these pauses as they do all others: a parked job is released after `max_pause`, and parked again after `min_run`, which interrupts
//! the GPU twice; `max_pause` should be long where parking is used. Copies are not seen, so that the configuration demands that copy
//! queues are left alone.

use super::duration::show;
use super::{Class, Trigger, View, Want, Wanted};

/// After so long there may have been another look.
const LOOK_NS: u64 = 10_000_000;

/// Adds the idle jobs to what is wanted.
pub(super) fn park(view: &View, idle_after_ns: Option<u64>, wanted: &mut Wanted, now_ns: u64) {
    let Some(idle_after_ns) = idle_after_ns else {
        return;
    };
    for job in view.of(Class::Offline) {
        let until_ns = job.activity.until_ns(idle_after_ns);
        let Some(idle_ns) = until_ns.filter(|until_ns| *until_ns < u64::MAX) else {
            continue;
        };
        let Some(counted_ns) = job.activity.counted_ns else {
            continue;
        };
        // What was not looked at since then may have worked.
        if idle_ns > counted_ns.min(now_ns) {
            wanted.ask_at(idle_ns.max(now_ns.saturating_add(LOOK_NS)));
            continue;
        }
        let known = wanted.hold.iter().any(|want| want.job == job.id);
        // Somebody may want it to run by name.
        let asked = view.wishes.contains_key(&job.id);
        if !known && !asked {
            wanted.hold.push(Want {
                job: job.id.clone(),
                trigger: Trigger::Idle,
                why: format!("no packet for {}", show(idle_after_ns)),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Activity, Job, JobId, Wish};

    const AFTER: u64 = 1000;

    fn view(class: Class, activity: Activity) -> View {
        let mut job = Job::new(JobId::from("job"), class, 0);
        job.activity = activity;
        View {
            jobs: vec![job],
            ..View::default()
        }
    }

    fn last(last_ns: u64, pending: u64) -> Activity {
        Activity {
            pending,
            last_ns: Some(last_ns),
            counted_ns: Some(1 << 40),
        }
    }

    fn parked(view: &View, now_ns: u64) -> (usize, Option<u64>) {
        let mut wanted = Wanted::default();
        park(view, Some(AFTER), &mut wanted, now_ns);
        (wanted.hold.len(), wanted.next_ns)
    }

    #[test]
    fn a_job_is_parked_when_it_has_been_idle_for_long() {
        let idle = view(Class::Offline, last(500, 0));
        assert_eq!(parked(&idle, 1499), (0, Some(1499 + LOOK_NS)));
        assert_eq!(parked(&idle, 1500), (1, None));
    }

    #[test]
    fn what_was_not_looked_at_since_is_not_idle() {
        let stale = Activity {
            counted_ns: Some(1499),
            ..last(500, 0)
        };
        let stale = view(Class::Offline, stale);
        assert_eq!(parked(&stale, 2000), (0, Some(2000 + LOOK_NS)));
    }

    #[test]
    fn who_has_work_or_is_not_known_or_not_offline_is_left_alone() {
        let uncounted = Activity {
            counted_ns: None,
            ..last(500, 0)
        };
        for other in [
            view(Class::Offline, last(500, 1)),
            view(Class::Offline, Activity::default()),
            view(Class::Offline, uncounted),
            view(Class::Online, last(500, 0)),
        ] {
            assert_eq!(parked(&other, 1 << 40), (0, None), "{other:?}");
        }
    }

    #[test]
    fn who_is_asked_for_by_name_is_left_to_that() {
        let mut idle = view(Class::Offline, last(500, 0));
        let wish = Wish {
            hold: false,
            until_ns: None,
        };
        idle.wishes.insert(JobId::from("job"), wish);
        assert_eq!(parked(&idle, 1500), (0, None));
    }

    #[test]
    fn nobody_is_parked_unless_that_is_configured() {
        let mut wanted = Wanted::default();
        park(
            &view(Class::Offline, last(0, 0)),
            None,
            &mut wanted,
            1 << 40,
        );
        assert_eq!(wanted, Wanted::default());
    }
}

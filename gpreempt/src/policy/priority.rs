// SPDX-License-Identifier: MIT OR Apache-2.0
//! `priority`: offline jobs are held while online ones are active.
//!
//! **Algorithm.** An online job is active while a hint says so or packets wait in its queues, and for `linger` after the last one. An
//! offline job is wanted held while an online job that it can meet on a GPU is active; a hint is about every GPU. The linger
//! bridges the gaps between the kernels of one request and between requests that follow each other: each gap that is not bridged
//! costs two interruptions of the online job itself.
//!
//! **Failure mode.** An online service that is never idle for longer than the linger starves offline jobs; only the guards let them
//! run, and each time without regard to what the online job does. With a linger shorter than the gaps within a request, jobs are
//! stopped and restarted many times a request, until the rate guard leaves them running. What is seen by packets is seen late: the first
//! request after a pause finds the GPU busy. Hints are earlier.

use super::duration::show;
use super::{config, Class, Job, Policy, PolicyName, Trigger, View, Want, Wanted};

#[derive(Debug)]
pub(super) struct Priority {
    linger_ns: u64,
}

impl Priority {
    pub(super) fn new(parameters: &config::Priority) -> Self {
        Self {
            linger_ns: parameters.linger,
        }
    }

    /// Why the job is to be held, and when that may end by itself.
    fn reason(&self, view: &View, job: &Job, now_ns: u64) -> Option<(Trigger, String, u64)> {
        let until_ns = view.online_until_ns(job, self.linger_ns)?;
        if until_ns <= now_ns {
            return None;
        }
        if view.hints > 0 {
            let why = format!("{} online hints are active", view.hints);
            return Some((Trigger::Hint, why, until_ns));
        }
        let online = view
            .of(Class::Online)
            .filter(|online| online.meets(job))
            .find(|online| online.activity.until_ns(self.linger_ns) == Some(until_ns))?;
        Some(match online.activity.pending {
            0 => {
                let linger = show(self.linger_ns);
                let why = format!("online job {} was active less than {linger} ago", online.id);
                (Trigger::Linger, why, until_ns)
            }
            pending => {
                let packets = if pending == 1 { "packet" } else { "packets" };
                let why = format!("{pending} {packets} of online job {} waiting", online.id);
                (Trigger::Pending, why, until_ns)
            }
        })
    }
}

impl Policy for Priority {
    fn name(&self) -> PolicyName {
        PolicyName::Priority
    }

    fn want(&mut self, view: &View, now_ns: u64) -> Wanted {
        let mut wanted = Wanted::default();
        for job in view.of(Class::Offline) {
            if let Some((trigger, why, until_ns)) = self.reason(view, job, now_ns) {
                wanted.ask_at(until_ns);
                wanted.hold.push(Want {
                    job: job.id.clone(),
                    trigger,
                    why,
                });
            }
        }
        wanted
    }
}

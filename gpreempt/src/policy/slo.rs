// SPDX-License-Identifier: MIT OR Apache-2.0
//! `slo`: offline jobs are held as much as the latency of online ones demands.
//!
//! **Algorithm.** Feedback on one number, the share of the time in which offline jobs may run. It begins at 1: nothing is held. Once a
//! period, the percentile of the requests in the window is compared with the target. Above it, the share is multiplied by `decrease`, at once
//! and by much, because the target is being missed. Below `relax` times the target, `increase` is added. In between nothing changes, so that it does
//! not swing around the target itself. A share below 1 is a timeslice: offline jobs run in the first part of each period and are held in the rest,
//! as far as an online job that they can meet was active within the last period.
//!
//! After a decrease, only requests that began later are evidence: the others suffered from the old share, and to count them again
//! would punish twice. A rare miss weighs much in a high percentile, so misses are seen within a period or two, recovery only when
//! they have left the window: the loop errs on the side of the online job.
//!
//! **Little evidence.** Fewer than `min_requests` are no evidence, until a whole window has passed; then those that there are count. If there are
//! none and no online job is active, the share grows: nobody is hurt by it. If there are none although one is active, nothing changes.
//!
//! **Failure mode.** It reacts after the target was missed, by up to a period, and it takes offline jobs to be the cause: if the service is
//! slow by itself, they are held down to `floor` for nothing. A service that does not report its latencies leaves it blind. The percentile
//! must be one that a period's offline part can influence: with a P99 target that one unlucky request in a hundred breaks, it ends at the floor.

use std::collections::VecDeque;

use super::duration::show;
use super::timeslice::offline_ns;
use super::{config, Class, Latency, Policy, PolicyName, Trigger, View, Want, Wanted};

/// Of a window with more requests, the latest count.
const MOST_REQUESTS: usize = 8192;

#[derive(Debug)]
pub(super) struct Slo {
    parameters: config::Slo,
    requests: VecDeque<Latency>,
    /// The share of the time in which offline jobs may run.
    share: f64,
    /// The percentile when it was last looked at.
    judged_ns: Option<u64>,
    /// Requests that began earlier are no evidence.
    settled_ns: u64,
    judge_at_ns: u64,
}

impl Slo {
    pub(super) fn new(parameters: &config::Slo) -> Self {
        Self {
            parameters: parameters.clone(),
            requests: VecDeque::new(),
            share: 1.0,
            judged_ns: None,
            settled_ns: 0,
            judge_at_ns: 0,
        }
    }

    fn take_in(&mut self, latencies: &[Latency], now_ns: u64) {
        for latency in latencies {
            let ts_ns = latency.ts_ns.min(now_ns);
            if ts_ns.saturating_sub(latency.latency_ns) >= self.settled_ns {
                let latency_ns = latency.latency_ns;
                self.requests.push_back(Latency { ts_ns, latency_ns });
            }
        }
        let excess = self.requests.len().saturating_sub(MOST_REQUESTS);
        self.requests.drain(..excess);
        let old = now_ns.saturating_sub(self.parameters.window);
        self.requests.retain(|request| request.ts_ns >= old);
    }

    fn percentile_ns(&self) -> Option<u64> {
        let mut sorted: Vec<u64> = self.requests.iter().map(|r| r.latency_ns).collect();
        sorted.sort_unstable();
        let rank = (self.parameters.percentile * sorted.len() as f64).ceil() as usize;
        sorted.get(rank.max(1) - 1).copied()
    }

    fn judge(&mut self, online_active: bool, now_ns: u64) {
        let Some(target_ns) = self.parameters.target else {
            return;
        };
        let waited = now_ns.saturating_sub(self.settled_ns) >= self.parameters.window;
        if self.requests.len() < self.parameters.min_requests && !waited {
            return;
        }
        let percentile = self.percentile_ns();
        let relaxed = match percentile {
            Some(ns) if ns > target_ns => {
                self.share = (self.share * self.parameters.decrease).max(self.parameters.floor);
                self.settled_ns = now_ns;
                self.requests.clear();
                false
            }
            Some(ns) => (ns as f64) < target_ns as f64 * self.parameters.relax,
            None => !online_active,
        };
        if relaxed {
            self.share = (self.share + self.parameters.increase).min(1.0);
        }
        self.judged_ns = percentile;
    }

    fn why(&self) -> String {
        let Self {
            parameters, share, ..
        } = self;
        let seen = match self.judged_ns {
            Some(ns) => format!("was {}", show(ns)),
            None => "is not known".to_owned(),
        };
        format!(
            "the P{:.0} {seen}, the target is {}: offline jobs run {:.0} % of each {}",
            parameters.percentile * 100.0,
            show(parameters.target.unwrap_or(u64::MAX)),
            share * 100.0,
            show(parameters.period),
        )
    }
}

impl Policy for Slo {
    fn name(&self) -> PolicyName {
        PolicyName::Slo
    }

    fn want(&mut self, view: &View, now_ns: u64) -> Wanted {
        let period_ns = self.parameters.period.max(1);
        if self.judge_at_ns == 0 {
            self.settled_ns = now_ns;
        }
        self.take_in(&view.latencies, now_ns);
        let begin = now_ns - now_ns % period_ns;
        let active_until = |job| view.online_until_ns(job, period_ns);
        let held: Vec<_> = view
            .of(Class::Offline)
            .filter(|job| active_until(job).is_some_and(|until| until > now_ns))
            .collect();
        if now_ns >= self.judge_at_ns {
            self.judge(!held.is_empty(), now_ns);
            self.judge_at_ns = begin.saturating_add(period_ns);
        }
        let mut wanted = Wanted::default();
        wanted.ask_at(self.judge_at_ns);
        let offline_ns = match self.share >= 1.0 {
            true => period_ns,
            false => offline_ns(period_ns, self.share),
        };
        if now_ns - begin < offline_ns {
            wanted.ask_at(begin.saturating_add(offline_ns));
            return wanted;
        }
        for job in held {
            if let Some(until) = active_until(job) {
                wanted.ask_at(until);
            }
            wanted.hold.push(Want {
                job: job.id.clone(),
                trigger: Trigger::Target,
                why: self.why(),
            });
        }
        wanted
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! Preemptions one after the other: a hint begins, the job is held and that is seen; the hint ends, the job runs again. What each took
//! is taken from the daemon's audit log.

use std::time::Instant;

use gpreempt::serve::{Held, Released};

use crate::daemon::{helds, releaseds, Daemon};
use crate::gpu::Job;
use crate::guest;

/// One preemption.
pub(crate) struct Preemption {
    /// The log's line of the stop, if there is one.
    pub(crate) held: Option<Held>,
    /// The log's line of the restart, if there is one.
    pub(crate) released: Option<Released>,
    /// From before the call that begins a hint to its answer: the job is held.
    pub(crate) begin_ns: u64,
    /// From before the call that ends it until the daemon says that the job runs.
    pub(crate) end_ns: u64,
    /// The driver's runlist had none of the job's queues while it was held.
    pub(crate) stopped: bool,
    /// And all of them afterwards.
    pub(crate) restarted: bool,
}

impl Preemption {
    /// It was done, logged, and seen by the daemon and in the runlist. Of a restart the runlist is enough.
    pub(crate) fn is_good(&self) -> bool {
        let seen = |held: &Held| held.observed.is_some();
        self.stopped
            && self.restarted
            && self.held.as_ref().is_some_and(seen)
            && self.released.is_some()
    }
}

/// So many of this job. Nobody else must make the daemon hold anything meanwhile.
pub(crate) fn run(daemon: &mut Daemon, job: &Job, count: usize) -> anyhow::Result<Vec<Preemption>> {
    let before = daemon.audit()?.len();
    let mut all = Vec::with_capacity(count);
    for _ in 0..count {
        let started = Instant::now();
        let hint = daemon.hint()?;
        let begin_ns = u64::try_from(started.elapsed().as_nanos())?;
        let stopped = job.mapped()?.is_empty();
        let started = Instant::now();
        daemon.end_hint(hint)?;
        guest::eventually_every(std::time::Duration::ZERO, "the daemon to let go", || {
            Ok((!daemon.job_of(job.pid())?.held).then_some(()))
        })?;
        let end_ns = u64::try_from(started.elapsed().as_nanos())?;
        all.push(Preemption {
            held: None,
            released: None,
            begin_ns,
            end_ns,
            stopped,
            restarted: job.wait_running("after a preemption").is_ok(),
        });
    }
    let new = daemon.audit_since(before)?;
    let mut helds = helds(&new).into_iter().cloned();
    let mut releaseds = releaseds(&new).into_iter().cloned();
    for preemption in &mut all {
        preemption.held = helds.next();
        preemption.released = releaseds.next();
    }
    let more = helds.count() + releaseds.count();
    anyhow::ensure!(more == 0, "{more} lines of holds that nobody asked for");
    Ok(all)
}

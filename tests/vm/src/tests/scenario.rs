// SPDX-License-Identifier: MIT OR Apache-2.0
//! A training job and a service on one GPU, with the daemon: the short version of what `cargo xtask bench scenario` measures. Facts
//! only: how long anything takes is not tested.

use gpreempt::control::BackendKind;
use gpreempt::serve::AuditRecord;

use super::List;
use crate::check::ensure_eq;
use crate::preemption::for_each_backend;
use crate::scenario::service::{Manner, Service};
use crate::scenario::{self, series};
use crate::scene;

pub(super) const EACH: List = for_each_backend! {
    "training_makes_room_for_a_service": training_makes_room,
};

const PREEMPTIONS: usize = 20;
const REQUESTS: usize = 10;

fn training_makes_room(kind: BackendKind) -> anyhow::Result<()> {
    scene::clean(|| {
        let mut job = scenario::training()?;
        let mut daemon = scenario::daemon(kind)?;
        let before = scenario::progress(&mut job)?;
        let all = series::run(&mut daemon, &job, PREEMPTIONS)?;
        let good = all.iter().filter(|one| one.is_good()).count();
        ensure_eq!(good, PREEMPTIONS, "preemptions that were done and seen");
        let between = scenario::progress(&mut job)?;
        anyhow::ensure!(between > before, "no progress during the preemptions");

        let mut service = Service::start()?;
        let served = service.serve(REQUESTS, Manner::Hints)?;
        ensure_eq!(served.len(), REQUESTS, "requests with hints");
        let served = service.serve(REQUESTS, Manner::Quiet)?;
        ensure_eq!(served.len(), REQUESTS, "requests without");
        drop(service);
        job.wait_running("after the service's end")?;
        job.goes_on()?;
        anyhow::ensure!(
            scenario::progress(&mut job)? > between,
            "no progress while the service worked"
        );

        let status = daemon.status()?;
        let audit = daemon.audit()?;
        let count = |of: fn(&AuditRecord) -> bool| audit.iter().filter(|one| of(one)).count();
        let held = count(|one| matches!(one, AuditRecord::Held(_)));
        anyhow::ensure!(
            held > PREEMPTIONS,
            "the service's requests stopped nobody: {held} holds"
        );
        ensure_eq!(
            count(|one| matches!(one, AuditRecord::Released(_))),
            held,
            "releases"
        );
        ensure_eq!(
            count(|one| matches!(one, AuditRecord::Refused(_) | AuditRecord::Lost(_))),
            0,
            "holds that failed or were lost"
        );
        ensure_eq!(
            (status.jobs_held, status.hung, status.lost_total),
            (0, false, 0),
            "held at the end, hung, events lost"
        );
        ensure_eq!(status.backend, Some(kind), "backend");
        daemon.stop()
    })
}

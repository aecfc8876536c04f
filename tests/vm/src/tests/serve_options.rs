// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the daemon does only if its configuration asks for it: parking of idle jobs, slots that offline jobs leave free.

use gpreempt::control::BackendKind;
use gpreempt::policy::Trigger;
use gpreempt::serve::AuditRecord;

use super::serve::{job, service};
use super::List;
use crate::check::ensure_eq;
use crate::daemon::{Daemon, AUDIT, NO_GUARDS, RULES};
use crate::gpu::Job;
use crate::guest;
use crate::scene;

pub(super) const TESTS: List = &[
    (
        &["control"],
        "an_idle_job_is_parked_until_it_has_work",
        parking,
    ),
    (&["patched"], "the_daemon_reserves_slots", reservation),
    (
        &["control"],
        "a_driver_that_reserves_nothing_is_told",
        no_reservation,
    ),
];

const MANUAL: &str = "[policy]\nname = \"manual\"\n";

fn config(kind: BackendKind, more: &str) -> String {
    format!(
        "[serve]\nbackend = \"{}\"\naudit = \"{AUDIT}\"\n{more}{MANUAL}{NO_GUARDS}{RULES}",
        kind.name()
    )
}

/// A request now and then: parked between them, and each of them is served.
fn parking() -> anyhow::Result<()> {
    scene::clean(|| {
        let options = "no_sdma = true\n[parking]\nidle_after = \"200ms\"\n";
        let mut seldom = parked_job("offline-seldom")?;
        let mut busy = job("offline-busy", 1)?;
        let mut daemon = Daemon::start_as_written(&config(BackendKind::DebugTrap, options))?;
        for _ in 0..3 {
            guest::eventually("the idle job to be parked", || {
                Ok(seldom.mapped()?.is_empty().then_some(()))
            })?;
            seldom.serves(1)?;
        }
        busy.goes_on()?;
        let parked = daemon.job_of(seldom.pid())?;
        let other = daemon.job_of(busy.pid())?;
        anyhow::ensure!(parked.holds >= 3, "not parked between requests: {parked:?}");
        ensure_eq!(other.holds, 0, "holds of the busy job");
        for record in daemon.audit()? {
            if let AuditRecord::Held(held) = record {
                ensure_eq!(held.trigger, Trigger::Idle, "trigger");
            }
        }
        daemon.stop()?;
        seldom.wait_running("after the daemon's end")
    })
}

/// One queue and a request every other second.
fn parked_job(name: &str) -> anyhow::Result<Job> {
    let name: String = name.bytes().map(|byte| format!("{byte:02x}")).collect();
    let args = ["--profile", "inference", "--queues", "1", "--rate", "0.5"];
    let rest = ["--dispatch-us", "1000", "--name-hex", &name];
    Job::new(crate::load::Load::start(&[&args[..], &rest[..]].concat())?)
}

/// More offline queues than they may have slots: an online process finds one.
fn reservation() -> anyhow::Result<()> {
    scene::clean(|| {
        let mut offline = job("offline", 24)?;
        let mut daemon = Daemon::start_as_written(&config(
            BackendKind::Patched,
            "[reservation]\nslots = 4\nrotate = \"50ms\"\n",
        ))?;
        let of = guest::eventually("slots to be reserved", || {
            let of = daemon.status()?.reservations;
            Ok(of.into_iter().find(|of| of.slots_reserved > 0))
        })?;
        ensure_eq!(
            (of.slots_reserved, of.slots_total, of.processes, of.error),
            (4, Some(24), 1, None),
            "reserved, slots, processes, error"
        );
        guest::eventually("the offline job to leave slots free", || {
            Ok((offline.mapped()?.len() <= 20).then_some(()))
        })?;
        // Those that do not fit take turns.
        offline.goes_on()?;
        // One more is told to the driver as it comes.
        let second = job("offline-2", 1)?;
        guest::eventually("the driver to know the second job", || {
            let of = daemon.status()?.reservations;
            Ok((of[0].processes == 2).then_some(()))
        })?;
        let mut online = service("online")?;
        online.serves(3)?;
        anyhow::ensure!(
            offline.mapped()?.len() + second.mapped()?.len() <= 20,
            "slots are not left free"
        );
        daemon.stop()?;
        offline.wait_running("after the daemon's end")
    })
}

fn no_reservation() -> anyhow::Result<()> {
    scene::clean(|| {
        let mut offline = job("offline", 1)?;
        let options = "[reservation]\nslots = 4\n";
        let mut daemon = Daemon::start_as_written(&config(BackendKind::DebugTrap, options))?;
        let error = guest::eventually("the daemon to say why", || {
            let of = daemon.status()?.reservations;
            Ok(of.into_iter().find_map(|of| of.error))
        })?;
        anyhow::ensure!(error.contains("kernel-patch/"), "{error}");
        // The rest of it works.
        offline.goes_on()?;
        daemon.ask("hold", &[offline.pid()])?;
        offline.expect_held("by name")?;
        daemon.stop()
    })
}

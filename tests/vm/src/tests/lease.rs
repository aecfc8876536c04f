// SPDX-License-Identifier: MIT OR Apache-2.0
//! Leases: a hold ends by itself, whatever its holder does.
//!
//! How long a hold lasts is compared with another lease, never with a clock: under emulation a clock says little.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::List;
use crate::check::ensure_eq;
use crate::controller::{Controller, Spec};
use crate::gpu::{Job, Unmaps};
use crate::scene;

pub(super) const TESTS: List = &[
    (&["patched"], "a_lease_ends_by_itself", ends),
    (&["patched"], "a_later_call_makes_a_lease", shortened),
    (&["patched"], "a_later_call_extends_a_lease", extended),
    (&["patched"], "a_later_call_takes_a_lease_away", permanent),
    (&["patched"], "a_lease_is_of_its_queues_only", partial),
    (&["patched"], "leases_end_in_their_order", order),
    (&["patched"], "a_hanging_controller_loses_its_lease", hang),
    (&["patched"], "leases_outlived_by_nobody", races),
];

const LONG_MS: u32 = 3_600_000;

fn ends() -> anyhow::Result<()> {
    const LEASE: Duration = Duration::from_millis(400);
    scene::clean(|| {
        let (mut job, mut online) = (Job::offline(3)?, Job::online()?);
        let mut controller = Controller::start()?;
        let unmaps = Unmaps::from_here(0)?;
        let started = Instant::now();
        controller.hold_for(&[Spec::all(job.pid())], LEASE.as_millis() as u32)?;
        job.expect_held("within the lease")?;
        job.wait_running("queues after the lease")?;
        let after = started.elapsed();
        anyhow::ensure!(after >= LEASE, "a lease of {LEASE:?} ended after {after:?}");
        ensure_eq!(
            unmaps.count()?,
            2,
            "UNMAP_QUEUES packets of hold and expiry"
        );
        ensure_eq!(
            controller.release(&[Spec::all(job.pid())])?.num_changed,
            0,
            "what is left to release"
        );
        // A lease that ended leaves the queues free to be held again.
        controller.hold(&[Spec::all(job.pid())])?;
        job.stands_still(&job.ids()?, &mut online, 60)?;
        controller.release(&[Spec::all(job.pid())])?;
        job.goes_on()
    })
}

fn shortened() -> anyhow::Result<()> {
    scene::clean(|| {
        let job = Job::offline(2)?;
        let mut controller = Controller::start()?;
        for first_ms in [0, LONG_MS] {
            controller.hold_for(&[Spec::all(job.pid())], first_ms)?;
            let again = controller.hold_for(&[Spec::all(job.pid())], 50)?;
            ensure_eq!(again.num_changed, 0, "changed");
            job.wait_running("queues after the second call's lease")?;
        }
        Ok(())
    })
}

/// Holds `job` again with `lease_ms` while its lease is short, and waits until that would have ended.
fn outlives(lease_ms: u32) -> anyhow::Result<()> {
    scene::clean(|| {
        let (mut job, witness) = (Job::offline(2)?, Job::offline(1)?);
        let mut controller = Controller::start()?;
        controller.hold_for(&[Spec::all(job.pid())], 800)?;
        let again = controller.hold_for(&[Spec::all(job.pid())], lease_ms)?;
        ensure_eq!(again.num_changed, 0, "changed");
        job.expect_held("before the first lease could end")?;
        controller.hold_for(&[Spec::all(witness.pid())], 900)?;
        witness.wait_running("a lease that ends after the first one would have")?;
        job.expect_held("after the first lease would have ended")?;
        controller.release(&[Spec::all(job.pid())])?;
        job.goes_on()
    })
}

fn extended() -> anyhow::Result<()> {
    outlives(LONG_MS)
}

fn permanent() -> anyhow::Result<()> {
    outlives(0)
}

fn partial() -> anyhow::Result<()> {
    scene::clean(|| {
        let job = Job::offline(3)?;
        let mut controller = Controller::start()?;
        controller.hold(&[Spec::all(job.pid())])?;
        controller.hold_for(&[Spec::queue(job.pid(), 1)], 100)?;
        crate::guest::eventually("queue 1 after its lease", || {
            Ok((!job.mapped()?.is_empty()).then_some(()))
        })?;
        job.expect_mapped([1], "after the lease of queue 1")?;
        controller.close(0)?;
        job.wait_running("queues after the close")
    })
}

fn order() -> anyhow::Result<()> {
    scene::clean(|| {
        let jobs = [Job::offline(1)?, Job::offline(1)?, Job::offline(1)?];
        let mut controller = Controller::start()?;
        for (job, lease_ms) in jobs.iter().zip([1800, 200, 1000]) {
            controller.hold_for(&[Spec::all(job.pid())], lease_ms)?;
        }
        jobs[1].wait_running("the shortest lease")?;
        jobs[2].expect_held("the second lease")?;
        jobs[2].wait_running("the second lease")?;
        jobs[0].expect_held("the longest lease")?;
        jobs[0].wait_running("the longest lease")
    })
}

fn hang() -> anyhow::Result<()> {
    scene::clean(|| {
        let mut job = Job::offline(2)?;
        let mut controller = Controller::start()?;
        controller.hold_for(&[Spec::all(job.pid()).inherit()], 300)?;
        controller.signal(Signal::SIGSTOP)?;
        job.expect_held("within the lease")?;
        job.wait_running("queues after the lease of a stopped controller")?;
        job.load.command("create compute")?;
        job.expect_running("with a queue created after the lease")?;
        controller.signal(Signal::SIGCONT)?;
        ensure_eq!(
            controller.release(&[Spec::all(job.pid())])?.num_changed,
            0,
            "what is left to release"
        );
        job.goes_on()
    })
}

/// Leases that end while their controller closes, their target exits, or both.
fn races() -> anyhow::Result<()> {
    scene::clean(|| {
        let mut lasting = Job::offline(2)?;
        for round in 0..12_u32 {
            let passing = Job::offline(2)?;
            let mut controller = Controller::start()?;
            let both = [
                Spec::all(lasting.pid()).inherit(),
                Spec::all(passing.pid()).inherit(),
            ];
            controller.hold_for(&both, 1 + round % 4 * 5)?;
            match round % 3 {
                0 => controller.kill()?,
                1 => {
                    passing.load.signal(Signal::SIGKILL)?;
                    controller.close(0)?;
                }
                _ => passing.load.signal(Signal::SIGKILL)?,
            }
            lasting.wait_running("queues after the lease")?;
        }
        lasting.load.command("create compute")?;
        lasting.expect_running("with a queue created later")?;
        lasting.goes_on()
    })
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! Queues that are created while their process is held: with the inherit mark they start held, without it they run.

use gpreempt::kfd::uapi::gpreempt::state;
use nix::errno::Errno;

use super::List;
use crate::check::ensure_eq;
use crate::controller::{Call, Controller, Spec};
use crate::gpu::Job;
use crate::load::Load;
use crate::scene;

pub(super) const TESTS: List = &[
    (&["patched"], "new_queues_run_without_inherit", without),
    (&["patched"], "new_queues_start_held", with),
    (&["patched"], "inherit_before_the_first_queue", before_first),
    (
        &["patched"],
        "inherit_ends_without_queues",
        ends_without_queues,
    ),
    (&["patched"], "inherit_can_spare_copy_queues", no_sdma),
    (&["patched"], "a_refused_inherit_leaves_no_mark", refused),
    (&["patched"], "a_later_hold_can_add_inherit", added),
    (&["patched"], "inherited_queues_have_the_lease", lease),
    (
        &["patched"],
        "inherit_without_queues_has_the_lease",
        lease_without_queues,
    ),
    (&["patched"], "inherit_ends_with_its_owner", owner_dies),
];

fn without() -> anyhow::Result<()> {
    scene::clean(|| {
        let mut job = Job::offline(2)?;
        let mut controller = Controller::start()?;
        controller.hold(&[Spec::all(job.pid())])?;
        job.load.command("create compute")?;
        job.expect_mapped([2], "with a queue created later")?;
        controller.release(&[Spec::all(job.pid())])?;
        job.goes_on()
    })
}

fn with() -> anyhow::Result<()> {
    scene::clean(|| {
        let (mut job, mut online) = (Job::offline(2)?, Job::online()?);
        let mut controller = Controller::start()?;
        let all = [Spec::all(job.pid()).inherit()];
        controller.hold(&all)?;
        job.load.command("create compute")?;
        job.load.command("create sdma")?;
        job.expect_held("with queues created later")?;
        job.stands_still(&job.ids()?, &mut online, 20)?;
        let look = controller.look(all[0])?;
        ensure_eq!(
            (look.n_matched, look.state),
            (4, state::HELD),
            "matched, state"
        );
        // Each names its queue: a queue that was born held can be released alone.
        controller.release(&[Spec::queue(job.pid(), 2)])?;
        job.expect_mapped([2], "after the release of one")?;
        job.load.command("create compute")?;
        job.expect_mapped([2], "the mark is still there")?;
        let released = controller.release(&[Spec::all(job.pid())])?;
        ensure_eq!(released.num_changed, 4, "released queues");
        job.expect_running("after the release")?;
        job.load.command("create compute")?;
        job.expect_running("with a queue created after the release")
    })
}

fn before_first() -> anyhow::Result<()> {
    scene::clean(|| {
        let mut job = Job::offline(0)?;
        let mut controller = Controller::start()?;
        let all = [Spec::all(job.pid()).inherit()];
        let held = controller.hold(&all)?;
        ensure_eq!(
            (held.entries[0].n_matched, held.num_changed, held.num_nodes),
            (0, 0, 0),
            "matched, changed, nodes"
        );
        job.load.command("create compute")?;
        job.load.command("create compute")?;
        job.expect_held("with its first queues")?;
        ensure_eq!(controller.release(&all)?.num_changed, 2, "released queues");
        job.expect_running("after the release")?;
        job.goes_on()
    })
}

fn ends_without_queues() -> anyhow::Result<()> {
    scene::clean(|| {
        let mut job = Job::offline(1)?;
        let mut controller = Controller::start()?;
        let all = [Spec::all(job.pid()).inherit()];
        controller.hold(&all)?;
        job.load.command("destroy 0")?;
        controller.release(&all)?;
        job.load.command("create compute")?;
        job.expect_running("with a queue created after the release of nothing")?;
        job.goes_on()
    })
}

fn no_sdma() -> anyhow::Result<()> {
    scene::clean(|| {
        let mut job = Job::busy(&["--profile", "model"])?;
        let mut controller = Controller::start()?;
        let all = [Spec::all(job.pid()).inherit().no_sdma()];
        controller.hold(&all)?;
        job.expect_mapped([2], "after the hold")?;
        job.load.command("create sdma")?;
        job.load.command("create compute")?;
        job.expect_mapped([2, 3], "with a copy and a compute queue created later")?;
        controller.release(&all)?;
        job.expect_running("after the release")?;
        job.goes_on()
    })
}

/// EBUSY comes before any change: the second controller's call must not replace the first one's mark, nor leave one.
fn refused() -> anyhow::Result<()> {
    scene::clean(|| {
        let mut job = Job::offline(2)?;
        let (mut first, mut second) = (Controller::start()?, Controller::start()?);
        let inherit = [Spec::all(job.pid()).inherit()];
        let busy = |controller: &mut Controller, entry: Spec| -> anyhow::Result<()> {
            let reply = controller.call(Call {
                entries: vec![entry],
                ..Call::default()
            })?;
            ensure_eq!(reply.entries[0].errno(), Errno::EBUSY, "status");
            ensure_eq!(
                (reply.num_changed, reply.num_failed),
                (0, 1),
                "changed, failed"
            );
            anyhow::ensure!(
                reply.entries[0].state & state::HELD_OTHER != 0,
                "state {:#x} does not say that another holds it",
                reply.entries[0].state
            );
            Ok(())
        };
        // Queues of another, no mark: none may appear.
        first.hold(&[Spec::all(job.pid())])?;
        busy(&mut second, inherit[0])?;
        job.load.command("create compute")?;
        job.expect_mapped([2], "no mark of a refused call")?;
        first.release(&[Spec::all(job.pid())])?;
        job.expect_running("after the first release")?;
        // Queues and mark of another: both stay what they are.
        first.hold(&inherit)?;
        busy(&mut second, inherit[0])?;
        busy(&mut second, inherit[0].no_sdma())?;
        job.load.command("create sdma")?;
        job.expect_held("the mark of the first, copy queues included")?;
        second.kill()?;
        job.load.command("create compute")?;
        job.expect_held("the mark survives the end of the second")?;
        first.release(&[Spec::all(job.pid())])?;
        job.expect_running("after the second release")?;
        job.load.command("create compute")?;
        job.expect_running("no mark is left")
    })
}

fn added() -> anyhow::Result<()> {
    scene::clean(|| {
        let mut job = Job::offline(1)?;
        let mut controller = Controller::start()?;
        controller.hold(&[Spec::all(job.pid())])?;
        let again = controller.hold(&[Spec::all(job.pid()).inherit()])?;
        ensure_eq!(
            (again.num_changed, again.num_nodes),
            (0, 0),
            "changed, nodes"
        );
        job.load.command("create compute")?;
        job.expect_held("with a queue created later")?;
        controller.release(&[Spec::all(job.pid())])?;
        job.goes_on()
    })
}

fn lease() -> anyhow::Result<()> {
    scene::clean(|| {
        let mut job = Job::offline(1)?;
        let mut controller = Controller::start()?;
        controller.hold_for(&[Spec::all(job.pid()).inherit()], 1500)?;
        job.load.command("create compute")?;
        job.expect_held("within the lease")?;
        job.wait_running("both queues after the lease")?;
        job.load.command("create compute")?;
        job.expect_running("with a queue created after the lease")?;
        job.goes_on()
    })
}

fn lease_without_queues() -> anyhow::Result<()> {
    scene::clean(|| {
        let mut empty = Job::new(Load::start(&["--profile", "simple", "--queues", "0"])?)?;
        let witness = Job::offline(1)?;
        let mut controller = Controller::start()?;
        controller.hold_for(&[Spec::all(empty.pid()).inherit()], 100)?;
        // Ends after the other.
        controller.hold_for(&[Spec::all(witness.pid())], 300)?;
        witness.wait_running("the end of the later lease")?;
        empty.load.command("create compute")?;
        empty.expect_running("with its first queue after the lease")
    })
}

fn owner_dies() -> anyhow::Result<()> {
    scene::clean(|| {
        let mut empty = Job::offline(0)?;
        let mut controller = Controller::start()?;
        controller.hold(&[Spec::all(empty.pid()).inherit()])?;
        empty.load.command("create compute")?;
        empty.expect_held("with its first queue")?;
        empty.load.command("destroy 0")?;
        controller.kill()?;
        empty.load.command("create compute")?;
        empty.wait_running("a queue created after the end of the owner")?;
        let mut next = Controller::start()?;
        let held = next.hold(&[Spec::all(empty.pid()).inherit()])?;
        ensure_eq!(
            held.num_changed,
            1,
            "queues that another controller can hold"
        );
        next.release(&[Spec::all(empty.pid())])?;
        empty.goes_on()
    })
}

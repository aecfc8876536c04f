// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a process does while its queues are held.

use gpreempt::kfd::uapi::gpreempt::state;
use nix::errno::Errno;
use nix::sys::signal::Signal;

use super::List;
use crate::check::ensure_eq;
use crate::controller::{Call, Controller, Spec};
use crate::gpu::{Job, Unmaps};
use crate::guest;
use crate::scene;

pub(super) const TESTS: List = &[
    (&["patched"], "a_held_process_exits", exits),
    (&["patched"], "a_held_process_is_killed", killed),
    (
        &["patched"],
        "a_held_process_becomes_another_program",
        execs,
    ),
    (
        &["patched"],
        "a_stopped_process_is_held_and_released",
        stopped,
    ),
    (&["patched"], "held_queues_are_destroyed", destroys),
    (&["patched"], "held_queues_are_updated", updates),
    (
        &["patched"],
        "processes_come_and_go_under_one_controller",
        many,
    ),
];

/// That the controller is told that the process is gone, and holds nothing of it.
fn is_gone(controller: &mut Controller, pid: u32, errno: Errno) -> anyhow::Result<()> {
    let all = vec![Spec::all(pid)];
    for release in [false, true] {
        let reply = guest::eventually("the process to be gone for the driver", || {
            let reply = controller.call(Call {
                entries: all.clone(),
                release,
                ..Call::default()
            })?;
            Ok((reply.entries[0].status != 0).then_some(reply))
        })?;
        ensure_eq!(
            reply.entries[0].errno(),
            errno,
            "status, release: {release}"
        );
        ensure_eq!(reply.num_changed, 0, "changed");
    }
    Ok(())
}

fn exits() -> anyhow::Result<()> {
    scene::clean(|| {
        let (mut job, other) = (Job::busy(&["--profile", "model"])?, Job::offline(1)?);
        let mut controller = Controller::start()?;
        let pid = job.pid();
        controller.hold(&[Spec::all(pid).inherit()])?;
        // It destroys its queues, then ends; one that ends without.
        job.load.command("stop")?;
        job.load.done()?;
        is_gone(&mut controller, pid, Errno::ESRCH)?;
        let mut job = Job::offline(2)?;
        let pid = job.pid();
        controller.hold(&[Spec::all(pid).inherit()])?;
        job.load.send("exit")?;
        job.load.wait_exit()?;
        is_gone(&mut controller, pid, Errno::ESRCH)?;
        other.expect_running("after two held processes ended")
    })
}

fn killed() -> anyhow::Result<()> {
    scene::clean(|| {
        let mut other = Job::offline(1)?;
        let mut controller = Controller::start()?;
        for args in [
            &["--profile", "model"][..],
            &["--profile", "model", "--gtt"],
        ] {
            let mut job = Job::busy(args)?;
            let pid = job.pid();
            controller.hold(&[Spec::all(pid).inherit(), Spec::queue(other.pid(), 0)])?;
            job.load.signal(Signal::SIGKILL)?;
            job.load.wait_exit()?;
            is_gone(&mut controller, pid, Errno::ESRCH)?;
            other.expect_held("by the same controller")?;
        }
        controller.release(&[Spec::all(other.pid())])?;
        other.goes_on()
    })
}

fn execs() -> anyhow::Result<()> {
    scene::clean(|| {
        let mut job = Job::offline(2)?;
        let mut controller = Controller::start()?;
        let pid = job.pid();
        controller.hold(&[Spec::all(pid).inherit()])?;
        job.load.send("exec")?;
        // The process is there, but the program has nothing to do with the GPU.
        is_gone(&mut controller, pid, Errno::ENXIO)
    })
}

fn stopped() -> anyhow::Result<()> {
    scene::clean(|| {
        let mut job = Job::offline(2)?;
        let mut controller = Controller::start()?;
        let all = [Spec::all(job.pid())];
        job.load.signal(Signal::SIGSTOP)?;
        controller.hold(&all)?;
        job.expect_held("while its process is stopped")?;
        controller.release(&all)?;
        job.expect_running("while its process is stopped")?;
        controller.hold(&all)?;
        job.load.signal(Signal::SIGCONT)?;
        job.expect_held("after its process was continued")?;
        controller.release(&all)?;
        job.goes_on()
    })
}

fn destroys() -> anyhow::Result<()> {
    scene::clean(|| {
        let mut job = Job::offline(4)?;
        let _other = Job::offline(1)?;
        let mut controller = Controller::start()?;
        controller.hold(&[Spec::all(job.pid())])?;
        let unmaps = Unmaps::from_here(0)?;
        job.load.command("destroy 1")?;
        ensure_eq!(
            unmaps.count()?,
            0,
            "UNMAP_QUEUES packets to destroy a held queue"
        );
        job.load.command("create compute")?;
        // The id of a destroyed queue is given again; the hold was of the queue, not of the number.
        job.expect_mapped([1], "with a new queue of the same number")?;
        job.load.command("destroy 3")?;
        let released = controller.release(&[Spec::all(job.pid())])?;
        ensure_eq!(
            (released.entries[0].n_matched, released.num_changed),
            (3, 2),
            "matched, released"
        );
        job.expect_running("after the release")?;
        job.goes_on()
    })
}

fn updates() -> anyhow::Result<()> {
    scene::clean(|| {
        let mut job = Job::offline(2)?;
        let mut controller = Controller::start()?;
        controller.hold(&[Spec::queue(job.pid(), 0)])?;
        let unmaps = Unmaps::from_here(0)?;
        // Its priority may change; it must not run for that.
        job.load.command("update 0 100 15")?;
        job.load.command("update 0 50 3")?;
        job.expect_mapped([1], "after updates of a held queue")?;
        let state_now = controller.look(Spec::queue(job.pid(), 0))?.state;
        ensure_eq!(state_now, state::HELD, "state");
        anyhow::ensure!(
            unmaps.count()? <= 2,
            "{} UNMAP_QUEUES packets for two updates",
            unmaps.count()?
        );
        controller.release(&[Spec::all(job.pid())])?;
        job.goes_on()
    })
}

/// Pids and objects of ended processes are used again by later ones: nothing of a hold may stick to them.
fn many() -> anyhow::Result<()> {
    scene::clean(|| {
        let mut controller = Controller::start()?;
        for round in 0..12 {
            let mut job = Job::offline(3)?;
            job.expect_running("before anything was held")?;
            let look = controller.look(Spec::all(job.pid()))?;
            ensure_eq!(look.state, state::ACTIVE, "state of a new process");
            controller.hold(&[Spec::all(job.pid()).inherit()])?;
            job.load.command("create compute")?;
            job.expect_held("of a new process")?;
            match round % 3 {
                0 => job.load.signal(Signal::SIGKILL)?,
                1 => job.load.send("abort")?,
                _ => drop(job.load.stop()?),
            }
        }
        Ok(())
    })
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! Holds and a GPU that does not answer, or was reset. The guest sets `queue_preemption_timeout_ms=500`.

use gpreempt::kfd::uapi::gpreempt::state;
use nix::errno::Errno;

use super::List;
use crate::check::ensure_eq;
use crate::controller::{Call, Controller, Reply, Spec};
use crate::gpu::Job;
use crate::guest::{self, Parameter};
use crate::scene;

pub(super) const TESTS: List = &[
    (&["patched-reset"], "a_hang_ends_the_hold_with_etime", hang),
    (&["patched-reset"], "holds_end_with_a_reset", reset_while_held),
    (&["patched-reset"], "a_release_into_a_hang_is_told", release_into_hang),
    (&["patched-reset"], "a_lost_controller_of_a_lost_gpu", owner_dies),
    (&["patched-reset"], "a_queue_that_refuses_is_told", refuses),
    (&["patched-reset"], "the_gpu_can_be_held_again", afterwards),
];

const TIMEOUT_NS: u64 = 500_000_000;

fn call(controller: &mut Controller, release: bool, entries: &[Spec]) -> anyhow::Result<Reply> {
    controller.call(Call {
        entries: entries.to_vec(),
        release,
        ..Call::default()
    })
}

/// Waits until the reset that a hang caused is over.
fn wait_for_reset(before: u64) -> anyhow::Result<()> {
    guest::eventually("the reset", || {
        Ok((guest::stat(0, "resets")? > before).then_some(()))
    })
}

/// That processes which did not live through the reset are not hurt by it.
fn new_process_works(controller: &mut Controller) -> anyhow::Result<()> {
    let mut job = guest::eventually("a new process", || {
        // open(2) fails while the GPU is reset.
        Ok(Job::offline(2).ok())
    })?;
    job.goes_on()?;
    controller.hold(&[Spec::all(job.pid())])?;
    job.expect_held("after the reset")?;
    controller.release(&[Spec::all(job.pid())])?;
    job.goes_on()
}

/// That every queue of the entry is told as lost, held or not, and none is mapped.
fn is_lost(controller: &mut Controller, job: &Job) -> anyhow::Result<()> {
    for release in [false, true, true] {
        let reply = call(controller, release, &[Spec::all(job.pid())])?;
        let entry = reply.entries[0];
        ensure_eq!(entry.errno(), Errno::ENOTRECOVERABLE, "status, release: {release}");
        anyhow::ensure!(
            entry.state & state::RESET != 0 && entry.state & state::ACTIVE == 0,
            "state {:#x} of a lost process",
            entry.state
        );
        job.expect_held("after the reset")?;
    }
    let look = controller.look(Spec::all(job.pid()))?;
    anyhow::ensure!(
        look.state & state::HELD == 0,
        "state {:#x} after the release",
        look.state
    );
    Ok(())
}

fn hang() -> anyhow::Result<()> {
    scene::clean(|| {
        let (job, innocent) = (Job::offline(2)?, Job::offline(1)?);
        let mut controller = Controller::start()?;
        let resets = guest::stat(0, "resets")?;
        let reply = {
            let _hang = Parameter::set("sim_hang", "1")?;
            call(&mut controller, false, &[Spec::all(job.pid())])?
        };
        ensure_eq!(reply.entries[0].errno(), Errno::ETIME, "status");
        ensure_eq!(reply.num_failed, 1, "failed");
        anyhow::ensure!(
            reply.hw_ns >= TIMEOUT_NS && reply.total_ns >= reply.hw_ns,
            "hw_ns {}, total_ns {}",
            reply.hw_ns,
            reply.total_ns
        );
        wait_for_reset(resets)?;
        is_lost(&mut controller, &job)?;
        // So is everybody on the GPU.
        is_lost(&mut controller, &innocent)?;
        drop((job, innocent));
        new_process_works(&mut controller)
    })
}

fn reset_while_held() -> anyhow::Result<()> {
    scene::clean(|| {
        let (job, mut trigger) = (Job::offline(2)?, Job::offline(1)?);
        let mut controller = Controller::start()?;
        controller.hold(&[Spec::all(job.pid()).inherit()])?;
        let resets = guest::stat(0, "resets")?;
        {
            let _hang = Parameter::set("sim_hang", "1")?;
            trigger.load.send("update 0 0")?;
            wait_for_reset(resets)?;
        }
        is_lost(&mut controller, &job)?;
        drop((job, trigger));
        new_process_works(&mut controller)
    })
}

/// With another queue mapped a release needs the scheduler's answer as well.
fn release_into_hang() -> anyhow::Result<()> {
    scene::clean(|| {
        let (job, other) = (Job::offline(2)?, Job::offline(1)?);
        let mut controller = Controller::start()?;
        controller.hold(&[Spec::all(job.pid())])?;
        let resets = guest::stat(0, "resets")?;
        let reply = {
            let _hang = Parameter::set("sim_hang", "1")?;
            call(&mut controller, true, &[Spec::all(job.pid())])?
        };
        ensure_eq!(reply.entries[0].errno(), Errno::ETIME, "status of the release");
        wait_for_reset(resets)?;
        is_lost(&mut controller, &job)?;
        drop((job, other));
        new_process_works(&mut controller)
    })
}

/// Whoever held goes at the same time as the GPU.
fn owner_dies() -> anyhow::Result<()> {
    scene::clean(|| {
        let (job, other) = (Job::offline(2)?, Job::offline(1)?);
        let mut controller = Controller::start()?;
        controller.hold_for(&[Spec::all(job.pid()).inherit()], 200)?;
        let resets = guest::stat(0, "resets")?;
        {
            let _hang = Parameter::set("sim_hang", "1")?;
            controller.kill()?;
            wait_for_reset(resets)?;
        }
        let mut next = guest::eventually("a new controller", || Ok(Controller::start().ok()))?;
        is_lost(&mut next, &job)?;
        drop((job, other));
        new_process_works(&mut next)
    })
}

/// A queue that does not let itself be preempted is reset alone: its status says so, the others' do not.
fn refuses() -> anyhow::Result<()> {
    scene::clean(|| {
        let (mut bad, mut good) = (Job::offline(1)?, Job::offline(2)?);
        let mut controller = Controller::start()?;
        bad.goes_on()?;
        let path = "/sys/kernel/debug/simgpu/0/slots";
        // The slot's own number of the doorbell: what the parameter wants.
        let pasid = std::fs::read_to_string(format!("/sys/class/kfd/kfd/proc/{}/pasid", bad.pid()))?;
        let wanted = format!("pasid={} ", pasid.trim());
        let doorbell = guest::eventually("the queue in a slot", || {
            let slots = std::fs::read_to_string(path)?;
            let line = slots.lines().find(|line| line.contains(&wanted));
            let doorbell = line.and_then(|line| {
                line.split_whitespace()
                    .find_map(|word| word.strip_prefix("doorbell="))
            });
            Ok(doorbell.map(str::to_owned))
        })?;
        let number = u32::from_str_radix(doorbell.trim_start_matches("0x"), 16)?;
        let resets = guest::stat(0, "resets")?;
        let reply = {
            let _refuse = Parameter::set("sim_refuse", &number.to_string())?;
            call(
                &mut controller,
                false,
                &[Spec::all(bad.pid()), Spec::all(good.pid())],
            )?
        };
        ensure_eq!(
            reply.entries[0].errno(),
            Errno::ENOTRECOVERABLE,
            "status of the queue that was reset"
        );
        anyhow::ensure!(
            reply.entries[0].state & state::RESET != 0,
            "state {:#x}",
            reply.entries[0].state
        );
        ensure_eq!(reply.entries[1].status, 0, "status of the other process");
        ensure_eq!(reply.num_failed, 1, "failed");
        ensure_eq!(guest::stat(0, "resets")?, resets, "resets of the whole GPU");
        good.expect_held("by the same call")?;
        let released = call(&mut controller, true, &[Spec::all(good.pid())])?;
        ensure_eq!(released.num_failed, 0, "failed releases");
        good.goes_on()
    })
}

fn afterwards() -> anyhow::Result<()> {
    scene::clean(|| {
        let mut controller = Controller::start()?;
        new_process_works(&mut controller)
    })
}

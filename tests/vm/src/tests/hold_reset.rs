// SPDX-License-Identifier: MIT OR Apache-2.0
//! Holds and a GPU that does not answer, or was reset. The guest sets `queue_preemption_timeout_ms=2000`.

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
    (
        &["patched-reset"],
        "holds_end_with_a_reset",
        reset_while_held,
    ),
    (
        &["patched-reset"],
        "a_release_into_a_hang_is_told",
        release_into_hang,
    ),
    (
        &["patched-reset"],
        "a_lost_controller_of_a_lost_gpu",
        owner_dies,
    ),
    (&["patched-reset"], "a_queue_that_refuses_is_told", refuses),
    (&["patched-reset"], "the_gpu_can_be_held_again", afterwards),
];

/// The driver counts jiffies, which a busy host delivers late and then several at once: less than the 2 s may pass.
const AT_LEAST_NS: u64 = 1_000_000_000;

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
        ensure_eq!(
            entry.errno(),
            Errno::ENOTRECOVERABLE,
            "status, release: {release}"
        );
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
            reply.hw_ns >= AT_LEAST_NS && reply.total_ns >= reply.hw_ns,
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
        ensure_eq!(
            reply.entries[0].errno(),
            Errno::ETIME,
            "status of the release"
        );
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

/// What the slots of the simulated GPU say of the only queue of a process: doorbell, ring.
fn slot_of(job: &Job) -> anyhow::Result<(u32, String)> {
    let pasid = format!("/sys/class/kfd/kfd/proc/{}/pasid", job.pid());
    let pasid = std::fs::read_to_string(pasid)?;
    let wanted = format!("pasid={}", pasid.trim());
    guest::eventually("the queue in a slot", || {
        let slots = std::fs::read_to_string("/sys/kernel/debug/simgpu/0/slots")?;
        for line in slots.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let field = |name: &str| words.iter().find_map(|word| word.strip_prefix(name));
            if let (true, Some(doorbell), Some(ring)) = (
                words.contains(&wanted.as_str()),
                field("doorbell=0x"),
                field("ring="),
            ) {
                return Ok(Some((u32::from_str_radix(doorbell, 16)?, ring.to_owned())));
            }
        }
        Ok(None)
    })
}

/// A queue that does not let itself be preempted is reset alone: its status says so, and nobody else's does, not even
/// that of a queue which another process keeps at the same address.
fn refuses() -> anyhow::Result<()> {
    for bad_first in [true, false] {
        scene::clean(|| one_refuses(bad_first))?;
    }
    Ok(())
}

fn one_refuses(bad_first: bool) -> anyhow::Result<()> {
    let args = ["--profile", "simple", "--queues", "1", "--same-addresses"];
    let (first, second) = (Job::busy(&args)?, Job::busy(&args)?);
    let (bad, mut good) = if bad_first {
        (first, second)
    } else {
        (second, first)
    };
    let mut controller = Controller::start()?;
    let ((doorbell, ring), (_, other_ring)) = (slot_of(&bad)?, slot_of(&good)?);
    ensure_eq!(ring, other_ring, "addresses of the rings");
    let resets = guest::stat(0, "resets")?;
    let both = [Spec::all(bad.pid()), Spec::all(good.pid())];
    let reply = {
        let _refuse = Parameter::set("sim_refuse", &doorbell.to_string())?;
        call(&mut controller, false, &both)?
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
    ensure_eq!(
        (reply.entries[1].status, reply.entries[1].state),
        (0, state::HELD),
        "status, state of the other process"
    );
    ensure_eq!(reply.num_failed, 1, "failed");
    ensure_eq!(guest::stat(0, "resets")?, resets, "resets of the whole GPU");
    good.expect_held("by the same call")?;
    let released = call(&mut controller, true, &both)?;
    ensure_eq!(
        released.entries[0].errno(),
        Errno::ENOTRECOVERABLE,
        "status of the release of a lost queue"
    );
    bad.expect_held("lost for good")?;
    good.expect_running("after the release")?;
    good.goes_on()
}

fn afterwards() -> anyhow::Result<()> {
    scene::clean(|| {
        let mut controller = Controller::start()?;
        new_process_works(&mut controller)
    })
}

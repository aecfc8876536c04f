// SPDX-License-Identifier: MIT OR Apache-2.0
//! Several GPUs in one call: each that is concerned is updated once, the others not at all.

use std::collections::BTreeSet;

use gpreempt::kfd::uapi::gpreempt::{RESERVE_QUERY, RESERVE_SET};
use nix::errno::Errno;

use super::List;
use crate::check::ensure_eq;
use crate::controller::{Call, Controller, Reservation, Spec};
use crate::gpu::{busy, Job, Unmaps};
use crate::guest;
use crate::load::Load;
use crate::scene;

pub(super) const TESTS: List = &[
    (&["patched-multi"], "four_gpus_in_one_call", all),
    (&["patched-multi"], "one_gpu_of_four", one),
    (&["patched-multi"], "a_process_on_some_gpus", some),
    (&["patched-multi"], "inherit_is_per_gpu", inherit),
    (
        &["patched-multi"],
        "a_busy_gpu_keeps_the_others_free",
        busy_gpu,
    ),
    (
        &["patched-multi"],
        "the_end_of_an_owner_is_everywhere",
        owner,
    ),
    (&["patched-multi"], "leases_end_on_every_gpu", lease),
    (&["patched-multi"], "reservations_are_per_gpu", reservation),
    (&["patched-multi"], "a_hundred_holds_of_four_gpus", hundred),
];

const GPUS: usize = 4;

/// Busy queues on the first `gpus` GPUs, `queues` on each.
fn job(gpus: usize, queues: usize) -> anyhow::Result<Job> {
    let (gpus_text, queues) = (gpus.to_string(), queues.to_string());
    let args = [
        "--profile",
        "simple",
        "--gpus",
        &gpus_text,
        "--queues",
        &queues,
    ];
    Job::new(Load::start_on(gpus, &busy(&args))?)
}

fn gpu_ids(job: &Job) -> anyhow::Result<Vec<u32>> {
    let lines = job.load.created();
    let ids = lines.iter().map(|line| Ok(line.number("gpu_id")? as u32));
    ids.collect()
}

/// Ids of a job's queues on one GPU.
fn ids_on(job: &Job, gpu_id: u32) -> anyhow::Result<BTreeSet<u64>> {
    let places = job.places()?.into_iter();
    let here = places.filter(|(_, (gpu, _))| *gpu == u64::from(gpu_id));
    Ok(here.map(|(id, _)| id).collect())
}

/// UNMAP_QUEUES packets of every GPU.
struct AllUnmaps(Vec<Unmaps>);

impl AllUnmaps {
    fn from_here() -> anyhow::Result<Self> {
        let unmaps = (0..GPUS).map(Unmaps::from_here);
        Ok(Self(unmaps.collect::<anyhow::Result<_>>()?))
    }

    fn counts(&self) -> anyhow::Result<Vec<u64>> {
        self.0.iter().map(Unmaps::count).collect()
    }
}

fn all() -> anyhow::Result<()> {
    scene::clean(|| {
        let (mut first, mut second) = (job(GPUS, 2)?, job(GPUS, 1)?);
        let mut controller = Controller::start()?;
        let both = [Spec::all(first.pid()), Spec::all(second.pid())];
        let unmaps = AllUnmaps::from_here()?;
        let held = controller.hold(&both)?;
        ensure_eq!(
            (held.num_changed, held.num_nodes),
            (12, 4),
            "changed, nodes"
        );
        ensure_eq!(
            (held.entries[0].n_matched, held.entries[1].n_matched),
            (8, 4),
            "matched"
        );
        ensure_eq!(
            unmaps.counts()?,
            [1; GPUS],
            "UNMAP_QUEUES packets of each GPU"
        );
        first.expect_held("after the hold")?;
        second.expect_held("after the hold")?;
        let again = controller.hold(&both)?;
        ensure_eq!(
            (again.num_changed, again.num_nodes),
            (0, 0),
            "changed, nodes"
        );
        let released = controller.release(&both)?;
        ensure_eq!(
            (released.num_changed, released.num_nodes),
            (12, 4),
            "changed, nodes of the release"
        );
        // Nothing else was mapped: a runlist is sent, nothing is unmapped.
        ensure_eq!(
            unmaps.counts()?,
            [1; GPUS],
            "UNMAP_QUEUES packets of each GPU"
        );
        first.goes_on()?;
        second.goes_on()
    })
}

fn one() -> anyhow::Result<()> {
    scene::clean(|| {
        let mut job = job(GPUS, 2)?;
        let gpu_ids = gpu_ids(&job)?;
        let mut controller = Controller::start()?;
        for (index, &gpu_id) in gpu_ids.iter().enumerate() {
            let unmaps = AllUnmaps::from_here()?;
            let here = ids_on(&job, gpu_id)?;
            let held = controller.hold(&[Spec::all(job.pid()).on(gpu_id)])?;
            ensure_eq!((held.num_changed, held.num_nodes), (2, 1), "changed, nodes");
            let mut wanted = vec![0; GPUS];
            wanted[index] = 1;
            ensure_eq!(unmaps.counts()?, wanted, "UNMAP_QUEUES packets of each GPU");
            let others = job.ids()?.difference(&here).copied().collect::<Vec<_>>();
            job.expect_mapped(others, "with one GPU held")?;
            controller.release(&[Spec::all(job.pid())])?;
            ensure_eq!(
                unmaps.counts()?,
                wanted,
                "UNMAP_QUEUES packets after the release"
            );
        }
        // A queue is on one GPU: naming another with it names nothing.
        let there = *ids_on(&job, gpu_ids[2])?.first().unwrap_or(&0) as u32;
        let reply = controller.call(Call {
            entries: vec![Spec::queue(job.pid(), there).on(gpu_ids[1])],
            ..Call::default()
        })?;
        ensure_eq!(
            reply.entries[0].errno(),
            Errno::ENOENT,
            "a queue on another GPU"
        );
        let unmaps = AllUnmaps::from_here()?;
        let held = controller.hold(&[Spec::queue(job.pid(), there)])?;
        ensure_eq!(
            (held.num_changed, held.num_nodes),
            (1, 1),
            "changed, nodes of one queue"
        );
        ensure_eq!(
            unmaps.counts()?,
            [0, 0, 1, 0],
            "UNMAP_QUEUES packets of each GPU"
        );
        controller.release(&[Spec::all(job.pid())])?;
        job.goes_on()
    })
}

fn some() -> anyhow::Result<()> {
    scene::clean(|| {
        let (mut two, mut one, bystander) = (job(2, 2)?, job(1, 3)?, job(GPUS, 1)?);
        let gpu_ids = gpu_ids(&bystander)?;
        let mut controller = Controller::start()?;
        let both = [Spec::all(two.pid()), Spec::all(one.pid())];
        let unmaps = AllUnmaps::from_here()?;
        let held = controller.hold(&both)?;
        ensure_eq!((held.num_changed, held.num_nodes), (7, 2), "changed, nodes");
        ensure_eq!(
            unmaps.counts()?,
            [1, 1, 0, 0],
            "UNMAP_QUEUES packets of each GPU"
        );
        bystander.expect_running("beside held processes")?;
        // A process knows every GPU that it may use; it just has no queue there.
        let reply = controller.call(Call {
            entries: vec![Spec::all(one.pid()).on(gpu_ids[3])],
            ..Call::default()
        })?;
        let entry = reply.entries[0];
        ensure_eq!(
            (entry.status, entry.n_matched),
            (0, 0),
            "status, matched on a GPU without queues"
        );
        let released = controller.release(&both)?;
        ensure_eq!(
            (released.num_changed, released.num_nodes),
            (7, 2),
            "changed, nodes"
        );
        ensure_eq!(
            unmaps.counts()?,
            [2, 2, 0, 0],
            "UNMAP_QUEUES packets of each GPU"
        );
        two.goes_on()?;
        one.goes_on()
    })
}

fn inherit() -> anyhow::Result<()> {
    scene::clean(|| {
        let mut job = job(GPUS, 1)?;
        let gpu_ids = gpu_ids(&job)?;
        let mut controller = Controller::start()?;
        controller.hold(&[Spec::all(job.pid()).on(gpu_ids[1]).inherit()])?;
        for gpu in 0..GPUS {
            job.load.command(&format!("create compute {gpu}"))?;
        }
        let held = ids_on(&job, gpu_ids[1])?;
        ensure_eq!(held.len(), 2, "queues on the second GPU");
        let others = job.ids()?.difference(&held).copied().collect::<Vec<_>>();
        job.expect_mapped(others, "with queues created later")?;
        controller.release(&[Spec::all(job.pid())])?;
        job.expect_running("after the release")?;
        // On every GPU, also those where it has no queue yet.
        let mut two = self::job(2, 1)?;
        controller.hold(&[Spec::all(two.pid()).inherit()])?;
        two.load.command("create compute 1")?;
        two.expect_held("with a queue created later")?;
        controller.release(&[Spec::all(two.pid())])?;
        two.goes_on()
    })
}

/// An entry is held on all of its GPUs or on none.
fn busy_gpu() -> anyhow::Result<()> {
    scene::clean(|| {
        let job = job(GPUS, 2)?;
        let gpu_ids = gpu_ids(&job)?;
        let (mut first, mut second) = (Controller::start()?, Controller::start()?);
        first.hold(&[Spec::all(job.pid()).on(gpu_ids[2])])?;
        let running = job.mapped()?;
        let reply = second.call(Call {
            entries: vec![Spec::all(job.pid()).inherit()],
            ..Call::default()
        })?;
        ensure_eq!(reply.entries[0].errno(), Errno::EBUSY, "status");
        ensure_eq!(
            (reply.num_changed, reply.num_nodes),
            (0, 0),
            "changed, nodes"
        );
        job.expect_mapped(running, "after a refused call")?;
        second.hold(&[Spec::all(job.pid()).on(gpu_ids[0])])?;
        first.kill()?;
        let here = ids_on(&job, gpu_ids[0])?;
        let others = job.ids()?.difference(&here).copied().collect::<Vec<_>>();
        job.expect_mapped(others, "after the first, with the second's")?;
        second.kill()?;
        job.wait_running("queues on every GPU")
    })
}

fn owner() -> anyhow::Result<()> {
    scene::clean(|| {
        let mut job = job(GPUS, 2)?;
        for round in 0..8 {
            let mut controller = Controller::start()?;
            controller.hold(&[Spec::all(job.pid()).inherit()])?;
            job.expect_held("by an owner")?;
            if round % 2 == 0 {
                controller.kill()?;
            } else {
                controller.close(0)?;
            }
            job.wait_running("queues on every GPU after the owner")?;
        }
        job.load.command("create compute 3")?;
        job.goes_on()
    })
}

fn lease() -> anyhow::Result<()> {
    scene::clean(|| {
        let mut job = job(GPUS, 1)?;
        let gpu_ids = gpu_ids(&job)?;
        let mut controller = Controller::start()?;
        controller.hold(&[Spec::all(job.pid())])?;
        // Of one GPU only; the others stay.
        controller.hold_for(&[Spec::all(job.pid()).on(gpu_ids[3])], 100)?;
        guest::eventually("the lease of one GPU", || {
            Ok((!job.mapped()?.is_empty()).then_some(()))
        })?;
        job.expect_mapped(ids_on(&job, gpu_ids[3])?, "after the lease of one GPU")?;
        controller.hold_for(&[Spec::all(job.pid())], 200)?;
        job.wait_running("queues on every GPU after the lease")?;
        job.goes_on()
    })
}

fn reservation() -> anyhow::Result<()> {
    scene::clean(|| {
        let job = job(GPUS, 3)?;
        let gpu_ids = gpu_ids(&job)?;
        let mut controller = Controller::start()?;
        let unmaps = AllUnmaps::from_here()?;
        let reply = controller.reserve(Reservation {
            op: RESERVE_SET,
            gpu_id: gpu_ids[1],
            slots_reserved: 23,
            rotate_ms: 3_600_000,
            entries: vec![Spec::process(job.pid())],
            ..Reservation::default()
        })?;
        ensure_eq!(
            (reply.queues_capped, reply.cp_queues_active),
            (2, 1),
            "capped, active"
        );
        ensure_eq!(
            unmaps.counts()?,
            [0, 1, 0, 0],
            "UNMAP_QUEUES packets of each GPU"
        );
        ensure_eq!(job.mapped()?.len(), 10, "queues in the runlists");
        for (index, &gpu_id) in gpu_ids.iter().enumerate() {
            let reply = controller.reserve(Reservation {
                op: RESERVE_QUERY,
                gpu_id,
                ..Reservation::default()
            })?;
            let wanted = if index == 1 {
                (23, controller.pid(), 1)
            } else {
                (0, 0, 3)
            };
            ensure_eq!(
                (
                    reply.slots_reserved,
                    reply.owner_pid,
                    reply.cp_queues_active
                ),
                wanted,
                "reserved, owner, active of GPU {index}"
            );
        }
        controller.kill()?;
        job.wait_running("queues after the reservation")
    })
}

fn hundred() -> anyhow::Result<()> {
    scene::clean(|| {
        let mut jobs = [job(GPUS, 2)?, job(GPUS, 2)?];
        let mut controller = Controller::start()?;
        let all: Vec<Spec> = jobs.iter().map(|job| Spec::all(job.pid())).collect();
        for cycle in 0..100 {
            let held = controller.hold(&all)?;
            ensure_eq!((held.num_changed, held.num_nodes), (16, 4), "cycle {cycle}");
            let released = controller.release(&all)?;
            ensure_eq!(
                (released.num_changed, released.num_nodes),
                (16, 4),
                "cycle {cycle}"
            );
        }
        jobs.iter_mut().try_for_each(Job::goes_on)
    })
}

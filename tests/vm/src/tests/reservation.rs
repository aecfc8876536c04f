// SPDX-License-Identifier: MIT OR Apache-2.0
//! Slots kept free: how many queues of offline processes are in the runlist, and whose.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context;
use gpreempt::kfd::uapi::gpreempt::{state, FORCE, RESERVE_CLEAR, RESERVE_QUERY, RESERVE_SET};
use nix::errno::Errno;

use super::compose::{evict, restored};
use super::List;
use crate::check::ensure_eq;
use crate::controller::{Controller, Reservation, Reserved, Spec};
use crate::gpu::{self, Job, Unmaps};
use crate::guest;
use crate::scene;

pub(super) const TESTS: List = &[
    (&["patched"], "reserved_slots_stay_free", free_slots),
    (
        &["patched"],
        "the_online_queue_is_always_mapped",
        always_mapped,
    ),
    (&["patched"], "parked_queues_take_turns", turns),
    (&["patched"], "room_is_shared_out_fairly", fair),
    (&["patched"], "every_offline_process_gets_on", starved),
    (
        &["patched"],
        "parked_queues_take_the_room_of_held_ones",
        held,
    ),
    (
        &["patched"],
        "a_reservation_sees_queues_come_and_go",
        come_and_go,
    ),
    (&["patched"], "a_reservation_ends_with_its_owner", ends),
    (&["patched"], "a_reservation_has_one_owner", one_owner),
    (&["patched"], "a_reservation_can_be_changed", changed),
    (&["patched"], "query_tells_what_is", query),
];

/// Slots of the simulated GPU, as its parameter says.
const SLOTS: u32 = 24;
/// So long that nothing rotates while a test looks.
const NEVER_MS: u32 = 3_600_000;

fn set(gpu_id: u32, room: u32, rotate_ms: u32, offline: &[&Job]) -> Reservation {
    Reservation {
        op: RESERVE_SET,
        gpu_id,
        slots_reserved: SLOTS - room,
        rotate_ms,
        entries: offline.iter().map(|job| Spec::process(job.pid())).collect(),
        ..Reservation::default()
    }
}

fn op(op: u32, gpu_id: u32) -> Reservation {
    Reservation {
        op,
        gpu_id,
        ..Reservation::default()
    }
}

fn gpu_id(job: &Job) -> anyhow::Result<u32> {
    Ok(job.load.gpu_id()? as u32)
}

fn ask(controller: &mut Controller, gpu_id: u32) -> anyhow::Result<Reserved> {
    controller.reserve(op(RESERVE_QUERY, gpu_id))
}

fn mapped(jobs: &[Job]) -> anyhow::Result<Vec<usize>> {
    jobs.iter().map(|job| Ok(job.mapped()?.len())).collect()
}

fn offline(queues: &[usize]) -> anyhow::Result<Vec<Job>> {
    queues.iter().map(|&queues| Job::offline(queues)).collect()
}

fn free_slots() -> anyhow::Result<()> {
    scene::clean(|| {
        let mut jobs = offline(&[8, 8])?;
        let mut online = Job::online()?;
        let gpu = gpu_id(&online)?;
        let mut controller = Controller::start()?;
        let unmaps = Unmaps::from_here(0)?;
        let all: Vec<&Job> = jobs.iter().collect();
        let reply = controller.reserve(set(gpu, 10, NEVER_MS, &all))?;
        ensure_eq!(
            (
                reply.slots_reserved,
                reply.queues_capped,
                reply.cp_queues_active
            ),
            (14, 6, 11),
            "reserved, capped, active"
        );
        ensure_eq!(unmaps.count()?, 1, "UNMAP_QUEUES packets of a reservation");
        ensure_eq!(mapped(&jobs)?, [5, 5], "offline queues in the runlist");
        online.expect_running("beside the reservation")?;
        // A capped process says so, and the online one may grow into what is free.
        let look = controller.look(Spec::all(jobs[0].pid()))?;
        ensure_eq!(
            look.state,
            state::ACTIVE | state::CAPPED,
            "state of an offline process"
        );
        for _ in 0..4 {
            online.load.command("create compute")?;
        }
        online.expect_running("with five queues")?;
        ensure_eq!(mapped(&jobs)?, [5, 5], "offline queues in the runlist");
        guest::eventually("all of them in slots", || {
            Ok((gpu::slots(0)?.len() == 15).then_some(()))
        })?;
        // The same again changes nothing.
        let all: Vec<&Job> = jobs.iter().collect();
        let unmaps = Unmaps::from_here(0)?;
        controller.reserve(set(gpu, 10, NEVER_MS, &all))?;
        ensure_eq!(unmaps.count()?, 0, "UNMAP_QUEUES packets of the same again");
        controller.reserve(op(RESERVE_CLEAR, gpu))?;
        for job in &mut jobs {
            job.expect_running("after the reservation")?;
            job.goes_on()?;
        }
        Ok(())
    })
}

/// 64 offline queues on 24 slots: time slicing takes the online queue off the GPU most of the time; the reservation
/// does not.
fn always_mapped() -> anyhow::Result<()> {
    const SAMPLES: usize = 100;
    scene::clean(|| {
        let mut jobs = offline(&[16, 16, 16, 16])?;
        let mut online = Job::online()?;
        let gpu = gpu_id(&online)?;
        let mut controller = Controller::start()?;
        let places = online.places()?;
        let place = places.values().map(|(_, place)| *place).collect::<Vec<_>>();
        let sample = || -> anyhow::Result<usize> {
            let mut seen = 0;
            for _ in 0..SAMPLES {
                // Samples of a list that rotates every 10 ms are to be apart: not a wait for anything.
                std::thread::sleep(Duration::from_millis(7));
                seen += usize::from(gpu::slots(0)?.contains(&place[0]));
            }
            Ok(seen)
        };
        anyhow::ensure!(
            ask(&mut controller, gpu)?.oversubscribed == 1,
            "not oversubscribed"
        );
        let without = sample()?;
        let all: Vec<&Job> = jobs.iter().collect();
        // Nothing is to be remapped while samples are taken.
        let reply = controller.reserve(set(gpu, 20, NEVER_MS, &all))?;
        ensure_eq!(
            (
                reply.queues_capped,
                reply.cp_queues_active,
                reply.oversubscribed
            ),
            (44, 21, 0),
            "capped, active, oversubscribed"
        );
        guest::eventually("the runlist in slots", || {
            Ok((gpu::slots(0)?.len() == 21).then_some(()))
        })?;
        let with = sample()?;
        ensure_eq!(
            with,
            SAMPLES,
            "samples with the online queue mapped (without: {without})"
        );
        anyhow::ensure!(
            without < SAMPLES * 9 / 10,
            "the online queue was mapped in {without} of {SAMPLES} samples without reservation: nothing to win"
        );
        online.serves(20)?;
        controller.reserve(op(RESERVE_CLEAR, gpu))?;
        jobs.iter_mut().try_for_each(Job::goes_on)
    })
}

/// Every queue of a process that may have some of its queues mapped gets its turn.
fn turns() -> anyhow::Result<()> {
    scene::clean(|| {
        let mut jobs = offline(&[6, 6])?;
        let gpu = gpu_id(&jobs[0])?;
        let mut controller = Controller::start()?;
        let all: Vec<&Job> = jobs.iter().collect();
        let reply = controller.reserve(set(gpu, 4, 50, &all))?;
        ensure_eq!(
            (reply.queues_capped, reply.rotate_ms),
            (8, 50),
            "capped, rotation"
        );
        // goes_on() wants every queue of both to be read, of which two are mapped at a time.
        for _ in 0..3 {
            jobs.iter_mut().try_for_each(Job::goes_on)?;
            ensure_eq!(
                ask(&mut controller, gpu)?.cp_queues_active,
                4,
                "active queues between turns"
            );
        }
        controller.reserve(op(RESERVE_CLEAR, gpu))?;
        Ok(())
    })
}

/// Max-min: nobody gets more while somebody who wants more has less.
fn fair() -> anyhow::Result<()> {
    scene::clean(|| {
        let jobs = offline(&[8, 8, 2, 1])?;
        let gpu = gpu_id(&jobs[0])?;
        let mut controller = Controller::start()?;
        let all: Vec<&Job> = jobs.iter().collect();
        controller.reserve(set(gpu, 11, NEVER_MS, &all))?;
        ensure_eq!(mapped(&jobs)?, [4, 4, 2, 1], "shares of 11");
        controller.reserve(set(gpu, 3, NEVER_MS, &all))?;
        let mut shares = mapped(&jobs)?;
        shares.sort_unstable();
        ensure_eq!(shares, [0, 1, 1, 1], "shares of 3");
        controller.reserve(set(gpu, 24, NEVER_MS, &all))?;
        ensure_eq!(mapped(&jobs)?, [8, 8, 2, 1], "shares of all slots");
        ensure_eq!(
            ask(&mut controller, gpu)?.queues_capped,
            0,
            "capped with all slots"
        );
        Ok(())
    })
}

/// Fewer slots than processes, and the one that started first among them: each has its turn.
fn starved() -> anyhow::Result<()> {
    scene::clean(|| {
        let mut jobs = offline(&[1, 2, 3, 1])?;
        let gpu = gpu_id(&jobs[0])?;
        let mut controller = Controller::start()?;
        let all: Vec<&Job> = jobs.iter().collect();
        controller.reserve(set(gpu, 2, 40, &all))?;
        jobs.iter_mut().try_for_each(Job::goes_on)?;
        // How often each was seen mapped: equal demands, equal shares.
        let mut seen = BTreeMap::<usize, usize>::new();
        for _ in 0..400 {
            // As in always_mapped().
            std::thread::sleep(Duration::from_millis(7));
            for (index, count) in mapped(&jobs)?.into_iter().enumerate() {
                *seen.entry(index).or_default() += usize::from(count > 0);
            }
        }
        let (least, most) = (seen[&0].min(seen[&3]), seen[&0].max(seen[&3]));
        anyhow::ensure!(
            least > 0 && most <= 3 * least && seen[&1] > 0 && seen[&2] > 0,
            "samples in which each process had queues mapped: {seen:?}"
        );
        controller.reserve(op(RESERVE_CLEAR, gpu))?;
        jobs.iter_mut().try_for_each(Job::goes_on)
    })
}

fn held() -> anyhow::Result<()> {
    scene::clean(|| {
        let mut jobs = offline(&[8, 8])?;
        let gpu = gpu_id(&jobs[0])?;
        let mut controller = Controller::start()?;
        let all: Vec<&Job> = jobs.iter().collect();
        controller.reserve(set(gpu, 10, NEVER_MS, &all))?;
        let first = [Spec::all(jobs[0].pid())];
        let reply = controller.hold(&first)?;
        ensure_eq!(reply.num_changed, 8, "held queues, parked ones included");
        ensure_eq!(mapped(&jobs)?, [0, 8], "with one process held");
        controller.hold(&[Spec::queue(jobs[1].pid(), 0), Spec::queue(jobs[1].pid(), 1)])?;
        ensure_eq!(
            mapped(&jobs)?,
            [0, 6],
            "with two queues of the other held, too"
        );
        controller.release(&first)?;
        ensure_eq!(mapped(&jobs)?, [5, 5], "with one process released");
        // A hold outlives the reservation, and the other way round.
        controller.reserve(op(RESERVE_CLEAR, gpu))?;
        ensure_eq!(mapped(&jobs)?, [8, 6], "without the reservation");
        controller.hold(&first)?;
        let all: Vec<&Job> = jobs.iter().collect();
        controller.reserve(set(gpu, 3, NEVER_MS, &all))?;
        ensure_eq!(mapped(&jobs)?, [0, 3], "with a new reservation");
        let everything = [first[0], Spec::all(jobs[1].pid())];
        controller.release(&everything)?;
        let mut shares = mapped(&jobs)?;
        shares.sort_unstable();
        ensure_eq!(shares, [1, 2], "released under the reservation");
        controller.reserve(op(RESERVE_CLEAR, gpu))?;
        jobs.iter_mut().try_for_each(Job::goes_on)
    })
}

/// Queues that are created, destroyed, updated or evicted change who has room at once.
fn come_and_go() -> anyhow::Result<()> {
    scene::clean(|| {
        let mut jobs = offline(&[3, 3])?;
        let mut other = Job::offline(1)?;
        let gpu = gpu_id(&other)?;
        let mut controller = Controller::start()?;
        let all: Vec<&Job> = jobs.iter().collect();
        controller.reserve(set(gpu, 4, NEVER_MS, &all))?;
        ensure_eq!(mapped(&jobs)?, [2, 2], "at first");
        jobs[0].load.command("create compute")?;
        ensure_eq!(mapped(&jobs)?, [2, 2], "with one more");
        // Copy queues have slots of their own.
        jobs[0].load.command("create sdma")?;
        ensure_eq!(mapped(&jobs)?, [3, 2], "with a copy queue");
        for id in jobs[1].ids()? {
            jobs[1].load.command(&format!("update {id} 0"))?;
        }
        ensure_eq!(mapped(&jobs)?, [5, 0], "with the other at 0 %");
        for id in jobs[1].ids()? {
            jobs[1].load.command(&format!("update {id} 100"))?;
        }
        ensure_eq!(mapped(&jobs)?, [3, 2], "with the other at 100 % again");
        jobs[0].load.command("destroy 0")?;
        jobs[0].load.command("destroy 1")?;
        jobs[0].load.command("destroy 2")?;
        ensure_eq!(mapped(&jobs)?, [2, 3], "with one compute queue left");
        evict(&mut controller, &jobs[1])?;
        restored(&mut controller, &jobs[1])?;
        ensure_eq!(mapped(&jobs)?, [2, 3], "with the other restored");
        // A parked queue may be destroyed, and its process may be killed.
        jobs[0].load.command("create compute")?;
        jobs[0].load.command("create compute")?;
        ensure_eq!(ask(&mut controller, gpu)?.queues_capped, 2, "capped");
        let parked = jobs[0]
            .ids()?
            .difference(&jobs[0].mapped()?)
            .next()
            .copied();
        let parked = parked.context("no parked queue")?;
        jobs[0].load.command(&format!("destroy {parked}"))?;
        ensure_eq!(
            ask(&mut controller, gpu)?.queues_capped,
            1,
            "capped after a parked queue was destroyed"
        );
        ensure_eq!(mapped(&jobs)?, [3, 2], "after a parked queue was destroyed");
        let killed = jobs.remove(0);
        drop(killed);
        jobs[0].wait_running("queues of the one that is left")?;
        guest::eventually("no capped queue", || {
            Ok((ask(&mut controller, gpu)?.queues_capped == 0).then_some(()))
        })?;
        other.goes_on()?;
        jobs[0].goes_on()
    })
}

fn ends() -> anyhow::Result<()> {
    scene::clean(|| {
        let mut jobs = offline(&[3, 0])?;
        let gpu = gpu_id(&jobs[0])?;
        let mut observer = Controller::start()?;
        // By exit, by close, by clear.
        for end in 0..3 {
            let mut controller = Controller::start()?;
            let all: Vec<&Job> = jobs.iter().collect();
            // Also a process that has no queue now.
            controller.reserve(set(gpu, 1, 0, &all))?;
            let reply = ask(&mut observer, gpu)?;
            ensure_eq!(
                (reply.owner_pid, reply.queues_capped, reply.rotate_ms),
                (controller.pid(), 2, 1000),
                "owner, capped, rotation"
            );
            ensure_eq!(jobs[0].mapped()?.len(), 1, "queues in the runlist");
            match end {
                0 => controller.kill()?,
                1 => controller.close(0)?,
                _ => drop(controller.reserve(op(RESERVE_CLEAR, gpu))?),
            }
            jobs[0].wait_running("queues after the reservation")?;
            let reply = ask(&mut observer, gpu)?;
            ensure_eq!(
                (reply.slots_reserved, reply.owner_pid, reply.queues_capped),
                (0, 0, 0),
                "reserved, owner, capped after the end"
            );
            // The next owner does not inherit whom the one before had named.
            observer.reserve(set(gpu, 1, NEVER_MS, &[]))?;
            jobs[0].expect_running("under a reservation that names nobody")?;
            jobs[1].load.command("create compute")?;
            jobs[1].load.command("create compute")?;
            jobs[1].expect_running("under a reservation that names nobody")?;
            observer.reserve(op(RESERVE_CLEAR, gpu))?;
            for id in jobs[1].ids()? {
                jobs[1].load.command(&format!("destroy {id}"))?;
            }
        }
        jobs[0].goes_on()
    })
}

fn one_owner() -> anyhow::Result<()> {
    scene::clean(|| {
        let jobs = offline(&[3, 2])?;
        let gpu = gpu_id(&jobs[0])?;
        let (mut first, mut second) = (Controller::start()?, Controller::start()?);
        first.reserve(set(gpu, 1, NEVER_MS, &[&jobs[0]]))?;
        for wrong in [set(gpu, 1, NEVER_MS, &[&jobs[1]]), op(RESERVE_CLEAR, gpu)] {
            let result = second.try_reserve(wrong)?.map(|reply| reply.owner_pid);
            ensure_eq!(result, Err(Errno::EBUSY), "a call of a second owner");
        }
        ensure_eq!(mapped(&jobs)?, [1, 2], "after the second's calls");
        // A refused call marks nobody: the first's next call would show it.
        first.reserve(set(gpu, 1, NEVER_MS, &[&jobs[0]]))?;
        ensure_eq!(mapped(&jobs)?, [1, 2], "after the first's next call");
        let mut forced = op(RESERVE_CLEAR, gpu);
        forced.flags = FORCE;
        second.reserve(forced)?;
        ensure_eq!(mapped(&jobs)?, [3, 2], "after a forced end");
        second.reserve(set(gpu, 1, NEVER_MS, &[&jobs[1]]))?;
        // The first has nothing left that its end could take along.
        first.kill()?;
        ensure_eq!(mapped(&jobs)?, [3, 1], "under the second's");
        // Nothing to clear is no error.
        second.reserve(op(RESERVE_CLEAR, gpu))?;
        second.reserve(op(RESERVE_CLEAR, gpu))?;
        ensure_eq!(mapped(&jobs)?, [3, 2], "at last");
        Ok(())
    })
}

fn changed() -> anyhow::Result<()> {
    scene::clean(|| {
        let jobs = offline(&[4, 4])?;
        let gpu = gpu_id(&jobs[0])?;
        let mut controller = Controller::start()?;
        controller.reserve(set(gpu, 2, NEVER_MS, &[&jobs[0]]))?;
        ensure_eq!(mapped(&jobs)?, [2, 4], "the first offline");
        controller.reserve(set(gpu, 2, NEVER_MS, &[&jobs[1]]))?;
        ensure_eq!(mapped(&jobs)?, [4, 2], "the second offline");
        controller.reserve(set(gpu, 6, NEVER_MS, &[&jobs[0], &jobs[1]]))?;
        ensure_eq!(mapped(&jobs)?, [3, 3], "both offline");
        controller.reserve(set(gpu, 2, NEVER_MS, &[&jobs[0], &jobs[1], &jobs[0]]))?;
        ensure_eq!(mapped(&jobs)?, [1, 1], "less room, and one named twice");
        controller.reserve(set(gpu, 2, NEVER_MS, &[]))?;
        ensure_eq!(mapped(&jobs)?, [4, 4], "nobody offline");
        Ok(())
    })
}

fn query() -> anyhow::Result<()> {
    scene::clean(|| {
        let empty = Job::offline(0)?;
        let gpu = gpu_id(&empty)?;
        let mut controller = Controller::start()?;
        let check = |controller: &mut Controller, queues: u32, processes: u32| {
            let reply = ask(controller, gpu)?;
            ensure_eq!(
                u64::from(reply.slots_total),
                guest::stat(0, "slots_total")?,
                "slots_total"
            );
            ensure_eq!(reply.slots_total, SLOTS, "slots_total");
            ensure_eq!(reply.cp_queues_active, queues, "cp_queues_active");
            let compute = gpu::runlist(gpu.into())?.len() as u32;
            ensure_eq!(
                reply.cp_queues_active,
                compute,
                "queues against the runlist"
            );
            ensure_eq!(reply.processes, processes, "processes");
            guest::eventually("the scheduler to say the same", || {
                let said = guest::stat(0, "oversubscribed")?;
                Ok((u64::from(reply.oversubscribed) == said).then_some(()))
            })?;
            anyhow::Ok(reply)
        };
        let none = check(&mut controller, 0, 0)?;
        ensure_eq!(none.oversubscribed, 0, "oversubscribed without queues");
        let some = Job::offline(20)?;
        let reply = check(&mut controller, 20, 1)?;
        ensure_eq!(reply.oversubscribed, 0, "20 queues on 24 slots");
        let more = Job::offline(5)?;
        let reply = check(&mut controller, 25, 2)?;
        ensure_eq!(reply.oversubscribed, 1, "25 queues on 24 slots");
        anyhow::ensure!(
            reply.processes_max > 2,
            "processes_max {}",
            reply.processes_max
        );
        // Held queues are out; a process without queues in the runlist may still be listed.
        controller.hold(&[Spec::all(more.pid())])?;
        let reply = ask(&mut controller, gpu)?;
        ensure_eq!(
            (reply.cp_queues_active, reply.oversubscribed),
            (20, 0),
            "active, oversubscribed with 5 of 25 queues held"
        );
        some.expect_running("beside held queues")
    })
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! Holding and releasing queues: what is mapped, what the GPU does, what the call says.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::Context;
use gpreempt::kfd::uapi::gpreempt::{state, ABI_VERSION, DRY_RUN};
use nix::errno::Errno;
use workload::pace::Random;

use super::List;
use crate::check::ensure_eq;
use crate::controller::{Call, Controller, Spec};
use crate::gpu::{self, Job, Unmaps};
use crate::guest::{self, Parameter};
use crate::scene;

pub(super) const TESTS: List = &[
    (&["patched"], "the_driver_says_its_version", version),
    (&["patched"], "one_queue_is_held_and_released", one_queue),
    (&["patched"], "ten_queues_take_one_unmap", ten),
    (
        &["patched"],
        "sixty_four_queues_of_four_processes",
        sixty_four,
    ),
    (&["patched"], "nothing_changes_twice", twice),
    (&["patched"], "entries_overlap_and_fail_alone", overlap),
    (&["patched"], "a_dry_run_changes_nothing", dry_run),
    (&["patched"], "copy_queues_are_held_too", copies),
    (&["patched"], "copy_queues_can_be_spared", spared),
    (&["patched"], "online_latency_falls", latency),
    (&["patched"], "a_hundred_random_operations", hundred),
    (&["patched"], "a_thousand_holds", thousand),
];

fn version() -> anyhow::Result<()> {
    scene::clean(|| {
        let mut controller = Controller::start()?;
        let reply = controller.call(Call::default())?;
        ensure_eq!(reply.abi_version, ABI_VERSION, "abi_version");
        let reply = controller.call(Call {
            release: true,
            ..Call::default()
        })?;
        ensure_eq!(reply.abi_version, ABI_VERSION, "abi_version of FAST_REMAP");
        let parameter = std::fs::read_to_string("/sys/module/amdgpu/parameters/gpreempt_abi")
            .context("gpreempt_abi")?;
        ensure_eq!(parameter.trim(), ABI_VERSION.to_string(), "gpreempt_abi");
        Ok(())
    })
}

fn one_queue() -> anyhow::Result<()> {
    scene::clean(|| {
        let (mut job, mut online) = (Job::offline(2)?, Job::online()?);
        let mut controller = Controller::start()?;
        let gpu_id = job.load.gpu_id()? as u32;
        job.goes_on()?;
        let unmaps = Unmaps::from_here(0)?;
        let one = [Spec::queue(job.pid(), 0).on(gpu_id)];
        let started = Instant::now();
        let held = controller.hold(&one)?;
        let user_ns = started.elapsed().as_nanos();
        ensure_eq!(
            (held.num_changed, held.num_failed, held.num_nodes),
            (1, 0, 1),
            "changed, failed, nodes"
        );
        let entry = held.entries[0];
        ensure_eq!(
            (entry.n_matched, entry.n_changed),
            (1, 1),
            "matched, changed"
        );
        ensure_eq!(entry.state, state::HELD, "state of a held queue");
        ensure_eq!(unmaps.count()?, 1, "UNMAP_QUEUES packets");
        anyhow::ensure!(held.hw_ns > 0, "hw_ns is 0");
        anyhow::ensure!(
            held.lock_wait_ns + held.hw_ns <= held.total_ns && u128::from(held.total_ns) <= user_ns,
            "lock {} + hardware {} <= total {} <= user space's {user_ns} does not hold",
            held.lock_wait_ns,
            held.hw_ns,
            held.total_ns
        );
        job.expect_mapped([1], "after the hold")?;
        job.stands_still(&BTreeSet::from([0]), &mut online, 20)?;
        let released = controller.release(&one)?;
        ensure_eq!(
            (released.num_changed, released.num_nodes),
            (1, 1),
            "changed, nodes of the release"
        );
        ensure_eq!(
            released.entries[0].state,
            state::ACTIVE,
            "state of a released queue"
        );
        job.expect_running("after the release")?;
        job.goes_on()
    })
}

fn ten() -> anyhow::Result<()> {
    scene::clean(|| {
        let mut job = Job::offline(12)?;
        let mut controller = Controller::start()?;
        let ten: Vec<Spec> = (0..10).map(|id| Spec::queue(job.pid(), id)).collect();
        let unmaps = Unmaps::from_here(0)?;
        let held = controller.hold(&ten)?;
        ensure_eq!(
            (held.num_changed, held.num_nodes),
            (10, 1),
            "changed, nodes"
        );
        anyhow::ensure!(
            held.entries
                .iter()
                .all(|entry| (entry.n_matched, entry.n_changed) == (1, 1)),
            "an entry did not change its queue: {held:?}"
        );
        ensure_eq!(unmaps.count()?, 1, "UNMAP_QUEUES packets for ten queues");
        job.expect_mapped([10, 11], "after the hold")?;
        let released = controller.release(&ten)?;
        ensure_eq!(released.num_changed, 10, "released queues");
        ensure_eq!(unmaps.count()?, 2, "UNMAP_QUEUES packets of both calls");
        job.expect_running("after the release")?;
        job.goes_on()
    })
}

fn sixty_four() -> anyhow::Result<()> {
    scene::clean(|| {
        let mut jobs = (0..4)
            .map(|_| Job::offline(16))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let mut online = Job::online()?;
        let gpu_id = online.load.gpu_id()?;
        let mut controller = Controller::start()?;
        ensure_eq!(gpu::runlist(gpu_id)?.len(), 65, "queues in the runlist");
        let all: Vec<Spec> = jobs.iter().map(|job| Spec::all(job.pid())).collect();
        let unmaps = Unmaps::from_here(0)?;
        let held = controller.hold(&all)?;
        ensure_eq!(
            (held.num_changed, held.num_nodes),
            (64, 1),
            "changed, nodes"
        );
        anyhow::ensure!(
            held.entries
                .iter()
                .all(|entry| (entry.n_matched, entry.n_changed) == (16, 16)),
            "not 16 queues each: {held:?}"
        );
        ensure_eq!(unmaps.count()?, 1, "UNMAP_QUEUES packets for 64 queues");
        let alone: BTreeSet<_> = online
            .places()?
            .into_values()
            .map(|(_, place)| place)
            .collect();
        ensure_eq!(gpu::runlist(gpu_id)?, alone, "the runlist");
        guest::eventually("the online queue alone in the slots", || {
            Ok((gpu::slots(0)? == alone).then_some(()))
        })?;
        ensure_eq!(guest::stat(0, "oversubscribed")?, 0, "oversubscribed");
        for job in &mut jobs {
            job.stands_still(&job.ids()?, &mut online, 10)?;
        }
        let released = controller.release(&all)?;
        ensure_eq!(released.num_changed, 64, "released queues");
        ensure_eq!(unmaps.count()?, 2, "UNMAP_QUEUES packets of both calls");
        ensure_eq!(gpu::runlist(gpu_id)?.len(), 65, "queues in the runlist");
        for job in &mut jobs {
            job.goes_on()?;
        }
        Ok(())
    })
}

fn twice() -> anyhow::Result<()> {
    scene::clean(|| {
        let job = Job::offline(3)?;
        let _other = Job::offline(1)?;
        let mut controller = Controller::start()?;
        let all = [Spec::all(job.pid())];
        let unmaps = Unmaps::from_here(0)?;
        let unheld = controller.release(&all)?;
        ensure_eq!(
            (unheld.num_changed, unheld.num_nodes, unmaps.count()?),
            (0, 0, 0),
            "changed, nodes, packets of releasing what is not held"
        );
        controller.hold(&all)?;
        ensure_eq!(unmaps.count()?, 1, "UNMAP_QUEUES packets of a hold");
        let again = controller.hold(&all)?;
        ensure_eq!(
            (again.num_changed, again.num_nodes, unmaps.count()?),
            (0, 0, 1),
            "changed, nodes, packets after holding again"
        );
        ensure_eq!(again.entries[0].state, state::HELD, "state");
        ensure_eq!(again.hw_ns, 0, "hw_ns of a call without hardware");
        controller.release(&all)?;
        let packets = unmaps.count()?;
        let again = controller.release(&all)?;
        ensure_eq!(
            (again.num_changed, again.num_nodes, unmaps.count()?),
            (0, 0, packets),
            "changed, nodes, packets after releasing again"
        );
        // A hold of queues that do not run anyway changes no runlist.
        let mut job = job;
        for id in 0..3 {
            job.load.command(&format!("update {id} 0"))?;
        }
        let packets = unmaps.count()?;
        let idle = controller.hold(&all)?;
        ensure_eq!(
            (idle.num_changed, idle.num_nodes, unmaps.count()?),
            (3, 0, packets),
            "changed, nodes, packets of holding queues at 0 %"
        );
        Ok(())
    })
}

fn overlap() -> anyhow::Result<()> {
    scene::clean(|| {
        let job = Job::offline(4)?;
        let mut controller = Controller::start()?;
        let pid = job.pid();
        let entries = vec![
            Spec::queue(pid, 1),
            Spec::queue(pid, 99),
            Spec::queue(pid, 1),
            Spec::all(pid),
            Spec::all(0x3fff_fff0),
            Spec::queue(pid, 2).on(0xdead_beef),
        ];
        let unmaps = Unmaps::from_here(0)?;
        let reply = controller.call(Call {
            entries: entries.clone(),
            ..Call::default()
        })?;
        let errnos: Vec<Errno> = reply.entries.iter().map(|entry| entry.errno()).collect();
        let ok = Errno::from_raw(0);
        ensure_eq!(
            errnos,
            [ok, Errno::ENOENT, ok, ok, Errno::ESRCH, Errno::ENOENT],
            "status of the entries"
        );
        ensure_eq!(
            (reply.num_changed, reply.num_failed),
            (4, 3),
            "changed, failed"
        );
        let changed: u32 = reply.entries.iter().map(|entry| entry.n_changed).sum();
        ensure_eq!(changed, 4, "sum of n_changed");
        ensure_eq!(unmaps.count()?, 1, "UNMAP_QUEUES packets");
        job.expect_held("after the hold")?;
        let reply = controller.call(Call {
            entries,
            release: true,
            ..Call::default()
        })?;
        ensure_eq!(
            (reply.num_changed, reply.num_failed),
            (4, 3),
            "changed, failed of the release"
        );
        job.expect_running("after the release")
    })
}

fn dry_run() -> anyhow::Result<()> {
    scene::clean(|| {
        let job = Job::offline(3)?;
        let mut controller = Controller::start()?;
        let all = vec![Spec::all(job.pid()).inherit()];
        let unmaps = Unmaps::from_here(0)?;
        let dry = |release| Call {
            entries: all.clone(),
            flags: DRY_RUN,
            release,
            ..Call::default()
        };
        let reply = controller.call(dry(false))?;
        ensure_eq!(reply.entries[0].status, 0, "status");
        ensure_eq!(reply.entries[0].n_matched, 3, "matched");
        ensure_eq!(reply.entries[0].state, state::ACTIVE, "state");
        job.expect_running("after a dry hold")?;
        controller.hold(&all)?;
        let packets = unmaps.count()?;
        let reply = controller.call(dry(true))?;
        ensure_eq!(reply.entries[0].state, state::HELD, "state");
        ensure_eq!(unmaps.count()?, packets, "UNMAP_QUEUES packets");
        job.expect_held("after a dry release")?;
        // A dry run must not leave a mark on queues to come either.
        controller.release(&all)?;
        controller.call(dry(false))?;
        let mut job = job;
        job.load.command("create compute")?;
        job.expect_running("with a queue created after a dry hold")
    })
}

fn copies() -> anyhow::Result<()> {
    scene::clean(|| {
        let (mut job, mut online) = (Job::busy(&["--profile", "model"])?, Job::online()?);
        let mut controller = Controller::start()?;
        job.goes_on()?;
        let all = [Spec::all(job.pid())];
        let held = controller.hold(&all)?;
        ensure_eq!(held.num_changed, 3, "held queues: two compute, one copy");
        job.expect_held("after the hold")?;
        job.stands_still(&job.ids()?, &mut online, 30)?;
        controller.release(&all)?;
        // kfd-load compares what every copy brought.
        job.goes_on()?;
        job.load.stop()?;
        Ok(())
    })
}

fn spared() -> anyhow::Result<()> {
    scene::clean(|| {
        let mut job = Job::busy(&["--profile", "model", "--sdma-queues", "2"])?;
        let mut controller = Controller::start()?;
        job.goes_on()?;
        let compute = [Spec::all(job.pid()).no_sdma()];
        let held = controller.hold(&compute)?;
        ensure_eq!(held.num_changed, 2, "held queues");
        job.expect_mapped([2, 3], "after a hold without copy queues")?;
        controller.release(&compute)?;
        job.goes_on()
    })
}

/// The online process shares the GPU with eight busy queues, then has it alone.
fn latency() -> anyhow::Result<()> {
    scene::clean(|| {
        let mut job = Job::offline(8)?;
        let mut online = Job::new(crate::load::Load::start(&[
            "--profile",
            "inference",
            "--queues",
            "1",
            "--rate",
            "5",
            "--dispatch-us",
            "2500",
            "--report-ms",
            "3600000",
        ])?)?;
        let mut controller = Controller::start()?;
        job.goes_on()?;
        let shared_us = online.latency_us(20)?;
        let all = [Spec::all(job.pid())];
        controller.hold(&all)?;
        let alone_us = online.latency_us(20)?;
        controller.release(&all)?;
        // 10 ms of work, of a ninth of the GPU or all of it: about nine times is expected. A slow host adds to both.
        anyhow::ensure!(
            alone_us < shared_us / 1.5,
            "median latency {alone_us} us while the others are held, {shared_us} us else"
        );
        job.goes_on()
    })
}

fn hundred() -> anyhow::Result<()> {
    scene::clean(|| {
        let mut jobs = [Job::offline(4)?, Job::offline(4)?];
        let mut controller = Controller::start()?;
        let mut random = Random::new(100);
        let mut held: [BTreeSet<u64>; 2] = Default::default();
        for step in 0..100 {
            let release = random.below(2) == 0;
            let mut chosen: [BTreeSet<u64>; 2] = Default::default();
            let mut entries = Vec::new();
            for (job, chosen) in jobs.iter().zip(&mut chosen) {
                if random.below(4) == 0 {
                    chosen.extend(0..4);
                    entries.push(Spec::all(job.pid()));
                    continue;
                }
                for _ in 0..random.below(4) {
                    let id = random.below(4);
                    chosen.insert(id);
                    entries.push(Spec::queue(job.pid(), id as u32));
                }
            }
            let mut changed = 0;
            for (held, chosen) in held.iter_mut().zip(&chosen) {
                let before = held.len();
                if release {
                    held.retain(|id| !chosen.contains(id));
                } else {
                    held.extend(chosen);
                }
                changed += before.abs_diff(held.len());
            }
            let unmaps = Unmaps::from_here(0)?;
            let reply = if release {
                controller.release(&entries)?
            } else {
                controller.hold(&entries)?
            };
            ensure_eq!(reply.num_changed as usize, changed, "step {step}: changed");
            anyhow::ensure!(
                unmaps.count()? <= u64::from(changed > 0),
                "step {step}: {} UNMAP_QUEUES packets for {changed} changes",
                unmaps.count()?
            );
            for (job, held) in jobs.iter().zip(&held) {
                let running = (0..4).filter(|id| !held.contains(id));
                job.expect_mapped(running, &format!("step {step}"))?;
            }
        }
        let all: Vec<Spec> = jobs.iter().map(|job| Spec::all(job.pid())).collect();
        controller.release(&all)?;
        jobs.iter_mut().try_for_each(Job::goes_on)
    })
}

fn thousand() -> anyhow::Result<()> {
    scene::clean(|| {
        let _quick = Parameter::set("sim_unmap_us", "0")?;
        let mut jobs = [
            Job::busy(&["--profile", "model", "--queues", "4"])?,
            Job::offline(4)?,
        ];
        let mut online = Job::online()?;
        let mut controller = Controller::start()?;
        let all: Vec<Spec> = jobs.iter().map(|job| Spec::all(job.pid())).collect();
        let queues = 9;
        let objects = guest::live_objects()?;
        let started = Instant::now();
        for cycle in 0..1000 {
            ensure_eq!(
                controller.hold(&all)?.num_changed,
                queues,
                "cycle {cycle}: held queues"
            );
            if cycle % 100 == 0 {
                for job in &jobs {
                    job.expect_held("in a cycle")?;
                }
                online.expect_running("in a cycle")?;
            }
            ensure_eq!(
                controller.release(&all)?.num_changed,
                queues,
                "cycle {cycle}: released queues"
            );
            if cycle % 100 == 0 {
                jobs.iter_mut().try_for_each(Job::goes_on)?;
            }
            anyhow::ensure!(
                started.elapsed() < Duration::from_secs(240),
                "only {cycle} cycles in {:?}",
                started.elapsed()
            );
        }
        ensure_eq!(guest::live_objects()?, objects, "objects after the cycles");
        jobs.iter_mut().try_for_each(Job::goes_on)?;
        online.serves(10)?;
        for job in jobs {
            job.load.stop()?;
        }
        Ok(())
    })
}

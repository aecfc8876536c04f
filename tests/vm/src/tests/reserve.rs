// SPDX-License-Identifier: MIT OR Apache-2.0
//! `gpreempt reserve`: slots that offline jobs leave free, for as long as the program runs.

use gpreempt::event::GpuId;
use nix::sys::signal::Signal;

use super::List;
use crate::check::ensure_eq;
use crate::gpu::Job;
use crate::guest;
use crate::preemption::{self, status_of, OpenToAll, Preemption, USER};
use crate::record::Record;
use crate::scene;

pub(super) const TESTS: List = &[
    (&["patched"], "slots_are_reserved_and_given_back", slots),
    (&["patched"], "percent_of_the_slots", percent),
    (&["patched"], "a_reservation_ends_with_its_program", killed),
    (&["patched"], "a_reservation_ends_with_its_command", command),
    (&["patched"], "a_reservation_is_cleared_by_root", cleared),
    (&["patched"], "jobs_that_come_later_are_offline_too", later),
    (&["patched"], "an_online_job_finds_a_slot", online),
    (&["patched"], "reservations_that_cannot_be", refusals),
    (
        &["control"],
        "reservations_need_a_patched_driver",
        unpatched,
    ),
];

/// More compute queues than a GPU has slots.
const MANY: usize = 30;

/// Its offline job with many queues, and the name of its GPU for the command line.
fn many() -> anyhow::Result<(Job, String)> {
    let job = Job::offline(MANY)?;
    let gpu = GpuId(job.load.gpu_id()? as u32).to_string();
    Ok((job, gpu))
}

fn reserve(gpu: &str, job: &Job, amount: &[&str]) -> anyhow::Result<Preemption> {
    let pid = job.pid().to_string();
    Preemption::verb(
        "reserve",
        &[&["--gpu", gpu, "--pid", &pid], amount].concat(),
    )
}

fn show(gpu: &str) -> anyhow::Result<Record> {
    let ended = preemption::run("reserve", &["--show", "--gpu", gpu])?.expect(0)?;
    ended.one("reservation").cloned()
}

/// Nothing is reserved, and every queue is in the runlist.
fn free(gpu: &str, job: &Job) -> anyhow::Result<()> {
    job.wait_running("all queues to be in the runlist")?;
    let state = show(gpu)?;
    anyhow::ensure!(
        state.data["reserved_by"].is_null() && state.number("queues_capped")? == 0,
        "not free: {}",
        state.data
    );
    Ok(())
}

fn slots() -> anyhow::Result<()> {
    scene::clean(|| {
        let (mut job, gpu) = many()?;
        let before = show(&gpu)?;
        let total = before.number("slots_total")?;
        ensure_eq!(total, guest::stat(0, "slots_total")?, "slots_total");
        ensure_eq!(
            before.number("cp_queues_active")?,
            MANY as u64,
            "active queues"
        );
        ensure_eq!(before.data["oversubscribed"], true, "oversubscribed");
        let reservation = reserve(&gpu, &job, &["--slots", "4"])?;
        let reserved = reservation.wait_for("reserved")?;
        ensure_eq!(reserved.number("slots_reserved")?, 4, "slots_reserved");
        let holder = u64::from(reservation.pid());
        ensure_eq!(reserved.number("owner_pid")?, holder, "owner_pid");
        ensure_eq!(status_of(&reserved, job.pid())?, "offline", "status");
        let room = (total - 4) as usize;
        ensure_eq!(job.mapped()?.len(), room, "queues in the runlist");
        let state = show(&gpu)?;
        ensure_eq!(
            (
                state.number("slots_reserved")?,
                state.number("reserved_by")?,
                state.number("queues_capped")?,
            ),
            (4, holder, (MANY - room) as u64),
            "slots, owner, parked queues"
        );
        ensure_eq!(state.data["oversubscribed"], false, "oversubscribed");
        reservation.signal(Signal::SIGINT)?;
        let ended = reservation.finish()?.expect(128 + Signal::SIGINT as i32)?;
        ensure_eq!(ended.one("unreserved")?.text("cause")?, "signal", "cause");
        free(&gpu, &job)?;
        job.goes_on()
    })
}

fn percent() -> anyhow::Result<()> {
    scene::clean(|| {
        let (job, gpu) = many()?;
        let total = show(&gpu)?.number("slots_total")?;
        let reservation = reserve(&gpu, &job, &["--percent", "30", "--for", "300ms"])?;
        let reserved = reservation.wait_for("reserved")?;
        let slots = (total * 30).div_ceil(100);
        ensure_eq!(reserved.number("slots_reserved")?, slots, "slots_reserved");
        let ended = reservation.finish()?.expect(0)?;
        let unreserved = ended.one("unreserved")?;
        ensure_eq!(unreserved.text("cause")?, "duration", "cause");
        anyhow::ensure!(
            unreserved.number("held_ns")? >= 300_000_000,
            "too short: {}",
            unreserved.data
        );
        free(&gpu, &job)
    })
}

fn killed() -> anyhow::Result<()> {
    scene::clean(|| {
        let (mut job, gpu) = many()?;
        let reservation = reserve(&gpu, &job, &["--slots", "10"])?;
        reservation.wait_for("reserved")?;
        anyhow::ensure!(job.mapped()?.len() < MANY, "nothing was parked");
        reservation.kill()?;
        free(&gpu, &job)?;
        job.goes_on()
    })
}

fn command() -> anyhow::Result<()> {
    scene::clean(|| {
        let (job, gpu) = many()?;
        let script = [
            "--slots",
            "2",
            "--",
            "sh",
            "-c",
            "gpreempt reserve --show >&2; exit 5",
        ];
        let ended = reserve(&gpu, &job, &script)?.finish()?.expect(5)?;
        ensure_eq!(ended.one("unreserved")?.text("cause")?, "command", "cause");
        free(&gpu, &job)
    })
}

/// `--clear` ends another program's reservation, which notices.
fn cleared() -> anyhow::Result<()> {
    scene::clean(|| {
        let (job, gpu) = many()?;
        let reservation = reserve(&gpu, &job, &["--slots", "4"])?;
        reservation.wait_for("reserved")?;
        // A second one finds out who has it.
        let second = reserve(&gpu, &job, &["--slots", "2", "--for", "200ms"])?;
        second
            .finish()?
            .expect(1)?
            .says(&["reserved", "--show", "--clear"])?;
        ensure_eq!(
            show(&gpu)?.number("slots_reserved")?,
            4,
            "slots after the second one was refused"
        );
        let ended = preemption::run("reserve", &["--clear", "--gpu", &gpu])?.expect(0)?;
        ensure_eq!(ended.one("unreserved")?.text("cause")?, "released", "cause");
        free(&gpu, &job)?;
        let ended = reservation
            .finish()?
            .expect(1)?
            .says(&["somebody ended it"])?;
        ensure_eq!(
            ended.one("unreserved")?.text("cause")?,
            "lost",
            "cause for whoever had made it"
        );
        free(&gpu, &job)
    })
}

fn later() -> anyhow::Result<()> {
    scene::clean(|| {
        let (first, gpu) = many()?;
        let args = ["--gpu", &gpu, "--comm", "kfd-l*", "--slots", "20"];
        let reservation = Preemption::verb("reserve", &args)?;
        let total = reservation.wait_for("reserved")?.number("slots_total")?;
        let second = Job::offline(4)?;
        guest::eventually("both jobs to share what is left", || {
            let (first, second) = (first.mapped()?.len(), second.mapped()?.len());
            Ok((first + second == (total - 20) as usize && second > 0).then_some(()))
        })?;
        reservation.signal(Signal::SIGTERM)?;
        reservation.finish()?.expect(128 + Signal::SIGTERM as i32)?;
        free(&gpu, &first)?;
        second.wait_running("the second job")
    })
}

/// Without time slicing its requests are faster.
fn online() -> anyhow::Result<()> {
    scene::clean(|| {
        let (mut job, gpu) = many()?;
        let reservation = reserve(&gpu, &job, &["--slots", "4"])?;
        reservation.wait_for("reserved")?;
        let mut online = Job::online()?;
        for _ in 0..20 {
            online.expect_running("beside a reservation")?;
            ensure_eq!(guest::stat(0, "oversubscribed")?, 0, "oversubscribed");
            online.serves(1)?;
        }
        reservation.signal(Signal::SIGINT)?;
        reservation.finish()?.expect(128 + Signal::SIGINT as i32)?;
        job.goes_on()
    })
}

fn refusals() -> anyhow::Result<()> {
    scene::clean(|| {
        let (job, gpu) = many()?;
        let total = show(&gpu)?.number("slots_total")?;
        let all = total.to_string();
        let pid = job.pid().to_string();
        let cases: [(&[&str], i32, &[&str]); 6] = [
            (
                &["--gpu", &gpu, "--pid", &pid, "--slots", &all],
                1,
                &["--slots 1 to"],
            ),
            (
                &["--gpu", &gpu, "--pid", &pid, "--percent", "100"],
                2,
                &["--percent"],
            ),
            (&["--gpu", &gpu, "--slots", "4"], 2, &["--pid"]),
            (
                &["--gpu", "beef0", "--pid", &pid, "--slots", "4"],
                1,
                &["no GPU", &gpu],
            ),
            (
                &["--gpu", &gpu, "--pid", "1", "--slots", "4"],
                1,
                &["not a KFD process"],
            ),
            (
                &[
                    "--gpu",
                    &gpu,
                    "--queue",
                    &format!("{pid}:{gpu}:0"),
                    "--slots",
                    "4",
                ],
                2,
                &["whole processes"],
            ),
        ];
        for (args, code, words) in cases {
            preemption::run("reserve", args)?
                .expect(code)?
                .says(words)?;
        }
        let _open = OpenToAll::new()?;
        let args = ["--gpu", &gpu, "--pid", &pid, "--slots", "4"];
        Preemption::verb_as(USER, "reserve", &args)?
            .finish()?
            .expect(77)?
            .says(&["CAP_SYS_NICE"])?;
        // Looking is free.
        let seen = Preemption::verb_as(USER, "reserve", &["--show", "--gpu", &gpu])?
            .finish()?
            .expect(0)?;
        ensure_eq!(
            seen.one("reservation")?.number("slots_total")?,
            total,
            "slots_total"
        );
        free(&gpu, &job)
    })
}

fn unpatched() -> anyhow::Result<()> {
    scene::clean(|| {
        let (job, gpu) = many()?;
        for args in [
            &["--show"][..],
            &["--clear"],
            &["--gpu", &gpu, "--comm", "kfd-load", "--slots", "4"],
        ] {
            preemption::run("reserve", args)?
                .expect(69)?
                .says(&["not patched", "kernel-patch"])?;
        }
        job.expect_running("after refusals")
    })
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! Jobs that `gpreempt run` starts, which stop and restart their own queues: a load of ours, and the unmodified ROCm runtime.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Output};

use anyhow::Context as _;
use gpreempt::control::BackendKind;
use gpreempt::policy::Class;
use gpreempt::serve::{AuditRecord, Held};
use nix::sys::signal::Signal;

use super::List;
use crate::check::ensure_eq;
use crate::daemon::{helds, Daemon, AUDIT, NO_GUARDS, RULES, SOCKET};
use crate::gpu::{busy, Job};
use crate::guest;
use crate::json_child::JsonChild;
use crate::load::Load;
use crate::scene;

pub(super) const TESTS: List = &[
    (&["rocm"], "a_job_stops_and_restarts_its_own_queues", obeys),
    (
        &["rocm"],
        "new_queues_of_a_job_that_obeys_begin_stopped",
        creates,
    ),
    (
        &["rocm"],
        "what_a_stopped_job_changes_counts_later",
        updates,
    ),
    (&["rocm"], "children_and_other_programs_obey_too", children),
    (&["rocm"], "a_job_runs_when_its_daemon_is_killed", killed),
    (&["rocm"], "a_job_runs_when_its_daemon_hangs", hung),
    (
        &["rocm"],
        "a_job_that_does_not_answer_is_not_called_held",
        silent,
    ),
    (&["rocm"], "jobs_that_obey_and_jobs_that_do_not", mixed),
    (&["rocm"], "jobs_of_another_user_obey", other_user),
    (&["rocm"], "what_cannot_be_preloaded_is_refused", refuses),
    (&["rocm"], "the_rocm_runtime_obeys", runtime),
];

const KIND: BackendKind = BackendKind::Agent;

/// Every job here says itself what it is.
fn daemon(kind: BackendKind) -> anyhow::Result<Daemon> {
    Daemon::start(
        kind,
        &format!("[policy]\nname = \"priority\"\n{NO_GUARDS}{RULES}"),
    )
}

const RUN: [&str; 4] = ["gpreempt", "run", "--socket", SOCKET];

/// A busy job that obeys. `words` stand before its arguments.
fn job(words: &[&str], queues: &str) -> anyhow::Result<Job> {
    let all = [&RUN[..], words].concat();
    let args = ["--profile", "simple", "--queues", queues];
    Job::new(Load::start_by(&all, &busy(&args))?)
}

const PLAIN: [&str; 4] = ["--group", "training", "--", "kfd-load-dynamic"];

fn obeys() -> anyhow::Result<()> {
    scene::clean(|| {
        let mut daemon = daemon(KIND)?;
        let mut offline = job(&PLAIN, "3")?;
        offline.goes_on()?;
        let info = daemon.job_of(offline.pid())?;
        ensure_eq!(
            (info.job.0.as_ref(), info.class, info.registered),
            ("training", Class::Offline, true),
            "job"
        );
        for _ in 0..5 {
            let id = daemon.hint()?;
            offline.expect_held("while a hint is in force")?;
            daemon.end_hint(id)?;
            offline.wait_running("after the hint")?;
        }
        offline.goes_on()?;
        let mut holds = 0;
        for record in daemon.audit()? {
            if let AuditRecord::Held(held) = record {
                holds += 1;
                ensure_eq!(held.backend, Some(KIND), "backend");
                ensure_eq!(held.queues, 3, "queues");
                anyhow::ensure!(held.observed.is_some(), "nobody saw it: {held:?}");
            }
        }
        ensure_eq!(holds, 5, "holds");
        let tracer = fs::read_to_string(format!("/proc/{}/status", offline.pid()))?;
        anyhow::ensure!(tracer.contains("TracerPid:\t0\n"), "it is traced");
        daemon.stop()?;
        offline.load.stop().map(drop)
    })
}

fn creates() -> anyhow::Result<()> {
    scene::clean(|| {
        let mut daemon = daemon(KIND)?;
        let mut offline = job(&PLAIN, "1")?;
        let id = daemon.hint()?;
        offline.expect_held("before")?;
        for engine in ["compute", "sdma"] {
            offline.load.command(&format!("create {engine}"))?;
            // The call has returned: nobody else may have had to stop it.
            offline.expect_held("with a queue that was made meanwhile")?;
        }
        let before = offline.load.read_indices()?;
        ensure_eq!(before.len(), 3, "queues");
        daemon.end_hint(id)?;
        offline.wait_running("with its new queues")?;
        // Nobody copies anything.
        let sdma = before.keys().next_back().context("no queue")?;
        offline.load.command(&format!("destroy {sdma}"))?;
        offline.goes_on()?;
        daemon.stop()
    })
}

fn updates() -> anyhow::Result<()> {
    scene::clean(|| {
        let mut daemon = daemon(KIND)?;
        let mut offline = job(&PLAIN, "2")?;
        let ids = offline.load.queue_ids()?;
        let id = daemon.hint()?;
        offline.load.command(&format!("update {} 50 15", ids[0]))?;
        offline.load.command(&format!("update {} 0", ids[1]))?;
        offline.expect_held("with queues that were changed meanwhile")?;
        daemon.end_hint(id)?;
        guest::eventually("the one that is to run", || {
            Ok((offline.mapped()?.into_iter().eq([ids[0]])).then_some(()))
        })?;
        // What it stopped itself, the daemon does not restart; and it may destroy what is stopped.
        let id = daemon.hint()?;
        offline.expect_held("again")?;
        offline.load.command(&format!("destroy {}", ids[1]))?;
        daemon.end_hint(id)?;
        offline.wait_running("what is left")?;
        offline.goes_on()?;
        daemon.stop()
    })
}

/// Two children of a process without a GPU, and a program that takes the place of another: all of one gang.
fn children() -> anyhow::Result<()> {
    scene::clean(|| {
        let mut daemon = daemon(KIND)?;
        let load = ["kfd-load-dynamic", "--profile", "simple", "--queues", "2"];
        let family = gang(&[&load[..], &["--processes", "2"]].concat())?;
        let before = ["kfd-load-dynamic", "exec", "--queues", "1", "--"];
        let other = gang(&[&before[..], &load].concat())?;
        let info = guest::eventually("all three processes to be known", || {
            let jobs = daemon.jobs()?;
            let gang = jobs.into_iter().find(|job| job.job.0.as_ref() == "gang");
            Ok(gang.filter(|job| (job.pids.len(), job.queues) == (3, 6)))
        })?;
        anyhow::ensure!(info.pids.iter().any(|pid| pid.0 == other.pid()), "{info:?}");
        for _ in 0..2 {
            let id = daemon.hint()?;
            ensure_eq!(guest::stat(0, "mapped_now")?, 0, "queues that are mapped");
            let held = last_hold(&daemon)?;
            ensure_eq!(
                (held.queues, held.backend),
                (6, Some(KIND)),
                "queues that are held, by what"
            );
            daemon.end_hint(id)?;
            guest::eventually("all to run", || {
                Ok((guest::stat(0, "mapped_now")? == 6).then_some(()))
            })?;
        }
        for mut load in [family, other] {
            load.signal(Signal::SIGTERM)?;
            let status = load.wait_exit()?;
            anyhow::ensure!(status.success(), "{status}: {}", load.errors());
        }
        daemon.stop()
    })
}

/// What the audit log says of the last hold.
fn last_hold(daemon: &Daemon) -> anyhow::Result<Held> {
    let audit = daemon.audit()?;
    helds(&audit).last().copied().cloned().context("no hold")
}

/// Starts a command that obeys, as part of the gang.
fn gang(words: &[&str]) -> anyhow::Result<JsonChild> {
    let mut command = Command::new(RUN[0]);
    command
        .args(&RUN[1..])
        .args(["--group", "gang", "--"])
        .args(words);
    JsonChild::start(command)
}

/// Its end restarts everything, and the next daemon finds the job again.
fn killed() -> anyhow::Result<()> {
    scene::clean(|| {
        let mut first = daemon(KIND)?;
        let mut offline = job(&PLAIN, "2")?;
        first.hint()?;
        offline.expect_held("before the daemon dies")?;
        first.signal(Signal::SIGKILL)?;
        first.wait()?;
        offline.wait_running("after the daemon's death")?;
        offline.goes_on()?;
        let mut second = daemon(KIND)?;
        guest::eventually("the job to connect again", || {
            Ok(second.job_of(offline.pid())?.registered.then_some(()))
        })?;
        let id = second.hint()?;
        offline.expect_held("by the next daemon")?;
        second.end_hint(id)?;
        offline.wait_running("after the hint")?;
        second.stop()
    })
}

fn hung() -> anyhow::Result<()> {
    scene::clean(|| {
        let mut daemon = daemon(KIND)?;
        let mut offline = job(&PLAIN, "2")?;
        daemon.hint()?;
        offline.expect_held("before the daemon hangs")?;
        daemon.signal(Signal::SIGSTOP)?;
        offline.wait_running("after the lease")?;
        offline.goes_on()?;
        daemon.signal(Signal::SIGCONT)?;
        guest::eventually("the daemon to tell that it lost the hold", || {
            let lost = |record: &AuditRecord| matches!(record, AuditRecord::Lost(_));
            Ok(daemon.audit()?.iter().any(lost).then_some(()))
        })?;
        daemon.stop()
    })
}

/// Stopped by SIGSTOP it cannot obey, nor can it stay stopped once it goes on.
fn silent() -> anyhow::Result<()> {
    scene::clean(|| {
        let mut daemon = daemon(KIND)?;
        let mut offline = job(&PLAIN, "1")?;
        offline.load.signal(Signal::SIGSTOP)?;
        let asked = daemon.ask("hold", &[offline.pid()])?;
        anyhow::ensure!(!asked.jobs[0].held, "held, as it seems: {asked:?}");
        let silent = |record: &AuditRecord| matches!(record, AuditRecord::Refused(refused) if refused.why.contains("does not answer"));
        anyhow::ensure!(daemon.audit()?.iter().any(silent), "the log does not tell");
        daemon.ask("resume", &[offline.pid()])?;
        offline.load.signal(Signal::SIGCONT)?;
        offline.wait_running("when it goes on")?;
        offline.goes_on()?;
        daemon.ask("hold", &[offline.pid()])?;
        // Some time after a refusal it is tried again.
        guest::eventually("a hold, now that it answers", || {
            Ok(offline.mapped()?.is_empty().then_some(()))
        })?;
        daemon.ask("resume", &[offline.pid()])?;
        offline.wait_running("again")?;
        daemon.stop()
    })
}

/// `auto`: those that obey by their agent, others by what the driver has.
fn mixed() -> anyhow::Result<()> {
    scene::clean(|| {
        let config = format!(
            "[serve]\nbackend = \"auto\"\naudit = \"{}\"\n[policy]\nname = \"priority\"\n{NO_GUARDS}{RULES}",
            AUDIT
        );
        let mut daemon = Daemon::start_as_written(&config)?;
        let mut one = job(&PLAIN, "2")?;
        let name: String = "offline"
            .bytes()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let args = ["--profile", "simple", "--queues", "1", "--name-hex", &name];
        let mut two = Job::busy(&args)?;
        guest::eventually("both jobs to be known", || {
            let mut known = |pid| daemon.job_of(pid).is_ok_and(|job| job.queues > 0);
            Ok((known(one.pid()) && known(two.pid())).then_some(()))
        })?;
        let id = daemon.hint()?;
        one.expect_held("the one that obeys")?;
        two.expect_held("the one that does not")?;
        daemon.end_hint(id)?;
        one.wait_running("the one that obeys")?;
        two.wait_running("the one that does not")?;
        one.goes_on()?;
        two.goes_on()?;
        let status = fs::read_to_string(format!("/proc/{}/status", one.pid()))?;
        anyhow::ensure!(
            status.contains("TracerPid:\t0\n"),
            "the one that obeys is traced"
        );
        daemon.stop()
    })
}

/// A user who may nothing but register own processes as offline.
fn other_user() -> anyhow::Result<()> {
    const NOBODY: u32 = 65534;
    scene::clean(|| {
        let mut daemon = daemon(KIND)?;
        let open = |mode: &str| {
            guest::run(
                Command::new("sh").args(["-c", &format!("chmod {mode} /dev/kfd /dev/dri/render*")]),
            )
        };
        open("666")?;
        let mut command = Command::new(RUN[0]);
        command.uid(NOBODY).gid(NOBODY).args(&RUN[1..]).args(PLAIN);
        let mut offline = Job::new(Load::start_command(
            command,
            &busy(&["--profile", "simple", "--queues", "1"]),
        )?)?;
        let name = format!("uid:{NOBODY}/training");
        let info = daemon.job_of(offline.pid())?;
        ensure_eq!(info.job.0.as_ref(), name, "job");
        let id = daemon.hint()?;
        offline.expect_held("while a hint is in force")?;
        daemon.end_hint(id)?;
        offline.wait_running("after the hint")?;
        offline.goes_on()?;
        let mut command = Command::new(RUN[0]);
        command.uid(NOBODY).gid(NOBODY).args(&RUN[1..]);
        let output = command
            .args(["--class", "online", "--", "kfd-load-dynamic"])
            .output()?;
        ends(&output, 77, "[access]")?;
        open("600")?;
        daemon.stop()
    })
}

fn ends(output: &Output, code: i32, says: &str) -> anyhow::Result<()> {
    let said = String::from_utf8_lossy(&output.stderr);
    ensure_eq!(
        output.status.code(),
        Some(code),
        "exit code; it said {said}"
    );
    anyhow::ensure!(said.contains(says), "{says:?} is not in {said:?}");
    Ok(())
}

fn refuses() -> anyhow::Result<()> {
    scene::clean(|| {
        let run = |words: &[&str]| {
            let mut command = Command::new(RUN[0]);
            command
                .args(&RUN[1..])
                .args(words)
                .output()
                .context("run gpreempt")
        };
        ends(
            &run(&["--", "kfd-load-dynamic", "--help"])?,
            69,
            "gpreempt serve",
        )?;
        let daemon = daemon(KIND)?;
        ends(
            &run(&["--", "kfd-load", "--help"])?,
            69,
            "linked statically",
        )?;
        ends(&run(&["--", "/nonexistent"])?, 127, "/nonexistent")?;
        ends(&run(&["--", "/etc/passwd"])?, 126, "/etc/passwd")?;
        ends(
            &run(&["--agent", "/nonexistent.so", "--", "kfd-load-dynamic"])?,
            69,
            "/nonexistent.so",
        )?;
        // The exit code is the command's own.
        ends(
            &run(&["--", "kfd-load-dynamic", "--profile", "nonsense"])?,
            2,
            "nonsense",
        )?;
        daemon.stop()
    })
}

/// Requests that hsa-load has reported in all.
fn requests(load: &JsonChild) -> anyhow::Result<u64> {
    let records = load.records();
    let mut reports = records.iter().filter(|record| record.kind == "report");
    let last = reports.next_back();
    last.map_or(Ok(0), |record| record.number("requests"))
}

fn runtime() -> anyhow::Result<()> {
    scene::clean(|| {
        let mut daemon = daemon(KIND)?;
        let mut command = Command::new(RUN[0]);
        command
            .args(&RUN[1..])
            .args(["--", "hsa-load", "--queues", "2", "--rate", "0"]);
        command.args(["--copy-every", "0", "--report-ms", "100"]);
        let mut load = JsonChild::start(command)?;
        load.wait_for("requests", |records| {
            let served = |record: &&crate::record::Record| {
                record.kind == "report" && record.number("requests").is_ok_and(|count| count > 0)
            };
            records.iter().find(served).map(drop)
        })?;
        let queues = daemon.job_of(load.pid())?.queues;
        for _ in 0..3 {
            let id = daemon.hint()?;
            ensure_eq!(guest::stat(0, "mapped_now")?, 0, "queues that are mapped");
            ensure_eq!(last_hold(&daemon)?.queues, queues, "queues that are held");
            let before = requests(&load)?;
            daemon.end_hint(id)?;
            guest::eventually("the runtime's work to go on", || {
                Ok((requests(&load)? > before + 1).then_some(()))
            })?;
        }
        load.signal(Signal::SIGTERM)?;
        let status = load.wait_exit()?;
        anyhow::ensure!(status.success(), "hsa-load: {status}: {}", load.errors());
        daemon.stop()?;
        guest::check_kernel_log()
    })
}

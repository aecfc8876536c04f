// SPDX-License-Identifier: MIT OR Apache-2.0
//! What `preempt` refuses: each with its own message, exit code and advice, and nothing stays stopped. And what it does not
//! refuse, though it might seem that it should.

use std::fs;
use std::process::Command;

use anyhow::Context;
use gpreempt::control::BackendKind;
use gpreempt::event::GpuId;

use super::hostile::{hexadecimal, is_dangerous, NAMES};
use super::List;
use crate::check::ensure_eq;
use crate::gpu::{self, Job, Unmaps};
use crate::guest;
use crate::json_child::JsonChild;
use crate::load::Load;
use crate::preemption::{
    self, for_each_backend, target_of, OpenToAll, Preemption, OTHER_USER, USER,
};
use crate::scene;

pub(super) const EACH: List = for_each_backend! {
    "selectors_that_name_nothing": nothing_named,
    "a_dry_run_of_preempt_changes_nothing": dry_run,
    "another_users_job": foreign,
    "hostile_names_are_harmless_in_records": hostile_names,
};

pub(super) const TESTS: List = &[
    (&["control"], "arguments_that_cannot_be", usage),
    (
        &["control"],
        "patched_is_refused_by_an_unmodified_driver",
        unpatched,
    ),
    (&["control"], "a_pid_of_a_container", container),
    (&["control"], "gpreempt_in_a_container", in_container),
    (&["control"], "yama_forbids_tracing", yama),
    (
        &["control"],
        "an_own_job_is_held_by_a_debugger_without_privilege",
        own_job_traced,
    ),
    (
        &["patched"],
        "an_own_job_is_held_without_privilege",
        own_job,
    ),
    (&["patched"], "a_closed_device", closed_device),
    (&["patched"], "resume_needs_root", resume_unprivileged),
    (
        &["stock-6.1", "stock-6.12", "stock-7.3"],
        "nothing_to_preempt_without_a_gpu",
        no_gpu,
    ),
    (
        &["stock-6.1"],
        "no_debugger_interface_before_6_5",
        no_debugger_interface,
    ),
];

/// Runs it, demands this exit code and these words, and that the job has not been touched.
fn refuse(job: &Job, args: &[&str], code: i32, words: &[&str]) -> anyhow::Result<()> {
    let unmaps = Unmaps::from_here(0)?;
    preemption::run("preempt", args)?
        .expect(code)
        .and_then(|ended| ended.says(words))
        .with_context(|| format!("{args:?}"))?;
    ensure_eq!(unmaps.count()?, 0, "UNMAP_QUEUES packets of {args:?}");
    job.expect_running(&format!("after {args:?}"))
}

fn nothing_named(kind: BackendKind) -> anyhow::Result<()> {
    scene::clean(|| {
        let mut job = Job::offline(2)?;
        let pid = job.pid();
        let gpu = GpuId(job.load.gpu_id()? as u32);
        // A thread of this process: readers of what the job prints.
        let own = std::process::id();
        let thread = fs::read_dir("/proc/self/task")
            .context("threads")?
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
            .find(|thread| *thread != own)
            .context("no thread")?
            .to_string();
        let no_gpu = format!("{pid}:beef0:0");
        let no_queue = format!("{pid}:{gpu}:99");
        let gpu = gpu.to_string();
        let pid = pid.to_string();
        let cases: [(&[&str], &[&str]); 8] = [
            (&["--pid", "4194303"], &["no process 4194303", "watch"]),
            (&["--pid", "1"], &["process 1", "not a KFD process"]),
            (
                &["--pid", &thread],
                &["thread of process", &own.to_string()],
            ),
            (&["--queue", &no_gpu], &["no GPU beef0", &gpu]),
            (
                &["--queue", &no_queue],
                &["no queue 99", &format!("{gpu}:0, {gpu}:1")],
            ),
            (
                &["--comm", "nobody*"],
                &["--comm", "nobody*", &format!("kfd-load[{pid}]")],
            ),
            (&["--cgroup", "/nowhere"], &["--cgroup", "/nowhere"]),
            (&["--pid", &pid, "--gpu", "beef0"], &["no GPU beef0"]),
        ];
        for (selector, words) in cases {
            let how = ["--backend", kind.name(), "--for", "5"];
            refuse(&job, &[&how, selector].concat(), 1, words)?;
        }
        // One that names nothing spoils the others: all or none.
        let args = [
            "--backend",
            kind.name(),
            "--for",
            "5",
            "--pid",
            &pid,
            "--pid",
            "4194303",
        ];
        refuse(&job, &args, 1, &["no process 4194303"])?;
        // And the command does not run.
        let mark = "/tmp/ran";
        let _ = fs::remove_file(mark);
        let args = [
            "--backend",
            kind.name(),
            "--pid",
            "4194303",
            "--",
            "touch",
            mark,
        ];
        refuse(&job, &args, 1, &["no process 4194303"])?;
        anyhow::ensure!(
            !fs::exists(mark)?,
            "the command ran though nothing was held"
        );
        job.goes_on()
    })
}

fn usage() -> anyhow::Result<()> {
    scene::clean(|| {
        let job = Job::offline(1)?;
        let pid = job.pid().to_string();
        let gpu = GpuId(job.load.gpu_id()? as u32).to_string();
        let cases: [(&[&str], &[&str]); 8] = [
            (&["--for", "1"], &["--pid"]),
            (&["--pid", &pid], &["--for"]),
            (&["--pid", "0", "--for", "1"], &["1 or more"]),
            (&["--pid", &pid, "--for", "1", "--", "true"], &["--for"]),
            (
                &["--pid", &pid, "--for", "1", "--lease", "50ms"],
                &["100ms to 1h"],
            ),
            (
                &["--pid", &pid, "--for", "1", "--backend", "magic"],
                &["patched", "debug-trap", "criu"],
            ),
            (&["--queue", "1:2", "--for", "1"], &["PID:GPU:QUEUE"]),
            (&["--cgroup", "", "--for", "1"], &["cgroup"]),
        ];
        for (args, words) in cases {
            refuse(&job, args, 2, words)?;
        }
        let queue = format!("{pid}:{gpu}:0");
        let other = ["--queue", &queue, "--for", "1", "--gpu", "beef0"];
        refuse(&job, &other, 1, &["no GPU beef0"])
    })
}

/// `--dry-run` tells what would be done, also on a job that it could not be done to.
fn dry_run(kind: BackendKind) -> anyhow::Result<()> {
    scene::clean(|| {
        let mut job = Job::busy(&["--profile", "model"])?;
        job.goes_on()?;
        let pid = job.pid().to_string();
        let (unmaps, processes) = (Unmaps::from_here(0)?, kfd_processes()?);
        for backend in [kind.name(), "auto"] {
            let args = ["--pid", &pid, "--dry-run", "--backend", backend];
            let ended = preemption::run("preempt", &args)?.expect(0)?;
            let record = ended.one("preempted")?;
            ensure_eq!(record.text("observed")?, "dry_run", "observed");
            ensure_eq!(record.number("queues")?, 3, "queues");
            let target = target_of(record, job.pid())?;
            ensure_eq!(target.text("status")?, "would_hold", "status");
            anyhow::ensure!(
                !ended.records.iter().any(|record| record.kind == "resumed"),
                "what was not stopped was restarted"
            );
            let reason = record.text("reason")?;
            anyhow::ensure!(reason.contains("dry run"), "reason: {reason}");
        }
        ensure_eq!(unmaps.count()?, 0, "UNMAP_QUEUES packets");
        ensure_eq!(kfd_processes()?, processes, "KFD processes");
        job.expect_running("after dry runs")?;
        job.goes_on()
    })
}

fn kfd_processes() -> anyhow::Result<usize> {
    let processes = fs::read_dir("/sys/class/kfd/kfd/proc").context("KFD processes")?;
    Ok(processes.count())
}

/// Another user's job cannot be stopped, whoever may open the devices.
fn foreign(kind: BackendKind) -> anyhow::Result<()> {
    scene::clean(|| {
        let _open = OpenToAll::new()?;
        let load = Load::start_as(OTHER_USER, &gpu::busy(&["--queues", "2"]))?;
        let mut job = Job::new(load)?;
        job.goes_on()?;
        let unmaps = Unmaps::from_here(0)?;
        let pid = job.pid().to_string();
        let args = ["--backend", kind.name(), "--pid", &pid, "--for", "5"];
        let ended = Preemption::verb_as(USER, "preempt", &args)?
            .finish()?
            .expect(77)?;
        if kind == BackendKind::Criu {
            // Not a matter of whose job it is.
            ended.says(&["CAP_CHECKPOINT_RESTORE", "root"])?;
        } else {
            let target = target_of(ended.one("preempted")?, job.pid())?;
            ensure_eq!(target.text("status")?, "refused", "status");
            ensure_eq!(target.text("errno")?, "EPERM", "errno");
            anyhow::ensure!(target.text("message")?.contains("user"), "{}", target.data);
            anyhow::ensure!(target.text("fix")?.contains("root"), "{}", target.data);
        }
        // The end of a program that had the device open updates the runlist (process_termination_cpsch, Linux 6.12).
        let packets = unmaps.count()?;
        anyhow::ensure!(packets <= 1, "{packets} UNMAP_QUEUES packets");
        job.expect_running("after the refusal")?;
        job.goes_on()
    })
}

fn hostile_names(kind: BackendKind) -> anyhow::Result<()> {
    scene::clean(|| {
        let jobs: Vec<Job> = NAMES
            .iter()
            .map(|name| Job::busy(&["--queues", "1", "--name-hex", &hexadecimal(name)]))
            .collect::<anyhow::Result<_>>()?;
        let harmless = |text: &str, what: &str| {
            let bad: Vec<char> = text
                .chars()
                .filter(|letter| *letter != '\n' && is_dangerous(*letter))
                .collect();
            anyhow::ensure!(bad.is_empty(), "{what} holds {bad:?}");
            Ok(())
        };
        let args = ["--backend", kind.name(), "--comm", "*", "--for", "200ms"];
        let ended = preemption::run("preempt", &args)?.expect(0)?;
        let mut targets = ended.one("preempted")?.list("targets")?;
        // This program is one too if a test before made it one.
        targets.retain(|target| !target.is_of(std::process::id()));
        ensure_eq!(targets.len(), NAMES.len(), "targets");
        let mut seen = Vec::new();
        for target in &targets {
            let comm = target.text("comm")?;
            harmless(comm, "comm")?;
            anyhow::ensure!(!seen.contains(&comm), "two names became the same: {comm:?}");
            seen.push(comm);
        }
        harmless(&ended.errors, "stderr")?;
        // Messages and tables name them too.
        let none = ["--backend", kind.name(), "--comm", "nobody", "--for", "1"];
        let ended = preemption::run("preempt", &none)?
            .expect(1)?
            .says(&["evil"])?;
        harmless(&ended.errors, "stderr")?;
        let output = Command::new("gpreempt")
            .args(["preempt", "--format", "table"])
            .args(args)
            .output()
            .context("gpreempt preempt")?;
        anyhow::ensure!(output.status.success(), "{}", output.status);
        let text = String::from_utf8(output.stdout).context("the table is not UTF-8")?;
        harmless(&text, "the table")?;
        anyhow::ensure!(text.contains("processes"), "the table: {text}");
        jobs.iter()
            .try_for_each(|job| job.expect_running("after the hold"))
    })
}

fn unpatched() -> anyhow::Result<()> {
    scene::clean(|| {
        let job = Job::offline(1)?;
        let pid = job.pid().to_string();
        let args = ["--backend", "patched", "--pid", &pid, "--for", "1"];
        refuse(&job, &args, 69, &["not patched", "kernel-patch"])?;
        let args = ["--backend", "patched", "--pid", &pid, "--dry-run"];
        refuse(&job, &args, 69, &["not patched"])
    })
}

/// A job in a pid namespace of its own, as a container's.
struct Contained {
    load: JsonChild,
    /// Its pid for the host.
    host_pid: u32,
    /// Its pid as it knows it.
    inner_pid: u64,
}

impl Contained {
    fn start() -> anyhow::Result<Self> {
        let mut command = Command::new("unshare");
        // Its standard input is ours: it ends when that does.
        command.args(["-p", "-f", "kfd-load", "--control"]);
        command.args(gpu::busy(&["--queues", "2"]));
        let load = JsonChild::start(command)?;
        let inner_pid = load
            .wait_for("the created queues", |records| {
                let created = records.iter().find(|record| record.kind == "created");
                created.and_then(|record| record.try_number("pid"))
            })
            .context("kfd-load in a pid namespace")?;
        let host_pid = fs::read_dir("/sys/class/kfd/kfd/proc")
            .context("KFD processes")?
            .find_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .context("no KFD process")?;
        Ok(Self {
            load,
            host_pid,
            inner_pid,
        })
    }
}

/// The pid inside is refused, with the pid to use instead. That works.
fn container() -> anyhow::Result<()> {
    scene::clean(|| {
        let mut job = Contained::start()?;
        let (host, inner) = (job.host_pid.to_string(), job.inner_pid.to_string());
        anyhow::ensure!(host != inner, "it is in no namespace of its own");
        for kind in [BackendKind::DebugTrap, BackendKind::Criu] {
            let args = ["--backend", kind.name(), "--pid", &inner, "--for", "1"];
            preemption::run("preempt", &args)?.expect(1)?.says(&[
                "container",
                "kfd-load",
                &format!("--pid {host}"),
            ])?;
            let args = ["--pid", &host, "--for", "200ms"];
            let ended = preemption::preempt(kind, &args)?.expect(0)?;
            ensure_eq!(ended.one("preempted")?.number("queues")?, 2, "queues");
        }
        job.load.send("stop")?;
        job.load.wait_exit()?;
        Ok(())
    })
}

/// The driver speaks of processes by the host's pids, which mean something else in there.
fn in_container() -> anyhow::Result<()> {
    scene::clean(|| {
        let job = Job::offline(1)?;
        let pid = job.pid().to_string();
        let unmaps = Unmaps::from_here(0)?;
        let output = Command::new("unshare")
            .args([
                "-p", "-f", "gpreempt", "preempt", "--pid", &pid, "--for", "1",
            ])
            .output()
            .context("unshare")?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure_eq!(
            output.status.code(),
            Some(69),
            "exit code; stderr: {errors}"
        );
        for word in ["pid namespace", "--pid=host"] {
            anyhow::ensure!(errors.contains(word), "it does not say {word}: {errors}");
        }
        ensure_eq!(unmaps.count()?, 0, "UNMAP_QUEUES packets");
        job.expect_running("after the refusal")
    })
}

/// A switch of the kernel, set for the length of a test.
struct Switch {
    path: &'static str,
    before: String,
}

impl Switch {
    fn set(path: &'static str, value: &str) -> anyhow::Result<Self> {
        let before = fs::read_to_string(path).with_context(|| format!("read {path}"))?;
        fs::write(path, value).with_context(|| format!("write {value} to {path}"))?;
        Ok(Self { path, before })
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        if let Err(error) = fs::write(self.path, &self.before) {
            eprintln!("vm-tests: write {} to {}: {error}", self.before, self.path);
        }
    }
}

const YAMA: &str = "/proc/sys/kernel/yama/ptrace_scope";

/// A job of an ordinary user, and what the same user's `gpreempt` makes of it.
fn as_user(
    kind: BackendKind,
    check: impl FnOnce(&mut Job, &dyn Fn() -> anyhow::Result<Preemption>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let _open = OpenToAll::new()?;
    let load = Load::start_as(USER, &gpu::busy(&["--queues", "2"]))?;
    let mut job = Job::new(load)?;
    let pid = job.pid().to_string();
    let hold = || {
        let args = ["--backend", kind.name(), "--pid", &pid, "--for", "300ms"];
        Preemption::verb_as(USER, "preempt", &args)
    };
    check(&mut job, &hold)?;
    job.expect_running("at the end")?;
    job.goes_on()
}

/// Debian's kernels have Yama, switched off.
fn yama() -> anyhow::Result<()> {
    scene::clean(|| {
        as_user(BackendKind::DebugTrap, |job, hold| {
            for scope in ["1", "2"] {
                let _scope = Switch::set(YAMA, scope)?;
                let ended = hold()?.finish()?.expect(77)?;
                let target = target_of(ended.one("preempted")?, job.pid())?;
                ensure_eq!(target.text("status")?, "refused", "status");
                for (part, words) in [
                    ("message", &["Yama", &format!("ptrace_scope = {scope}")][..]),
                    ("fix", &["CAP_SYS_PTRACE", "kernel.yama.ptrace_scope=0"]),
                ] {
                    for word in words {
                        anyhow::ensure!(
                            target.text(part)?.contains(word),
                            "{part} does not say {word}: {}",
                            target.data
                        );
                    }
                }
                job.expect_running("after the refusal")?;
            }
            Ok(())
        })
    })
}

/// The debugger interface needs no capability for a user's own jobs.
fn own_job_traced() -> anyhow::Result<()> {
    scene::clean(|| {
        as_user(BackendKind::DebugTrap, |_, hold| {
            let ended = hold()?.finish()?.expect(0)?;
            let preempted = ended.one("preempted")?;
            ensure_eq!(preempted.number("queues")?, 2, "queues");
            // Nothing else is to be had without privilege.
            ensure_eq!(preempted.text("observed")?, "driver", "observed");
            Ok(())
        })
    })
}

fn own_job() -> anyhow::Result<()> {
    scene::clean(|| {
        as_user(BackendKind::Patched, |job, hold| {
            let preemption = hold()?;
            let preempted = preemption.preempted()?;
            ensure_eq!(preempted.number("queues")?, 2, "queues");
            ensure_eq!(preempted.text("observed")?, "driver", "observed");
            anyhow::ensure!(preempted.number("hw_ns")? > 0, "hw_ns is 0");
            preemption.finish()?.expect(0)?;
            // And it lasts no longer than who took it.
            let args = ["--pid", &job.pid().to_string(), "--for", "600"];
            let preemption = Preemption::verb_as(USER, "preempt", &args)?;
            preemption.preempted()?;
            job.expect_held("by an ordinary user")?;
            preemption.kill()?;
            job.wait_running("to run after its controller was killed")
        })
    })
}

fn closed_device() -> anyhow::Result<()> {
    scene::clean(|| {
        let job = Job::offline(1)?;
        let pid = job.pid().to_string();
        for backend in ["patched", "debug-trap", "auto"] {
            let args = ["--backend", backend, "--pid", &pid, "--for", "1"];
            Preemption::verb_as(USER, "preempt", &args)?
                .finish()?
                .expect(77)?
                .says(&["/dev/kfd", "render"])?;
        }
        job.expect_running("after refusals")
    })
}

/// Breaking others' holds is root's privilege, even for the own job.
fn resume_unprivileged() -> anyhow::Result<()> {
    scene::clean(|| {
        let _open = OpenToAll::new()?;
        let job = Job::new(Load::start_as(USER, &gpu::busy(&["--queues", "2"]))?)?;
        let holder = Preemption::hold(BackendKind::Patched, &[job.pid()])?;
        let pid = job.pid().to_string();
        let ended = Preemption::verb_as(USER, "resume", &["--pid", &pid])?.finish()?;
        ended.expect(77)?.says(&["CAP_SYS_ADMIN", "root"])?;
        job.expect_held("after a refusal")?;
        holder.release()?;
        Ok(())
    })
}

/// The driver is there, and nobody uses it.
fn no_gpu() -> anyhow::Result<()> {
    for (args, words) in [
        (&["--comm", "*"][..], &["no KFD process matches"][..]),
        (&["--pid", "1"], &["not a KFD process"]),
        (&["--pid", "1", "--gpu", "cf19"], &["no GPU"]),
    ] {
        for backend in ["auto", "patched", "debug-trap", "criu"] {
            let all = [args, &["--for", "1", "--backend", backend]].concat();
            preemption::run("preempt", &all)?
                .expect(1)
                .and_then(|ended| ended.says(words))
                .with_context(|| format!("{all:?}"))?;
        }
    }
    preemption::run("reserve", &["--show"])?
        .expect(69)?
        .says(&["no GPU"])?;
    preemption::run("resume", &["--all"])?
        .expect(0)?
        .says(&["nothing was stopped"])?;
    guest::check_kernel_log()
}

/// A process that has the device open, if without GPU.
fn no_debugger_interface() -> anyhow::Result<()> {
    let mut job = Command::new("sh");
    job.args(["-c", "exec 3<> /dev/kfd; exec sleep 600"]);
    let mut job = workload::stop::die_with_parent(&mut job)
        .spawn()
        .context("open /dev/kfd")?;
    let pid = job.id();
    let outcome = guest::eventually("a KFD process", || {
        Ok(fs::exists(format!("/sys/class/kfd/kfd/proc/{pid}"))?.then_some(()))
    })
    .and_then(|()| {
        let pid = pid.to_string();
        preemption::run(
            "preempt",
            &["--pid", &pid, "--for", "1", "--backend", "debug-trap"],
        )?
        .expect(69)?
        .says(&["Linux 6.5", "--backend criu"])?;
        preemption::run(
            "preempt",
            &["--pid", &pid, "--for", "1", "--backend", "patched"],
        )?
        .expect(69)?
        .says(&["not patched"])?;
        Ok(())
    });
    let _ = job.kill();
    let _ = job.wait();
    outcome?;
    guest::wait_for_no_process()?;
    guest::check_kernel_log()
}

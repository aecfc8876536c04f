// SPDX-License-Identifier: MIT OR Apache-2.0
//! libgpreempt, as programs in C use it: `gpreempt-c/examples/` and `gpreempt-c/tests/c/`.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use anyhow::Context as _;
use gpreempt::serve::api::Status;
use gpreempt::serve::client::Client;

use super::List;
use crate::check::ensure_eq;
use crate::gpu::Job;
use crate::guest;
use crate::scene;

pub(super) const TESTS: List = &[
    (&["patched"], "a_c_program_holds_and_lets_go", hold),
    (&["patched"], "a_lease_of_a_c_program_ends_by_itself", lease),
    (&["patched"], "what_a_c_program_holds_ends_with_it", killed),
    (&["patched"], "a_c_program_is_told_why_not", refused),
    (
        &["patched"],
        "a_c_program_holds_queues_and_reserves_slots",
        queues,
    ),
    (
        &["patched"],
        "hints_of_a_c_program_stop_offline_jobs",
        hints,
    ),
    (&["patched"], "threads_of_a_c_program_give_hints", threads),
];

/// A C program that runs.
struct Running {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Running {
    fn start(words: &[&str]) -> anyhow::Result<Self> {
        let mut child = Command::new(words[0])
            .args(&words[1..])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("run {}", words[0]))?;
        let lines = BufReader::new(child.stdout.take().context("no stdout")?);
        Ok(Self { child, lines })
    }

    fn says(&mut self, expected: &str) -> anyhow::Result<()> {
        let mut line = String::new();
        self.lines.read_line(&mut line)?;
        ensure_eq!(line.trim_end(), expected, "what it prints");
        Ok(())
    }

    fn goes_on(&mut self) -> anyhow::Result<()> {
        let stdin = self.child.stdin.as_mut().context("no stdin")?;
        stdin.write_all(b"\n").context("it has ended")
    }

    fn ends(mut self) -> anyhow::Result<()> {
        let status = self.child.wait()?;
        anyhow::ensure!(status.success(), "{status}");
        Ok(())
    }

    fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

fn hold() -> anyhow::Result<()> {
    scene::clean(|| {
        let mut job = Job::offline(3)?;
        job.goes_on()?;
        // Longer than the lease, which is renewed.
        let words = ["c-hold", &job.pid().to_string(), "3000", "1000", "8"];
        let mut program = Running::start(&words)?;
        program.says("held 3 queues, 3 changed")?;
        job.expect_held("while a C program holds it")?;
        program.says("let go 3 queues, 3 changed")?;
        program.ends()?;
        job.wait_running("after the hold")?;
        job.goes_on()
    })
}

fn lease() -> anyhow::Result<()> {
    scene::clean(|| {
        let mut job = Job::offline(2)?;
        let words = ["c-hold", &job.pid().to_string(), "600000", "2000"];
        let mut program = Running::start(&words)?;
        program.says("held 2 queues, 2 changed")?;
        job.expect_held("before the lease ends")?;
        job.wait_running("after the lease")?;
        job.goes_on()?;
        program.kill()
    })
}

fn killed() -> anyhow::Result<()> {
    scene::clean(|| {
        let mut job = Job::offline(2)?;
        let words = ["c-hold", &job.pid().to_string(), "600000", "600000"];
        let mut program = Running::start(&words)?;
        program.says("held 2 queues, 2 changed")?;
        job.expect_held("while it is held")?;
        program.kill()?;
        job.wait_running("after the program's end")?;
        job.goes_on()
    })
}

fn refused() -> anyhow::Result<()> {
    let output = Command::new("c-hold")
        .args(["1", "1000", "1000"])
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(
        output.status.code() == Some(1)
            && said.contains("no such process, or it does not use a GPU"),
        "{}: {said}",
        output.status
    );
    Ok(())
}

fn queues() -> anyhow::Result<()> {
    scene::clean(|| {
        let mut job = Job::offline(4)?;
        let (pid, gpu) = (job.pid().to_string(), job.load.gpu_id()?.to_string());
        let mut program = Running::start(&["c-queues", &pid, &gpu])?;
        let steps = [
            ("two queues are held", 2),
            ("none is held", 4),
            ("all are held", 0),
            ("all are held", 0),
            ("none is held", 4),
            ("one slot is left", 1),
            ("none is reserved", 4),
        ];
        for (says, mapped) in steps {
            program.says(says)?;
            guest::eventually(says, || Ok((job.mapped()?.len() == mapped).then_some(())))?;
            program.goes_on()?;
        }
        program.ends()?;
        job.goes_on()
    })
}

/// A daemon to which every load is offline.
struct Daemon(Child);

const SOCKET: &str = "/tmp/library.sock";

impl Daemon {
    fn start() -> anyhow::Result<Self> {
        const CONFIG: &str = "/tmp/library.toml";
        std::fs::write(
            CONFIG,
            "[[rule]]\ncomm = \"kfd-load\"\nclass = \"offline\"\n",
        )?;
        let child = Command::new("gpreempt")
            .args([
                "serve", "--policy", "priority", "--config", CONFIG, "--socket", SOCKET,
            ])
            .stdin(Stdio::null())
            .spawn()
            .context("run gpreempt serve")?;
        let daemon = Self(child);
        guest::eventually("the daemon to listen", || {
            Ok(Path::new(SOCKET).exists().then_some(()))
        })?;
        Ok(daemon)
    }

    fn status(&self) -> anyhow::Result<Status> {
        Ok(Client::new(Path::new(SOCKET))?.get("/v1/status")?)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // With SIGKILL what it holds ends, too, and nobody waits for its good-bye.
        let _ = self.0.kill();
        let _ = self.0.wait();
        let _ = std::fs::remove_file(SOCKET);
    }
}

fn hints() -> anyhow::Result<()> {
    scene::clean(|| {
        let mut job = Job::offline(3)?;
        let daemon = Daemon::start()?;
        guest::eventually("the daemon to know the job", || {
            let jobs = daemon.status()?.jobs_by_class;
            Ok((jobs.get("offline") == Some(&1)).then_some(()))
        })?;
        let output = Command::new("c-online")
            .arg("3")
            .env("GPREEMPT_SOCKET", SOCKET)
            .output()?;
        let said = String::from_utf8_lossy(&output.stdout);
        anyhow::ensure!(
            output.status.success(),
            "{}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        for wanted in ["request 3: ", "of kfd-load[", "compute", " reserved"] {
            anyhow::ensure!(said.contains(wanted), "no {wanted:?}: {said}");
        }
        let status = daemon.status()?;
        anyhow::ensure!(status.holds_total > 0, "nothing was held: {status:?}");
        ensure_eq!(status.hints, 0, "hints that are left");
        drop(daemon);
        job.wait_running("after the daemon's end")?;
        job.goes_on()
    })
}

fn threads() -> anyhow::Result<()> {
    scene::clean(|| {
        let daemon = Daemon::start()?;
        let output = Command::new("c-threads")
            .env("GPREEMPT_SOCKET", SOCKET)
            .output()?;
        anyhow::ensure!(
            output.status.success(),
            "{}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        ensure_eq!(daemon.status()?.hints, 0, "hints that are left");
        Ok(())
    })
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! The Python package against the daemon: what its guide shows, while the test looks at the GPU.

use std::process::Command;

use gpreempt::control::BackendKind;

use super::serve::job;
use super::List;
use crate::check::ensure_eq;
use crate::daemon::{Daemon, NO_GUARDS, RULES, SOCKET};
use crate::gpu::Job;
use crate::json_child::JsonChild;
use crate::load::Load;
use crate::record::Record;
use crate::scene;

pub(super) const TESTS: List = &[(
    &["python"],
    "the_python_package_has_real_jobs_held",
    package,
)];

/// The script, step by step.
struct Script {
    child: JsonChild,
}

impl Script {
    /// Waits until it is at this step. It waits for [`Script::go_on`] there.
    fn at(&self, step: &str) -> anyhow::Result<Record> {
        self.child.wait_for(step, |records| {
            records.iter().find(|record| record.kind == step).cloned()
        })
    }

    fn go_on(&mut self) -> anyhow::Result<()> {
        self.child.send("")
    }
}

/// A job whose queues have nothing to do.
fn idle_job() -> anyhow::Result<Job> {
    let name: String = b"offline-idle"
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    Job::new(Load::start(&[
        "--profile",
        "simple",
        "--queues",
        "1",
        "--rate",
        "0.001",
        "--name-hex",
        &name,
    ])?)
}

fn package() -> anyhow::Result<()> {
    scene::clean(|| {
        let (mut busy, idle, mut unnamed) = (job("offline", 2)?, idle_job()?, job("other", 1)?);
        let config = format!("[policy]\nname = \"priority\"\n{NO_GUARDS}{RULES}");
        let daemon = Daemon::start(BackendKind::Patched, &config)?;
        let mut command = Command::new("python3");
        command
            .arg("-B")
            .arg("/usr/lib/python-tests/package.py")
            .args([busy.pid(), idle.pid(), unnamed.pid()].map(|pid| pid.to_string()))
            .env("GPREEMPT_SOCKET", SOCKET);
        let mut script = Script {
            child: JsonChild::start(command)?,
        };
        for (inside, after) in [
            ("online", "after_online"),
            ("online_async", "after_online_async"),
        ] {
            let told = script.at(inside)?;
            ensure_eq!(
                told.data["held"],
                serde_json::json!([true]),
                "held, says the package"
            );
            busy.expect_held(inside)?;
            unnamed.expect_running(inside)?;
            script.go_on()?;
            let told = script.at(after)?;
            anyhow::ensure!(told.data["latency"].as_f64() > Some(0.0), "{told:?}");
            busy.wait_running(after)?;
            busy.goes_on()?;
            script.go_on()?;
        }
        let told = script.at("scheduler")?;
        ensure_eq!(told.text("job")?, "python", "job");
        ensure_eq!(
            told.data["held"],
            serde_json::json!([true]),
            "held, says the package"
        );
        unnamed.expect_held("once it is registered")?;
        busy.expect_held("with the other one")?;
        script.go_on()?;
        let told = script.at("after_scheduler")?;
        ensure_eq!(told.number("requests")?, 2, "requests");
        ensure_eq!(told.number("failed")?, 1, "failed requests");
        let text = told.text("text")?;
        anyhow::ensure!(
            text.contains("2 requests, 1 failed, 0 without a hint") && text.contains("python: "),
            "{text}"
        );
        unnamed.wait_running("after the request")?;
        unnamed.goes_on()?;
        script.go_on()?;

        for (kind, error) in [
            ("not_found", "NotFound"),
            ("refused", "Refused"),
            ("unavailable", "DaemonUnavailable"),
        ] {
            let told = script.at(kind)?;
            ensure_eq!(told.text("error")?, error, "error");
        }
        let told = script.at("monitor")?;
        ensure_eq!(told.number("gpu_id")?, busy.load.gpu_id()?, "gpu_id");
        ensure_eq!(told.number("slots")?, 24, "slots");
        ensure_eq!(told.number("compute")?, 4, "compute queues");
        ensure_eq!(told.number("held")?, 4, "held queues");
        ensure_eq!(told.number("offline")?, 4, "queues of offline jobs");
        let told = script.at("cleanup")?;
        ensure_eq!(
            told.data["jobs"],
            serde_json::json!([format!("pid:{}", idle.pid())]),
            "idle jobs"
        );
        idle.expect_held("as it did nothing")?;
        busy.wait_running("as it works")?;
        script.go_on()?;
        script.at("done")?;
        let status = script.child.wait_exit()?;
        anyhow::ensure!(status.success(), "{status}: {}", script.child.errors());
        daemon.stop()?;
        idle.wait_running("after the daemon's end")
    })
}

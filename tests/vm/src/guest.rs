// SPDX-License-Identifier: MIT OR Apache-2.0
//! The guest around the tests: driver modules, the simulated GPU's debugfs, the kernel log.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::Value;

use crate::json_child::DEADLINE;

const SIMGPU: &str = "/sys/kernel/debug/simgpu";
const PARAMETERS: &str = "/sys/module/amdgpu/parameters";
const MODULE: &str = "/lib/modules/amdgpu.ko";

/// Whether the driver is loaded.
pub(crate) fn driver_is_loaded() -> bool {
    Path::new("/sys/module/amdgpu").exists()
}

/// Loads the driver as the guest did at boot.
pub(crate) fn load_driver() -> anyhow::Result<()> {
    let parameters = boot_parameters()?;
    let arguments: Vec<&str> = parameters.split_whitespace().collect();
    run(Command::new("insmod").arg(MODULE).args(arguments))
}

/// Unloads the driver. The last user's clean-up runs in a work queue, so the driver may be busy for a moment.
pub(crate) fn unload_driver() -> anyhow::Result<()> {
    eventually("rmmod amdgpu", || match try_unload_driver() {
        Ok(()) => Ok(Some(())),
        Err(_) if driver_is_loaded() => Ok(None),
        Err(error) => Err(error),
    })
}

/// One attempt to unload it.
pub(crate) fn try_unload_driver() -> anyhow::Result<()> {
    run(Command::new("rmmod").arg("amdgpu"))
}

/// How many users the module has: open files, processes, probes.
pub(crate) fn driver_users() -> anyhow::Result<u64> {
    const PATH: &str = "/sys/module/amdgpu/refcnt";
    let text = fs::read_to_string(PATH).with_context(|| format!("read {PATH}"))?;
    text.trim()
        .parse()
        .with_context(|| format!("{PATH}: {text:?}"))
}

/// The parameters that PID 1 loaded the driver with.
fn boot_parameters() -> anyhow::Result<String> {
    const PLAN: &str = "/etc/guest.json";
    let text = match fs::read_to_string(PLAN) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(String::new()),
        Err(error) => return Err(error).with_context(|| format!("read {PLAN}")),
    };
    let plan: Value = serde_json::from_str(&text).with_context(|| format!("{PLAN}: {text}"))?;
    let modules = plan["modules"]
        .as_array()
        .with_context(|| format!("{PLAN}: no modules"))?;
    let driver = modules.iter().find(|module| module["name"] == "amdgpu");
    Ok(driver
        .and_then(|module| module["params"].as_str())
        .unwrap_or_default()
        .to_owned())
}

/// Runs a program that must succeed.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command
        .output()
        .with_context(|| format!("start {command:?}"))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(
        output.status.success(),
        "{command:?}: {}: {}",
        output.status,
        errors.trim()
    );
    Ok(())
}

/// Calls `check` until it returns something.
pub(crate) fn eventually<T>(
    what: &str,
    check: impl FnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    eventually_every(Duration::from_millis(20), what, check)
}

/// Same, looking so often.
pub(crate) fn eventually_every<T>(
    pause: Duration,
    what: &str,
    mut check: impl FnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let until = Instant::now() + DEADLINE;
    loop {
        if let Some(value) = check().with_context(|| what.to_owned())? {
            return Ok(value);
        }
        anyhow::ensure!(Instant::now() < until, "waited {DEADLINE:?} for: {what}");
        std::thread::sleep(pause);
    }
}

/// A run-time parameter of the simulated GPU, set for the length of a test.
pub(crate) struct Parameter {
    path: String,
    before: String,
}

impl Parameter {
    /// Sets it; dropping the value restores what was there before.
    pub(crate) fn set(name: &str, value: &str) -> anyhow::Result<Self> {
        let path = format!("{PARAMETERS}/{name}");
        let before = fs::read_to_string(&path)
            .with_context(|| format!("read {path}"))?
            .trim()
            .to_owned();
        fs::write(&path, value).with_context(|| format!("write {value} to {path}"))?;
        Ok(Self { path, before })
    }
}

impl Drop for Parameter {
    fn drop(&mut self) {
        if let Err(error) = fs::write(&self.path, &self.before) {
            eprintln!("vm-tests: write {} to {}: {error}", self.before, self.path);
        }
    }
}

/// Makes the simulated memory manager evict a process, as if its VRAM were needed.
pub(crate) fn evict(pid: u32) -> anyhow::Result<()> {
    let path = format!("{SIMGPU}/evict");
    fs::write(&path, pid.to_string()).with_context(|| format!("write {pid} to {path}"))
}

/// A number of a simulated GPU's `stats`.
pub(crate) fn stat(gpu: usize, name: &str) -> anyhow::Result<u64> {
    let path = format!("{SIMGPU}/{gpu}/stats");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let value = line.with_context(|| format!("{path}: no {name}"))?;
    value
        .trim()
        .parse()
        .with_context(|| format!("{path}: {name} {value:?}"))
}

/// The objects that a driver without users holds: `bo`, `mem`, `files`.
pub(crate) fn live_objects() -> anyhow::Result<Vec<(String, u64)>> {
    let path = format!("{SIMGPU}/leaks");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    text.lines()
        .map(|line| {
            let (name, count) = line
                .split_once(' ')
                .with_context(|| format!("{path}: {line:?}"))?;
            Ok((
                name.to_owned(),
                count
                    .trim()
                    .parse()
                    .with_context(|| format!("{path}: {line:?}"))?,
            ))
        })
        .collect()
}

/// Waits until no process but this one is a KFD process. Who opened the device is one until it ends.
pub(crate) fn wait_for_no_process() -> anyhow::Result<()> {
    let own = std::process::id().to_string();
    eventually("no KFD process", || {
        match fs::read_dir("/sys/class/kfd/kfd/proc") {
            Ok(entries) => {
                let others = entries
                    .flatten()
                    .filter(|entry| entry.file_name() != own.as_str());
                Ok((others.count() == 0).then_some(()))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Some(())),
            Err(error) => Err(error.into()),
        }
    })
}

/// Lines of the kernel log.
pub(crate) fn kernel_log() -> anyhow::Result<Vec<String>> {
    let output = Command::new("dmesg").output().context("start dmesg")?;
    anyhow::ensure!(output.status.success(), "dmesg: {}", output.status);
    Ok(String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(str::to_owned)
        .collect())
}

/// Fails if the kernel complained since the test began. The harness looks as well, when it has ended.
pub(crate) fn check_kernel_log() -> anyhow::Result<()> {
    let log = kernel_log()?;
    let began = log
        .iter()
        .rposition(|line| ::guest::complaint::begun_by(line).is_some());
    let bad: Vec<String> = log[began.unwrap_or(0)..]
        .iter()
        .filter_map(|line| Some(::guest::complaint::complaint_in(line)?.line))
        .collect();
    anyhow::ensure!(bad.is_empty(), "the kernel complained: {}", bad.join(" | "));
    Ok(())
}

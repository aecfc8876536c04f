// SPDX-License-Identifier: MIT OR Apache-2.0
//! What PID 1 does before the first command. A step that fails is told to the host and does not stop the
//! others: a guest without debugfs is still a guest one can look around in.

use std::ffi::CString;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use guest::plan::{Background, BootPlan, Module, MODULE_DIR, PLAN_PATH};
use nix::kmod::{finit_module, ModuleInitFlags};
use nix::mount::{mount, MsFlags};

/// Where commands and background programs look for programs.
pub(crate) const SEARCH_PATH: &str = "/bin:/sbin:/usr/bin:/usr/sbin";

/// A file system to mount: where, type, options.
const MOUNTS: &[(&str, &str, &str)] = &[
    ("/proc", "proc", ""),
    ("/sys", "sysfs", ""),
    ("/dev", "devtmpfs", ""),
    ("/dev/pts", "devpts", "ptmxmode=0666"),
    ("/dev/shm", "tmpfs", "mode=1777"),
    ("/run", "tmpfs", "mode=0755"),
    ("/tmp", "tmpfs", "mode=1777"),
    ("/sys/kernel/debug", "debugfs", ""),
    ("/sys/kernel/tracing", "tracefs", ""),
    ("/sys/fs/bpf", "bpf", "mode=0700"),
    ("/sys/fs/cgroup", "cgroup2", ""),
];

/// A switch of the kernel to set: file, value.
const SWITCHES: &[(&str, &str)] = &[
    // The console is a log file that nobody waits for: keep every message from here on.
    ("/proc/sys/kernel/printk", "8"),
    // A first touch would clear 2 MiB, which takes tens of milliseconds without hardware virtualization.
    ("/sys/kernel/mm/transparent_hugepage/enabled", "never"),
];

/// Prepares the guest; what did not work comes back in words, and what the plan has PID 1 become.
pub(crate) fn prepare() -> (Vec<String>, Vec<String>) {
    let mut problems = Vec::new();
    let mut note =
        |result: Result<()>| problems.extend(result.err().map(|error| format!("{error:#}")));
    for (target, kind, options) in MOUNTS {
        note(mount_one(target, kind, options));
    }
    for (file, value) in SWITCHES {
        note(fs::write(file, value).with_context(|| format!("write {value} to {file}")));
    }
    note(nix::unistd::sethostname("guest").context("set the host name"));
    note(loopback_up());
    let mut then = Vec::new();
    match read_plan() {
        Ok(plan) => {
            plan.modules.iter().for_each(|module| note(load(module)));
            plan.background
                .iter()
                .for_each(|program| note(start(program)));
            then = plan.then;
        }
        Err(error) => note(Err(error)),
    }
    for problem in &problems {
        eprintln!("guest-init: {problem}");
    }
    (problems, then)
}

fn mount_one(target: &str, kind: &str, options: &str) -> Result<()> {
    fs::create_dir_all(target).with_context(|| format!("create {target}"))?;
    mount(
        Some(kind),
        target,
        Some(kind),
        MsFlags::empty(),
        Some(options),
    )
    .with_context(|| format!("mount {kind} at {target}"))
}

fn loopback_up() -> Result<()> {
    let status = Command::new("/bin/busybox")
        .args(["ifconfig", "lo", "up"])
        .status();
    anyhow::ensure!(
        status.context("run ifconfig")?.success(),
        "ifconfig could not start the loopback interface"
    );
    Ok(())
}

fn read_plan() -> Result<BootPlan> {
    let text = fs::read(PLAN_PATH).with_context(|| format!("read {PLAN_PATH}"))?;
    serde_json::from_slice(&text).with_context(|| format!("parse {PLAN_PATH}"))
}

fn load(module: &Module) -> Result<()> {
    let path = Path::new(MODULE_DIR).join(format!("{}.ko", module.name));
    let file = File::open(&path).with_context(|| format!("open module {}", path.display()))?;
    let params = CString::new(module.params.as_str()).context("module parameters")?;
    finit_module(&file, &params, ModuleInitFlags::empty()).with_context(|| {
        format!(
            "load module {} {} (the console log has the reason)",
            module.name, module.params
        )
    })
}

fn start(program: &Background) -> Result<()> {
    let name = &program.name;
    let (file, arguments) = program
        .argv
        .split_first()
        .with_context(|| format!("{name} has no program to start"))?;
    fs::create_dir_all("/var/log").context("create /var/log")?;
    let log = File::create(format!("/var/log/{name}.log")).context("create a log file")?;
    let errors = log.try_clone().context("duplicate a log file")?;
    Command::new(file)
        .args(arguments)
        .env("PATH", SEARCH_PATH)
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors)
        .spawn()
        .with_context(|| format!("start {name} ({file})"))?;
    Ok(())
}

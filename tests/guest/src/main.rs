// SPDX-License-Identifier: MIT OR Apache-2.0
//! PID 1 of the test guest.
//!
//! It prepares the system as its [plan](guest::plan) says and starts the agent, a second process of this
//! same program, that runs the host's commands. Then it only reaps orphans: were both one process, reaping
//! could take away the status of a command the agent waits for. When the agent ends, so does the guest.
//! Where the plan names another PID 1, it becomes that, and the agent is a service of it.

mod agent;
mod boot;

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use guest::plan::PROBLEMS_PATH;
use nix::sys::reboot::{reboot, RebootMode};
use nix::sys::wait::{wait, WaitStatus};
use nix::unistd::Pid;

/// First argument that makes this program the agent. What PID 1 noticed follows, one problem an argument.
const AGENT: &str = "agent";

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some(AGENT) {
        let mut problems: Vec<String> = arguments.collect();
        if let Ok(text) = fs::read_to_string(PROBLEMS_PATH) {
            problems.extend(text.lines().map(str::to_owned));
        }
        return match agent::serve(problems) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("guest-init: agent: {error:#}");
                ExitCode::FAILURE
            }
        };
    }
    if Pid::this() != Pid::from_raw(1) {
        eprintln!("guest-init: this is PID 1 of a test guest; `cargo xtask vm` starts one");
        return ExitCode::from(2);
    }
    eprintln!("{}", guest::STARTED);
    if let Err(error) = init() {
        eprintln!("guest-init: {error:#}");
    }
    power_off();
    ExitCode::FAILURE
}

/// Prepares the guest, starts the agent and returns when it has ended.
fn init() -> Result<()> {
    let (problems, then) = boot::prepare();
    if let Some((program, arguments)) = then.split_first() {
        fs::write(PROBLEMS_PATH, problems.join("\n")).context("write what went wrong")?;
        return Err(Command::new(program).args(arguments).exec())
            .with_context(|| format!("become {program}"));
    }
    let agent = Command::new("/init")
        .arg(AGENT)
        .args(problems)
        .spawn()
        .context("start the agent")?;
    let agent = Pid::from_raw(agent.id().try_into().context("pid of the agent")?);
    loop {
        match wait() {
            Ok(WaitStatus::Exited(pid, code)) if pid == agent => {
                anyhow::bail!("the agent exited with {code}")
            }
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == agent => {
                anyhow::bail!("the agent died of {signal}")
            }
            Ok(_) => {}
            Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error).context("wait for children"),
        }
    }
}

/// Ends the guest. Returns only if the kernel refuses.
fn power_off() {
    nix::unistd::sync();
    let Err(error) = reboot(RebootMode::RB_POWER_OFF);
    eprintln!("guest-init: power off: {error}");
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask bench`: measurements, as a page of tables. One file or folder a page.

mod overhead;
mod preempt;
mod react;
mod scenario;
mod understand;

use std::fs;
use std::io::Write;
use std::process::{Command, ExitCode};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{ensure, Context, Result};
use serde_json::Value;

use crate::cli::{Bench, BenchArgs};
use crate::guests::{Wish, Workshop};
use crate::project::Project;
use crate::ui::{self, Step};
use crate::vm::{Ending, Machine, Session};

/// Runs the verb.
pub(crate) fn run(project: &Project, args: &BenchArgs) -> Result<ExitCode> {
    ensure!(
        !args.no_vm || matches!(args.what, Bench::Understand | Bench::React),
        "all of this is measured in guests: --no-vm leaves nothing of it"
    );
    let page = match args.what {
        Bench::Understand => understand::measure(project, !args.no_vm)?,
        Bench::Overhead => overhead::measure(project)?,
        Bench::Preempt => preempt::measure(project)?,
        Bench::Scenario => scenario::measure(project)?,
        Bench::React => react::measure(project, !args.no_vm)?,
    };
    print!("{page}");
    if let Some(path) = &args.write {
        fs::write(path, &page).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Boots the guest, runs these measurements of `vm-bench` one after the other, and returns the lines they printed.
fn guest_lines(
    project: &Project,
    workshop: &Workshop,
    wish: &Wish,
    deadline: Duration,
    measurements: &[&str],
) -> Result<Vec<Value>> {
    let commands: Vec<Vec<&str>> = measurements
        .iter()
        .map(|measurement| vec!["vm-bench", measurement])
        .collect();
    lines_of(project, workshop, wish, deadline, &commands)
}

/// Boots the guest, runs these commands one after the other, and returns the lines they printed.
fn lines_of(
    project: &Project,
    workshop: &Workshop,
    wish: &Wish,
    deadline: Duration,
    commands: &[Vec<&str>],
) -> Result<Vec<Value>> {
    let mut machine = Machine::boot(project, workshop.tools(), &workshop.guest(wish)?, deadline)?;
    let output = Shared::default();
    for command in commands {
        let command = command.join(" ");
        let step = Step::start(&format!("measure: {command}"));
        let argv = command.split(' ').map(str::to_owned).collect();
        let session =
            Session::captured(argv, Box::new(output.clone()), Box::new(std::io::stderr()));
        let ending = session.run(&mut machine)?;
        ensure!(
            ending == Ending::Code(0),
            "{command} ended with {ending:?} (console log: {})",
            machine.log().display()
        );
        step.done();
    }
    for finding in machine.shut_down() {
        ui::warn(&format!("the guest's kernel complained: {}", finding.line));
    }
    let bytes = output.take();
    String::from_utf8_lossy(&bytes)
        .lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("line of a guest: {line}")))
        .collect()
}

/// What this was measured on, and how busy it was.
fn processor() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let info = read("/proc/cpuinfo");
    let of = |key: &'static str| info.lines().filter(move |line| line.starts_with(key));
    let model = of("model name").find_map(|line| Some(line.split_once(':')?.1.trim().to_owned()));
    let load = read("/proc/loadavg");
    format!(
        "{} processors ({}), load average {} at the end",
        of("processor").count(),
        model.unwrap_or_else(|| "unknown".to_owned()),
        load.split(' ').next().unwrap_or("unknown"),
    )
}

/// The first line of what a program says with `--version`.
fn version_of(mut program: Command) -> String {
    let output = program.arg("--version").output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let line = text
        .ok()
        .and_then(|text| text.lines().next().map(str::to_owned));
    line.unwrap_or_else(|| "an unknown version".to_owned())
}

/// What a guest printed.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Shared {
    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

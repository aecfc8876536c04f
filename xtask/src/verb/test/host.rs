// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tests that need no guest: format, lints, unit tests, and that the driver on the simulated GPU is the
//! distribution's.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use super::tally::{Outcome, Tally};
use crate::build::{cargo, ebpf};
use crate::exit::Unavailable;
use crate::package::{self, Release};
use crate::project::Project;
use crate::setup::kernels::Pins;
use crate::setup::{self, BpfToolchain, Needs};
use crate::verb::fidelity;

/// Runs them.
pub(crate) fn run(project: &Project, tally: &mut Tally) {
    component(tally, "host::format", "fmt", || {
        quiet(cargo::command(project).args(["fmt", "--all", "--check"]))?;
        quiet(
            cargo::command(project)
                .args(["fmt", "--all", "--check"])
                .current_dir(project.root.join("gpreempt-ebpf")),
        )
    });
    // Everything below embeds the eBPF programs.
    let toolchain = match toolchain(project) {
        Ok(toolchain) => toolchain,
        Err(error) => {
            tally.step("host::ebpf_build", Err(error));
            return;
        }
    };
    let object = ebpf::build(project, &toolchain);
    if tally.wants("host::ebpf_build") || object.is_err() {
        tally.step(
            "host::ebpf_build",
            object
                .as_ref()
                .map(|_| ())
                .map_err(|error| anyhow::anyhow!("{error:#}")),
        );
    }
    let Ok(object) = object else { return };
    component(tally, "host::lints", "clippy", || {
        let deny = ["--", "--deny", "warnings"];
        let mut command = cargo::command(project);
        quiet(
            command
                .args([
                    "clippy",
                    "--workspace",
                    "--all-targets",
                    "--locked",
                    "--target-dir",
                ])
                .arg(&project.target)
                .args(deny)
                .env("GPREEMPT_EBPF_OBJ", &object),
        )?;
        quiet(ebpf::command(project, &toolchain, "clippy")?.args(deny))
    });
    unit_tests(project, &object, tally);
    trace_processor(project, &object, tally);
    python(project, tally);
    wheel(project, tally);
    if tally.wants("host::driver_is_the_distributions") {
        let result = fidelity::compare(project).and_then(|found| {
            anyhow::ensure!(found.is_faithful(), "{found:?}");
            println!(
                "         {} functions and {} structs compared",
                found.functions, found.structs
            );
            Ok(())
        });
        tally.step("host::driver_is_the_distributions", result);
    }
}

fn toolchain(project: &Project) -> Result<BpfToolchain> {
    let ready = setup::provide(
        project,
        &Pins::read(project)?,
        &Needs {
            bpf: true,
            ..Needs::default()
        },
    )?;
    ready
        .bpf
        .context("no toolchain for eBPF programs was set up")
}

/// A check by a component of the toolchain, which a minimal toolchain lacks.
fn component(tally: &mut Tally, name: &str, component: &str, check: impl FnOnce() -> Result<()>) {
    if !tally.wants(name) {
        return;
    }
    let there = Command::new("cargo")
        .args([component, "--version"])
        .output()
        .is_ok_and(|output| output.status.success());
    if there {
        tally.step(name, check());
    } else {
        tally.add(
            name,
            Outcome::Skipped(format!("this toolchain has no cargo {component}")),
        );
    }
}

/// Runs a command whose words matter only when it fails.
fn quiet(command: &mut Command) -> Result<()> {
    let output = command
        .output()
        .with_context(|| format!("run {command:?}"))?;
    if !output.status.success() {
        eprintln!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        anyhow::bail!("{} (see above)", output.status);
    }
    Ok(())
}

/// `cargo test` of the workspace; what it prints is passed on, its counts are added.
fn unit_tests(project: &Project, object: &Path, tally: &mut Tally) {
    let mut command = cargo::command(project);
    command
        .args([
            "test",
            "--workspace",
            "--no-fail-fast",
            "--locked",
            "--target-dir",
        ])
        .arg(&project.target);
    if let Some(filter) = tally.filter() {
        command.args(["--", filter]);
    }
    command
        .env("GPREEMPT_EBPF_OBJ", object)
        .stdout(Stdio::piped());
    match read_unit_tests(&mut command, tally) {
        Ok((_, status)) if status.success() => {}
        // Its failures are counted.
        Ok((failed, _)) if failed > 0 => {}
        Ok((_, status)) => tally.add(
            "host::unit_tests",
            Outcome::Failed(format!("cargo test ended with {status} (see above)")),
        ),
        Err(error) => tally.add("host::unit_tests", Outcome::Failed(format!("{error:#}"))),
    }
}

/// Traces for Perfetto, judged by Perfetto's own trace processor.
fn trace_processor(project: &Project, object: &Path, tally: &mut Tally) {
    const NAME: &str = "host::perfetto_trace_processor";
    if !tally.wants(NAME) {
        return;
    }
    let ui = Pins::read(project).and_then(|pins| setup::perfetto::provide(project, &pins.perfetto));
    let ui = match ui {
        Ok(ui) => ui,
        Err(error) => {
            let outcome = match error.downcast_ref::<Unavailable>() {
                Some(missing) => Outcome::Skipped(missing.to_string()),
                None => Outcome::Failed(format!("{error:#}")),
            };
            return tally.add(NAME, outcome);
        }
    };
    tally.run(NAME, || {
        let mut command = cargo::command(project);
        command
            .args(["test", "--package", "gpreempt", "--locked"])
            .args(["--test", "trace_processor", "--target-dir"])
            .arg(&project.target)
            .env("GPREEMPT_EBPF_OBJ", object)
            .env("GPREEMPT_PERFETTO_UI", ui);
        quiet(&mut command)
    });
}

/// The tests of the Python package. Not every machine has Python; where CI says that it is one, it must.
fn python(project: &Project, tally: &mut Tally) {
    const NAME: &str = "host::python_package";
    if !tally.wants(NAME) {
        return;
    }
    let there = has_python();
    if !there && std::env::var_os("CI").is_none() {
        let why = "there is no python3 of version 3.9 or above".to_owned();
        return tally.add(NAME, Outcome::Skipped(why));
    }
    tally.run(NAME, || {
        let dir = project.root.join("python");
        quiet(
            Command::new("python3")
                .args(["-B", "-m", "unittest", "discover", "--start-directory"])
                .arg(dir.join("tests"))
                .env("PYTHONPATH", dir.join("src")),
        )
    });
}

fn has_python() -> bool {
    Command::new("python3")
        .args(["-c", "import sys; sys.exit(sys.version_info < (3, 9))"])
        .status()
        .is_ok_and(|status| status.success())
}

/// The wheel holds a package that Python can import.
fn wheel(project: &Project, tally: &mut Tally) {
    const NAME: &str = "host::python_wheel";
    if tally.wants(NAME) && !has_python() && std::env::var_os("CI").is_none() {
        let why = "there is no python3 of version 3.9 or above".to_owned();
        return tally.add(NAME, Outcome::Skipped(why));
    }
    tally.run(NAME, || {
        let dir = tempfile::tempdir().context("create a directory for the wheel")?;
        let wheel = package::wheel(project, &Release::read(project)?, dir.path())?;
        // A wheel is a zip archive; Python imports from one.
        let code = "import gpreempt, sys; sys.exit(not gpreempt.__file__.startswith(sys.argv[1]))";
        quiet(
            Command::new("python3")
                .args(["-B", "-c", code])
                .arg(&wheel)
                .current_dir(dir.path())
                .env("PYTHONPATH", &wheel),
        )
    });
}

fn read_unit_tests(
    command: &mut Command,
    tally: &mut Tally,
) -> Result<(usize, std::process::ExitStatus)> {
    let mut child = command.spawn().context("run cargo test")?;
    let stdout = child.stdout.take().context("no pipe from cargo test")?;
    let mut failures = 0;
    for line in BufReader::new(stdout).lines() {
        let line = line.context("read cargo test")?;
        println!("{line}");
        if let Some((passed, failed, ignored)) = parse_result(&line) {
            tally.add_counts(passed, failed, ignored);
            failures += failed;
        } else if let Some(name) = line
            .strip_prefix("test ")
            .and_then(|rest| rest.strip_suffix(" ... FAILED"))
        {
            tally.name_failure(name, "unit test (see above)");
        }
    }
    Ok((failures, child.wait().context("wait for cargo test")?))
}

/// `test result: ok. 3 passed; 0 failed; 1 ignored; ...`
fn parse_result(line: &str) -> Option<(usize, usize, usize)> {
    let counts = line.strip_prefix("test result: ")?.split_once(". ")?.1;
    let count = |what: &str| {
        let part = counts
            .split("; ")
            .find_map(|part| part.strip_suffix(what))?;
        part.trim().parse().ok()
    };
    Some((count("passed")?, count("failed")?, count("ignored")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_cargo_test_are_read() {
        let line = "test result: ok. 12 passed; 0 failed; 3 ignored; 0 measured; 1 filtered out; finished in 0.01s";
        assert_eq!(parse_result(line), Some((12, 0, 3)));
        assert_eq!(
            parse_result(
                "test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out"
            ),
            Some((1, 2, 0))
        );
        assert_eq!(parse_result("running 5 tests"), None);
    }

    #[test]
    fn failing_checks_fail_and_missing_components_skip() {
        let mut tally = Tally::new(None);
        component(&mut tally, "x", "no-such-component", || {
            unreachable!("there is no such component")
        });
        assert_eq!(tally.finish(), std::process::ExitCode::SUCCESS);
        assert!(quiet(&mut Command::new("false")).is_err());
        assert!(quiet(&mut Command::new("true")).is_ok());
    }
}

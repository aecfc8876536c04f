// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask fuzz`: libFuzzer on every parser, from the corpus of `fuzz/`.
//!
//! cargo-fuzz would do the same with a nightly toolchain, which it needs for the address sanitizer alone. The parsers have no unsafe
//! code: coverage is enough, and the compiler's flags for that are stable.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{ensure, Context, Result};

use crate::build::cargo;
use crate::cli::FuzzArgs;
use crate::project::Project;
use crate::ui;

/// Another target than the machine's own, though it is the same: so that build scripts are not instrumented.
const TRIPLE: &str = "x86_64-unknown-linux-gnu";

/// Coverage as libFuzzer wants it: a counter for each edge, where it lies, and what comparisons compare.
const FLAGS: [&str; 8] = [
    "--cfg",
    "fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=16",
];

/// Runs the verb.
pub(crate) fn run(project: &Project, args: &FuzzArgs) -> Result<ExitCode> {
    let all = targets(project)?;
    let chosen: Vec<&String> = match &args.target {
        None => all.iter().collect(),
        Some(target) => {
            ensure!(
                all.contains(target),
                "no fuzz target {target}: there are {}",
                all.join(", ")
            );
            vec![target]
        }
    };
    let programs = build(project)?;
    let mut broken = Vec::new();
    for target in chosen {
        ui::note(&format!("fuzz {target} for {} s", args.seconds));
        if !fuzz(project, &programs.join(target), target, args.seconds)? {
            broken.push(target.as_str());
        }
    }
    if broken.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    let found = work(project);
    eprintln!(
        "xtask: broken: {}. The inputs are in {}; mend it, then put them into fuzz/corpus/<target>.",
        broken.join(", "),
        found.join("found").display()
    );
    Ok(ExitCode::FAILURE)
}

/// By their programs.
fn targets(project: &Project) -> Result<Vec<String>> {
    let dir = project.root.join("fuzz/fuzz_targets");
    let mut names = Vec::new();
    for entry in fs::read_dir(&dir).with_context(|| format!("read {}", dir.display()))? {
        let path = entry?.path();
        if let Some(name) = path.file_stem().and_then(|name| name.to_str()) {
            names.push(name.to_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// Where the output is: programs, what was learned, what was found.
fn work(project: &Project) -> PathBuf {
    project.target.join("fuzz")
}

fn build(project: &Project) -> Result<PathBuf> {
    let target = work(project);
    let flags: Vec<String> = FLAGS.iter().map(|flag| format!("'{flag}'")).collect();
    let mut command = cargo::command(project);
    command
        .args(["build", "--release", "--quiet", "--locked", "--bins"])
        .args(["--manifest-path", "fuzz/Cargo.toml", "--target", TRIPLE])
        .arg("--target-dir")
        .arg(&target)
        .arg("--config")
        .arg(format!("target.{TRIPLE}.rustflags=[{}]", flags.join(",")))
        // It would be embedded, and flags of the environment would replace the ones above.
        .env_remove("GPREEMPT_EBPF_OBJ")
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    cargo::run(&mut command, "build the fuzz targets")?;
    Ok(target.join(TRIPLE).join("release"))
}

/// Whether nothing was found.
fn fuzz(project: &Project, program: &PathBuf, target: &str, seconds: u64) -> Result<bool> {
    let dir = |of: &str| -> Result<PathBuf> {
        let dir = work(project).join(of).join(target);
        fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        Ok(dir)
    };
    let output = Command::new(program)
        // What it learns goes into the first; the second is only read.
        .arg(dir("learned")?)
        .arg(project.root.join("fuzz/corpus").join(target))
        .arg(format!("-artifact_prefix={}/", dir("found")?.display()))
        .arg(format!("-max_total_time={seconds}"))
        .args([
            "-timeout=10",
            "-rss_limit_mb=4096",
            "-verbosity=0",
            "-print_final_stats=1",
        ])
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("run {}", program.display()))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        println!(
            "{target}: {} inputs",
            executed(&said).context("no count of inputs")?
        );
    } else {
        eprintln!("{said}");
    }
    Ok(output.status.success())
}

/// Inputs that were tried, of what libFuzzer says at its end.
fn executed(said: &str) -> Option<u64> {
    let line = said
        .lines()
        .find_map(|line| line.strip_prefix("stat::number_of_executed_units:"))?;
    line.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_are_counted() {
        let said = "Done 12 runs\nstat::number_of_executed_units: 600017\nstat::peak_rss_mb: 31\n";
        assert_eq!(executed(said), Some(600_017));
        assert_eq!(executed("==7== ERROR: libFuzzer: deadly signal"), None);
    }

    #[test]
    fn every_target_has_a_corpus() {
        let project = Project::locate(None).unwrap();
        let targets = targets(&project).unwrap();
        assert!(!targets.is_empty());
        for target in targets {
            let corpus = project.root.join("fuzz/corpus").join(&target);
            assert!(fs::read_dir(corpus).unwrap().next().is_some(), "{target}");
        }
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! The project's programs. A guest has no libraries, so they are linked statically, which also lets one file run on any
//! machine; the one exception runs beside the ROCm runtime, which brings the libraries.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::cargo;
use crate::project::Project;

const TRIPLE: &str = "x86_64-unknown-linux-gnu";

/// Builds binaries, statically linked.
pub(crate) fn build_static(
    project: &Project,
    binaries: &[&str],
    ebpf: Option<&Path>,
) -> Result<PathBuf> {
    build(
        project,
        "guest-static",
        Packages::All,
        binaries,
        ebpf,
        &static_flags(),
    )
}

/// Builds the project's libraries as they are in those, and libgpreempt for programs in C.
pub(crate) fn build_static_libraries(project: &Project, ebpf: Option<&Path>) -> Result<PathBuf> {
    let flags = static_flags();
    let more: Vec<&str> = flags.iter().copied().chain(["--lib"]).collect();
    build(project, "guest-static", Packages::All, &[], ebpf, &more)
}

const STATIC: &str =
    "target.x86_64-unknown-linux-gnu.rustflags=['-C','target-feature=+crt-static']";

fn static_flags() -> [&'static str; 2] {
    ["--config", STATIC]
}

/// Builds binaries that use the libraries of the guest.
pub(crate) fn build_dynamic(project: &Project, binaries: &[&str]) -> Result<PathBuf> {
    build(project, "guest-dynamic", Packages::All, binaries, None, &[])
}

/// The library that `gpreempt run` preloads, for the C library of this machine.
pub(crate) fn build_agent(project: &Project) -> Result<PathBuf> {
    let more = ["--package", "gpreempt-agent", "--lib"];
    let dir = build(project, "guest-dynamic", Packages::Named, &[], None, &more)?;
    Ok(dir.join(AGENT))
}

/// Its file.
pub(crate) const AGENT: &str = "libgpreempt_agent.so";

/// Which packages are built.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Packages {
    All,
    Named,
}

/// The directory of the results. Each way of linking has an output directory of its own: in a common one each
/// build would undo the other.
fn build(
    project: &Project,
    name: &str,
    packages: Packages,
    binaries: &[&str],
    ebpf: Option<&Path>,
    more: &[&str],
) -> Result<PathBuf> {
    let target = project.target.join(name);
    let mut command = cargo::command(project);
    command
        .args([
            "build",
            "--release",
            "--quiet",
            "--locked",
            "--target",
            TRIPLE,
            "--target-dir",
        ])
        .arg(&target)
        .args(more);
    if packages == Packages::All {
        // The agent is a shared library and nothing else.
        let others = ["--exclude", "xtask", "--exclude", "gpreempt-agent"];
        command.arg("--workspace").args(others);
    }
    // Every byte is copied into the guest at its boot; names of functions stay.
    command.args(["--config", "profile.release.strip='debuginfo'"]);
    binaries.iter().for_each(|binary| {
        command.args(["--bin", binary]);
    });
    if let Some(object) = ebpf {
        command.env("GPREEMPT_EBPF_OBJ", object);
    }
    // Flags of the environment would replace the ones above.
    command
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    match binaries.is_empty() {
        // Cargo warns that a static build leaves out shared libraries, which it is meant to.
        true => cargo::run_silently(&mut command, "build the libraries")?,
        false => cargo::run(&mut command, &format!("build {}", binaries.join(", ")))?,
    }
    let dir = target.join(TRIPLE).join("release");
    for binary in binaries {
        let file = dir.join(binary);
        std::fs::metadata(&file).with_context(|| format!("cargo left no {}", file.display()))?;
    }
    Ok(dir)
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! The eBPF programs: another target, whose `core` is built along, and another linker.

use std::path::PathBuf;

use anyhow::{Context, Result};

use super::cargo;
use crate::project::Project;
use crate::setup::BpfToolchain;

const TARGET: &str = "bpfel-unknown-none";

/// A cargo command for the programs' workspace.
pub(crate) fn command(
    project: &Project,
    toolchain: &BpfToolchain,
    verb: &str,
) -> Result<std::process::Command> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::iter::once(toolchain.linker_dir.clone()).chain(std::env::split_paths(&path));
    let mut command = cargo::command(project);
    command
        .current_dir(project.root.join("gpreempt-ebpf"))
        .args([
            verb,
            "--release",
            "--quiet",
            "--locked",
            "--target",
            TARGET,
            "-Zbuild-std=core",
            "--target-dir",
        ])
        .arg(project.target.join("ebpf"))
        .env(
            "PATH",
            std::env::join_paths(dirs).context("a directory of PATH holds a colon")?,
        )
        // `-Zbuild-std` on a stable compiler.
        .env("RUSTC_BOOTSTRAP", "1")
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    if let Some(rustc) = &toolchain.compiler.rustc {
        command.env("RUSTC", rustc);
    }
    Ok(command)
}

/// Builds the object file that the program embeds.
pub(crate) fn build(project: &Project, toolchain: &BpfToolchain) -> Result<PathBuf> {
    cargo::run(
        &mut command(project, toolchain, "build")?,
        "build the eBPF programs",
    )?;
    let object = project.target.join("gpreempt.bpf.o");
    cargo::publish(
        &project
            .target
            .join("ebpf")
            .join(TARGET)
            .join("release/gpreempt"),
        &object,
    )?;
    Ok(object)
}

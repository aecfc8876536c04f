// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask build`: the program, with its eBPF programs inside.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;

use crate::build::{cargo, ebpf};
use crate::project::Project;
use crate::setup::kernels::Pins;
use crate::setup::{self, Needs};

/// Runs the verb.
pub(crate) fn run(project: &Project) -> Result<ExitCode> {
    println!("{}", program(project)?.display());
    Ok(ExitCode::SUCCESS)
}

/// Builds the program for this machine and returns its file.
pub(crate) fn program(project: &Project) -> Result<PathBuf> {
    let object = ebpf_object(project)?;
    let mut command = cargo::command(project);
    command
        .args([
            "build",
            "--release",
            "--locked",
            "--package",
            "gpreempt",
            "--bin",
            "gpreempt",
            "--target-dir",
        ])
        .arg(&project.target);
    cargo::run(command.env("GPREEMPT_EBPF_OBJ", object), "build gpreempt")?;
    Ok(project.target.join("release/gpreempt"))
}

/// Sets up what eBPF programs need, builds them and returns their file.
pub(crate) fn ebpf_object(project: &Project) -> Result<PathBuf> {
    let pins = Pins::read(project)?;
    let ready = setup::provide(
        project,
        &pins,
        &Needs {
            bpf: true,
            ..Needs::default()
        },
    )?;
    let toolchain = ready
        .bpf
        .ok_or_else(|| anyhow::anyhow!("no toolchain for eBPF programs was set up"))?;
    ebpf::build(project, &toolchain)
}

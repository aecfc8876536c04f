// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask build`: the program, with its eBPF programs inside.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::build::{ebpf, programs};
use crate::project::Project;
use crate::setup::kernels::Pins;
use crate::setup::{self, Needs};

/// Runs the verb.
pub(crate) fn run(project: &Project) -> Result<ExitCode> {
    println!("{}", program(project)?.display());
    Ok(ExitCode::SUCCESS)
}

/// Builds the program, one static file, and returns it. It is the one that guests get.
pub(crate) fn program(project: &Project) -> Result<PathBuf> {
    let object = ebpf_object(project)?;
    let built = programs::build_static(project, &["gpreempt"], Some(&object))?.join("gpreempt");
    let dir = project.target.join("release");
    fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    let program = dir.join("gpreempt");
    put(&built, &program)?;
    // `gpreempt run` looks for it there.
    put(&programs::build_agent(project)?, &dir.join(programs::AGENT))?;
    Ok(program)
}

/// Beside it and then in its place: the old one may be in use.
fn put(built: &Path, place: &Path) -> Result<()> {
    let partial = place.with_extension("new");
    fs::copy(built, &partial).with_context(|| format!("copy {}", built.display()))?;
    fs::rename(&partial, place).with_context(|| format!("write {}", place.display()))
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

// SPDX-License-Identifier: MIT OR Apache-2.0
//! bpf-linker, built once for the compiler in use, whose LLVM it loads.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::rust::Compiler;
use crate::build::cargo;
use crate::exit::unavailable;
use crate::project::Project;
use crate::ui::Step;

/// The last version that uses the compiler's own LLVM by default; later ones need one of the system.
const VERSION: &str = "0.10.3";

/// The directory that holds the program.
pub(crate) fn provide(project: &Project, compiler: &Compiler) -> Result<PathBuf> {
    let root = project
        .cache
        .join("bpf-linker")
        .join(format!("{VERSION}-rustc-{}", compiler.version));
    let bin = root.join("bin");
    if bin.join("bpf-linker").is_file() {
        return Ok(bin);
    }
    project.need_room(1_500_000_000)?;
    fs::create_dir_all(&root).with_context(|| format!("create {}", root.display()))?;
    let step = Step::start(&format!("build bpf-linker {VERSION} (takes a few minutes)"));
    let build = root.join("build");
    let output = cargo::command(project)
        .args([
            "install",
            "bpf-linker",
            "--locked",
            "--version",
            VERSION,
            "--root",
        ])
        .arg(&root)
        .arg("--target-dir")
        .arg(&build)
        .current_dir(&root)
        .output()
        .context("run cargo install")?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        let last: Vec<&str> = words.lines().rev().take(12).collect();
        return Err(unavailable(format!(
            "could not build bpf-linker {VERSION}:\n{}\nDoes cargo reach its registry? With a bpf-linker {VERSION} of your own, put it into {}",
            last.into_iter().rev().collect::<Vec<_>>().join("\n"),
            bin.display()
        )));
    }
    let _ = fs::remove_dir_all(&build);
    step.done();
    Ok(bin)
}

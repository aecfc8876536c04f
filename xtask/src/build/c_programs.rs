// SPDX-License-Identifier: MIT OR Apache-2.0
//! C programs that use libgpreempt, for guests: linked statically, as a guest has no libraries. That the shared library works is
//! tested on the host (`gpreempt-c/tests/c.rs`).

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::programs;
use crate::project::Project;

/// Their names in the guest, and their sources.
pub(crate) const C_PROGRAMS: &[(&str, &str)] = &[
    ("c-online", "gpreempt-c/examples/online.c"),
    ("c-hold", "gpreempt-c/examples/hold.c"),
    ("c-queues", "gpreempt-c/tests/c/queues.c"),
    ("c-threads", "gpreempt-c/tests/c/threads.c"),
];

/// The directory of the results.
pub(crate) fn build(project: &Project, ebpf: Option<&Path>) -> Result<PathBuf> {
    let library = programs::build_static_libraries(project, ebpf)?.join("libgpreempt_c.a");
    let dir = project.target.join("guest-static").join("c");
    std::fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    for (name, source) in C_PROGRAMS {
        let output = Command::new("gcc")
            .args([
                "-O2",
                "-static",
                "-pthread",
                "-s",
                "-Wl,--gc-sections",
                "-I",
            ])
            .arg(project.root.join("gpreempt-c/include"))
            .arg(project.root.join(source))
            .arg(&library)
            .args(["-lm", "-ldl", "-o"])
            .arg(dir.join(name))
            .output()
            .context("run gcc")?;
        anyhow::ensure!(
            output.status.success(),
            "gcc {source}: {}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(dir)
}

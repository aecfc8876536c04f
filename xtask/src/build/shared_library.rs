// SPDX-License-Identifier: MIT OR Apache-2.0
//! Shared libraries, linked of the static ones: their code is position-independent, and the crates below them, which take minutes, are
//! built once for programs and libraries. It is the same link that cargo would make of a `cdylib`.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

/// Links `archive` into the library `to`, in which only symbols of this pattern can be seen. Symbols for debuggers are left out.
pub(crate) fn link(archive: &Path, soname: &str, exports: &str, to: &Path) -> Result<()> {
    let dir = tempfile::tempdir().context("create a directory to link in")?;
    let script = dir.path().join("exports");
    std::fs::write(&script, format!("{{ global: {exports}; local: *; }};\n"))
        .with_context(|| format!("write {}", script.display()))?;
    let output = Command::new("gcc")
        .args(["-shared", "-s", "-Wl,--gc-sections,-z,relro,-z,now,-z,defs"])
        .arg(format!("-Wl,-soname,{soname}"))
        .arg(format!("-Wl,--version-script,{}", script.display()))
        .arg("-Wl,--whole-archive")
        .arg(archive)
        .args(["-Wl,--no-whole-archive", "-Wl,--as-needed"])
        .args(["-lgcc_s", "-lpthread", "-ldl", "-lm", "-o"])
        .arg(to)
        .output()
        .context("run gcc")?;
    anyhow::ensure!(
        output.status.success(),
        "link {}: {}\n{}",
        to.display(),
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! The example in C as a user builds it: of the packages alone, by pkg-config and a compiler.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::{output_of, run};
use crate::setup::tools::Tools;

/// Builds `online.c` of the development package into `out`, and returns the program.
pub(crate) fn build(tools: &Tools, debs: &[PathBuf], out: &Path) -> Result<PathBuf> {
    let root = out.join("installed");
    fs::create_dir_all(&root).with_context(|| format!("create {}", root.display()))?;
    for deb in debs {
        let name = deb.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("libgpreempt") {
            run(Command::new("dpkg-deb").arg("-x").args([deb, &root]))?;
        }
    }
    let mut ask = tools.command("pkg-config")?;
    ask.args(["--cflags", "--libs", "gpreempt"])
        .env(
            "PKG_CONFIG_LIBDIR",
            root.join("usr/lib/x86_64-linux-gnu/pkgconfig"),
        )
        .env("PKG_CONFIG_SYSROOT_DIR", &root)
        // Else it leaves out what a compiler knows, which knows nothing of this root.
        .env("PKG_CONFIG_ALLOW_SYSTEM_CFLAGS", "1")
        .env("PKG_CONFIG_ALLOW_SYSTEM_LIBS", "1");
    let flags = String::from_utf8(output_of(&mut ask)?).context("pkg-config")?;
    let program = out.join("online");
    let mut compile = Command::new("gcc");
    compile
        .args(["-Wall", "-Wextra", "-Werror", "-o"])
        .arg(&program)
        .arg(root.join("usr/share/doc/libgpreempt-dev/examples/online.c"))
        .args(flags.split_whitespace());
    run(&mut compile)?;
    Ok(program)
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask package`: Debian packages and the Python wheel.

use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::cli::PackageArgs;
use crate::package::{self, Release};
use crate::project::Project;
use crate::ui;

/// Runs the verb.
pub(crate) fn run(project: &Project, args: &PackageArgs) -> Result<ExitCode> {
    let release = Release::read(project)?;
    let out = match &args.out {
        Some(dir) => std::path::absolute(dir).context("--out")?,
        None => project.target.join("package"),
    };
    let mut files = package::debs(project, &release, &out)?;
    files.push(package::wheel(project, &release, &out)?);
    for file in files {
        let meta = std::fs::metadata(&file).with_context(|| format!("read {}", file.display()))?;
        println!("{} ({})", file.display(), ui::bytes(meta.len()));
    }
    Ok(ExitCode::SUCCESS)
}

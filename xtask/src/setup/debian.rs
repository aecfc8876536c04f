// SPDX-License-Identifier: MIT OR Apache-2.0
//! Debian without an installation: packages and all that they depend on, unpacked, with a package database that says so. A guest boots
//! it; nothing of it is run here.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use super::apt::{self, Apt};
use super::packages::{self, Archive, Wanted};
use super::{digest, tools};
use crate::exit::unavailable;
use crate::project::Project;

/// What a guest with systemd consists of: Debian's essential packages, systemd without what it can boot without, what manages modules,
/// rotates logs and runs Python.
const SYSTEM: &[&str] = &[
    "base-files",
    "base-passwd",
    "bash",
    "coreutils",
    "dash",
    "debianutils",
    "diffutils",
    "dpkg",
    "findutils",
    "grep",
    "gzip",
    "init-system-helpers",
    "kmod",
    "libc-bin",
    "logrotate",
    "mount",
    "perl-base",
    "python3",
    "sed",
    "systemd",
    "systemd-sysv",
    "tar",
    // Else perl, to merge it.
    "usr-is-merged",
    "util-linux",
];

/// What builds wheels.
const SETUPTOOLS: &[&str] = &["python3-setuptools", "python3-wheel"];

/// The database of packages, in the tree. It is written last.
const STATUS: &str = "var/lib/dpkg/status";

/// The root of a system that boots.
pub(super) fn system(project: &Project) -> Result<PathBuf> {
    provide(project, "system", SYSTEM)
}

/// A root with setuptools in it.
pub(super) fn setuptools(project: &Project) -> Result<PathBuf> {
    provide(project, "setuptools", SETUPTOOLS)
}

fn provide(project: &Project, name: &str, wanted: &[&str]) -> Result<PathBuf> {
    let codename = apt::codename();
    let key = digest::of_parts(
        wanted
            .iter()
            .chain([&&*codename])
            .map(|part| part.as_bytes()),
    );
    let root = project
        .cache
        .join("debian")
        .join(format!("{name}-{codename}-{}", &key[..8]));
    if root.join(STATUS).is_file() {
        return Ok(root);
    }
    project.need_room(1_000_000_000)?;
    let archives = match &project.packages {
        Some(from) => tools::closure_in(project, from, wanted, &|_| false)?,
        None => from_mirror(project, &codename, wanted)?,
    };
    let fields = archives.iter().map(fields_of).collect::<Result<Vec<_>>>()?;
    let _ = fs::remove_dir_all(&root);
    packages::unpack(&archives, &root)?;
    let path = root.join(STATUS);
    let dir = root.join("var/lib/dpkg/info");
    fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    for fields in &fields {
        // dpkg warns of every package that has none.
        let list = dir.join(list_of(fields));
        fs::write(&list, "").with_context(|| format!("write {}", list.display()))?;
    }
    let status: Vec<String> = fields.iter().map(|fields| installed(fields)).collect();
    fs::write(&path, status.join("\n")).with_context(|| format!("write {}", path.display()))?;
    Ok(root)
}

/// The packages and everything they depend on, by apt's own resolver, as if nothing were installed.
fn from_mirror(project: &Project, codename: &str, wanted: &[&str]) -> Result<Vec<Archive>> {
    let security = format!("{codename}-security");
    let apt = Apt::open(project, &[codename, &security])?.ok_or_else(|| {
        unavailable("the apt configuration of this machine names no Debian archive: this needs Debian, or --packages DIR")
    })?;
    let planned: Vec<Wanted> = apt
        .closure_of(wanted)?
        .into_iter()
        .map(|(name, version)| Wanted {
            name,
            version,
            sha256: None,
        })
        .collect();
    packages::fetch(project, &apt, &planned)?.context("packages of the index are not to be had")
}

/// The fields of a package's control file.
fn fields_of(archive: &Archive) -> Result<String> {
    let output = Command::new("dpkg-deb")
        .arg("--field")
        .arg(&archive.file)
        .stdin(Stdio::null())
        .output()
        .context("run dpkg-deb")?;
    anyhow::ensure!(
        output.status.success(),
        "dpkg-deb cannot read {}",
        archive.file.display()
    );
    String::from_utf8(output.stdout).context("dpkg-deb")
}

/// The name of its list of files.
fn list_of(fields: &str) -> String {
    let field = |name: &str| {
        let found = fields.lines().find_map(|line| line.strip_prefix(name));
        found.unwrap_or_default().trim()
    };
    match field("Multi-Arch:") {
        "same" => format!("{}:{}.list", field("Package:"), field("Architecture:")),
        _ => format!("{}.list", field("Package:")),
    }
}

/// A package's paragraph in the database, as if it had been installed.
fn installed(fields: &str) -> String {
    let (first, rest) = fields.split_once('\n').unwrap_or((fields, ""));
    format!("{first}\nStatus: install ok installed\n{rest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_named_after_packages() {
        let same = "Package: libc6\nArchitecture: amd64\nMulti-Arch: same\n";
        assert_eq!(list_of(same), "libc6:amd64.list");
        assert_eq!(list_of("Package: bash\nArchitecture: amd64\n"), "bash.list");
    }

    #[test]
    fn a_paragraph_says_that_the_package_is_installed() {
        assert_eq!(
            installed("Package: a\nVersion: 1\n"),
            "Package: a\nStatus: install ok installed\nVersion: 1\n"
        );
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! Texts that packages carry: control file, changelog, pkg-config, licences of crates.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result};

use super::contents::Package;
use super::{output_of, Release};
use crate::build::cargo;
use crate::project::Project;

const MAINTAINER: &str = "The gpreempt authors <gpreempt@invalid>";

/// With the package's own version.
pub(super) fn with_version(text: &str, release: &Release) -> String {
    text.replace("{version}", &release.version)
}

/// The control file.
pub(super) fn control(
    package: &Package,
    release: &Release,
    needs: &BTreeSet<String>,
    installed_kb: u64,
) -> String {
    let depends: Vec<String> = needs
        .iter()
        .cloned()
        .chain(package.depends.iter().map(|one| with_version(one, release)))
        .collect();
    let mut text = format!(
        "Package: {}\nVersion: {}\nArchitecture: {}\nMaintainer: {MAINTAINER}\nInstalled-Size: {installed_kb}\n",
        package.name, release.version, package.architecture
    );
    let mut list = |field: &str, names: Vec<String>| {
        if !names.is_empty() {
            text += &format!("{field}: {}\n", names.join(", "));
        }
    };
    list("Depends", depends);
    let recommends = package.recommends.iter();
    list(
        "Recommends",
        recommends.map(|&one| one.to_owned()).collect(),
    );
    text += &format!(
        "Section: {}\nPriority: optional\nMulti-Arch: {}\n",
        package.section,
        match package.section {
            "libs" | "libdevel" => "same",
            _ => "foreign",
        }
    );
    let (first, paragraphs) = package.description.split_first().unwrap_or((&"", &[]));
    text += &format!("Description: {first}\n");
    text += &paragraphs
        .iter()
        .map(|paragraph| format!(" {paragraph}\n"))
        .collect::<Vec<_>>()
        .join(" .\n");
    text
}

/// The changelog: one entry, that of this version.
pub(super) fn changelog(package: &Package, release: &Release) -> Result<String> {
    Ok(format!(
        "{} ({}) stable; urgency=medium\n\n  * Version {}.\n\n -- {MAINTAINER}  {}\n",
        package.name,
        release.version,
        release.version,
        rfc2822(release.epoch)?
    ))
}

/// `gpreempt.pc` for the places of the package.
pub(super) fn pkg_config(project: &Project, release: &Release) -> Result<String> {
    let path = project.root.join("gpreempt-c/gpreempt.pc.in");
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let text = text
        .replace("@PREFIX@", "/usr")
        .replace("@LIBDIR@", "${prefix}/lib/x86_64-linux-gnu")
        .replace("@VERSION@", &release.version);
    anyhow::ensure!(
        !text.contains('@'),
        "{} has a word that nobody replaces",
        path.display()
    );
    Ok(text)
}

/// The crates that are linked into the programs, one a line, with their licences.
pub(super) fn third_party(project: &Project) -> Result<String> {
    let mut command = cargo::command(project);
    command
        .args([
            "tree",
            "--locked",
            "--package",
            "gpreempt",
            "--package",
            "gpreempt-c",
        ])
        .args(["--edges", "normal", "--prefix", "none", "--target"])
        .args(["x86_64-unknown-linux-gnu", "--format", "{p}: {l}"]);
    let text = String::from_utf8(output_of(&mut command)?).context("cargo tree")?;
    // Each once; `(*)` marks what was listed before, a path the project's own.
    let crates: BTreeSet<&str> = text
        .lines()
        .map(|line| line.trim_end_matches(" (*)"))
        .filter(|line| !line.is_empty() && !line.contains(" (/"))
        .collect();
    let lines: Vec<&str> = crates.into_iter().collect();
    anyhow::ensure!(!lines.is_empty(), "cargo tree listed nothing");
    Ok(lines.join("\n") + "\n")
}

/// `Mon, 30 Nov 2026 01:22:23 +0000`.
fn rfc2822(epoch: u64) -> Result<String> {
    let mut command = Command::new("date");
    command
        .args(["--utc", "--rfc-email", "--date"])
        .arg(format!("@{epoch}"))
        .env("LC_ALL", "C");
    let said = String::from_utf8(output_of(&mut command)?).context("date")?;
    Ok(said.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_changelogs() {
        assert_eq!(rfc2822(0).unwrap(), "Thu, 01 Jan 1970 00:00:00 +0000");
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! The ROCm runtime of the distribution, unpacked for guests.

use std::path::PathBuf;

use anyhow::{Context, Result};

use super::digest;
use super::kernels::RocmPins;
use super::packages::{self, Finder, Wanted};
use crate::exit::unavailable;
use crate::project::Project;
use crate::ui;

/// The root of the unpacked runtime.
pub(crate) fn provide(project: &Project, pins: &RocmPins) -> Result<PathBuf> {
    let key = digest::of_parts(
        pins.packages
            .iter()
            .flat_map(|pin| [pin.name.as_bytes(), pin.sha256.as_bytes()]),
    );
    let root = project.cache.join("rocm").join(&key[..16]);
    if root.is_dir() {
        return Ok(root);
    }
    project.need_room(300_000_000)?;
    let finder = Finder::new(project, &pins.suites);
    let mut archives = Vec::new();
    for pin in &pins.packages {
        let pinned = Wanted {
            name: pin.name.clone(),
            version: pin.version.clone(),
            sha256: Some(pin.sha256.clone()),
        };
        match finder.archive(&pinned)? {
            Some(archive) => archives.push(archive),
            None => archives.push(replacement(&finder, &pin.name, &pin.version)?),
        }
    }
    packages::unpack(&archives, &root)?;
    Ok(root)
}

fn replacement(finder: &Finder<'_>, name: &str, gone: &str) -> Result<packages::Archive> {
    let version = finder.versions(name)?.pop().ok_or_else(|| {
        unavailable(format!(
            "no package {name} for the ROCm runtime is to be had"
        ))
    })?;
    ui::warn(&format!("{name} {gone} of tests/kernels.toml is gone: {version} takes its place, with the digest of the signed package index"));
    let wanted = Wanted {
        name: name.to_owned(),
        version,
        sha256: None,
    };
    finder.archive(&wanted)?.with_context(|| {
        format!(
            "{name} {} is in the index and not to be had",
            wanted.version
        )
    })
}

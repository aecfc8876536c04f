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
    let pinned: Vec<Wanted> = pins
        .packages
        .iter()
        .map(|pin| Wanted {
            name: pin.name.clone(),
            version: pin.version.clone(),
            sha256: Some(pin.sha256.clone()),
        })
        .collect();
    let archives = match finder.archives(&pinned)? {
        Some(archives) => archives,
        None => {
            // The libraries of one suite fit each other; old and new ones may not.
            let newest: Vec<Wanted> = pinned
                .iter()
                .map(|wanted| replacement(&finder, wanted))
                .collect::<Result<_>>()?;
            finder
                .archives(&newest)?
                .context("packages of the index are not to be had")?
        }
    };
    packages::unpack(&archives, &root)?;
    Ok(root)
}

fn replacement(finder: &Finder<'_>, gone: &Wanted) -> Result<Wanted> {
    let name = &gone.name;
    let newest = finder.versions(name)?.pop();
    let version = newest.ok_or_else(|| {
        unavailable(format!(
            "no package {name} for the ROCm runtime is to be had"
        ))
    })?;
    if version != gone.version {
        ui::warn(&format!(
            "a package of the ROCm runtime in tests/kernels.toml is gone: {name} {version} takes the place of {}, with the \
             digest of the signed package index",
            gone.version
        ));
    }
    Ok(Wanted {
        name: name.clone(),
        version,
        sha256: None,
    })
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! What guests may have of the distribution beside a kernel: the ROCm runtime, Python. Unpacked with the libraries that it needs.

use std::path::PathBuf;

use anyhow::{Context, Result};

use super::digest;
use super::kernels::RuntimePins;
use super::packages::{self, Finder, Wanted};
use crate::exit::unavailable;
use crate::project::Project;
use crate::ui;

/// Which.
#[derive(Clone, Copy)]
pub(crate) enum Runtime {
    Rocm,
    Python,
}

impl Runtime {
    /// Directory in the cache, and its name in a sentence.
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Rocm => ("rocm", "the ROCm runtime"),
            Self::Python => ("python", "Python"),
        }
    }
}

/// The root of what was unpacked.
pub(crate) fn provide(project: &Project, runtime: Runtime, pins: &RuntimePins) -> Result<PathBuf> {
    let (dir, name) = runtime.names();
    let key = digest::of_parts(
        pins.packages
            .iter()
            .flat_map(|pin| [pin.name.as_bytes(), pin.sha256.as_bytes()]),
    );
    let root = project.cache.join(dir).join(&key[..16]);
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
                .map(|wanted| replacement(&finder, name, wanted))
                .collect::<Result<_>>()?;
            finder
                .archives(&newest)?
                .context("packages of the index are not to be had")?
        }
    };
    packages::unpack(&archives, &root)?;
    Ok(root)
}

fn replacement(finder: &Finder<'_>, runtime: &str, gone: &Wanted) -> Result<Wanted> {
    let name = &gone.name;
    let newest = finder.versions(name)?.pop();
    let version = newest
        .ok_or_else(|| unavailable(format!("no package {name} for {runtime} is to be had")))?;
    if version != gone.version {
        ui::warn(&format!(
            "a package of {runtime} in tests/kernels.toml is gone: {name} {version} takes the place of {}, with the \
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

// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where things are: the source tree, the build output, and the cache that outlives both.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};

use crate::exit::unavailable;
use crate::ui;

/// Directories of this run.
#[derive(Debug, Clone)]
pub(crate) struct Project {
    /// The source tree.
    pub(crate) root: PathBuf,
    /// Cargo's output directory.
    pub(crate) target: PathBuf,
    /// What was fetched or takes long to build: kernels, tools.
    pub(crate) cache: PathBuf,
    /// Packages come from here instead of from a mirror.
    pub(crate) packages: Option<PathBuf>,
}

impl Project {
    /// Finds the directories and creates the cache.
    pub(crate) fn locate(packages: Option<PathBuf>) -> Result<Self> {
        // Cargo sets this for programs it runs; the path of compile time serves a binary started by hand.
        let manifest = std::env::var_os("CARGO_MANIFEST_DIR")
            .unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
        let root = Path::new(&manifest)
            .parent()
            .context("xtask lies in the source tree")?
            .to_path_buf();
        let target = match std::env::var_os("CARGO_TARGET_DIR") {
            Some(dir) => std::path::absolute(dir).context("CARGO_TARGET_DIR")?,
            None => root.join("target"),
        };
        let cache = cache_dir()?;
        fs::create_dir_all(&cache).map_err(|error| {
            unavailable(format!(
                "cannot create {}: {error}; set GPREEMPT_CACHE to a directory you can write",
                cache.display()
            ))
        })?;
        let packages =
            packages.or_else(|| std::env::var_os("GPREEMPT_PACKAGES").map(PathBuf::from));
        let packages = packages.map(|dir| {
            fs::canonicalize(&dir).map_err(|error| {
                unavailable(format!(
                    "packages are to come from {}: {error}",
                    dir.display()
                ))
            })
        });
        Ok(Self {
            root,
            target,
            cache,
            packages: packages.transpose()?,
        })
    }

    /// Takes the cache for this process until the guard is dropped. Waits for another xtask that has it.
    pub(crate) fn lock(&self) -> Result<Flock<fs::File>> {
        Self::lock_by(&self.cache.join("lock"), &self.cache)
    }

    /// Takes one directory of the cache, such as a build directory, and leaves the rest to others.
    pub(crate) fn lock_dir(dir: &Path) -> Result<Flock<fs::File>> {
        Self::lock_by(&dir.with_extension("lock"), dir)
    }

    fn lock_by(path: &Path, what: &Path) -> Result<Flock<fs::File>> {
        let file = fs::File::create(path).with_context(|| format!("create {}", path.display()))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(lock),
            Err((file, _)) => {
                ui::note(&format!(
                    "another xtask prepares {}: waiting for it",
                    what.display()
                ));
                Flock::lock(file, FlockArg::LockExclusive)
                    .map_err(|(_, error)| error)
                    .context("lock the cache")
            }
        }
    }

    /// Fails if the file system of the cache has less room than `bytes`.
    pub(crate) fn need_room(&self, bytes: u64) -> Result<()> {
        let room = nix::sys::statvfs::statvfs(&self.cache).context("ask for free space")?;
        let free = room.blocks_available() * room.fragment_size();
        if free < bytes {
            return Err(unavailable(format!(
                "{} has {} left and {} are needed: make room, or set GPREEMPT_CACHE to a directory that has it",
                self.cache.display(),
                ui::bytes(free),
                ui::bytes(bytes)
            )));
        }
        Ok(())
    }
}

fn cache_dir() -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os("GPREEMPT_CACHE") {
        return std::path::absolute(dir).context("GPREEMPT_CACHE");
    }
    // The base directory specification: a relative XDG_CACHE_HOME is to be ignored.
    if let Some(dir) = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .filter(|dir| dir.is_absolute())
    {
        return Ok(dir.join("gpreempt"));
    }
    let home = std::env::var_os("HOME").ok_or_else(|| {
        unavailable(
            "neither GPREEMPT_CACHE, XDG_CACHE_HOME nor HOME is set: where may the cache be?",
        )
    })?;
    Ok(PathBuf::from(home).join(".cache/gpreempt"))
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! The files of a package, laid out as they are installed. Permissions are given, times are set at the end: nothing depends on who
//! builds it, when, or where.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{symlink, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{utimensat, UtimensatFlags};
use nix::sys::time::TimeSpec;

use super::contents::Package;
use super::run;

/// Where the files are put together.
pub(super) struct Tree {
    root: PathBuf,
    /// Absolute, as in the control archive.
    pub(super) conffiles: Vec<String>,
    /// Packages that its libraries need.
    pub(super) needs: BTreeSet<String>,
}

impl Tree {
    pub(super) fn new(root: &Path) -> Result<Self> {
        let tree = Self {
            root: root.to_path_buf(),
            conffiles: Vec::new(),
            needs: BTreeSet::new(),
        };
        tree.directory("")?;
        Ok(tree)
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// A place in the tree.
    pub(super) fn at(&self, to: &str) -> PathBuf {
        self.root.join(to)
    }

    pub(super) fn directory(&self, to: &str) -> Result<()> {
        let path = self.at(to);
        fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))
    }

    pub(super) fn write(&self, to: &str, content: &[u8], mode: u32) -> Result<()> {
        self.make_room_for(to)?;
        let path = self.at(to);
        fs::write(&path, content).with_context(|| format!("write {}", path.display()))?;
        self.set_mode(to, mode)
    }

    pub(super) fn set_mode(&self, to: &str, mode: u32) -> Result<()> {
        let path = self.at(to);
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))
            .with_context(|| format!("set the permissions of {}", path.display()))
    }

    /// Creates the directory that a file is to lie in.
    pub(super) fn make_room_for(&self, to: &str) -> Result<()> {
        to.rsplit_once('/')
            .map_or(Ok(()), |(dir, _)| self.directory(dir))
    }

    pub(super) fn copy(&self, from: &Path, to: &str, mode: u32) -> Result<()> {
        let content = fs::read(from).with_context(|| format!("read {}", from.display()))?;
        self.write(to, &content, mode)
    }

    /// The files of a directory.
    pub(super) fn copy_dir(&self, from: &Path, to: &str) -> Result<()> {
        let mut some = false;
        for path in entries(from)? {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if path.is_file() {
                self.copy(&path, &format!("{to}/{name}"), 0o644)?;
                some = true;
            }
        }
        anyhow::ensure!(some, "{} has no files", from.display());
        Ok(())
    }

    pub(super) fn link(&self, to: &str, target: &str) -> Result<()> {
        self.make_room_for(to)?;
        let path = self.at(to);
        symlink(target, &path).with_context(|| format!("create {}", path.display()))
    }

    /// Compresses every file of a directory, as Debian has its documents.
    pub(super) fn gzip_dir(&self, dir: &str) -> Result<()> {
        let files = entries(&self.at(dir))?;
        anyhow::ensure!(!files.is_empty(), "{dir} is empty");
        run(Command::new("gzip").arg("-9n").args(files))
    }

    /// What every package has: its changelog and its copyright.
    pub(super) fn document(
        &self,
        package: &Package,
        changelog: &str,
        copyright: &Path,
    ) -> Result<()> {
        let dir = format!("usr/share/doc/{}", package.name);
        self.write(&format!("{dir}/changelog"), changelog.as_bytes(), 0o644)?;
        run(Command::new("gzip")
            .arg("-9n")
            .arg(self.at(&format!("{dir}/changelog"))))?;
        self.copy(copyright, &format!("{dir}/copyright"), 0o644)
    }

    /// Every path, sorted, without the root.
    pub(super) fn paths(&self) -> Result<Vec<PathBuf>> {
        let (mut found, mut open) = (Vec::new(), vec![self.root.clone()]);
        while let Some(dir) = open.pop() {
            for path in entries(&dir)? {
                if path.is_dir() && !path.is_symlink() {
                    open.push(path.clone());
                }
                found.push(path);
            }
        }
        found.sort();
        Ok(found)
    }

    /// `md5sums` of the control archive: `dpkg --verify` reads it.
    pub(super) fn md5sums(&self) -> Result<String> {
        let files = self.paths()?.into_iter();
        let files: Vec<String> = files
            .filter(|path| path.is_file() && !path.is_symlink())
            .filter_map(|path| {
                let name = path.strip_prefix(&self.root).ok()?;
                Some(name.display().to_string())
            })
            .filter(|name| !self.conffiles.contains(&format!("/{name}")))
            .collect();
        let output = Command::new("md5sum")
            .arg("--")
            .args(&files)
            .current_dir(&self.root)
            .stdin(Stdio::null())
            .output()
            .context("run md5sum")?;
        anyhow::ensure!(output.status.success(), "md5sum: {}", output.status);
        String::from_utf8(output.stdout).context("md5sum")
    }

    /// Kilobytes of its files, as `Installed-Size` counts: whole ones, and one for everything that is no file.
    pub(super) fn installed_kb(&self) -> Result<u64> {
        let mut sum = 0;
        for path in self.paths()? {
            let meta =
                fs::symlink_metadata(&path).with_context(|| format!("read {}", path.display()))?;
            sum += match meta.is_file() {
                true => meta.len().div_ceil(1024),
                false => 1,
            };
        }
        Ok(sum)
    }

    /// Gives everything its time, and every directory its permissions.
    pub(super) fn settle(&self, epoch: u64) -> Result<()> {
        let time = TimeSpec::new(i64::try_from(epoch).context("SOURCE_DATE_EPOCH")?, 0);
        // The deepest first: a change inside changes a directory's time.
        for path in self.paths()?.into_iter().rev().chain([self.root.clone()]) {
            let failed = || format!("set the time of {}", path.display());
            if path.is_dir() && !path.is_symlink() {
                let mode = fs::Permissions::from_mode(0o755);
                fs::set_permissions(&path, mode).with_context(failed)?;
            }
            let flags = UtimensatFlags::NoFollowSymlink;
            utimensat(AT_FDCWD, &path, &time, &time, flags).with_context(failed)?;
        }
        Ok(())
    }
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let listed = fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))?;
    let mut paths: Vec<PathBuf> = listed
        .map(|entry| Ok(entry?.path()))
        .collect::<std::io::Result<_>>()
        .with_context(|| format!("read {}", dir.display()))?;
    paths.sort();
    Ok(paths)
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! A series of patches of the kernel's driver: `kernel-patch/<kernel>/`, a `series` file as quilt reads it and the
//! patches that it names.

mod parse;
mod scratch;

use std::fs;
use std::io::{Seek, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result};

use crate::exit::unavailable;
use crate::project::Project;
use crate::setup::digest;

pub(crate) use parse::{Change, Touched};
pub(crate) use scratch::{Overlay, Scratch};

/// Where the series are, one directory for each kernel of `tests/kernels.toml`.
pub(crate) const DIR: &str = "kernel-patch";

/// The file that names the patches in their order.
const LIST: &str = "series";

/// What `git format-patch --cover-letter` writes and no `series` names.
const COVER_LETTER: &str = "0000-cover-letter.patch";

/// Patches in the order in which they apply.
#[derive(Debug, Clone)]
pub(crate) struct Series {
    pub(crate) dir: PathBuf,
    pub(crate) patches: Vec<Patch>,
}

/// One of them.
#[derive(Debug, Clone)]
pub(crate) struct Patch {
    /// Its file's name.
    pub(crate) name: String,
    pub(crate) text: String,
    /// The files that it changes, adds or removes.
    pub(crate) touched: Vec<Touched>,
}

impl Series {
    /// The series for a kernel: the project's, or the one in `dir`.
    pub(crate) fn of_kernel(project: &Project, kernel: &str, dir: Option<&Path>) -> Result<Self> {
        let own = project.root.join(DIR).join(kernel);
        let dir = dir.unwrap_or(&own);
        if !dir.join(LIST).is_file() {
            let have = kernels(project);
            return Err(unavailable(format!(
                "there is no patch series for kernel {kernel}: {} does not exist; there {} {}",
                dir.join(LIST).display(),
                if have.len() == 1 { "is" } else { "are" },
                if have.is_empty() {
                    "none".to_owned()
                } else {
                    have.join(", ")
                }
            )));
        }
        Self::read(dir)
    }

    /// Reads the series in `dir`.
    pub(crate) fn read(dir: &Path) -> Result<Self> {
        let list = dir.join(LIST);
        let text = fs::read_to_string(&list).with_context(|| format!("read {}", list.display()))?;
        let mut patches = Vec::new();
        for name in names(&text).with_context(|| list.display().to_string())? {
            anyhow::ensure!(
                !patches.iter().any(|patch: &Patch| patch.name == name),
                "{} names {name} twice",
                list.display()
            );
            patches.push(Patch::read(dir, name)?);
        }
        anyhow::ensure!(!patches.is_empty(), "{} names no patch", list.display());
        Ok(Self {
            dir: dir.to_path_buf(),
            patches,
        })
    }

    /// Patches that lie beside the series and are not in it: forgotten, in all likelihood.
    pub(crate) fn forgotten(&self) -> Result<Vec<String>> {
        let entries =
            fs::read_dir(&self.dir).with_context(|| format!("read {}", self.dir.display()))?;
        let mut names: Vec<String> = entries
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .filter(|name| {
                name.ends_with(".patch")
                    && name != COVER_LETTER
                    && !self.patches.iter().any(|patch| patch.name == *name)
            })
            .collect();
        names.sort();
        Ok(names)
    }

    /// Every file that some patch touches, once, sorted.
    pub(crate) fn files(&self) -> Vec<&str> {
        let mut files: Vec<&str> = self
            .patches
            .iter()
            .flat_map(|patch| patch.touched.iter().map(|touched| touched.path.as_str()))
            .collect();
        files.sort_unstable();
        files.dedup();
        files
    }

    /// Tells the first `count` patches apart from any others.
    pub(crate) fn digest_of_first(&self, count: usize) -> String {
        digest::of_parts(
            self.patches[..count]
                .iter()
                .flat_map(|patch| [patch.name.as_bytes(), patch.text.as_bytes()]),
        )
    }

    /// Tells this series apart from any other.
    pub(crate) fn digest(&self) -> String {
        self.digest_of_first(self.patches.len())
    }
}

impl Patch {
    fn read(dir: &Path, name: &str) -> Result<Self> {
        let path = dir.join(name);
        let bytes = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        let text = String::from_utf8(bytes)
            .ok()
            .with_context(|| format!("{} is not UTF-8", path.display()))?;
        let touched = parse::touched(&text).with_context(|| path.display().to_string())?;
        Ok(Self {
            name: name.to_owned(),
            text,
            touched,
        })
    }

    /// Its text as a program's input: as it was read, whatever becomes of the file meanwhile.
    pub(crate) fn as_input(&self) -> Result<Stdio> {
        let mut file = tempfile::tempfile().context("create a file for a patch")?;
        file.write_all(self.text.as_bytes())
            .and_then(|()| file.rewind())
            .context("write a patch")?;
        Ok(file.into())
    }

    /// What it says it does.
    pub(crate) fn subject(&self) -> String {
        parse::subject(&self.text).unwrap_or_else(|| self.name.clone())
    }
}

/// The kernels that there is a series for.
pub(crate) fn kernels(project: &Project) -> Vec<String> {
    let entries = fs::read_dir(project.root.join(DIR)).into_iter().flatten();
    let mut names: Vec<String> = entries
        .flatten()
        .filter(|entry| entry.path().join(LIST).is_file())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// The names in a `series` file: one a line, `#` begins a comment.
fn names(text: &str) -> Result<Vec<&str>> {
    let mut names = Vec::new();
    for line in text.lines() {
        let line = line
            .split_once('#')
            .map_or(line, |(before, _)| before)
            .trim();
        let mut words = line.split_whitespace();
        let Some(name) = words.next() else { continue };
        anyhow::ensure!(
            words.all(|word| word == "-p1"),
            "{line:?}: patches apply with -p1, and nothing else follows their name"
        );
        anyhow::ensure!(
            !name.contains('/') && name != ".." && name != ".",
            "{name:?} is not the name of a file beside it"
        );
        names.push(name);
    }
    Ok(names)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A patch that changes `file` from `old` to `new`, one line each.
    pub(crate) fn change(file: &str, old: &str, new: &str) -> String {
        format!("From: A <a@b>\nSubject: [PATCH] amdkfd: {new}\n\nWhy.\n---\n x | 2 +-\n\n--- a/{file}\n+++ b/{file}\n@@ -1 +1 @@\n-{old}\n+{new}\n-- \n2.39\n")
    }

    /// A patch that adds `file` with one line.
    pub(crate) fn addition(file: &str, line: &str) -> String {
        format!("Subject: [PATCH 2/3] amdkfd: add\n {file}\n\n---\n--- /dev/null\n+++ b/{file}\n@@ -0,0 +1 @@\n+{line}\n")
    }

    /// A series of these patches.
    pub(crate) fn series(patches: &[(&str, String)]) -> (tempfile::TempDir, Series) {
        let dir = tempfile::tempdir().unwrap();
        let mut list = "# SPDX-License-Identifier: GPL-2.0\n".to_owned();
        for (name, text) in patches {
            fs::write(dir.path().join(name), text).unwrap();
            list += &format!("{name}\n");
        }
        fs::write(dir.path().join(LIST), list).unwrap();
        let series = Series::read(dir.path()).unwrap();
        (dir, series)
    }

    #[test]
    fn comments_and_strip_levels_of_a_series_file_are_understood() {
        assert_eq!(
            names("# head\n\n a.patch\nb.patch -p1 # why\n").unwrap(),
            ["a.patch", "b.patch"]
        );
        assert!(names("a.patch -p0\n").is_err());
        assert!(names("../a.patch\n").is_err());
    }

    #[test]
    fn a_series_knows_its_files_and_what_was_forgotten() {
        let (dir, series) = series(&[
            ("1.patch", change("d/a.c", "x", "y")),
            ("2.patch", addition("d/b.c", "z")),
            ("3.patch", change("d/a.c", "y", "z")),
        ]);
        assert_eq!(series.files(), ["d/a.c", "d/b.c"]);
        assert_eq!(series.patches[0].subject(), "amdkfd: y");
        assert_eq!(series.patches[1].subject(), "amdkfd: add d/b.c");
        assert!(series.forgotten().unwrap().is_empty());
        fs::write(dir.path().join("9.patch"), "").unwrap();
        fs::write(dir.path().join(COVER_LETTER), "").unwrap();
        assert_eq!(series.forgotten().unwrap(), ["9.patch"]);
    }

    #[test]
    fn digests_tell_series_and_their_beginnings_apart() {
        let first = ("1.patch", change("a.c", "x", "y"));
        let (_dir, one) = series(std::slice::from_ref(&first));
        let (_dir, two) = series(&[first, ("2.patch", change("a.c", "y", "z"))]);
        assert_eq!(one.digest(), two.digest_of_first(1));
        assert_ne!(one.digest(), two.digest());
    }

    #[test]
    fn a_missing_patch_and_an_empty_series_are_errors() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(LIST), "gone.patch\n").unwrap();
        let error = format!("{:#}", Series::read(dir.path()).unwrap_err());
        assert!(error.contains("gone.patch"), "{error}");
        fs::write(dir.path().join(LIST), "# nothing\n").unwrap();
        assert!(Series::read(dir.path()).is_err());
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! Applying a series: not to the kernel's source, which stays as it came, but to copies of the files that it names.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::{Change, Patch, Series};
use crate::setup::tools::Tools;

/// What a series makes of the kernel's source: path below its root, and content or `None` where the file is gone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Overlay(pub(crate) BTreeMap<String, Option<Vec<u8>>>);

impl Overlay {
    /// The files right below a directory: their names there.
    pub(crate) fn below<'a>(
        &'a self,
        dir: &'a str,
    ) -> impl Iterator<Item = (&'a str, Option<&'a [u8]>)> + 'a {
        self.0.iter().filter_map(move |(path, content)| {
            let name = path.strip_prefix(dir)?.strip_prefix('/')?;
            (!name.contains('/')).then_some((name, content.as_deref()))
        })
    }
}

/// Copies of the files that a series names, and what has been done to them.
pub(crate) struct Scratch {
    source: PathBuf,
    tree: tempfile::TempDir,
    files: Vec<String>,
}

impl Scratch {
    /// Copies the files that the series names, as far as the source has them.
    pub(crate) fn new(source: &Path, series: &Series) -> Result<Self> {
        let tree = tempfile::Builder::new()
            .prefix("gpreempt-patch-")
            .tempdir()
            .context("create a directory for patched files")?;
        let files: Vec<String> = series.files().into_iter().map(str::to_owned).collect();
        for file in &files {
            let from = source.join(file);
            if !from.is_file() {
                continue;
            }
            let to = tree.path().join(file);
            let dir = to.parent().context("a file has a directory")?;
            fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
            let content = fs::read(&from).with_context(|| format!("read {}", from.display()))?;
            fs::write(&to, content).with_context(|| format!("write {}", to.display()))?;
        }
        Ok(Self {
            source: source.to_path_buf(),
            tree,
            files,
        })
    }

    /// Applies one patch, without fuzz. What comes back are the places that have moved, in `patch`'s words.
    pub(crate) fn apply(&self, tools: &Tools, patch: &Patch) -> Result<Vec<String>> {
        for file in &patch.touched {
            let there = self.tree.path().join(&file.path).exists();
            match (file.change, there) {
                (Change::Added, true) => anyhow::bail!(
                    "{} adds {}, which is there already: is the series applied to this source?",
                    patch.name,
                    file.path
                ),
                (Change::Modified | Change::Removed, false) => anyhow::bail!(
                    "{} changes {}, which {} does not have",
                    patch.name,
                    file.path,
                    self.source.display()
                ),
                _ => {}
            }
        }
        let output = tools
            .command("patch")?
            .args([
                "-p1",
                "--fuzz=0",
                "--forward",
                "--batch",
                "--no-backup-if-mismatch",
            ])
            .current_dir(self.tree.path())
            .env("LC_ALL", "C")
            .env_remove("POSIXLY_CORRECT")
            .stdin(patch.as_input()?)
            .output()
            .context("run patch")?;
        let words = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            anyhow::ensure!(
                !words.contains("previously applied"),
                "{} is applied to {} already",
                patch.name,
                self.source.display()
            );
            let errors = String::from_utf8_lossy(&output.stderr);
            let rejects = self.rejects(patch);
            anyhow::bail!(
                "{} does not apply to {}:\n{}",
                patch.name,
                self.source.display(),
                [words.trim(), errors.trim(), rejects.trim()]
                    .into_iter()
                    .filter(|part| !part.is_empty())
                    .collect::<Vec<_>>()
                    .join("\n")
            );
        }
        Ok(moved(&words))
    }

    /// Applies the whole series.
    pub(crate) fn apply_all(&self, tools: &Tools, series: &Series) -> Result<()> {
        series
            .patches
            .iter()
            .try_for_each(|patch| self.apply(tools, patch).map(drop))
    }

    /// How the files differ now from the source's.
    pub(crate) fn overlay(&self) -> Result<Overlay> {
        let mut overlay = Overlay::default();
        for file in &self.files {
            let new = content(&self.tree.path().join(file))?;
            if new != content(&self.source.join(file))? {
                overlay.0.insert(file.clone(), new);
            }
        }
        Ok(overlay)
    }

    /// The hunks that found no place.
    fn rejects(&self, patch: &Patch) -> String {
        let files = patch.touched.iter().filter_map(|file| {
            let reject = self.tree.path().join(format!("{}.rej", file.path));
            fs::read_to_string(reject).ok()
        });
        files.collect::<Vec<_>>().join("\n")
    }
}

/// A file's content, `None` if there is no such file.
fn content(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
    }
}

/// `Hunk #1 succeeded at 12 (offset 2 lines).`, each with the file it belongs to.
fn moved(words: &str) -> Vec<String> {
    let mut file = "";
    let mut found = Vec::new();
    for line in words.lines() {
        if let Some(name) = line.strip_prefix("patching file ") {
            file = name;
        } else if line.starts_with("Hunk #") && !line.contains("FAILED") {
            found.push(format!("{file}: {line}"));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::tests::{addition, change, series};
    use super::*;

    fn source() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("d")).unwrap();
        fs::write(dir.path().join("d/a.c"), "x\n").unwrap();
        fs::write(dir.path().join("d/other.c"), "o\n").unwrap();
        dir
    }

    fn tools() -> Tools {
        Tools::of_machine()
    }

    #[test]
    fn a_series_changes_copies_only() {
        let source = source();
        let (_dir, series) = series(&[
            ("1.patch", change("d/a.c", "x", "y")),
            ("2.patch", addition("d/b.c", "new")),
        ]);
        let scratch = Scratch::new(source.path(), &series).unwrap();
        assert_eq!(scratch.overlay().unwrap(), Overlay::default());
        scratch.apply_all(&tools(), &series).unwrap();
        let overlay = scratch.overlay().unwrap();
        let files: Vec<_> = overlay.below("d").collect();
        assert_eq!(
            files,
            [("a.c", Some(&b"y\n"[..])), ("b.c", Some(&b"new\n"[..]))]
        );
        assert_eq!(overlay.below("").count(), 0);
        assert_eq!(
            fs::read_to_string(source.path().join("d/a.c")).unwrap(),
            "x\n"
        );
    }

    #[test]
    fn a_patch_that_does_not_apply_is_named_with_its_reject() {
        let source = source();
        let (_dir, series) = series(&[
            ("1.patch", change("d/a.c", "x", "y")),
            ("2.patch", change("d/a.c", "elsewhere", "z")),
        ]);
        let scratch = Scratch::new(source.path(), &series).unwrap();
        let error = scratch
            .apply_all(&tools(), &series)
            .unwrap_err()
            .to_string();
        assert!(error.starts_with("2.patch does not apply"), "{error}");
        assert!(
            error.contains("-elsewhere") && error.contains("+z"),
            "{error}"
        );
    }

    #[test]
    fn what_is_applied_already_is_told_in_a_line() {
        let source = source();
        let (_dir, series) = series(&[("1.patch", change("d/a.c", "was", "x"))]);
        let scratch = Scratch::new(source.path(), &series).unwrap();
        let error = scratch
            .apply_all(&tools(), &series)
            .unwrap_err()
            .to_string();
        assert!(error.ends_with("already"), "{error}");
    }

    #[test]
    fn context_must_match_to_the_letter() {
        let source = source();
        fs::write(source.path().join("d/a.c"), "one\nx\nthree\n").unwrap();
        let fuzzy = "--- a/d/a.c\n+++ b/d/a.c\n@@ -1,3 +1,3 @@\n uno\n-x\n+y\n three\n".to_owned();
        let (_dir, series) = series(&[("1.patch", fuzzy)]);
        let scratch = Scratch::new(source.path(), &series).unwrap();
        assert!(scratch.apply_all(&tools(), &series).is_err());
    }

    #[test]
    fn places_that_moved_are_told() {
        let source = source();
        let context = "l1\nl2\nl3\n";
        fs::write(
            source.path().join("d/a.c"),
            format!("new\nnew\n{context}x\n"),
        )
        .unwrap();
        let (_dir, series) = series(&[(
            "1.patch",
            "--- a/d/a.c\n+++ b/d/a.c\n@@ -1,4 +1,4 @@\n l1\n l2\n l3\n-x\n+y\n".to_owned(),
        )]);
        let scratch = Scratch::new(source.path(), &series).unwrap();
        let moved = scratch.apply(&tools(), &series.patches[0]).unwrap();
        assert_eq!(moved, ["d/a.c: Hunk #1 succeeded at 3 (offset 2 lines)."]);
    }

    #[test]
    fn files_that_are_there_or_not_against_expectation_are_named() {
        let source = source();
        let (_dir, twice) = series(&[("1.patch", addition("d/a.c", "new"))]);
        let scratch = Scratch::new(source.path(), &twice).unwrap();
        let error = scratch.apply_all(&tools(), &twice).unwrap_err().to_string();
        assert!(error.contains("there already"), "{error}");
        let (_dir, absent) = series(&[("1.patch", change("d/none.c", "a", "b"))]);
        let scratch = Scratch::new(source.path(), &absent).unwrap();
        let error = scratch
            .apply_all(&tools(), &absent)
            .unwrap_err()
            .to_string();
        assert!(error.contains("d/none.c"), "{error}");
    }
}

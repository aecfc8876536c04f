// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask patch apply DIR`: the series onto a kernel tree that the user has: all of it, or nothing.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};

use super::chosen;
use crate::build::series::{Overlay, Scratch, Series};
use crate::build::sim::DRIVER;
use crate::cli::PatchApplyArgs;
use crate::project::Project;
use crate::setup::tools::Tools;

/// Runs the verb.
pub(crate) fn run(project: &Project, args: &PatchApplyArgs) -> Result<ExitCode> {
    let (kernel, series) = chosen(project, &args.series)?;
    let tools = Tools::provide_only(project, "patch")?;
    let written = apply(&tools, &series, &args.tree)?;
    println!(
        "{} patches for {kernel} applied to {}: {written} files written",
        series.patches.len(),
        args.tree.display()
    );
    Ok(ExitCode::SUCCESS)
}

/// Applies the series to copies, and writes them back only if all of it applies.
fn apply(tools: &Tools, series: &Series, tree: &Path) -> Result<usize> {
    anyhow::ensure!(
        tree.join(DRIVER).is_dir(),
        "{} is not the source tree of a kernel: it has no {DRIVER}",
        tree.display()
    );
    let scratch = Scratch::new(tree, series)?;
    for patch in &series.patches {
        let moved = scratch
            .apply(tools, patch)
            .with_context(|| format!("nothing was changed in {}", tree.display()))?;
        println!("{}: {}", patch.name, patch.subject());
        moved.iter().for_each(|place| println!("  {place}"));
    }
    let Overlay(files) = scratch.overlay()?;
    for (name, content) in &files {
        let path = tree.join(name);
        match content {
            Some(content) => {
                let dir = path.parent().context("a file has a directory")?;
                fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
                fs::write(&path, content).with_context(|| format!("write {}", path.display()))?;
            }
            None => {
                fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
            }
        }
    }
    Ok(files.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::series::tests::{addition, change, series};

    fn tree() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join(DRIVER)).unwrap();
        fs::write(dir.path().join(DRIVER).join("a.c"), "x\n").unwrap();
        dir
    }

    #[test]
    fn a_tree_gets_all_of_the_series_or_nothing() {
        let file = |name: &str| format!("{DRIVER}/{name}");
        let tree = tree();
        let read = |name: &str| fs::read_to_string(tree.path().join(file(name)));
        let first = ("1.patch", change(&file("a.c"), "x", "y"));
        let (_dir, broken) = series(&[
            first.clone(),
            ("2.patch", change(&file("a.c"), "not there", "z")),
        ]);
        let error = format!(
            "{:#}",
            apply(&Tools::of_machine(), &broken, tree.path()).unwrap_err()
        );
        assert!(
            error.starts_with("nothing was changed") && error.contains("2.patch"),
            "{error}"
        );
        assert_eq!(read("a.c").unwrap(), "x\n");

        let (_dir, good) = series(&[first, ("2.patch", addition(&file("b.c"), "new"))]);
        assert_eq!(apply(&Tools::of_machine(), &good, tree.path()).unwrap(), 2);
        assert_eq!(read("a.c").unwrap(), "y\n");
        assert_eq!(read("b.c").unwrap(), "new\n");
        // A second time it does not apply.
        assert!(apply(&Tools::of_machine(), &good, tree.path()).is_err());
    }

    #[test]
    fn what_is_no_kernel_tree_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (_dir, series) = series(&[("1.patch", change("a.c", "x", "y"))]);
        assert!(apply(&Tools::of_machine(), &series, dir.path())
            .unwrap_err()
            .to_string()
            .contains("not the source tree"));
    }
}

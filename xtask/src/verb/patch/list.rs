// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask patch list`: the patches in their order and what they touch.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::Result;

use super::chosen;
use crate::build::series::{Change, Patch, Series};
use crate::cli::SeriesArgs;
use crate::project::Project;

/// Runs the verb.
pub(crate) fn run(project: &Project, args: &SeriesArgs) -> Result<ExitCode> {
    let (kernel, series) = chosen(project, args)?;
    print!("{}", page(&kernel, &series));
    Ok(ExitCode::SUCCESS)
}

fn page(kernel: &str, series: &Series) -> String {
    let (added, removed) = series
        .patches
        .iter()
        .map(lines)
        .fold((0, 0), |sum, lines| (sum.0 + lines.0, sum.1 + lines.1));
    let mut page = format!(
        "kernel {kernel}: {} patches, {} files, {added} lines added, {removed} removed\n",
        series.patches.len(),
        series.files().len()
    );
    for patch in &series.patches {
        let (added, removed) = lines(patch);
        let _ = writeln!(
            page,
            "\n{}  +{added} -{removed}\n  {}",
            patch.name,
            patch.subject()
        );
        for file in &patch.touched {
            let change = match file.change {
                Change::Added => ", new",
                Change::Modified => "",
                Change::Removed => ", removed",
            };
            let _ = writeln!(
                page,
                "    {} (+{} -{}{change})",
                file.path, file.added_lines, file.removed_lines
            );
        }
    }
    page
}

/// Lines that a patch adds and removes.
pub(super) fn lines(patch: &Patch) -> (usize, usize) {
    patch.touched.iter().fold((0, 0), |sum, file| {
        (sum.0 + file.added_lines, sum.1 + file.removed_lines)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::series::tests::{addition, change, series};

    #[test]
    fn every_patch_is_listed_with_its_files() {
        let (_dir, series) = series(&[
            ("1.patch", change("d/a.c", "x", "y")),
            ("2.patch", addition("d/b.c", "z")),
        ]);
        assert_eq!(
            page("6.12", &series),
            "kernel 6.12: 2 patches, 2 files, 2 lines added, 1 removed\n\n\
             1.patch  +1 -1\n  amdkfd: y\n    d/a.c (+1 -1)\n\n\
             2.patch  +1 -0\n  amdkfd: add d/b.c\n    d/b.c (+1 -0, new)\n"
        );
    }
}

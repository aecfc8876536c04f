// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel's own judgement of a patch: `scripts/checkpatch.pl` of the kernel that the series is for.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::build::series::Patch;

/// An objection that does not count: its type, the end of the file's name, and why.
const IGNORED: &[(&str, &str, &str)] = &[
    (
        "WARNING:FILE_PATH_CHANGES",
        "",
        "a new file asks for an entry in MAINTAINERS, which has no place for what is outside of the tree",
    ),
    (
        "CHECK:BIT_MACRO",
        "_ioctl.h",
        "BIT() is the kernel's own: a header for user space cannot use it",
    ),
];

/// Fails with everything that the script objects to: errors, warnings and checks.
pub(super) fn lint(source: &Path, patch: &Patch) -> Result<()> {
    let output = Command::new("perl")
        .arg(source.join("scripts/checkpatch.pl"))
        .args([
            "--strict",
            "--no-tree",
            "--show-types",
            "--showfile",
            "--terse",
            "--no-summary",
            "--color=never",
            "-",
        ])
        // Neither the configuration of a user nor the history of a repository has a say in it.
        .current_dir(source)
        .env("HOME", source)
        .stdin(patch.as_input()?)
        .output();
    let output = match output {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            anyhow::bail!(
                "there is no perl, which checkpatch.pl needs: install it (apt-get install perl)"
            )
        }
        output => output.context("run perl")?,
    };
    judge(
        output.status.success(),
        &String::from_utf8_lossy(&output.stdout),
        &String::from_utf8_lossy(&output.stderr),
    )
}

/// The script's exit code alone is not enough: with a library missing it may say little and check nothing.
fn judge(success: bool, stdout: &str, stderr: &str) -> Result<()> {
    let all: Vec<&str> = stdout.lines().filter(|line| !line.is_empty()).collect();
    let objections: Vec<&str> = all
        .iter()
        .copied()
        .filter(|line| !is_ignored(line))
        .collect();
    anyhow::ensure!(
        objections.is_empty(),
        "checkpatch.pl objects:\n{}",
        objections.join("\n")
    );
    anyhow::ensure!(
        stderr.trim().is_empty() && success == all.is_empty(),
        "checkpatch.pl did not work (it needs the whole of perl: apt-get install perl): {}",
        stderr.trim()
    );
    Ok(())
}

/// `file:line: WARNING:TYPE: words`
fn is_ignored(line: &str) -> bool {
    let mut parts = line.splitn(3, ": ");
    let (Some(place), Some(kind)) = (parts.next(), parts.next()) else {
        return false;
    };
    let file = place.rsplit_once(':').map_or(place, |(file, _)| file);
    IGNORED
        .iter()
        .any(|(ignored, end, _)| *ignored == kind && file.ends_with(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_and_success_pass() {
        assert!(judge(true, "", "").is_ok());
        assert!(judge(false, "", "").is_err());
        let error = judge(true, "", "No typos will be found\n").unwrap_err();
        assert!(error.to_string().contains("No typos"), "{error}");
    }

    #[test]
    fn objections_fail_unless_they_are_ignored() {
        let error = judge(false, "d/x.c:9: CHECK:SPACING: y: z\n\n", "")
            .unwrap_err()
            .to_string();
        assert!(error.ends_with("\nd/x.c:9: CHECK:SPACING: y: z"), "{error}");
        let ignored = "d/x.c:3: WARNING:FILE_PATH_CHANGES: added file\n\
                       d/kfd_x_ioctl.h:4: CHECK:BIT_MACRO: Prefer using the BIT macro\n";
        assert!(judge(false, ignored, "").is_ok());
        assert!(judge(false, "d/x.c:4: CHECK:BIT_MACRO: Prefer\n", "").is_err());
        assert!(judge(
            false,
            &format!("{ignored}: ERROR:MISSING_SIGN_OFF: x\n"),
            ""
        )
        .is_err());
    }

    #[test]
    fn every_exception_has_a_reason() {
        assert!(IGNORED
            .iter()
            .all(|(kind, _, why)| kind.contains(':') && why.len() > 20));
    }
}

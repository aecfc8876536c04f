// SPDX-License-Identifier: MIT OR Apache-2.0
//! Offsets from a profile instead of the running driver's BTF.

use std::fs;
use std::process::Command;

use anyhow::Context;

use super::List;
use crate::check::ensure_eq;
use crate::watch::{shell_code, Watch};

const ALL: &[&str] = &["basic", "stock-6.1", "stock-6.12", "stock-7.3"];

pub(super) const TESTS: List = &[
    (ALL, "a_profile_stands_in_for_btf", stands_in),
    (&["basic"], "a_profile_of_nothing_is_refused", of_nothing),
];

const MODULE: &str = "/lib/modules/amdgpu.ko";
const PROFILE: &str = "/tmp/offsets.toml";

/// Extracts a profile from the module's file and watches by it; the start check reads real tasks through its offsets.
fn stands_in() -> anyhow::Result<()> {
    let output = Command::new("gpreempt")
        .args(["doctor", "--extract-offsets", MODULE])
        .output()
        .context("start gpreempt doctor")?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure_eq!(shell_code(output.status), 0, "exit code; stderr: {errors}");
    fs::write(PROFILE, &output.stdout).context(PROFILE)?;

    let watch = Watch::start(&["--offsets", PROFILE])?;
    let startup = watch.wait_for("startup", |record| record.kind == "startup")?;
    ensure_eq!(
        startup.text("offsets")?,
        format!("profile:{PROFILE}"),
        "source of the offsets"
    );
    watch.stop_lossless()?;
    Ok(())
}

/// A file that is no profile ends `watch` before it attaches anything.
fn of_nothing() -> anyhow::Result<()> {
    fs::write("/tmp/nothing.toml", "hello").context("/tmp/nothing.toml")?;
    let output = Command::new("gpreempt")
        .args(["watch", "--offsets", "/tmp/nothing.toml"])
        .output()
        .context("start gpreempt watch")?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure_eq!(shell_code(output.status), 69, "exit code; stderr: {errors}");
    anyhow::ensure!(
        errors.contains("nothing.toml"),
        "the message does not name the file: {errors}"
    );
    Ok(())
}

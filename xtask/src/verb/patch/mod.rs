// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask patch`: the patch series of the driver.

mod apply;
pub(crate) mod check;
mod checkpatch;
mod list;

use std::process::ExitCode;

use anyhow::Result;

use crate::build::series::Series;
use crate::cli::{PatchVerb, SeriesArgs};
use crate::project::Project;
use crate::setup::kernels::Pins;

/// Runs the verb.
pub(crate) fn run(project: &Project, verb: &PatchVerb) -> Result<ExitCode> {
    match verb {
        PatchVerb::Check(args) => check::run(project, args),
        PatchVerb::List(args) => list::run(project, args),
        PatchVerb::Apply(args) => apply::run(project, args),
    }
}

/// The kernel and its series that the arguments name.
fn chosen(project: &Project, args: &SeriesArgs) -> Result<(String, Series)> {
    let kernel = kernel(project, args)?;
    let series = Series::of_kernel(project, &kernel, args.series.as_deref())?;
    Ok((kernel, series))
}

/// The kernel that the arguments name.
fn kernel(project: &Project, args: &SeriesArgs) -> Result<String> {
    match &args.kernel {
        Some(name) => Ok(name.clone()),
        None => Ok(Pins::read(project)?.sim_kernel()?.name.clone()),
    }
}

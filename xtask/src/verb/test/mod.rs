// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask test`: everything that can be tested without a GPU, in one count.

pub(crate) mod groups;
mod host;
pub(crate) mod tally;

use std::process::ExitCode;

use anyhow::Result;

use super::patch;
use crate::cli::{SeriesArgs, TestArgs};
use crate::project::Project;
use tally::Tally;

/// Runs the verb. Its last line of output is the count.
pub(crate) fn run(project: &Project, args: TestArgs) -> Result<ExitCode> {
    let mut tally = Tally::new(args.filter.clone());
    if !args.vm_only && args.groups.is_empty() {
        host::run(project, &mut tally);
        // What loads the series in a guest is a group of its own below.
        let series = SeriesArgs {
            kernel: None,
            series: None,
        };
        patch::check::on_host(project, &series, &mut tally);
    }
    if !args.host_only {
        let chosen = groups::Chosen {
            groups: args.groups.clone(),
            filter: args.filter.clone(),
            series: None,
        };
        groups::run(project, &chosen, &mut tally);
    }
    Ok(tally.finish())
}

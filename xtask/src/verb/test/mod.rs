// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask test`: everything that can be tested without a GPU, in one count.

mod groups;
mod host;
mod tally;

use std::process::ExitCode;

use anyhow::Result;

use crate::cli::TestArgs;
use crate::project::Project;
use tally::Tally;

/// Runs the verb. Its last line of output is the count.
pub(crate) fn run(project: &Project, args: TestArgs) -> Result<ExitCode> {
    let mut tally = Tally::new(args.filter.clone());
    if !args.vm_only && args.groups.is_empty() {
        host::run(project, &mut tally);
    }
    if !args.host_only {
        groups::run(project, &args.groups, &mut tally);
    }
    Ok(tally.finish())
}

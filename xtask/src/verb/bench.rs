// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask bench`: measurements in a guest, one JSON object a line as `vm-bench` prints them.

use std::process::ExitCode;

use anyhow::Result;

use super::vm::{execute, wish_of, DEADLINE};
use crate::cli::BenchArgs;
use crate::guests::Wish;
use crate::project::Project;

/// Runs the verb.
pub(crate) fn run(project: &Project, args: BenchArgs) -> Result<ExitCode> {
    let wish = Wish {
        label: "bench".to_owned(),
        ..wish_of(&args.guest)?
    };
    let deadline = args
        .guest
        .deadline
        .map_or(DEADLINE, std::time::Duration::from_secs);
    execute(
        project,
        &wish,
        vec!["vm-bench".to_owned(), args.what],
        deadline,
    )
}

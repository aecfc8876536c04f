// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask setup`: everything that any other verb would set up, now.

use std::process::ExitCode;

use anyhow::Result;

use crate::project::Project;
use crate::setup::kernels::Pins;
use crate::setup::{self, Needs};
use crate::ui;

/// Runs the verb.
pub(crate) fn run(project: &Project) -> Result<ExitCode> {
    let pins = Pins::read(project)?;
    let kernels = pins.kernel.iter().map(|spec| spec.name.clone()).collect();
    setup::provide(
        project,
        &pins,
        &Needs {
            kernels,
            modules: vec![pins.sim_kernel()?.name.clone()],
            bpf: true,
            rocm: true,
            system: true,
            python: true,
        },
    )?;
    ui::note(&format!(
        "everything is set up in {}",
        project.cache.display()
    ));
    Ok(ExitCode::SUCCESS)
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask`: one program between a fresh machine and a built, running, tested project.
//!
//! [`setup`] brings what the machine lacks, [`build`] builds on it, [`vm`] runs guests; the verbs use all three.

mod build;
mod cli;
mod exit;
mod guests;
mod package;
mod project;
mod setup;
mod ui;
mod verb;
mod vm;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

use cli::{Cli, Verb};
use project::Project;

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            exit::code_of(&error)
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode> {
    let project = Project::locate(cli.packages)?;
    match cli.verb {
        Verb::Setup => verb::setup::run(&project),
        Verb::Build => verb::build::run(&project),
        Verb::Package(args) => verb::package::run(&project, &args),
        Verb::Run(args) => verb::run::run(&project, args),
        Verb::Vm(args) => verb::vm::run(&project, args),
        Verb::Test(args) => verb::test::run(&project, args),
        Verb::Fidelity => verb::fidelity::run(&project),
        Verb::Fuzz(args) => verb::fuzz::run(&project, &args),
        Verb::Bench(args) => verb::bench::run(&project, &args),
        Verb::Patch(verb) => verb::patch::run(&project, &verb),
    }
}

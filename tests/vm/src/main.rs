// SPDX-License-Identifier: MIT OR Apache-2.0
//! `vm-tests`: what `gpreempt` must do on a running driver. Runs as root inside a guest.
//!
//! Every test starts the real `gpreempt` and the load that it is to see, and compares what it says with what the load
//! did. Nothing here sleeps and hopes: everything is waited for with a deadline.

mod caller;
#[path = "../../../gpreempt/tests/common/calls.rs"]
mod calls;
mod check;
mod controller;
mod cycler;
mod daemon;
mod gpreempt_fd;
mod gpu;
mod guest;
mod harness;
mod json_child;
mod kernel_log;
mod load;
mod preemption;
mod record;
mod scenario;
mod scene;
mod tests;
mod watch;

use std::process::ExitCode;

use clap::Parser;

/// Test gpreempt inside a guest
///
/// Prints one JSON line for each test and one at the end. Exit codes: 0 all passed or skipped, 1 some failed.
#[derive(Debug, Parser)]
#[command(name = "vm-tests", version)]
struct Cli {
    /// Print the names of the tests, one a line, and run none
    #[arg(long)]
    list: bool,
    /// Only the tests of this group
    #[arg(long, required_unless_present = "list")]
    group: Option<String>,
    /// Only tests whose name contains this
    #[arg(long)]
    filter: Option<String>,
}

fn main() -> ExitCode {
    type Role = (&'static str, fn() -> anyhow::Result<()>);
    const ROLES: [Role; 6] = [
        (caller::VERB, caller::run),
        (controller::VERB, controller::serve),
        (cycler::VERB, cycler::serve),
        (scenario::VERB, scenario::run),
        (scenario::react::VERB, scenario::react::run),
        (scenario::service::VERB, scenario::service::run),
    ];
    let verb = std::env::args().nth(1);
    if let Some((verb, run)) = ROLES.iter().find(|role| verb.as_deref() == Some(role.0)) {
        return match run() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("vm-tests {verb}: {error:#}");
                ExitCode::FAILURE
            }
        };
    }
    let cli = Cli::parse();
    let chosen = tests::all().into_iter().filter(|test| {
        cli.group.as_ref().is_none_or(|group| test.group == group)
            && cli
                .filter
                .as_ref()
                .is_none_or(|text| test.full_name().contains(text.as_str()))
    });
    if cli.list {
        chosen.for_each(|test| println!("{}", test.full_name()));
        return ExitCode::SUCCESS;
    }
    harness::run(chosen.collect())
}

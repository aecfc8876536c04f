// SPDX-License-Identifier: MIT OR Apache-2.0
//! `gpreempt supervise`: what gpreempt starts itself when it stops queues. Not for people.

use std::time::Duration;

use super::{output, Exit, Failure};
use crate::control::supervisor;

/// Restart queues when the gpreempt that stopped them ends or hangs
#[derive(Debug, clap::Args)]
pub(super) struct Supervise {
    /// A gpreempt that says nothing for so long hangs
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..))]
    timeout_ms: u64,
}

impl Supervise {
    pub(super) fn run(&self) -> Result<Exit, Failure> {
        let told = supervisor::run(Duration::from_millis(self.timeout_ms))?;
        for line in told {
            output::say(&format!("supervisor: {line}"));
        }
        Ok(Exit::Ok)
    }
}

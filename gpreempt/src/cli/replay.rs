// SPDX-License-Identifier: MIT OR Apache-2.0
//! `replay`: another verb on a recording in place of the machine.

use std::path::PathBuf;

use clap::Subcommand;

use super::{analyze, queues, stat, top, watch, Exit, Failure, Global};

/// Show a recording as if it happened now
///
/// Needs neither root nor GPU. Times are those of the recording; it is read as fast as it can be.
#[derive(Debug, clap::Args)]
pub(super) struct Replay {
    /// A file that `gpreempt record` made
    file: PathBuf,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Watch(watch::Watch),
    Top(top::Top),
    Queues(Box<queues::Queues>),
    Stat(stat::Stat),
    Analyze(Box<analyze::Analyze>),
}

impl Replay {
    pub(super) fn run(self, global: &Global) -> Result<Exit, Failure> {
        match self.verb {
            Verb::Watch(verb) => verb.replay(&self.file, global),
            Verb::Top(verb) => verb.replay(&self.file, global),
            Verb::Queues(verb) => verb.replay(&self.file, global),
            Verb::Stat(verb) => verb.replay(&self.file, global),
            Verb::Analyze(verb) => verb.replay(&self.file, global),
        }
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! `replay`: another verb on a recording in place of the machine.

use std::path::PathBuf;

use anyhow::anyhow;
use clap::Subcommand;

use super::what_if::PolicyArgs;
use super::{analyze, queues, stat, top, watch, Exit, Failure, Global};

/// Show a recording as if it happened now
///
/// Needs neither root nor GPU. Times are those of the recording; it is read as fast as it can be.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Replay {
    /// A file that `gpreempt record` made
    file: PathBuf,
    #[command(flatten)]
    policy: PolicyArgs,
    #[command(subcommand)]
    verb: Option<Verb>,
}

const EXAMPLES: &str = "\
Examples:
  gpreempt replay night.gpr watch --comm 'python*'
  gpreempt replay night.gpr analyze --report night.html
  gpreempt replay night.gpr --config gpreempt.toml --policy share";

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
        let Some(verb) = self.verb else {
            return self.policy.run(&self.file, global);
        };
        if self.policy.is_given() {
            let what = "--config tells what a policy would have held; it goes with no verb";
            return Err(Failure::new(Exit::Usage, anyhow!(what)));
        }
        match verb {
            Verb::Watch(verb) => verb.replay(&self.file, global),
            Verb::Top(verb) => verb.replay(&self.file, global),
            Verb::Queues(verb) => verb.replay(&self.file, global),
            Verb::Stat(verb) => verb.replay(&self.file, global),
            Verb::Analyze(verb) => verb.replay(&self.file, global),
        }
    }
}

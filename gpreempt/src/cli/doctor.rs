// SPDX-License-Identifier: MIT OR Apache-2.0
use super::{Exit, Failure, Global};
/// Say what works here, what is missing and how to fix it
#[derive(Debug, clap::Args)]
pub(super) struct Doctor {}
impl Doctor {
    pub(super) fn run(self, _global: &Global) -> Result<Exit, Failure> {
        Ok(Exit::Ok)
    }
}

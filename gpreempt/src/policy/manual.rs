// SPDX-License-Identifier: MIT OR Apache-2.0
//! `manual`: nothing is held but what was asked for by name.
//!
//! **Algorithm.** It wants nothing. Wishes (`ctl hold`) count above every policy, so they are all that is left. It is the policy of a
//! configuration that names none.
//!
//! **Failure mode.** It forgets nobody and protects nobody: a job that was asked to be held is held as long as the guards allow, again
//! and again after each forced run, until the wish ends.

use super::{Policy, PolicyName, View, Wanted};

#[derive(Debug)]
pub(super) struct Manual;

impl Policy for Manual {
    fn name(&self) -> PolicyName {
        PolicyName::Manual
    }

    fn want(&mut self, _: &View, _: u64) -> Wanted {
        Wanted::default()
    }
}

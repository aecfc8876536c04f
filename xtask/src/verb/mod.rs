// SPDX-License-Identifier: MIT OR Apache-2.0
//! One file per verb.

pub(crate) mod bench;
pub(crate) mod build;
pub(crate) mod fidelity;
pub(crate) mod fuzz;
pub(crate) mod package;
pub(crate) mod patch;
pub(crate) mod run;
pub(crate) mod setup;
pub(crate) mod test;
pub(crate) mod vm;

// SPDX-License-Identifier: MIT OR Apache-2.0
//! How xtask ends. The codes are the project's: 0 ok, 1 failed, 2 usage, 69 something needed is missing,
//! 128 + n signal; a command that ran in a guest passes its own code on.

use std::process::ExitCode;

use crate::vm::Lost;

/// Something this needs is not there: network, package, room, a guest that lives.
pub(crate) const UNAVAILABLE: u8 = 69;

/// A failure that is not the project's: what is missing and what the user can do about it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Unavailable(pub(crate) String);

/// Short for an error with [`Unavailable`].
pub(crate) fn unavailable(what: impl Into<String>) -> anyhow::Error {
    Unavailable(what.into()).into()
}

/// The exit code of an error.
pub(crate) fn code_of(error: &anyhow::Error) -> ExitCode {
    let missing = error
        .chain()
        .any(|cause| cause.is::<Unavailable>() || cause.is::<Lost>());
    ExitCode::from(if missing { UNAVAILABLE } else { 1 })
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! Why a call failed: a code for programs and a sentence for people, which is kept for the thread that called.

use std::cell::RefCell;
use std::ffi::{CStr, CString};
use std::io;

use gpreempt::control::{ControlError, Refusal};
use gpreempt::serve::client::ClientError;
use nix::errno::Errno;

use crate::abi::*;

/// A code and a sentence.
#[derive(Debug)]
pub(crate) struct Error {
    pub(crate) code: i32,
    pub(crate) message: String,
}

pub(crate) type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn new(code: i32, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(GPREEMPT_EINVAL, message)
    }
}

impl From<ControlError> for Error {
    fn from(error: ControlError) -> Self {
        let code = match &error {
            ControlError::Unavailable { .. } => GPREEMPT_ENOTSUP,
            ControlError::NoPermission { .. } => GPREEMPT_EPERM,
            ControlError::Failed(_) => GPREEMPT_EIO,
        };
        Self::new(code, error.to_string())
    }
}

impl From<ClientError> for Error {
    fn from(error: ClientError) -> Self {
        let code = match &error {
            ClientError::NoDaemon { .. } => GPREEMPT_ENODAEMON,
            ClientError::Denied(_) => GPREEMPT_EPERM,
            ClientError::NotFound(_) => GPREEMPT_ENOENT,
            ClientError::Refused(_) => GPREEMPT_EINVAL,
            ClientError::Failed(_) => GPREEMPT_EIO,
        };
        Self::new(code, error.to_string())
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::new(GPREEMPT_EIO, error.to_string())
    }
}

/// The code of what the driver refused.
pub(crate) fn of_refusal(refusal: &Refusal) -> i32 {
    match refusal.errno {
        Some(Errno::ESRCH | Errno::ENXIO) => GPREEMPT_ESRCH,
        Some(Errno::ENOENT) => GPREEMPT_ENOENT,
        Some(Errno::EPERM | Errno::EACCES) => GPREEMPT_EPERM,
        Some(Errno::EBUSY) => GPREEMPT_EBUSY,
        Some(Errno::EINVAL) => GPREEMPT_EINVAL,
        Some(Errno::ETIME) => GPREEMPT_ETIME,
        Some(Errno::EOPNOTSUPP) => GPREEMPT_ENOTSUP,
        _ => GPREEMPT_EIO,
    }
}

/// A few words for each code.
pub(crate) fn words(code: i32) -> &'static CStr {
    match code {
        GPREEMPT_OK => c"success",
        GPREEMPT_EPERM => c"a permission is missing",
        GPREEMPT_ENOENT => c"no such queue, GPU or hint",
        GPREEMPT_ESRCH => c"no such process, or it does not use a GPU",
        GPREEMPT_EIO => c"a call into the driver or to the daemon failed",
        GPREEMPT_EBUSY => c"somebody else holds it",
        GPREEMPT_EINVAL => c"an argument cannot be used",
        GPREEMPT_ENOSPC => c"the array is too short",
        GPREEMPT_ETIME => c"the GPU did not answer and is reset",
        GPREEMPT_ENOTSUP => c"the driver, kernel or GPU cannot do that",
        GPREEMPT_ENODAEMON => c"no daemon listens on the socket",
        GPREEMPT_EPARTIAL => c"some were done and some were not",
        GPREEMPT_EINTERNAL => c"a fault of libgpreempt",
        _ => c"unknown code",
    }
}

thread_local! {
    static LAST: RefCell<CString> = RefCell::default();
}

/// Keeps the sentence for this thread.
pub(crate) fn keep(message: &str) {
    let bytes: Vec<u8> = message.bytes().filter(|byte| *byte != 0).collect();
    let text = CString::new(bytes).unwrap_or_default();
    // Fails only while the thread ends, when nobody asks any more.
    let _ = LAST.try_with(|last| last.replace(text));
}

/// The sentence of this thread's last call that failed.
pub(crate) fn last() -> *const libc::c_char {
    LAST.try_with(|last| last.borrow().as_ptr())
        .unwrap_or(c"".as_ptr())
}

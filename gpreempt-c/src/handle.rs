// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is behind a `gpreempt_t`. Its parts are opened when they are first used and have a lock each, so that a hint does not wait
//! for a thread whose call waits for a GPU.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use gpreempt::kfd::Root;
use gpreempt::serve::api::SOCKET;

use crate::error::{Error, Result};
use crate::hints::Hints;
use crate::holds::Holds;
use crate::slots::Slots;

/// An open library.
pub(crate) struct Handle {
    /// The process that opened it. In a child that it forks, descriptors and locks would be shared with it.
    pid: u32,
    pub(crate) root: Root,
    hints: Mutex<Hints>,
    holds: Mutex<Holds>,
    slots: Mutex<Slots>,
}

impl Handle {
    /// Opens nothing yet: a program that only gives hints needs no right to use a GPU, and one that only holds no daemon.
    pub(crate) fn new(socket: Option<PathBuf>) -> Result<Self> {
        let socket = socket
            .or_else(|| std::env::var_os("GPREEMPT_SOCKET").map(PathBuf::from))
            .unwrap_or_else(|| SOCKET.into());
        let root = Root::real();
        Ok(Self {
            pid: std::process::id(),
            hints: Mutex::new(Hints::new(&root, &socket)),
            holds: Mutex::new(Holds::new(&root)),
            slots: Mutex::new(Slots::new(&root)),
            root,
        })
    }

    /// Whether it may be used here.
    pub(crate) fn check(&self) -> Result<()> {
        match self.is_ours() {
            true => Ok(()),
            false => Err(Error::invalid(
                "the handle was opened by the process that forked this one: open one here",
            )),
        }
    }

    pub(crate) fn is_ours(&self) -> bool {
        self.pid == std::process::id()
    }

    pub(crate) fn hints(&self) -> MutexGuard<'_, Hints> {
        lock(&self.hints)
    }

    pub(crate) fn holds(&self) -> MutexGuard<'_, Holds> {
        lock(&self.holds)
    }

    pub(crate) fn slots(&self) -> MutexGuard<'_, Slots> {
        lock(&self.slots)
    }
}

/// After a panic, too: each part is sound between any two of its steps.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

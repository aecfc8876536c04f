// SPDX-License-Identifier: MIT OR Apache-2.0
//! Signals that a session passes on instead of dying of them.

use std::sync::mpsc::Sender;
use std::sync::{Mutex, Once, PoisonError};
use std::thread;

use anyhow::{Context, Result};
use nix::sys::signal::{SigSet, Signal};

use super::session::Event;

/// Passed on to the guest's command, or to its terminal.
const FORWARDED: &[Signal] = &[
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGWINCH,
];

/// The session that is to hear of signals.
static LISTENER: Mutex<Option<Sender<Event>>> = Mutex::new(None);

/// Until it is dropped, signals go to a session.
pub(super) struct Directed;

impl Directed {
    /// From here on signals become events for `listener`. To be called on the main thread, whose blocked signals
    /// the threads it starts inherit.
    pub(super) fn to(listener: Sender<Event>) -> Result<Self> {
        static WATCHER: Once = Once::new();
        let signals: SigSet = FORWARDED.iter().copied().collect();
        signals.thread_block().context("block signals")?;
        *LISTENER.lock().unwrap_or_else(PoisonError::into_inner) = Some(listener);
        WATCHER.call_once(|| {
            thread::spawn(move || watch(signals));
        });
        Ok(Self)
    }
}

impl Drop for Directed {
    fn drop(&mut self) {
        *LISTENER.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

fn watch(signals: SigSet) {
    while let Ok(signal) = signals.wait() {
        let listener = LISTENER
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let heard = listener.is_some_and(|listener| listener.send(Event::Signal(signal)).is_ok());
        if !heard && signal != Signal::SIGWINCH {
            // Between two sessions a signal means what it always means. Guests die with this process.
            std::process::exit(128 + signal as i32);
        }
    }
}

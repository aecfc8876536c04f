// SPDX-License-Identifier: MIT OR Apache-2.0
//! The signals that end a watch.

use std::io;

use tokio::signal::unix::{signal, Signal, SignalKind};

use crate::sink::record::End;

pub(super) struct Signals(Option<Caught>);

struct Caught {
    int: Signal,
    term: Signal,
    hup: Signal,
}

impl Signals {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self(Some(Caught {
            int: signal(SignalKind::interrupt())?,
            term: signal(SignalKind::terminate())?,
            hup: signal(SignalKind::hangup())?,
        })))
    }

    /// None ever comes: they are somebody else's.
    pub(super) fn none() -> Self {
        Self(None)
    }

    pub(super) async fn next(&mut self) -> End {
        let Some(caught) = &mut self.0 else {
            return std::future::pending().await;
        };
        tokio::select! {
            _ = caught.int.recv() => End::Sigint,
            _ = caught.term.recv() => End::Sigterm,
            _ = caught.hup.recv() => End::Sighup,
        }
    }
}

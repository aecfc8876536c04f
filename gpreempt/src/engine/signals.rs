// SPDX-License-Identifier: MIT OR Apache-2.0
//! The signals that end a watch.

use std::io;

use tokio::signal::unix::{signal, Signal, SignalKind};

use crate::sink::record::End;

pub(super) struct Signals {
    int: Signal,
    term: Signal,
    hup: Signal,
}

impl Signals {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            int: signal(SignalKind::interrupt())?,
            term: signal(SignalKind::terminate())?,
            hup: signal(SignalKind::hangup())?,
        })
    }

    pub(super) async fn next(&mut self) -> End {
        tokio::select! {
            _ = self.int.recv() => End::Sigint,
            _ = self.term.recv() => End::Sigterm,
            _ = self.hup.recv() => End::Sighup,
        }
    }
}

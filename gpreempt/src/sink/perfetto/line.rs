// SPDX-License-Identifier: MIT OR Apache-2.0
//! One track whose slices follow each other. Records of several CPUs can come a little out of order; time on a track does not go
//! back.

use std::io::{self, Write};

use super::packets::{Args, Packets, SliceName};
use super::track::Track;

/// A track, and where it stands.
#[derive(Debug)]
pub(super) struct Line {
    track: Track,
    last_ns: u64,
    open: bool,
}

impl Line {
    /// A track that was described.
    pub(super) fn new(track: Track) -> Self {
        Self {
            track,
            last_ns: 0,
            open: false,
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.open
    }

    fn at(&mut self, ts_ns: u64) -> u64 {
        self.last_ns = self.last_ns.max(ts_ns);
        self.last_ns
    }

    /// Ends what is open and begins another slice.
    pub(super) fn begin<W: Write>(
        &mut self,
        packets: &mut Packets<W>,
        ts_ns: u64,
        name: &SliceName,
        args: &Args,
    ) -> io::Result<()> {
        self.end(packets, ts_ns)?;
        self.open = true;
        let at_ns = self.at(ts_ns);
        packets.begin(self.track, at_ns, name, args, Vec::new())
    }

    /// Ends what is open, if anything is.
    pub(super) fn end<W: Write>(&mut self, packets: &mut Packets<W>, ts_ns: u64) -> io::Result<()> {
        if !self.open {
            return Ok(());
        }
        self.open = false;
        let at_ns = self.at(ts_ns);
        packets.end(self.track, at_ns)
    }

    pub(super) fn instant<W: Write>(
        &mut self,
        packets: &mut Packets<W>,
        ts_ns: u64,
        name: &SliceName,
        args: &Args,
    ) -> io::Result<()> {
        let at_ns = self.at(ts_ns);
        packets.instant(self.track, at_ns, name, args)
    }

    pub(super) fn count<W: Write>(
        &mut self,
        packets: &mut Packets<W>,
        ts_ns: u64,
        value: u32,
    ) -> io::Result<()> {
        let at_ns = self.at(ts_ns);
        packets.count(self.track, at_ns, value)
    }
}

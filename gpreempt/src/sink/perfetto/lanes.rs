// SPDX-License-Identifier: MIT OR Apache-2.0
//! Slices that may overlap, on as many tracks as it takes: slices of one track must not.

use std::io::{self, Write};

use super::packets::{Args, Packets, SliceName};
use super::track::Track;

/// More calls than this at once are no calls of a real machine; more would only cost memory.
const MOST: usize = 64;

/// A slice within another one.
#[derive(Clone, Debug)]
pub(super) struct Inner {
    pub(super) name: &'static str,
    pub(super) begin_ns: u64,
    pub(super) end_ns: u64,
}

/// A slice that is over.
#[derive(Clone, Debug)]
pub(super) struct Slice {
    pub(super) name: SliceName,
    pub(super) begin_ns: u64,
    pub(super) end_ns: u64,
    pub(super) args: Args,
    pub(super) flows: Vec<u64>,
    /// One after the other.
    pub(super) inner: Vec<Inner>,
}

/// Tracks of one name below one parent; Perfetto shows them as one that is as high as needed.
#[derive(Debug)]
pub(super) struct Lanes {
    parent: Track,
    name: &'static str,
    description: &'static str,
    /// When the last slice of each ended.
    ends_ns: Vec<u64>,
}

impl Lanes {
    pub(super) fn new(parent: Track, name: &'static str, description: &'static str) -> Self {
        Self {
            parent,
            name,
            description,
            ends_ns: Vec::new(),
        }
    }

    /// Writes a slice to the first track that is free for it.
    pub(super) fn write<W: Write>(
        &mut self,
        packets: &mut Packets<W>,
        slice: &Slice,
    ) -> io::Result<()> {
        let free = self.ends_ns.iter().position(|end| *end <= slice.begin_ns);
        let at = match free {
            Some(at) => at,
            None if self.ends_ns.len() < MOST => {
                let at = self.ends_ns.len();
                self.ends_ns.push(0);
                packets.track(
                    self.track(at),
                    Some(self.parent),
                    self.name,
                    Some(self.description),
                )?;
                at
            }
            // Shortened, to fit where it is cut least.
            None => {
                let ends = self.ends_ns.iter().enumerate();
                ends.min_by_key(|(_, end)| **end).map_or(0, |(at, _)| at)
            }
        };
        let from_ns = self.ends_ns[at];
        let begin_ns = slice.begin_ns.max(from_ns);
        let end_ns = slice.end_ns.max(begin_ns);
        self.ends_ns[at] = end_ns;
        let track = self.track(at);
        packets.begin(
            track,
            begin_ns,
            &slice.name,
            &slice.args,
            slice.flows.clone(),
        )?;
        let mut last_ns = begin_ns;
        for inner in &slice.inner {
            let begin_ns = inner.begin_ns.clamp(last_ns, end_ns);
            last_ns = inner.end_ns.clamp(begin_ns, end_ns);
            packets.begin(
                track,
                begin_ns,
                &inner.name.into(),
                &Args::new(),
                Vec::new(),
            )?;
            packets.end(track, last_ns)?;
        }
        packets.end(track, end_ns)
    }

    fn track(&self, at: usize) -> Track {
        self.parent.part(self.name, at)
    }
}

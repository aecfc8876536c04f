// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the entries of a recording hold.

use serde::{Deserialize, Serialize};

use crate::kfd::mqds;
use crate::source::{Counters, Startup};

/// Version of the format. A reader refuses newer ones; what is added without breaking older readers does not count.
pub const FORMAT: u32 = 1;

pub(super) const HEAD: &str = "gpreempt.json";
pub(super) const ATTACHED: &str = "attached.json";
pub(super) const SNAPSHOT: &str = "snapshot.json";
pub(super) const TREE: &str = "tree/";
pub(super) const EVENTS: &str = "events/";
pub(super) const COUNTERS: &str = "counters.json";
pub(super) const GONE: &str = "gone.json";
pub(super) const END: &str = "end.json";

/// Starts a recording.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// [`FORMAT`].
    pub format: u32,
    /// Version of the program that wrote it.
    pub version: String,
    /// Wall clock at the start, in nanoseconds since 1970.
    pub unix_ns: u64,
}

/// Probes were attached.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Attached {
    /// When.
    pub ts_ns: u64,
    /// Wall clock of the same moment, in nanoseconds since 1970; 0 = not recorded.
    #[serde(default)]
    pub unix_ns: u64,
    /// What was found.
    pub startup: Startup,
}

/// A picture of the machine follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapped {
    /// When it was begun.
    pub ts_ns: u64,
    /// When it was done; 0 if that was not noted.
    #[serde(default)]
    pub taken_ns: u64,
}

/// How long a picture took at most, where that was not noted.
const LOOK_NS: u64 = 500_000_000;

impl Snapped {
    /// When it was done, at the latest.
    #[must_use]
    pub fn done_ns(self) -> u64 {
        match self.taken_ns {
            0 => self.ts_ns.saturating_add(LOOK_NS),
            taken_ns => taken_ns.max(self.ts_ns),
        }
    }

    /// A picture that took no time.
    #[must_use]
    pub fn at(ts_ns: u64) -> Self {
        Self {
            ts_ns,
            taken_ns: ts_ns,
        }
    }
}

/// Counts since probes were attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted {
    /// When.
    pub ts_ns: u64,
    /// What.
    pub counters: Counters,
}

/// How a recording ended, or when the driver went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// When.
    pub ts_ns: u64,
    /// Records in it.
    pub records: u64,
}

/// One entry.
#[derive(Clone, Debug)]
pub enum Entry {
    /// See [`Attached`].
    Attached(Box<Attached>),
    /// See [`Snapped`].
    Snapshot(Snapped),
    /// A file of the machine.
    File {
        /// Its absolute path.
        path: String,
        /// Its content.
        content: Vec<u8>,
    },
    /// What the dump of descriptors says; in place of its text when a recording is played.
    Mqds(mqds::Parsed),
    /// Records, one after the other.
    Events(Vec<u8>),
    /// See [`Counted`].
    Counters(Counted),
    /// The driver was unloaded.
    Gone(Ended),
    /// The end.
    End(Ended),
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the driver says of itself in text: topology, per-process sysfs, module parameters, debugfs dumps; and what procfs
//! says of its processes. Every reader takes a [`Root`], so that tests read a tree of their own. Keeps no state. Readers
//! never open /dev/kfd: that would make them a GPU process. `uapi` does, for those who act.

mod clock;
mod dump;
pub mod hqds;
mod memory;
pub mod module;
pub mod mqds;
pub mod name;
pub mod process;
pub mod queues;
pub mod rls;
mod root;
pub mod snapshot;
pub mod states;
pub mod task;
pub mod topology;
pub mod tree;
pub mod uapi;

pub use clock::boottime_ns;
pub use dump::{text, ParseError};
pub use memory::Windows;
pub use root::{Captured, Root};

// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the driver says of itself in text: topology, per-process sysfs, module parameters, debugfs dumps; and what procfs
//! says of its processes. Every reader takes a [`Root`], so that tests read a tree of their own. Keeps no state and
//! never opens /dev/kfd: that would make the reader a GPU process.

mod dump;
pub mod hqds;
pub mod module;
pub mod mqds;
pub mod queues;
pub mod rls;
mod root;
pub mod task;
pub mod topology;

pub use dump::ParseError;
pub use root::Root;

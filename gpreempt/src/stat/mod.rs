// SPDX-License-Identifier: MIT OR Apache-2.0
//! Latencies and counts over a period: histograms of every duration that events carry, in one table or by cause, process or GPU.
//!
//! Memory is bounded, however long it runs and whatever happens: [`measure::Measure::COUNT`] histograms of all events, and as many
//! for each of at most [`collect::MOST_GROUPS`] groups; what comes after those is one group more. A histogram takes no more than
//! [`latency::MOST_BYTES`].

pub mod collect;
pub mod latency;
pub mod measure;
pub mod record;
mod sink;
mod table;

pub use collect::By;
pub use record::{page, schema};
pub use sink::{Options, StatSink};

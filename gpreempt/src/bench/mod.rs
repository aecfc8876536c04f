// SPDX-License-Identifier: MIT OR Apache-2.0
//! Measuring how long it takes to stop and restart queues: a [`Plan`] of sets of queues, a [`run()`] that measures each of
//! them with each backend in changing order, and a [`Report`] of it as records, as a table and as a page with plots.
//! Touches the machine only through a [`Rig`].

pub mod environment;
pub mod html;
mod machine;
mod order;
mod plan;
pub mod record;
mod report;
mod run;
pub mod stats;
pub mod table;

pub use machine::{Machine, Open, Stop, Tell};
pub use plan::{Calls, Case, Count, Plan};
pub use report::Report;
pub use run::{run, Cycle, End, Findings, Options, Rig, Row, Sample, Seen};

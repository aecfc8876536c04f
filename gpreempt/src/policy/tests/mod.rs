// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tests of the whole room: policies on a timeline, guards against everything.

mod config;
mod guards;
mod sim;
mod timeline;

pub(crate) use sim::{member, Sim, MS, S};

// SPDX-License-Identifier: MIT OR Apache-2.0
//! Decisions to the GPU: queues of other processes are stopped and restarted by one of several [`Backend`]s. What was stopped
//! is a lease: it is restarted by release, deadline, drop, panic, signal and death of the holder. Chooses no victims.

pub mod agent;
pub mod backend;
pub mod choose;
pub mod command;
pub mod criu;
pub mod debug_trap;
pub mod dry_run;
pub mod errno;
mod host;
pub mod lease;
pub mod observe;
pub mod outcome;
pub mod patched;
mod pidfd;
pub mod preload;
pub mod ptrace;
pub mod report;
pub mod reserve;
pub mod select;
pub mod strays;
pub mod supervisor;
pub mod target;
mod tracer;
pub mod wait;
mod why;

pub use backend::{check_kfd, open_kfd, Backend, BackendKind, ControlError, HoldOptions};
pub use outcome::{Lack, Outcome, Refusal, TargetOutcome};
pub use target::{Target, TargetQueue};

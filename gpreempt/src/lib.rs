// SPDX-License-Identifier: MIT OR Apache-2.0
//! gpreempt: see and preempt the compute queues of AMD GPUs. The modules are the rooms of one data path:
//! `source` yields bytes, `event` decodes them, `model` keeps state, `sink` shows it; `engine` wires them.

pub mod analysis;
pub mod bench;
pub mod cli;
pub mod control;
pub mod doctor;
pub mod engine;
pub mod event;
pub mod findings;
mod html;
pub mod inspect;
pub mod kfd;
pub mod model;
pub mod policy;
pub mod recording;
pub mod serve;
pub mod sink;
pub mod source;
pub mod stat;
pub mod top;

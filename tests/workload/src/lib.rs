// SPDX-License-Identifier: MIT OR Apache-2.0
//! Load generators that use an AMD GPU the way machine-learning processes do.
//!
//! `kfd-load` speaks to `/dev/kfd` with plain ioctls, so it runs as a static binary where no ROCm is installed.
//! `hsa-load` does the same through the unmodified ROCm runtime. Both print one JSON object a line.
//!
//! The library is arranged by what each file knows: `uapi` the bytes of the ioctls, `ioctl` the calls, `topology` what
//! sysfs says of a GPU, `memory` mapped memory, `device` an opened GPU, `event` completion events, `aql` and `sdma` the
//! packets, `queue` a user queue, `stream` work in flight on one GPU.

pub mod addresses;
pub mod aql;
pub mod bench;
pub mod churn;
pub mod control;
pub mod device;
pub mod event;
pub mod failure;
pub mod ioctl;
pub mod memory;
pub mod pace;
pub mod profile;
pub mod queue;
pub mod report;
pub mod sdma;
pub mod stop;
pub mod stream;
pub mod topology;
pub mod tracer;
pub mod uapi;
pub mod worker;

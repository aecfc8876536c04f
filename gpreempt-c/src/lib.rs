// SPDX-License-Identifier: MIT OR Apache-2.0
//! The C interface of gpreempt. `include/gpreempt.h` is generated from here; what its functions mean is written at them.
//!
//! ```text
//! calls: C arguments in, error codes out --> handle --> hints    the daemon's socket
//!                                                  +--> holds    /dev/kfd of a patched driver
//!                                                  +--> slots    likewise, and sysfs
//!                                                  +--> queues   sysfs, debugfs
//! ```
//!
//! `raw` is where pointers become references; `calls` lets no panic out.

#![allow(non_camel_case_types, reason = "names of types are those of C")]

pub mod abi;
pub mod calls;
mod error;
mod handle;
mod hints;
mod holds;
mod queues;
mod raw;
mod slots;

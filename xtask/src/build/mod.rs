// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is built: the eBPF programs, the program itself, the guest's programs, the simulated GPU's module.

pub(crate) mod c_programs;
pub(crate) mod cargo;
pub(crate) mod ebpf;
pub(crate) mod programs;
pub(crate) mod series;
pub(crate) mod shared_library;
pub(crate) mod sim;

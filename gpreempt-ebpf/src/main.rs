// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! The eBPF programs: one amdkfd call becomes one record, written at its return.
//!
//! Every program exists twice, as kprobe and as fentry (the name ends in `_f`): fentry is cheaper and never runs out of
//! return instances, but needs BTF of the module. User space loads one of the two.
#![no_std]
#![no_main]

mod check;
mod context;
mod evict;
mod hold;
mod kernel;
mod peek;
mod process;
mod queue;
mod reset;
mod ring;
mod runlist;
mod suspend;
mod thread;

/// What the kernel asks of programs that call GPL-only helpers (`bpf_probe_read_kernel`).
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! A look at kernel memory: user space runs this program in its own thread to have bytes at an address copied. Never attached.

use core::ffi::c_void;

use aya_ebpf::{
    helpers::generated,
    macros::{map, raw_tracepoint},
    maps::Array,
    programs::RawTracePointContext,
};
use gpreempt_common::peek::PEEK_BYTES;

#[map]
static PEEKED: Array<[u8; PEEK_BYTES]> = Array::with_max_entries(1, 0);

/// The first argument is the address, the second the number of bytes. Returns 0, or the error of the copy.
#[raw_tracepoint]
pub fn peek(ctx: RawTracePointContext) -> i32 {
    let address: u64 = ctx.arg(0);
    let bytes: u64 = ctx.arg(1);
    if bytes > PEEK_BYTES as u64 {
        return -1;
    }
    let Some(into) = PEEKED.get_ptr_mut(0) else {
        return -1;
    };
    let source = address as *const c_void;
    // SAFETY: the helper copes with any source, and writes `bytes` at most, which is what the slot holds.
    let result =
        unsafe { generated::bpf_probe_read_kernel(into.cast(), bytes as u32, source.cast()) };
    result as i32
}

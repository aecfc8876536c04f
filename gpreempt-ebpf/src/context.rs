// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! Arguments and return values, whichever way a program was attached.

use aya_ebpf::programs::{FEntryContext, FExitContext, ProbeContext, RetProbeContext};

/// The context at entry of a function.
pub trait Entry {
    /// Argument `n`, from 0. Only arguments that every accepted variant of the symbol passes in its register may be asked for.
    fn arg(&self, n: usize) -> u64;
}

/// The context at return of a function.
pub trait Exit {
    /// What the function returns.
    fn ret(&self) -> u64;
}

impl Entry for ProbeContext {
    #[inline(always)]
    fn arg(&self, n: usize) -> u64 {
        ProbeContext::arg(self, n).unwrap_or(0)
    }
}

impl Entry for FEntryContext {
    #[inline(always)]
    fn arg(&self, n: usize) -> u64 {
        FEntryContext::arg(self, n)
    }
}

impl Exit for RetProbeContext {
    #[inline(always)]
    fn ret(&self) -> u64 {
        RetProbeContext::ret(self)
    }
}

impl Exit for FExitContext {
    #[inline(always)]
    fn ret(&self) -> u64 {
        FExitContext::ret(self).unwrap_or(0)
    }
}

/// A line per call in builds with the feature `log`; user space then reads it through aya-log's map.
macro_rules! trace {
    ($ctx:ident, $program:ident) => {
        #[cfg(feature = "log")]
        aya_log_ebpf::trace!(&$ctx, "{}", stringify!($program));
    };
}

/// Programs for entry of a function: `entry! { kprobe_name, fentry_name: |ctx| handler(ctx); }`.
macro_rules! entry {
    ($( $kprobe:ident, $fentry:ident: |$ctx:ident| $handle:expr; )+) => { $(
        #[aya_ebpf::macros::kprobe]
        pub fn $kprobe($ctx: aya_ebpf::programs::ProbeContext) -> u32 {
            $crate::context::trace!($ctx, $kprobe);
            let $ctx = &$ctx;
            $handle;
            0
        }
        #[aya_ebpf::macros::fentry]
        pub fn $fentry($ctx: aya_ebpf::programs::FEntryContext) -> i32 {
            $crate::context::trace!($ctx, $fentry);
            let $ctx = &$ctx;
            $handle;
            0
        }
    )+ };
}

/// Programs for return of a function: `exit! { kretprobe_name, fexit_name: |ctx| handler(ctx); }`.
macro_rules! exit {
    ($( $kretprobe:ident, $fexit:ident: |$ctx:ident| $handle:expr; )+) => { $(
        #[aya_ebpf::macros::kretprobe]
        pub fn $kretprobe($ctx: aya_ebpf::programs::RetProbeContext) -> u32 {
            $crate::context::trace!($ctx, $kretprobe);
            let $ctx = &$ctx;
            $handle;
            0
        }
        #[aya_ebpf::macros::fexit]
        pub fn $fexit($ctx: aya_ebpf::programs::FExitContext) -> i32 {
            $crate::context::trace!($ctx, $fexit);
            let $ctx = &$ctx;
            $handle;
            0
        }
    )+ };
}

pub(crate) use entry;
pub(crate) use exit;
pub(crate) use trace;

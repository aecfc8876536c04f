// SPDX-License-Identifier: MIT OR Apache-2.0
//! Options of every verb that observes the kernel: which probes, how they are attached, for how long.

use std::path::PathBuf;
use std::time::Duration;

use super::output;
use super::watch::duration;
use crate::engine::Options;
use crate::source::{Attach, LiveOptions, ProbeSet};

/// Which probes, and how.
#[derive(Debug, clap::Args)]
pub(super) struct Probes {
    /// Probes to attach; minimal is the life of processes and queues
    #[arg(long, value_enum, default_value_t = ProbeSet::Full)]
    probes: ProbeSet,
    /// Bytes of the kernel's ring buffer, a power of two; raise it when records are lost
    #[arg(long, default_value = "1MiB", value_parser = ring_bytes, value_name = "BYTES")]
    ring_bytes: u32,
    /// How probes are attached: auto prefers fentry, which costs less but keeps the module from being unloaded
    #[arg(long, value_enum, default_value_t = How::Auto, value_name = "HOW")]
    attach: How,
    /// Offsets of kernel structs, for a driver without BTF (made by doctor --extract-offsets)
    #[arg(long, value_name = "PROFILE", alias = "profile")]
    offsets: Option<PathBuf>,
}

/// For how long.
#[derive(Debug, clap::Args)]
pub(super) struct Span {
    /// Stop that long after attaching: seconds, or 500ms, 5m, 1h30m
    #[arg(long, value_parser = duration)]
    pub(super) duration: Option<Duration>,
    /// Wait for the driver if it is not loaded
    #[arg(long)]
    wait: bool,
}

impl Probes {
    pub(super) fn live_options(&self) -> LiveOptions {
        LiveOptions {
            probes: self.probes,
            ring_bytes: self.ring_bytes,
            profile: self.offsets.clone(),
        }
    }

    pub(super) fn offsets(&self) -> Option<PathBuf> {
        self.offsets.clone()
    }

    pub(super) fn attach(&self) -> Attach {
        match self.attach {
            How::Auto => Attach::Auto,
            How::Kprobe => Attach::Kprobe,
        }
    }
}

impl Span {
    pub(super) fn options(&self) -> Options {
        Options {
            duration: self.duration,
            wait: self.wait,
            reader_gone: Some(output::reader_gone),
            ..Options::default()
        }
    }
}

/// How programs get to functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum How {
    Auto,
    Kprobe,
}

const MOST_RING_BYTES: u32 = 256 << 20;
const LEAST_RING_BYTES: u32 = 4 << 10;

fn ring_bytes(text: &str) -> Result<u32, String> {
    let (digits, unit) = match text.strip_suffix("MiB").or_else(|| text.strip_suffix('M')) {
        Some(digits) => (digits, 1 << 20),
        None => match text.strip_suffix("KiB").or_else(|| text.strip_suffix('K')) {
            Some(digits) => (digits, 1 << 10),
            None => (text, 1),
        },
    };
    digits
        .parse::<u32>()
        .ok()
        .and_then(|n| n.checked_mul(unit))
        .filter(|n| n.is_power_of_two() && (LEAST_RING_BYTES..=MOST_RING_BYTES).contains(n))
        .ok_or_else(|| "expected a power of two from 4KiB to 256MiB".to_owned())
}

#[cfg(test)]
mod tests {
    use super::ring_bytes;

    #[test]
    fn ring_sizes() {
        assert_eq!(ring_bytes("65536"), Ok(65536));
        assert_eq!(ring_bytes("64KiB"), Ok(65536));
        assert_eq!(ring_bytes("4M"), Ok(4 << 20));
        for wrong in ["", "0", "3MiB", "2KiB", "512MiB", "-1", "99999999999"] {
            assert!(ring_bytes(wrong).is_err(), "{wrong}");
        }
    }
}

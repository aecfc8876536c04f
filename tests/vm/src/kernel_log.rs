// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel's log as it grows: what the kernel complained of, and since when.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;

use ::guest::complaint::{begin_mark, complaint_in};
use anyhow::Context;

const PATH: &str = "/dev/kmsg";

/// Longest record of the kernel's log, with its dictionary.
const RECORD_BYTES: usize = 8192;

/// A reader of the log, from the boot on.
pub(crate) struct KernelLog {
    device: File,
    /// Every balance that the simulated GPU printed when it was unloaded.
    balances: Vec<String>,
}

impl KernelLog {
    /// Opens it at its beginning.
    pub(crate) fn open() -> anyhow::Result<Self> {
        let device = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(PATH)
            .with_context(|| format!("open {PATH}"))?;
        Ok(Self {
            device,
            balances: Vec::new(),
        })
    }

    /// Notes in the log that a test begins.
    pub(crate) fn mark(&mut self, test: &str) -> anyhow::Result<()> {
        self.device
            // Without its end the kernel keeps the line open and shows it to nobody.
            .write_all(format!("{}\n", begin_mark(test)).as_bytes())
            .with_context(|| format!("write to {PATH}"))
    }

    /// What the kernel complained of since the last call.
    pub(crate) fn complaints(&mut self) -> anyhow::Result<Vec<String>> {
        let mut found = Vec::new();
        let mut record = vec![0; RECORD_BYTES];
        loop {
            match self.device.read(&mut record) {
                Ok(0) => break,
                Ok(length) => {
                    let record = String::from_utf8_lossy(&record[..length]);
                    let Some(text) = text_of(&record) else {
                        continue;
                    };
                    if text.contains(BALANCE) {
                        self.balances.push(text.to_owned());
                    }
                    found.extend(complaint_in(text));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The oldest records were overwritten; the host reads the console, which has them.
                Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
                Err(error) => return Err(error).with_context(|| format!("read {PATH}")),
            }
        }
        // The call trace of another complaint says nothing new.
        if found.iter().any(|complaint| !complaint.is_trace()) {
            found.retain(|complaint| !complaint.is_trace());
        }
        Ok(found.into_iter().map(|complaint| complaint.line).collect())
    }

    /// The balances of every unloading so far that show a leak, and how many there were in all.
    pub(crate) fn leaks(&self) -> (Vec<&str>, usize) {
        let leaks = self.balances.iter().filter(|line| leaked(line));
        (leaks.map(String::as_str).collect(), self.balances.len())
    }
}

/// `amdgpu: sim: leaked bo 0 mem 0 files 0`
const BALANCE: &str = "sim: leaked ";

/// Whether a balance holds a number other than 0.
fn leaked(line: &str) -> bool {
    let counts = line
        .split_once(BALANCE)
        .map_or("", |(_, counts)| counts)
        .split_whitespace();
    let numbers: Vec<&str> = counts.skip(1).step_by(2).collect();
    numbers.is_empty() || numbers.iter().any(|number| *number != "0")
}

/// The text of a record of `/dev/kmsg`: `level,sequence,time,flags;text`, then lines of its dictionary.
fn text_of(record: &str) -> Option<&str> {
    let (_, text) = record.split_once(';')?;
    text.lines().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_taken_apart() {
        assert_eq!(
            text_of("4,1234,5678901,-;WARNING: CPU: 0; x\n SUBSYSTEM=pci\n"),
            Some("WARNING: CPU: 0; x")
        );
        assert_eq!(text_of("no record"), None);
    }

    #[test]
    fn any_count_but_0_is_a_leak() {
        assert!(!leaked("amdgpu: sim: leaked bo 0 mem 0 files 0"));
        assert!(leaked("amdgpu: sim: leaked bo 0 mem 1 files 0"));
        assert!(leaked("amdgpu: sim: leaked bo 10 mem 0 files 0"));
        assert!(leaked("amdgpu: sim: leaked "));
    }
}

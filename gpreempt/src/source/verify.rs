// SPDX-License-Identifier: MIT OR Apache-2.0
//! The known fact: before anything is believed, what the offset table says of this very thread is compared with /proc. The
//! other check goes on for good: a queue that a process creates must belong to that process (counter `Mismatch`).

use std::{fs, os::fd::AsFd as _};

use anyhow::{ensure, Context as _, Result};
use gpreempt_common::{
    offsets::{Offsets, UNKNOWN},
    record::SelfCheck,
};
use zerocopy::FromBytes as _;

use super::{
    programs::Programs,
    sys::{self, ProgramKind},
};

/// What /proc says of the calling thread.
#[derive(Debug, PartialEq, Eq)]
struct Known {
    comm: Vec<u8>,
    /// Thread id in its own pid namespace.
    ns_tid: u32,
    /// Clock ticks since boot.
    start_ticks: u64,
}

/// Runs the program `self_check` in this thread and compares. Returns the pid of this process in the initial pid namespace.
pub(super) fn self_check(programs: &Programs, offsets: &Offsets) -> Result<u32> {
    let program = programs
        .load("self_check", ProgramKind::RawTracepoint)
        .context("loading the program self_check")?;
    sys::run_once(program.as_fd()).context("running the program self_check")?;
    let bytes = programs
        .checked
        .get(&0, 0)
        .context("reading what self_check found")?;
    let found = SelfCheck::read_from_bytes(&bytes)
        .ok()
        .context("self_check left bytes of another size")?;
    compare(&found, &known()?, offsets)?;
    Ok(found.tgid)
}

fn known() -> Result<Known> {
    let read = |file: &str| {
        fs::read(format!("/proc/thread-self/{file}"))
            .with_context(|| format!("reading /proc/thread-self/{file}"))
    };
    let status = String::from_utf8_lossy(&read("status")?).into_owned();
    // One id for each pid namespace from that of this /proc to the thread's own.
    let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    let ns_tid = ids.and_then(|ids| ids.split_whitespace().last()?.parse().ok());
    let stat = String::from_utf8_lossy(&read("stat")?).into_owned();
    // The name in parentheses may contain anything; field 22 counts from the pid, the 20th after the name.
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let start_ticks = after_name
        .split_whitespace()
        .nth(19)
        .and_then(|ticks| ticks.parse().ok());
    let mut comm = read("comm")?;
    comm.truncate(comm.strip_suffix(b"\n").map_or(comm.len(), <[u8]>::len));
    Ok(Known {
        comm,
        ns_tid: ns_tid.context("no NSpid in /proc/thread-self/status")?,
        start_ticks: start_ticks.context("no start time in /proc/thread-self/stat")?,
    })
}

/// What the table does not know says nothing; what it knows has to fit.
fn compare(found: &SelfCheck, known: &Known, offsets: &Offsets) -> Result<()> {
    let advice =
        "the struct offsets are not those of this kernel; extract a profile from its own module \
                  (gpreempt doctor --extract-offsets)";
    ensure!(
        found.tgid == found.expected_tgid,
        "task_struct.tgid reads {} in process {}: {advice}",
        found.tgid,
        found.expected_tgid
    );
    let knows_ns_pid = [
        offsets.task_thread_pid,
        offsets.pid_level,
        offsets.pid_numbers,
        offsets.upid_nr,
        offsets.upid_bytes,
    ]
    .iter()
    .all(|offset| *offset != UNKNOWN);
    ensure!(
        !knows_ns_pid || found.ns_pid == known.ns_tid,
        "struct pid reads {} in thread {}: {advice}",
        found.ns_pid,
        known.ns_tid
    );
    let length = found
        .comm
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(found.comm.len());
    ensure!(
        offsets.task_comm == UNKNOWN || found.comm[..length] == known.comm,
        "task_struct.comm reads {:?} in {:?}: {advice}",
        String::from_utf8_lossy(&found.comm[..length]),
        String::from_utf8_lossy(&known.comm)
    );
    // USER_HZ is 100 on every architecture that has amdkfd. A time namespace shifts what /proc shows, so a difference of more
    // than a tick is an error only if the offset of the namespace is zero.
    let ticks = found.start_boottime_ns / 10_000_000;
    ensure!(
        offsets.task_start_boottime == UNKNOWN || ticks == known.start_ticks || in_time_namespace(),
        "task_struct.start_boottime reads tick {ticks}, it is {}: {advice}",
        known.start_ticks
    );
    Ok(())
}

fn in_time_namespace() -> bool {
    let offsets = fs::read_to_string("/proc/self/timens_offsets").unwrap_or_default();
    offsets.lines().any(|line| {
        line.starts_with("boottime") && line.split_whitespace().skip(1).any(|word| word != "0")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use gpreempt_common::offsets::FIELDS;

    fn known() -> Known {
        Known {
            comm: b"gpreempt".to_vec(),
            ns_tid: 12,
            start_ticks: 500,
        }
    }

    fn found() -> SelfCheck {
        let mut comm = [0; 16];
        comm[..8].copy_from_slice(b"gpreempt");
        SelfCheck {
            start_boottime_ns: 5_004_999_999,
            tgid: 4010,
            expected_tgid: 4010,
            reserved: 0,
            ns_pid: 12,
            comm,
        }
    }

    /// A table that knows every field; the values do not matter here.
    fn all_known() -> Offsets {
        Offsets::from_words(FIELDS.iter().map(|_| 8))
    }

    #[test]
    fn what_fits_is_believed() {
        compare(&found(), &known(), &all_known()).unwrap();
        let bare = SelfCheck {
            start_boottime_ns: 0,
            ns_pid: 0,
            comm: [0; 16],
            ..found()
        };
        compare(&bare, &known(), &Offsets::NONE).unwrap();
        assert!(compare(&bare, &known(), &all_known()).is_err());
    }

    #[test]
    fn every_wrong_offset_is_found_out() {
        type Spoil = fn(&mut SelfCheck);
        let wrong: [(Spoil, &str); 7] = [
            (|found| found.tgid = 4012, "tgid"),
            (|found| found.ns_pid = 13, "struct pid"),
            (|found| found.ns_pid = 0, "struct pid"),
            (|found| found.comm = *b"garbagegarbage!!", "comm"),
            (|found| found.comm = [0; 16], "comm"),
            (
                |found| found.start_boottime_ns = 6_000_000_000,
                "start_boottime",
            ),
            (|found| found.start_boottime_ns = 0, "start_boottime"),
        ];
        for (spoil, word) in wrong {
            let mut found = found();
            spoil(&mut found);
            let message = compare(&found, &known(), &all_known())
                .unwrap_err()
                .to_string();
            assert!(
                message.contains(word) && message.contains("--extract-offsets"),
                "{message}"
            );
        }
    }

    #[test]
    fn proc_is_understood() {
        let known = super::known().unwrap();
        assert!(known.ns_tid > 0 && !known.comm.is_empty());
        assert!(known.start_ticks > 0);
    }
}

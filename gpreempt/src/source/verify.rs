// SPDX-License-Identifier: MIT OR Apache-2.0
//! The known fact: before anything is believed, what the offset table says of this very thread is compared with /proc. The
//! other check goes on for good: a queue that a process creates must belong to that process (counter `Mismatch`).

use std::{fs, os::fd::AsFd as _};

use anyhow::{ensure, Context as _, Result};
use gpreempt_common::record::SelfCheck;
use zerocopy::FromBytes as _;

use super::{
    programs::Programs,
    sys::{self, ProgramKind},
};

/// What /proc says of the calling thread.
#[derive(Debug, PartialEq, Eq)]
struct Known {
    comm: Vec<u8>,
    /// Thread id and thread group id in the pid namespace of /proc.
    tid: u32,
    tgid: u32,
    /// Clock ticks since boot.
    start_ticks: u64,
}

/// Runs the program `self_check` in this thread and compares.
pub(super) fn self_check(programs: &Programs) -> Result<()> {
    let program = programs.load("self_check", ProgramKind::RawTracepoint).context("loading the program self_check")?;
    sys::run_once(program.as_fd()).context("running the program self_check")?;
    let bytes = programs.checked.get(&0, 0).context("reading what self_check found")?;
    let found = SelfCheck::read_from_bytes(&bytes).ok().context("self_check left bytes of another size")?;
    compare(&found, &known()?)
}

fn known() -> Result<Known> {
    let read = |file: &str| fs::read(format!("/proc/thread-self/{file}")).with_context(|| format!("reading /proc/thread-self/{file}"));
    let status = String::from_utf8_lossy(&read("status")?).into_owned();
    let id = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        line.and_then(|value| value.trim().parse().ok()).with_context(|| format!("no {key} in /proc/thread-self/status"))
    };
    let stat = String::from_utf8_lossy(&read("stat")?).into_owned();
    // The name in parentheses may contain anything; field 22 counts from the pid, the 20th after the name.
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let start_ticks = after_name.split_whitespace().nth(19).and_then(|ticks| ticks.parse().ok());
    let mut comm = read("comm")?;
    comm.truncate(comm.strip_suffix(b"\n").map_or(comm.len(), <[u8]>::len));
    Ok(Known {
        comm,
        tid: id("Pid:")?,
        tgid: id("Tgid:")?,
        start_ticks: start_ticks.context("no start time in /proc/thread-self/stat")?,
    })
}

/// Fields that this kernel does not have are zero and say nothing; the required one has to fit.
fn compare(found: &SelfCheck, known: &Known) -> Result<()> {
    let advice = "the struct offsets are not those of this kernel; extract a profile from its own module \
                  (gpreempt doctor --extract-offsets)";
    // In a container /proc shows the ids of its own namespace: then the thread's id there is what can be compared.
    let in_namespace = found.ns_pid != 0 && found.ns_pid == known.tid;
    ensure!(
        found.tgid == known.tgid || in_namespace,
        "task_struct.tgid reads {} in process {}: {advice}",
        found.tgid,
        known.tgid
    );
    ensure!(
        found.ns_pid == 0 || in_namespace,
        "struct pid reads {} in thread {}: {advice}",
        found.ns_pid,
        known.tid
    );
    let length = found.comm.iter().position(|byte| *byte == 0).unwrap_or(found.comm.len());
    ensure!(
        length == 0 || found.comm[..length] == known.comm,
        "task_struct.comm reads {:?} in {:?}: {advice}",
        String::from_utf8_lossy(&found.comm[..length]),
        String::from_utf8_lossy(&known.comm)
    );
    // USER_HZ is 100 on every architecture that has amdkfd. A time namespace shifts what /proc shows, so a difference of more
    // than a tick is an error only if the offset of the namespace is zero.
    let ticks = found.start_boottime_ns / 10_000_000;
    ensure!(
        found.start_boottime_ns == 0 || ticks == known.start_ticks || in_time_namespace(),
        "task_struct.start_boottime reads tick {ticks}, it is {}: {advice}",
        known.start_ticks
    );
    Ok(())
}

fn in_time_namespace() -> bool {
    let offsets = fs::read_to_string("/proc/self/timens_offsets").unwrap_or_default();
    offsets.lines().any(|line| line.starts_with("boottime") && line.split_whitespace().skip(1).any(|word| word != "0"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> Known {
        Known { comm: b"gpreempt".to_vec(), tid: 12, tgid: 10, start_ticks: 500 }
    }

    fn found() -> SelfCheck {
        let mut comm = [0; 16];
        comm[..8].copy_from_slice(b"gpreempt");
        SelfCheck { start_boottime_ns: 5_004_999_999, tgid: 10, ns_pid: 12, comm }
    }

    #[test]
    fn what_fits_is_believed() {
        compare(&found(), &known()).unwrap();
        // Fields that the kernel lacks.
        compare(&SelfCheck { start_boottime_ns: 0, ns_pid: 0, comm: [0; 16], ..found() }, &known()).unwrap();
        // In a container: /proc knows 12, the kernel 4012.
        compare(&SelfCheck { tgid: 4010, ..found() }, &known()).unwrap();
    }

    #[test]
    fn every_wrong_offset_is_found_out() {
        for (wrong, word) in [
            (SelfCheck { tgid: 11, ns_pid: 0, ..found() }, "tgid"),
            (SelfCheck { ns_pid: 13, ..found() }, "struct pid"),
            (SelfCheck { comm: *b"garbagegarbage!!", ..found() }, "comm"),
            (SelfCheck { start_boottime_ns: 6_000_000_000, ..found() }, "start_boottime"),
        ] {
            let message = compare(&wrong, &known()).unwrap_err().to_string();
            assert!(message.contains(word) && message.contains("--extract-offsets"), "{message}");
        }
    }

    #[test]
    fn proc_is_understood() {
        let known = super::known().unwrap();
        assert_eq!(known.tgid, std::process::id());
        assert!(known.start_ticks > 0);
    }
}

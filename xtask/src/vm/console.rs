// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the guest's kernel wrote to its console, and whether anything in it is a kernel's complaint.

use std::fs;
use std::path::Path;

/// A complaint of the guest's kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    /// The line that begins it.
    pub(crate) line: String,
    /// The kernel did not go on after it.
    pub(crate) fatal: bool,
}

/// How complaints begin, after the time stamp.
const COMPLAINTS: &[(&str, bool)] = &[
    ("Kernel panic", true),
    ("WARNING: CPU", false),
    ("WARNING: ", false),
    ("BUG: ", false),
    ("kernel BUG at", false),
    ("Oops: ", false),
    ("general protection fault", false),
    ("Unable to handle kernel", false),
    ("watchdog: BUG", false),
    ("rcu: INFO: rcu_", false),
    ("UBSAN: ", false),
    ("list_add corruption", false),
    ("list_del corruption", false),
    ("refcount_t: ", false),
];

/// Complaints in a console log, in order.
pub(crate) fn findings(log: &str) -> Vec<Finding> {
    log.lines().filter_map(finding_of).collect()
}

fn finding_of(line: &str) -> Option<Finding> {
    let text = without_time(line);
    let hung = text.starts_with("INFO: task ") && text.contains(" blocked for more than ");
    let fatal = COMPLAINTS
        .iter()
        .find(|(start, _)| text.starts_with(start))
        .map(|(_, fatal)| *fatal)
        .or(hung.then_some(false))?;
    Some(Finding {
        line: text.to_owned(),
        fatal,
    })
}

/// The line without `[   12.345678] ` and what the console put before it.
fn without_time(line: &str) -> &str {
    let line = line.trim();
    let stamped = line.split_once('[').filter(|(before, _)| before.is_empty());
    let rest = stamped
        .and_then(|(_, rest)| rest.split_once("] "))
        .filter(|(time, _)| {
            !time.is_empty()
                && time
                    .bytes()
                    .all(|c| c.is_ascii_digit() || matches!(c, b' ' | b'.'))
        });
    rest.map_or(line, |(_, text)| text)
}

/// The log's text, whatever bytes it holds.
pub(crate) fn read(path: &Path) -> String {
    fs::read(path)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default()
}

/// The last lines that hold anything.
pub(crate) fn last_lines(log: &str, count: usize) -> Vec<&str> {
    let lines: Vec<&str> = log
        .lines()
        .map(str::trim_end)
        .filter(|line| !line.is_empty())
        .collect();
    lines[lines.len().saturating_sub(count)..].to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complaints_are_found_and_ordinary_lines_are_not() {
        let log = "[    0.000000] Linux version 6.12\r\n\
                   [    1.5] amdgpu: module verification failed: signature and/or required key missing - tainting kernel\r\n\
                   [   12.345678] WARNING: CPU: 1 PID: 99 at kernel/x.c:5 f+0x1/0x2 [amdgpu]\r\n\
                   [   12.345679] Modules linked in: amdgpu\r\n\
                   [   13.0] BUG: kernel NULL pointer dereference, address: 0000000000000000\r\n\
                   [   14.0] INFO: task kfd:12 blocked for more than 120 seconds.\r\n\
                   [   15.0] Kernel panic - not syncing: Attempted to kill init!\r\n\
                   DEBUG: no\r\n";
        let found = findings(log);
        assert_eq!(found.len(), 4, "{found:?}");
        assert!(found[0].line.starts_with("WARNING: CPU: 1"));
        assert!(!found[2].fatal);
        assert!(found[3].fatal);
    }

    #[test]
    fn the_last_lines_skip_blank_ones() {
        assert_eq!(last_lines("a\n\nb\r\n\r\nc\n\n", 2), ["b", "c"]);
        assert!(last_lines("", 5).is_empty());
    }
}

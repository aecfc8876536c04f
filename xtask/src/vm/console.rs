// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the guest's kernel wrote to its console, and whether anything in it is a kernel's complaint.

use std::fmt;
use std::fs;
use std::path::Path;

use guest::complaint::{begun_by, complaint_in};

/// A complaint of the guest's kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    /// The line that begins it.
    pub(crate) line: String,
    /// The kernel did not go on after it.
    pub(crate) fatal: bool,
    /// The test that had begun last.
    pub(crate) during: Option<String>,
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.during {
            Some(test) => write!(formatter, "{} (during {test})", self.line),
            None => formatter.write_str(&self.line),
        }
    }
}

/// Complaints in a console log, in order.
pub(crate) fn findings(log: &str) -> Vec<Finding> {
    let mut during = None;
    let mut found: Vec<Finding> = Vec::new();
    for line in log.lines() {
        if let Some(test) = begun_by(line) {
            during = Some(test);
        } else if let Some(complaint) = complaint_in(line) {
            // The call trace of a complaint that is told already.
            if complaint.is_trace()
                && found
                    .last()
                    .is_some_and(|last| last.during.as_deref() == during)
            {
                continue;
            }
            found.push(Finding {
                line: complaint.line,
                fatal: complaint.fatal,
                during: during.map(str::to_owned),
            });
        }
    }
    found
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
    fn complaints_are_found_with_the_test_they_fall_into() {
        let log = "[    0.000000] Linux version 6.12\r\n\
                   [    1.0] BUG: early\r\n\
                   [    5.0] vm-tests: begin g::a\r\n\
                   [   12.345678] WARNING: CPU: 1 PID: 99 at kernel/x.c:5 f+0x1/0x2 [amdgpu]\r\n\
                   [   12.345679] Modules linked in: amdgpu\r\n\
                   [   13.0] vm-tests: begin g::b\r\n\
                   [   14.0] vm-tests: begin g::c\r\n\
                   [   15.0] Kernel panic - not syncing: Attempted to kill init!\r\n";
        let found: Vec<_> = findings(log)
            .into_iter()
            .map(|finding| (finding.during, finding.fatal))
            .collect();
        assert_eq!(
            found,
            [
                (None, false),
                (Some("g::a".to_owned()), false),
                (Some("g::c".to_owned()), true)
            ]
        );
        assert_eq!(findings(log)[0].to_string(), "BUG: early");
        assert!(findings(log)[1].to_string().ends_with("(during g::a)"));
    }

    #[test]
    fn the_last_lines_skip_blank_ones() {
        assert_eq!(last_lines("a\n\nb\r\n\r\nc\n\n", 2), ["b", "c"]);
        assert!(last_lines("", 5).is_empty());
    }
}

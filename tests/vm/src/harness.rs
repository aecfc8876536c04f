// SPDX-License-Identifier: MIT OR Apache-2.0
//! Running tests one after the other and saying how each ended.
//!
//! A test passes if its function returns without an error and the kernel did not complain meanwhile.

use std::panic::{catch_unwind, AssertUnwindSafe};
use std::process::ExitCode;
use std::time::Instant;

use serde_json::json;

use crate::kernel_log::KernelLog;

/// A test: passes or fails with an error. None skips: a group's configuration says what its guest has.
pub(crate) struct Test {
    pub(crate) group: &'static str,
    pub(crate) name: &'static str,
    pub(crate) run: fn() -> anyhow::Result<()>,
}

impl Test {
    /// The name in reports.
    pub(crate) fn full_name(&self) -> String {
        format!("{}::{}", self.group, self.name)
    }
}

/// Runs the tests and prints one line each.
pub(crate) fn run(tests: Vec<Test>) -> ExitCode {
    let mut log = match KernelLog::open() {
        Ok(log) => log,
        Err(error) => {
            eprintln!("vm-tests: {error:#}: run me as root in a guest");
            return ExitCode::FAILURE;
        }
    };
    // What the kernel said while it booted is not the first test's: the host looks at it.
    if let Ok(early) = log.complaints() {
        early
            .iter()
            .for_each(|line| eprintln!("vm-tests: before the first test: {line}"));
    }
    let count = tests.len();
    let mut failed = false;
    for test in tests {
        let started = Instant::now();
        let marked = log.mark(&test.full_name());
        let result = marked.and_then(|()| guarded(test.run));
        let detail = verdict(result, log.complaints());
        let outcome = if detail.is_empty() {
            "passed"
        } else {
            "failed"
        };
        failed |= outcome == "failed";
        let seconds = started.elapsed().as_secs_f64();
        println!(
            "{}",
            json!({ "type": "test", "name": test.full_name(), "outcome": outcome, "detail": detail, "seconds": seconds })
        );
    }
    println!("{}", json!({ "type": "done", "count": count }));
    // A group without tests tested nothing.
    if failed || count == 0 {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

/// A panic is a failure of that test alone.
fn guarded(test: fn() -> anyhow::Result<()>) -> anyhow::Result<()> {
    catch_unwind(AssertUnwindSafe(test)).unwrap_or_else(|payload| {
        let text = payload
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| payload.downcast_ref::<&str>().copied())
            .unwrap_or("unknown");
        Err(anyhow::anyhow!("panicked: {text}"))
    })
}

/// Why a test failed; empty if it passed.
fn verdict(result: anyhow::Result<()>, complaints: anyhow::Result<Vec<String>>) -> String {
    let own = result.err().map(|error| format!("{error:#}"));
    let kernel = match complaints {
        Ok(lines) if lines.is_empty() => None,
        Ok(lines) => Some(format!("the kernel complained: {}", lines.join(" | "))),
        // What cannot be read cannot be clean.
        Err(error) => Some(format!("{error:#}")),
    };
    own.into_iter().chain(kernel).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complaint_of_the_kernel_fails_a_test_that_went_well() {
        assert_eq!(verdict(Ok(()), Ok(vec![])), "");
        assert_eq!(
            verdict(Ok(()), Ok(vec!["WARNING: a".into(), "BUG: b".into()])),
            "the kernel complained: WARNING: a | BUG: b"
        );
        assert_eq!(
            verdict(Err(anyhow::anyhow!("x")), Ok(vec!["BUG: b".into()])),
            "x; the kernel complained: BUG: b"
        );
        assert!(!verdict(Ok(()), Err(anyhow::anyhow!("unreadable"))).is_empty());
    }

    #[test]
    fn a_panic_is_an_error() {
        let error = guarded(|| panic!("so {}", "what")).unwrap_err();
        assert_eq!(error.to_string(), "panicked: so what");
        assert!(guarded(|| Ok(())).is_ok());
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! Running tests one after the other and saying how each ended.

use std::panic::{catch_unwind, AssertUnwindSafe};
use std::process::ExitCode;
use std::time::Instant;

use serde_json::json;

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

/// Runs the tests and prints one line each. A panic is a failure of that test alone.
pub(crate) fn run(tests: Vec<Test>) -> ExitCode {
    let count = tests.len();
    let mut failed = false;
    for test in tests {
        let started = Instant::now();
        let result = catch_unwind(AssertUnwindSafe(test.run)).unwrap_or_else(|payload| {
            let text = payload
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| payload.downcast_ref::<&str>().copied())
                .unwrap_or("unknown");
            Err(anyhow::anyhow!("panicked: {text}"))
        });
        let (outcome, detail) = match result {
            Ok(()) => ("passed", String::new()),
            Err(error) => ("failed", format!("{error:#}")),
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

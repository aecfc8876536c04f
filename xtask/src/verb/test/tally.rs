// SPDX-License-Identifier: MIT OR Apache-2.0
//! How each test ended, and how many of each.

use std::process::ExitCode;

/// How a test ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    Passed,
    /// And why.
    Failed(String),
    /// And why.
    Skipped(String),
}

/// The count, and the failures for the end.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    passed: usize,
    failed: usize,
    skipped: usize,
    failures: Vec<(String, String)>,
    filter: Option<String>,
}

impl Tally {
    /// A count of tests whose name contains `filter`.
    pub(crate) fn new(filter: Option<String>) -> Self {
        Self {
            filter,
            ..Self::default()
        }
    }

    /// The part of names that was asked for.
    pub(crate) fn filter(&self) -> Option<&str> {
        self.filter.as_deref()
    }

    /// Whether a test of this name is to run.
    pub(crate) fn wants(&self, name: &str) -> bool {
        self.filter
            .as_ref()
            .is_none_or(|filter| name.contains(filter.as_str()))
    }

    /// One test ended.
    pub(crate) fn add(&mut self, name: &str, outcome: Outcome) {
        match outcome {
            Outcome::Passed => {
                self.passed += 1;
                println!("passed   {name}");
            }
            Outcome::Failed(why) => {
                self.failed += 1;
                println!("FAILED   {name}: {why}");
                self.failures.push((name.to_owned(), why));
            }
            Outcome::Skipped(why) => {
                self.skipped += 1;
                println!("skipped  {name}: {why}");
            }
        }
    }

    /// A step that either works or not.
    pub(crate) fn step(&mut self, name: &str, result: anyhow::Result<()>) -> bool {
        let worked = result.is_ok();
        self.add(
            name,
            result.map_or_else(
                |error| Outcome::Failed(format!("{error:#}")),
                |()| Outcome::Passed,
            ),
        );
        worked
    }

    /// Tests that another runner ran and reported.
    pub(crate) fn add_counts(&mut self, passed: usize, failed: usize, skipped: usize) {
        self.passed += passed;
        self.failed += failed;
        self.skipped += skipped;
    }

    /// A failure that another runner has counted already.
    pub(crate) fn name_failure(&mut self, name: &str, why: &str) {
        self.failures.push((name.to_owned(), why.to_owned()));
    }

    /// Repeats the failures and prints the count.
    pub(crate) fn finish(self) -> ExitCode {
        if !self.failures.is_empty() {
            println!("\nfailures:");
            self.failures
                .iter()
                .for_each(|(name, why)| println!("  {name}: {why}"));
            println!();
        }
        println!("{}", self.count());
        // Nothing tested is nothing shown.
        if self.failed > 0 || self.passed + self.skipped == 0 {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        }
    }

    fn count(&self) -> String {
        format!(
            "{} passed, {} failed, {} skipped",
            self.passed, self.failed, self.skipped
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outcome_is_counted() {
        let mut tally = Tally::new(None);
        tally.add("a", Outcome::Passed);
        tally.add("b", Outcome::Failed("why".into()));
        tally.add("c", Outcome::Skipped("why".into()));
        tally.add_counts(10, 0, 1);
        assert!(!tally.step("d", Err(anyhow::anyhow!("no"))));
        assert!(tally.step("e", Ok(())));
        assert_eq!(tally.count(), "12 passed, 2 failed, 2 skipped");
        assert_eq!(tally.finish(), ExitCode::FAILURE);
    }

    #[test]
    fn a_run_without_tests_is_a_failure() {
        assert_eq!(Tally::new(None).finish(), ExitCode::FAILURE);
    }

    #[test]
    fn a_filter_wants_names_that_contain_it() {
        let tally = Tally::new(Some("watch".into()));
        assert!(tally.wants("basic::watch_sees_queues"));
        assert!(!tally.wants("basic::queues"));
        assert!(Tally::new(None).wants("anything"));
    }
}

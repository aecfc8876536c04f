// SPDX-License-Identifier: MIT OR Apache-2.0
//! How each test ended, and how many of each.

use std::process::ExitCode;
use std::time::{Duration, Instant};

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
        self.say(name, outcome, None);
    }

    /// One test ended after so long.
    pub(crate) fn add_timed(&mut self, name: &str, outcome: Outcome, took: Duration) {
        self.say(name, outcome, Some(took));
    }

    fn say(&mut self, name: &str, outcome: Outcome, took: Option<Duration>) {
        let took = took.map_or_else(String::new, |took| {
            format!(" ({:.1} s)", took.as_secs_f64())
        });
        match outcome {
            Outcome::Passed => {
                self.passed += 1;
                println!("passed   {name}{took}");
            }
            Outcome::Failed(why) => {
                self.failed += 1;
                println!("FAILED   {name}{took}: {why}");
                self.failures.push((name.to_owned(), why));
            }
            Outcome::Skipped(why) => {
                self.skipped += 1;
                println!("skipped  {name}{took}: {why}");
            }
        }
    }

    /// Runs a step if it is asked for, and says how long it took. False if it failed.
    pub(crate) fn run(&mut self, name: &str, step: impl FnOnce() -> anyhow::Result<()>) -> bool {
        if !self.wants(name) {
            return true;
        }
        let started = Instant::now();
        let result = step();
        let worked = result.is_ok();
        let outcome = result.map_or_else(
            |error| Outcome::Failed(format!("{error:#}")),
            |()| Outcome::Passed,
        );
        self.add_timed(name, outcome, started.elapsed());
        worked
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
    fn steps_run_only_if_they_are_asked_for() {
        let mut tally = Tally::new(Some("want".into()));
        assert!(tally.run("wanted", || Ok(())));
        assert!(!tally.run("wanted too", || anyhow::bail!("no")));
        assert!(tally.run("other", || unreachable!("nobody asked for it")));
        assert_eq!(tally.count(), "1 passed, 1 failed, 0 skipped");
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

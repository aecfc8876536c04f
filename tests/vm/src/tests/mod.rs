// SPDX-License-Identifier: MIT OR Apache-2.0
//! The tests, a file for each subject.

mod causes;
mod doctor;
mod endings;
mod filters;
mod hostile;
mod lifecycle;
mod loss;
mod module;
mod multi;
mod profile;
mod queues;
mod reset;
mod rocm;
mod scheduling;
mod stock;
mod timing;
mod unload;

use crate::harness::Test;

/// Every test, in the order in which they run.
pub(crate) fn all() -> Vec<Test> {
    let lists = [
        queues::TESTS,
        timing::TESTS,
        causes::TESTS,
        lifecycle::TESTS,
        filters::TESTS,
        hostile::TESTS,
        endings::TESTS,
        loss::TESTS,
        doctor::TESTS,
        profile::TESTS,
        scheduling::TESTS,
        module::TESTS,
        multi::TESTS,
        reset::TESTS,
        rocm::TESTS,
        stock::TESTS,
        unload::TESTS,
    ];
    let mut tests = Vec::new();
    for list in lists {
        for (groups, name, run) in list {
            tests.extend(groups.iter().map(|group| Test {
                group,
                name,
                run: *run,
            }));
        }
    }
    tests
}

/// A list of tests: the groups that a test belongs to, its name, its function.
type List = &'static [(
    &'static [&'static str],
    &'static str,
    fn() -> anyhow::Result<()>,
)];

#[cfg(test)]
mod unit {
    use std::collections::BTreeSet;

    use serde::Deserialize;

    #[derive(Deserialize)]
    struct Groups {
        group: Vec<Group>,
    }

    #[derive(Deserialize)]
    #[allow(dead_code)]
    struct Group {
        name: String,
        driver: String,
        kernel: String,
        gpus: u32,
        xccs: u32,
        rocm: bool,
        params: Vec<String>,
        memory_mb: u32,
        deadline_s: u32,
    }

    #[test]
    fn every_group_has_a_guest_and_every_guest_has_tests() {
        let groups: Groups = toml::from_str(include_str!("../../groups.toml")).unwrap();
        let configured: BTreeSet<&str> = groups
            .group
            .iter()
            .map(|group| group.name.as_str())
            .collect();
        let tests = super::all();
        let used: BTreeSet<&str> = tests.iter().map(|test| test.group).collect();
        assert_eq!(configured, used);
    }

    #[test]
    fn names_are_unique() {
        let tests = super::all();
        let names: BTreeSet<String> = tests.iter().map(super::Test::full_name).collect();
        assert_eq!(names.len(), tests.len());
    }
}

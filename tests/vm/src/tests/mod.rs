// SPDX-License-Identifier: MIT OR Apache-2.0
//! The tests, a file for each subject.

mod agent;
mod analyze;
mod backends;
mod causes;
mod compose;
mod crash;
mod doctor;
mod endings;
mod filters;
mod hold;
mod hold_nodes;
mod hold_permissions;
mod hold_reset;
mod holds;
mod hostile;
mod inherit;
mod ioctl_fuzz;
mod jobs;
mod last;
mod layout;
mod lease;
mod library;
mod lifecycle;
mod loss;
mod malformed;
mod module;
mod multi;
mod owner;
mod patched;
mod perfetto;
mod preempt;
mod profile;
mod python;
mod queues;
mod refusals;
mod reservation;
mod reserve;
mod reset;
mod rocm;
mod scenario;
mod scheduling;
mod serve;
mod serve_api;
mod serve_options;
mod serve_trouble;
mod service;
mod snapshot;
mod stat;
mod stock;
mod targets;
mod timing;
mod top;
mod unload;

use crate::harness::Test;
pub(crate) use serve::job;

/// Every test, in the order in which they run.
pub(crate) fn all() -> Vec<Test> {
    let lists = [
        queues::TESTS,
        timing::TESTS,
        causes::TESTS,
        holds::TESTS,
        lifecycle::TESTS,
        filters::TESTS,
        hostile::TESTS,
        endings::TESTS,
        loss::TESTS,
        doctor::TESTS,
        top::TESTS,
        profile::TESTS,
        perfetto::TESTS,
        scheduling::TESTS,
        snapshot::TESTS,
        stat::TESTS,
        analyze::TESTS,
        module::TESTS,
        multi::TESTS,
        reset::TESTS,
        rocm::TESTS,
        agent::TESTS,
        stock::TESTS,
        unload::TESTS,
        preempt::EACH,
        backends::EACH,
        backends::TESTS,
        jobs::EACH,
        crash::EACH,
        crash::TESTS,
        serve::EACH,
        serve::TESTS,
        serve_options::TESTS,
        service::TESTS,
        scenario::EACH,
        serve_trouble::EACH,
        serve_api::TESTS,
        python::TESTS,
        serve_trouble::TESTS,
        refusals::EACH,
        refusals::TESTS,
        reserve::TESTS,
        library::TESTS,
        patched::TESTS,
        hold::TESTS,
        inherit::TESTS,
        owner::TESTS,
        lease::TESTS,
        targets::TESTS,
        compose::TESTS,
        malformed::TESTS,
        layout::TESTS,
        reservation::TESTS,
        hold_permissions::TESTS,
        ioctl_fuzz::TESTS,
        hold_nodes::TESTS,
        hold_reset::TESTS,
    ];
    let mut tests = Vec::new();
    // Unloading the driver comes last, whatever is added above.
    for list in lists.into_iter().chain([last::TESTS]) {
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
    fn every_group_on_the_simulated_gpu_ends_by_unloading_the_driver() {
        let groups: Groups = toml::from_str(include_str!("../../groups.toml")).unwrap();
        let simulated = groups
            .group
            .iter()
            .filter(|group| matches!(group.driver.as_str(), "sim" | "patched"));
        for group in simulated {
            let tests = super::all();
            let last = tests.iter().rfind(|test| test.group == group.name).unwrap();
            assert_eq!(last.name, "driver_unloads_without_leaks", "{}", group.name);
        }
    }

    #[test]
    fn names_are_unique() {
        let tests = super::all();
        let names: BTreeSet<String> = tests.iter().map(super::Test::full_name).collect();
        assert_eq!(names.len(), tests.len());
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a configuration means, and what is refused.

use super::super::*;
use super::{member, MS, S};
use crate::event::{Comm, Pid};

const EXAMPLE: &str = include_str!("../../../../dist/gpreempt.toml");

/// What packages install.
const DEFAULT: &str = include_str!("../../../../dist/default.toml");

fn facts(comm: &str, cgroup: &str) -> Facts {
    Facts {
        comm: Some(Comm::from_procfs(comm.as_bytes())),
        cgroup: Some(cgroup.to_owned()),
        uid: Some(1000),
        ..Facts::new(Pid(4711))
    }
}

fn error(text: &str) -> String {
    Config::parse(text).unwrap_err().to_string()
}

#[test]
fn the_example_means_what_its_comments_say() {
    let config = Config::parse(EXAMPLE).unwrap();
    let mut rocgdb = facts("rocgdb", "/serving.slice");
    rocgdb.exe = Some("/opt/rocm-6.4/bin/rocgdb".to_owned());
    let pod = Facts {
        container: Some("c0ffee".to_owned()),
        ..facts(
            "python3",
            "/kubepods.slice/kubepods-besteffort.slice/pod1/c0ffee",
        )
    };
    let user = Facts {
        uid: Some(2000),
        ..facts("python3", "/user.slice")
    };
    let rank = facts("python3.11", "/training.slice/job7.scope");
    for (facts, rule, class, job) in [
        (&rocgdb, Some(1), Class::Ignore, "pid:4711"),
        (
            &facts("vllm", "/serving.slice/a.service"),
            Some(2),
            Class::Online,
            "pid:4711",
        ),
        (&rank, Some(3), Class::Offline, "training"),
        (&pod, Some(4), Class::Offline, "pod-c0ffee"),
        (&user, Some(5), Class::Offline, "pid:4711"),
        (
            &facts("bash", "/training.slice"),
            None,
            Class::Ignore,
            "pid:4711",
        ),
        (&Facts::new(Pid(4711)), None, Class::Ignore, "pid:4711"),
    ] {
        let assigned = config.rules.assign(facts);
        assert_eq!((assigned.rule, assigned.class), (rule, class), "{facts:?}");
        assert_eq!(assigned.job, job.into());
    }
    let assigned = config.rules.assign(&rank);
    assert_eq!(assigned.max_pause_ns, Some(5 * S));
    assert_eq!(assigned.min_run_ns, Some(2 * S));
    assert!(assigned.max_pause_ns < Some(config.guards.max_pause));
    assert!(assigned.min_run_ns > Some(config.guards.min_run));
    assert_eq!(config.rules.assign(&user).weight, 3);
    assert_eq!(config.rules.assign(&rank).weight, 1);
    let relaxed = config.policy.slo.target.unwrap() as f64 * config.policy.slo.relax;
    assert_eq!(relaxed as u64, 40 * MS);
    let held = config.guards.window as f64 * config.guards.pause_share;
    assert_eq!(held as u64, 30 * S);
}

/// Whoever deletes a line of the example gets what stood there.
#[test]
fn the_example_has_the_defaults() {
    let mut config = Config::parse(EXAMPLE).unwrap();
    assert_eq!(config.guards, Limits::default());
    assert_eq!(config.policy.name, PolicyName::Priority);
    config.policy.name = PolicyName::Manual;
    config.policy.slo.target = None;
    assert_eq!(config.policy, Policies::default());
}

#[test]
fn an_empty_file_holds_nobody() {
    let config = Config::parse("").unwrap();
    assert!(config.rules.is_empty());
    assert_eq!(config.policy.name, PolicyName::Manual);
    assert_eq!(
        config.rules.assign(&facts("python3", "/")).class,
        Class::Ignore
    );
}

#[test]
fn it_is_explained_which_rule_counts_and_why() {
    let config = Config::parse(EXAMPLE).unwrap();
    let explanation = config.rules.explain(&facts("python3", "/training.slice/a"));
    assert_eq!(explanation.rule, Some(3));
    assert_eq!(explanation.job, "training".into());
    assert_eq!(
        explanation.why,
        "cgroup \"/training.slice/a\" matches \"/training.slice\", comm \"python3\" matches \"python*\""
    );
    let passed: Vec<(usize, &str)> = explanation
        .passed_over
        .iter()
        .map(|rule| (rule.rule, rule.why.as_str()))
        .collect();
    assert_eq!(
        passed,
        [
            (1, "exe is not known, \"/opt/rocm*/bin/roc*\" is wanted"),
            (
                2,
                "cgroup \"/training.slice/a\" does not match \"/serving.slice\""
            ),
        ]
    );
    let nobody = config.rules.explain(&facts("bash", "/"));
    assert_eq!((nobody.rule, nobody.class), (None, Class::Ignore));
    assert_eq!(nobody.passed_over.len(), 5);
}

#[test]
fn every_condition_of_a_rule_counts() {
    let text =
        "[[rule]]\nclass = \"online\"\ncontainer = \"c0ff\"\ncmdline = \"* serve *\"\nuid = 7\n";
    let rules = Config::parse(text).unwrap().rules;
    let all = Facts {
        container: Some("c0ffee".to_owned()),
        cmdline: Some("vllm serve model".to_owned()),
        uid: Some(7),
        ..Facts::new(Pid(1))
    };
    let but = |change: fn(&mut Facts)| {
        let mut facts = all.clone();
        change(&mut facts);
        rules.assign(&facts).class
    };
    assert_eq!(but(|_| {}), Class::Online);
    assert_eq!(but(|facts| facts.uid = Some(8)), Class::Ignore);
    assert_eq!(but(|facts| facts.uid = None), Class::Ignore);
    assert_eq!(
        but(|facts| facts.container = Some("dead".to_owned())),
        Class::Ignore
    );
    assert_eq!(
        but(|facts| facts.cmdline = Some("vllm".to_owned())),
        Class::Ignore
    );
}

#[test]
fn a_process_whose_group_cannot_be_named_is_a_job_of_its_own() {
    let text = "[[rule]]\nclass = \"offline\"\ncomm = \"*\"\ngroup = \"{uid}-{container}\"\n";
    let rules = Config::parse(text).unwrap().rules;
    let mut facts = facts("job", "/");
    assert_eq!(rules.assign(&facts).job, "pid:4711".into());
    facts.container = Some("web".to_owned());
    assert_eq!(rules.assign(&facts).job, "1000-web".into());
}

#[test]
fn jobs_are_gathered_on_the_safe_side() {
    let text = "[[rule]]\ncomm = \"a\"\nclass = \"offline\"\ngroup = \"{cgroup}\"\nmax_pause = \"3s\"\nmin_run = \"1s\"\n
[[rule]]\ncomm = \"b\"\nclass = \"offline\"\ngroup = \"{cgroup}\"\nmax_pause = \"2s\"\nweight = 4\n
[[rule]]\ncomm = \"c\"\nclass = \"online\"\ngroup = \"{cgroup}\"\n";
    let rules = Config::parse(text).unwrap().rules;
    let gather = |comms: &[&str]| {
        let processes = comms
            .iter()
            .zip(1..)
            .map(|(comm, pid)| (rules.assign(&facts(comm, "/x")), member(pid, pid)));
        Job::gather(processes, 5).remove(0)
    };
    let job = gather(&["a", "b"]);
    assert_eq!((job.class, job.rule), (Class::Offline, Some(1)));
    assert_eq!((job.max_pause_ns, job.min_run_ns), (Some(2 * S), Some(S)));
    assert_eq!((job.weight, job.members.len()), (4, 2));
    let mixed = gather(&["a", "c", "b"]);
    assert_eq!((mixed.class, mixed.rule), (Class::Online, Some(3)));
}

#[test]
fn what_is_not_understood_is_an_error_with_its_line() {
    for (text, line, what) in [
        (
            "[[rule]]\ncomm = \"x\"\nclass = \"offline\"\ngroup = \"pid:1\"\n",
            4,
            "in no group",
        ),
        (
            "[guards]\nmax_pause = \"1s\"\nmax_puase = \"1s\"\n",
            3,
            "max_puase",
        ),
        ("[policy]\nnam = \"priority\"\n", 2, "nam"),
        ("[policy.slo]\n\ngoal = \"1s\"\n", 3, "goal"),
        ("[[rule]]\nclass = \"online\"\ncom = \"x\"\n", 3, "com"),
        ("\n[gards]\n", 2, "gards"),
        ("[policy]\nname = \"best\"\n", 2, "best"),
        ("[[rule]]\ncomm = \"x\"\nclass = \"offlin\"\n", 3, "offlin"),
        ("[guards]\nmax_pause = 10\n", 2, "expected a string"),
        ("[guards]\nmax_pause = \"10\"\n", 2, "no duration"),
        ("[guards]\nmax_pause = \"0s\"\n", 2, "above 0"),
        ("[guards]\n\npause_share = 50\n", 3, "from 0 to 1"),
        ("[guards]\npause_share = nan\n", 2, "from 0 to 1"),
        (
            "[[rule]]\ncomm = \"[\"\nclass = \"online\"\n",
            2,
            "cannot be used",
        ),
        (
            "[[rule]]\nexe = \"[\"\nclass = \"online\"\n",
            2,
            "no shell pattern",
        ),
        (
            "[[rule]]\ncomm = \"x\"\nclass = \"offline\"\nweight = 0\n",
            4,
            "weight",
        ),
        (
            "[[rule]]\ncomm = \"x\"\nclass = \"offline\"\ngroup = \"{pod}\"\n",
            4,
            "{pod}",
        ),
        (
            "[[rule]]\ncomm = \"x\"\nclass = \"offline\"\ngroup = \"{uid\"\n",
            4,
            "without its",
        ),
    ] {
        let error = error(text);
        assert!(error.contains(&format!("line {line}")), "{text}: {error}");
        assert!(error.contains(what), "{text}: {error}");
    }
}

#[test]
fn what_does_not_fit_together_is_an_error_with_its_line() {
    for (text, line, what) in [
        ("[[rule]]\nclass = \"offline\"\n", 1, "rule 1: a rule needs a condition"),
        ("[[rule]]\ncomm = \"x\"\nclass = \"ignore\"\n\n[[rule]]\ncomm = \"y\"\nclass = \"online\"\nmin_run = \"1s\"\n", 5, "rule 2"),
        ("[[rule]]\ncomm = \"x\"\nclass = \"online\"\ngroup = \"g\"\n[[rule]]\ncomm = \"y\"\nclass = \"offline\"\ngroup = \"g\"\n", 5, "is online in an earlier rule"),
        ("\n[policy]\nname = \"slo\"\n", 2, "policy.slo.target"),
        ("[policy.slo]\nrelax = 1\n", 1, "relax"),
        ("\n\n[guards]\nwindow = \"2h\"\n", 3, "guards.window"),
        ("[guards]\nrate_window = \"2m\"\n", 1, "guards.rate_window"),
        ("[guards]\npreemptions = 1001\n", 1, "guards.preemptions"),
        ("[guards]\nmax_pause = \"50ms\"\nmargin = \"25ms\"\n", 1, "guards.max_pause"),
        ("[guards]\ncollective_timeout = \"60ms\"\n", 1, "guards.collective_timeout"),
    ] {
        let error = error(text);
        assert!(error.contains(&format!("line {line}:")), "{text}: {error}");
        assert!(error.contains(what), "{text}: {error}");
    }
}

#[test]
fn what_packages_install_holds_nobody() {
    let config = Config::parse(DEFAULT).unwrap();
    assert!(config.rules.is_empty());
    assert_eq!(config.policy.name, PolicyName::Manual);
    assert_eq!(config.access, Access::default());
    assert!(config.metrics.listen.is_none());
}

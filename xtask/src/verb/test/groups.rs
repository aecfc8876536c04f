// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tests inside guests: each group of `tests/vm/groups.toml` is one boot, in which `vm-tests` runs the group's tests
//! and reports them one JSON line each. What it does not report has failed, whatever the reason.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Deserialize;

use super::tally::{Outcome, Tally};
use crate::guests::{Wish, Workshop};
use crate::project::Project;
use crate::ui;
use crate::verb::vm::shape_params;
use crate::vm::config::{Driver, Hardware};
use crate::vm::{Ending, Finding, Machine, Session};

/// A test that `vm-tests` adds to every group whose driver can be unloaded: alone it makes no group.
const IN_EVERY_GROUP: &str = "::driver_unloads_without_leaks";

/// What to run.
#[derive(Debug, Clone, Default)]
pub(crate) struct Chosen {
    /// Names of groups; none: all.
    pub(crate) groups: Vec<String>,
    /// Only tests whose name contains this.
    pub(crate) filter: Option<String>,
    /// For guests with the patched driver: a series in place of the project's.
    pub(crate) series: Option<PathBuf>,
}

/// `tests/vm/groups.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Groups {
    group: Vec<Group>,
}

/// A guest and the tests that run in it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Group {
    name: String,
    driver: Driver,
    kernel: String,
    gpus: u32,
    xccs: u32,
    rocm: bool,
    #[serde(default)]
    systemd: bool,
    #[serde(default)]
    python: bool,
    params: Vec<String>,
    memory_mb: u32,
    deadline_s: u64,
}

/// A line that `vm-tests` prints.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Line {
    Test {
        name: String,
        outcome: Word,
        #[serde(default)]
        detail: String,
        #[serde(default)]
        seconds: f64,
    },
    Done {
        count: usize,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Word {
    Passed,
    Failed,
    Skipped,
}

impl Group {
    fn wish(&self, chosen: &Chosen) -> Wish {
        let mut params = shape_params(self.driver, Some(self.gpus), Some(self.xccs));
        params.extend(self.params.iter().cloned());
        Wish {
            kernel: Some(self.kernel.clone()),
            driver: self.driver,
            params,
            rocm: self.rocm,
            systemd: self.systemd,
            python: self.python,
            hardware: Hardware {
                memory_mb: self.memory_mb,
                ..Hardware::default()
            },
            series: chosen
                .series
                .clone()
                .filter(|_| self.driver == Driver::Patched),
            ..Wish::sim(&format!("test-{}", self.name))
        }
    }

    fn test(&self, name: &str) -> String {
        format!("{}::{name}", self.name)
    }
}

/// Runs what was chosen.
pub(crate) fn run(project: &Project, chosen: &Chosen, tally: &mut Tally) {
    let prepared = choose(project, &chosen.groups).and_then(|groups| {
        let wishes: Vec<Wish> = groups.iter().map(|group| group.wish(chosen)).collect();
        Ok((Workshop::open(project, &wishes)?, groups))
    });
    let (workshop, groups) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => {
            tally.step("guests::prepare", Err(error));
            return;
        }
    };
    for group in &groups {
        if let Err(error) = run_group(project, &workshop, group, chosen, tally) {
            tally.step(&group.test("run"), Err(error));
        }
    }
}

/// The first group with this driver on this kernel.
pub(crate) fn first_of(project: &Project, driver: Driver, kernel: &str) -> Result<String> {
    let mut groups = choose(project, &[])?.into_iter();
    let found = groups.find(|group| group.driver == driver && group.kernel == kernel);
    found.map(|group| group.name).with_context(|| {
        format!("tests/vm/groups.toml has no group with driver {driver:?} on kernel {kernel}")
    })
}

fn choose(project: &Project, names: &[String]) -> Result<Vec<Group>> {
    let path = project.root.join("tests/vm/groups.toml");
    let text =
        std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let groups: Groups =
        toml::from_str(&text).with_context(|| format!("parse {}", path.display()))?;
    if let Some(unknown) = names
        .iter()
        .find(|name| !groups.group.iter().any(|group| group.name == **name))
    {
        let all: Vec<&str> = groups
            .group
            .iter()
            .map(|group| group.name.as_str())
            .collect();
        anyhow::bail!("there is no group {unknown}; there are {}", all.join(", "));
    }
    Ok(groups
        .group
        .into_iter()
        .filter(|group| names.is_empty() || names.contains(&group.name))
        .collect())
}

fn run_group(
    project: &Project,
    workshop: &Workshop,
    group: &Group,
    chosen: &Chosen,
    tally: &mut Tally,
) -> Result<()> {
    let filter = chosen.filter.as_deref();
    let expected = expected(workshop, group, filter)?;
    if expected.is_empty() && filter.is_some() {
        return Ok(());
    }
    anyhow::ensure!(
        filter.is_some() || has_own_tests(&expected),
        "the group has no tests"
    );
    ui::note(&format!(
        "guest {}: {} tests, kernel {}",
        group.name,
        expected.len(),
        group.kernel
    ));
    let started = Instant::now();
    let guest = workshop.guest(&group.wish(chosen))?;
    let reported = Reported::default();
    let (ending, findings, problems) = match Machine::boot(
        project,
        workshop.tools(),
        &guest,
        Duration::from_secs(group.deadline_s),
    ) {
        Ok(mut machine) => {
            let mut argv = vec![
                "vm-tests".to_owned(),
                "--group".to_owned(),
                group.name.clone(),
            ];
            argv.extend(
                filter
                    .into_iter()
                    .flat_map(|filter| ["--filter".to_owned(), filter.to_owned()]),
            );
            let session = Session::captured(
                argv,
                Box::new(reported.clone()),
                Box::new(std::io::stderr()),
            );
            let ending = session.run(&mut machine);
            let problems = machine.ready().problems.clone();
            let findings = if ending.is_ok() {
                machine.shut_down()
            } else {
                machine.findings()
            };
            (ending, findings, problems)
        }
        Err(error) => (Err(error), Vec::new(), Vec::new()),
    };
    let lines = reported.take();
    for (name, outcome) in judge(group, &expected, &lines, &ending, &findings, &problems) {
        match seconds_of(&lines, &name) {
            Some(seconds) => tally.add_timed(&name, outcome, seconds),
            None => tally.add(&name, outcome),
        }
    }
    if let Err(error) = ending {
        eprintln!("xtask: guest {}: {error:#}", group.name);
    }
    ui::note(&format!(
        "guest {}: {:.0} s",
        group.name,
        started.elapsed().as_secs_f64()
    ));
    Ok(())
}

/// Whether there is more than what every group has.
fn has_own_tests(names: &[String]) -> bool {
    names.iter().any(|name| !name.ends_with(IN_EVERY_GROUP))
}

/// How long a test took, if it was reported.
fn seconds_of(lines: &[Line], wanted: &str) -> Option<Duration> {
    lines.iter().find_map(|line| match line {
        Line::Test { name, seconds, .. } if name == wanted => {
            Duration::try_from_secs_f64(*seconds).ok()
        }
        _ => None,
    })
}

/// The names of the group's tests, as `vm-tests` itself lists them; it is static and runs on the host as well.
fn expected(workshop: &Workshop, group: &Group, filter: Option<&str>) -> Result<Vec<String>> {
    let mut command = Command::new(workshop.program("vm-tests"));
    command
        .args(["--list", "--group", &group.name])
        .args(filter.into_iter().flat_map(|filter| ["--filter", filter]));
    let output = command
        .stdin(Stdio::null())
        .output()
        .context("run vm-tests --list")?;
    anyhow::ensure!(
        output.status.success(),
        "vm-tests --list: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(str::to_owned)
        .collect())
}

/// What the group's run comes to: each expected test, the run itself, and the guest's kernel.
fn judge(
    group: &Group,
    expected: &[String],
    lines: &[Line],
    ending: &Result<Ending>,
    findings: &[Finding],
    problems: &[String],
) -> Vec<(String, Outcome)> {
    let mut outcomes = Vec::new();
    for line in lines {
        if let Line::Test {
            name,
            outcome,
            detail,
            ..
        } = line
        {
            let outcome = match outcome {
                Word::Passed => Outcome::Passed,
                Word::Failed => Outcome::Failed(detail.clone()),
                Word::Skipped => Outcome::Skipped(detail.clone()),
            };
            outcomes.push((name.clone(), outcome));
        }
    }
    let reported = outcomes.len();
    let why = match ending {
        Ok(ending) => format!("vm-tests ended without reporting it ({ending:?})"),
        Err(error) => format!("{error:#}")
            .lines()
            .next()
            .unwrap_or_default()
            .to_owned(),
    };
    for name in expected
        .iter()
        .filter(|name| !outcomes.iter().any(|(reported, _)| reported == *name))
        .cloned()
        .collect::<Vec<_>>()
    {
        outcomes.push((name, Outcome::Failed(why.clone())));
    }
    let done = lines.iter().find_map(|line| match line {
        Line::Done { count } => Some(*count),
        Line::Test { .. } => None,
    });
    let any_failed = outcomes
        .iter()
        .any(|(_, outcome)| matches!(outcome, Outcome::Failed(_)));
    let complete = match ending {
        Err(error) => Outcome::Failed(
            format!("{error:#}")
                .lines()
                .next()
                .unwrap_or_default()
                .to_owned(),
        ),
        Ok(_) if done != Some(reported) => {
            Outcome::Failed(format!("{reported} tests reported, vm-tests says {done:?}"))
        }
        Ok(ending) if *ending != Ending::Code(0) && !any_failed => {
            Outcome::Failed(format!("no test failed and vm-tests ended with {ending:?}"))
        }
        Ok(_) if !problems.is_empty() => Outcome::Failed(format!(
            "the guest booted with problems: {}",
            problems.join("; ")
        )),
        Ok(_) => Outcome::Passed,
    };
    outcomes.push((group.test("guest_runs_to_its_end"), complete));
    let complaints: Vec<String> = findings.iter().map(Finding::to_string).collect();
    let quiet = match complaints.is_empty() {
        true => Outcome::Passed,
        false => Outcome::Failed(complaints.join("; ")),
    };
    outcomes.push((group.test("kernel_does_not_complain"), quiet));
    outcomes
}

/// What `vm-tests` reports. Lines that are no report are passed on to people.
#[derive(Clone, Default)]
struct Reported(Arc<Mutex<(Vec<u8>, Vec<Line>)>>);

impl Reported {
    fn take(&self) -> Vec<Line> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner).1)
    }
}

impl Write for Reported {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (pending, lines) = &mut *inner;
        pending.extend_from_slice(bytes);
        while let Some(end) = pending.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = pending.drain(..=end).collect();
            let text = String::from_utf8_lossy(&line);
            match serde_json::from_str(text.trim()) {
                Ok(line) => {
                    if let Line::Test { name, outcome, .. } = &line {
                        eprintln!("         {name}: {outcome:?}");
                    }
                    lines.push(line);
                }
                Err(_) => eprint!("{text}"),
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group() -> Group {
        Group {
            name: "g".into(),
            driver: Driver::Stock,
            kernel: "6.12".into(),
            gpus: 0,
            xccs: 0,
            rocm: false,
            systemd: false,
            python: false,
            params: vec![],
            memory_mb: 2048,
            deadline_s: 1,
        }
    }

    fn test_line(name: &str, outcome: Word) -> Line {
        Line::Test {
            name: name.into(),
            outcome,
            detail: "d".into(),
            seconds: 1.5,
        }
    }

    #[test]
    fn a_group_needs_tests_of_its_own() {
        let common = format!("g{IN_EVERY_GROUP}");
        assert!(!has_own_tests(&[]));
        assert!(!has_own_tests(std::slice::from_ref(&common)));
        assert!(has_own_tests(&[common, "g::a".to_owned()]));
    }

    #[test]
    fn times_come_from_the_report() {
        let lines = [test_line("g::a", Word::Passed), Line::Done { count: 1 }];
        assert_eq!(
            seconds_of(&lines, "g::a"),
            Some(Duration::from_millis(1500))
        );
        assert_eq!(seconds_of(&lines, "g::b"), None);
    }

    fn failed(outcomes: &[(String, Outcome)]) -> Vec<&str> {
        outcomes
            .iter()
            .filter(|(_, outcome)| matches!(outcome, Outcome::Failed(_)))
            .map(|(name, _)| name.as_str())
            .collect()
    }

    #[test]
    fn a_complete_run_passes() {
        let expected = ["g::a".to_owned(), "g::b".to_owned()];
        let lines = [
            test_line("g::a", Word::Passed),
            test_line("g::b", Word::Skipped),
            Line::Done { count: 2 },
        ];
        let outcomes = judge(&group(), &expected, &lines, &Ok(Ending::Code(0)), &[], &[]);
        assert!(failed(&outcomes).is_empty(), "{outcomes:?}");
        assert_eq!(outcomes.len(), 4);
    }

    #[test]
    fn what_a_lost_guest_did_not_report_has_failed() {
        let expected = ["g::a".to_owned(), "g::b".to_owned(), "g::c".to_owned()];
        let lost = Err(anyhow::anyhow!("VM lost: panic\nmore"));
        let outcomes = judge(
            &group(),
            &expected,
            &[test_line("g::a", Word::Passed)],
            &lost,
            &[],
            &[],
        );
        assert_eq!(
            failed(&outcomes),
            ["g::b", "g::c", "g::guest_runs_to_its_end"]
        );
    }

    #[test]
    fn a_runner_that_stops_early_fails_even_with_exit_code_0() {
        let expected = ["g::a".to_owned()];
        let outcomes = judge(&group(), &expected, &[], &Ok(Ending::Code(0)), &[], &[]);
        assert_eq!(failed(&outcomes), ["g::a", "g::guest_runs_to_its_end"]);
        let lines = [test_line("g::a", Word::Passed), Line::Done { count: 1 }];
        let outcomes = judge(&group(), &expected, &lines, &Ok(Ending::Code(1)), &[], &[]);
        assert_eq!(failed(&outcomes), ["g::guest_runs_to_its_end"]);
    }

    #[test]
    fn kernel_complaints_and_boot_problems_fail() {
        let lines = [test_line("g::a", Word::Passed), Line::Done { count: 1 }];
        let finding = Finding {
            line: "WARNING: CPU: 0".into(),
            fatal: false,
            during: Some("g::a".into()),
        };
        let outcomes = judge(
            &group(),
            &["g::a".to_owned()],
            &lines,
            &Ok(Ending::Code(0)),
            &[finding],
            &["no module".into()],
        );
        assert_eq!(
            failed(&outcomes),
            ["g::guest_runs_to_its_end", "g::kernel_does_not_complain"]
        );
        let why = format!("{:?}", outcomes.last().unwrap().1);
        assert!(why.contains("WARNING: CPU: 0 (during g::a)"), "{why}");
    }

    #[test]
    fn reports_arrive_in_pieces_of_any_size() {
        let mut reported = Reported::default();
        let text = "{\"type\":\"test\",\"name\":\"g::a\",\"outcome\":\"failed\",\"detail\":\"x\",\"seconds\":0.1}\n{\"type\":\"done\",\"count\":1}\n";
        for byte in text.as_bytes() {
            reported.write_all(&[*byte]).unwrap();
        }
        let lines = reported.take();
        assert_eq!(
            lines[0],
            Line::Test {
                name: "g::a".into(),
                outcome: Word::Failed,
                detail: "x".into(),
                seconds: 0.1
            }
        );
        assert_eq!(lines[1], Line::Done { count: 1 });
    }

    #[test]
    fn the_committed_groups_parse() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .unwrap()
            .to_path_buf();
        let project = Project {
            root: root.clone(),
            target: root.clone(),
            cache: root,
            packages: None,
        };
        assert!(!choose(&project, &[]).unwrap().is_empty());
        assert!(choose(&project, &["no-such-group".to_owned()]).is_err());
        assert_eq!(
            first_of(&project, Driver::Patched, "6.12").unwrap(),
            "patched"
        );
        assert!(first_of(&project, Driver::Patched, "2.4").is_err());
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which process is online, which offline: rules, of which the first that matches counts.
//!
//! A rule matches if all of its conditions do. What is not known of a process matches no condition, so that a process is rather left
//! alone than stopped by mistake. A process that no rule matches is ignored.

use std::fmt::Write as _;

use schemars::JsonSchema;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use super::duration;
use super::view::{Class, JobId};
use crate::event::{Comm, Pid};
use crate::kfd::name::{CgroupGlob, CommGlob};

/// What is known of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// It, in the initial pid namespace.
    pub pid: Pid,
    /// Its name.
    pub comm: Option<Comm>,
    /// The file that it executes.
    pub exe: Option<String>,
    /// Path of its cgroup.
    pub cgroup: Option<String>,
    /// Its user.
    pub uid: Option<u32>,
    /// Id or name of its container.
    pub container: Option<String>,
    /// Its arguments, with spaces between them.
    pub cmdline: Option<String>,
}

impl Facts {
    /// Of a process of which nothing is known.
    #[must_use]
    pub fn new(pid: Pid) -> Self {
        Self {
            pid,
            comm: None,
            exe: None,
            cgroup: None,
            uid: None,
            container: None,
            cmdline: None,
        }
    }
}

/// A shell pattern in which `*` matches a slash too.
#[derive(Clone, Debug)]
struct Glob(glob::Pattern);

impl<'de> Deserialize<'de> for Glob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.is_empty() {
            return Err(D::Error::custom("an empty pattern matches nothing"));
        }
        glob::Pattern::new(&text).map(Self).map_err(|why| {
            D::Error::custom(format_args!("{text:?} is no shell pattern: {}", why.msg))
        })
    }
}

fn parsed<'de, D: Deserializer<'de>, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    T: std::str::FromStr<Err = String>,
{
    let text = String::deserialize(deserializer)?;
    text.parse()
        .map(Some)
        .map_err(|why| D::Error::custom(format_args!("{text:?} cannot be used here: {why}")))
}

fn weight<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    match u32::deserialize(deserializer)? {
        weight @ 1..=10_000 => Ok(weight),
        _ => Err(D::Error::custom("a weight is a number from 1 to 10000")),
    }
}

fn one() -> u32 {
    1
}

/// Names a group: text with parts of what is known of the process, as in `pod-{container}`.
#[derive(Clone, Debug)]
struct Group(Vec<Part>);

#[derive(Clone, Debug)]
enum Part {
    Text(String),
    Cgroup,
    Comm,
    Container,
    Uid,
}

impl Group {
    fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let (name, left) = after
                .split_once('}')
                .ok_or_else(|| "a { without its }".to_owned())?;
            parts.push(Part::Text(before.to_owned()));
            parts.push(match name {
                "cgroup" => Part::Cgroup,
                "comm" => Part::Comm,
                "container" => Part::Container,
                "uid" => Part::Uid,
                _ => {
                    return Err(format!(
                        "{{{name}}} is none of {{cgroup}}, {{comm}}, {{container}}, {{uid}}"
                    ))
                }
            });
            rest = left;
        }
        parts.push(Part::Text(rest.to_owned()));
        match text {
            "" => Err("a group needs a name".to_owned()),
            _ if text.starts_with(JobId::OF_PID) => {
                Err("pid: begins the names of processes that are in no group".to_owned())
            }
            _ => Ok(Self(parts)),
        }
    }

    /// `None` if a part is not known of this process, which then is a job of its own.
    fn of(&self, facts: &Facts) -> Option<JobId> {
        let mut name = String::new();
        for part in &self.0 {
            let written = match part {
                Part::Text(text) => write!(name, "{text}"),
                Part::Cgroup => write!(name, "{}", facts.cgroup.as_ref()?),
                Part::Comm => write!(name, "{}", facts.comm?),
                Part::Container => write!(name, "{}", facts.container.as_ref()?),
                Part::Uid => write!(name, "{}", facts.uid?),
            };
            written.ok()?;
        }
        Some(JobId(name.into()))
    }

    /// The name, where it is the same for every process.
    fn fixed(&self) -> Option<String> {
        self.0
            .iter()
            .map(|part| match part {
                Part::Text(text) => Some(text.as_str()),
                _ => None,
            })
            .collect()
    }
}

impl<'de> Deserialize<'de> for Group {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

/// A `[[rule]]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    #[serde(default, deserialize_with = "parsed")]
    cgroup: Option<CgroupGlob>,
    #[serde(default, deserialize_with = "parsed")]
    comm: Option<CommGlob>,
    exe: Option<Glob>,
    uid: Option<u32>,
    container: Option<String>,
    cmdline: Option<Glob>,
    class: Class,
    #[serde(default = "one", deserialize_with = "weight")]
    weight: u32,
    #[serde(default, deserialize_with = "duration::optional_positive")]
    max_pause: Option<u64>,
    #[serde(default, deserialize_with = "duration::optional")]
    min_run: Option<u64>,
    group: Option<Group>,
}

impl Rule {
    /// What is wrong with it, beside what is wrong with single keys.
    pub(super) fn fault(&self) -> Option<String> {
        if self.conditions(&Facts::new(Pid(0))).is_empty() {
            return Some(
                "a rule needs a condition: cgroup, comm, exe, uid, container or cmdline; comm = \"*\" matches all"
                    .to_owned(),
            );
        }
        if self.container.as_deref() == Some("") {
            return Some("an empty container matches nothing".to_owned());
        }
        let offline = self.class == Class::Offline;
        if !offline && (self.max_pause.is_some() || self.min_run.is_some()) {
            return Some(format!(
                "max_pause and min_run are for offline jobs; {} ones are never held",
                self.class.name()
            ));
        }
        None
    }

    pub(super) fn fixed_group(&self) -> Option<(String, Class)> {
        Some((self.group.as_ref()?.fixed()?, self.class))
    }

    /// Every condition with what the process has, and whether that matches.
    fn conditions(&self, facts: &Facts) -> Vec<Condition> {
        let mut all = Vec::new();
        let mut add = |name, wanted: Option<String>, has: Option<String>, holds: bool| {
            if let Some(wanted) = wanted {
                all.push(Condition {
                    name,
                    wanted,
                    has,
                    holds,
                });
            }
        };
        let Facts {
            comm,
            exe,
            cgroup,
            uid,
            container,
            cmdline,
            ..
        } = facts;
        let matches = |glob: &Option<Glob>, text: &Option<String>| match (glob, text) {
            (Some(glob), Some(text)) => glob.0.matches(text),
            _ => false,
        };
        add(
            "cgroup",
            self.cgroup.as_ref().map(ToString::to_string),
            cgroup.clone(),
            matches!((&self.cgroup, cgroup), (Some(glob), Some(path)) if glob.matches(path)),
        );
        add(
            "comm",
            self.comm.as_ref().map(ToString::to_string),
            comm.map(|comm| comm.to_string()),
            matches!((&self.comm, comm), (Some(glob), Some(comm)) if glob.matches(comm)),
        );
        add(
            "exe",
            self.exe.as_ref().map(|glob| glob.0.to_string()),
            exe.clone(),
            matches(&self.exe, exe),
        );
        add(
            "uid",
            self.uid.map(|uid| uid.to_string()),
            uid.map(|uid| uid.to_string()),
            uid.is_some() && self.uid == *uid,
        );
        add(
            "container",
            self.container.clone(),
            container.clone(),
            // People copy the twelve digits that tools print.
            matches!((&self.container, container), (Some(wanted), Some(has)) if has.starts_with(wanted.as_str())),
        );
        add(
            "cmdline",
            self.cmdline.as_ref().map(|glob| glob.0.to_string()),
            cmdline.clone(),
            matches(&self.cmdline, cmdline),
        );
        all
    }
}

#[derive(Debug)]
struct Condition {
    name: &'static str,
    wanted: String,
    has: Option<String>,
    holds: bool,
}

impl Condition {
    fn say(&self) -> String {
        let Self {
            name,
            wanted,
            has,
            holds,
        } = self;
        match (has, holds) {
            (Some(has), true) => format!("{name} {has:?} matches {wanted:?}"),
            (Some(has), false) => format!("{name} {has:?} does not match {wanted:?}"),
            (None, _) => format!("{name} is not known, {wanted:?} is wanted"),
        }
    }
}

/// What a process is, and by which rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assigned {
    /// The job that it belongs to.
    pub job: JobId,
    /// What the job is.
    pub class: Class,
    /// The rule, counted from 1; `None` = no rule matches.
    pub rule: Option<usize>,
    /// Its part in `share`.
    pub weight: u32,
    /// Longest pause that the rule allows.
    pub max_pause_ns: Option<u64>,
    /// Least time between two pauses that the rule demands.
    pub min_run_ns: Option<u64>,
}

/// Why a process is what it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Explanation {
    /// The rule that counts, from 1; `None` = no rule matches.
    pub rule: Option<usize>,
    /// What the process is.
    pub class: Class,
    /// The job that it belongs to.
    pub job: JobId,
    /// What matches.
    pub why: String,
    /// The rules before that one, and what does not match in each.
    pub passed_over: Vec<PassedOver>,
}

/// A rule that does not match.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PassedOver {
    /// It, from 1.
    pub rule: usize,
    /// What does not match.
    pub why: String,
}

/// All rules, in their order.
#[derive(Clone, Debug, Default)]
pub struct Rules(pub(super) Vec<Rule>);

impl Rules {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none: then everything is ignored.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn first(&self, facts: &Facts) -> Option<(usize, &Rule)> {
        let all_hold = |rule: &Rule| rule.conditions(facts).iter().all(|c| c.holds);
        (1..).zip(&self.0).find(|(_, rule)| all_hold(rule))
    }

    /// What a process is.
    #[must_use]
    pub fn assign(&self, facts: &Facts) -> Assigned {
        let found = self.first(facts);
        let rule = found.map(|(_, rule)| rule);
        let group = rule.and_then(|rule| rule.group.as_ref()?.of(facts));
        Assigned {
            job: group.unwrap_or_else(|| JobId::of(facts.pid)),
            class: rule.map_or(Class::Ignore, |rule| rule.class),
            rule: found.map(|(number, _)| number),
            weight: rule.map_or(1, |rule| rule.weight),
            max_pause_ns: rule.and_then(|rule| rule.max_pause),
            min_run_ns: rule.and_then(|rule| rule.min_run),
        }
    }

    /// What a process is and why.
    #[must_use]
    pub fn explain(&self, facts: &Facts) -> Explanation {
        let Assigned {
            job, class, rule, ..
        } = self.assign(facts);
        let say = |rule: &Rule, holds: bool| {
            let conditions = rule.conditions(facts);
            let those = conditions.iter().filter(|c| c.holds == holds);
            those.map(Condition::say).collect::<Vec<_>>().join(", ")
        };
        let before = rule.map_or(self.0.len(), |number| number - 1);
        Explanation {
            rule,
            class,
            job,
            why: match self.first(facts) {
                Some((_, rule)) => say(rule, true),
                None => "no rule matches".to_owned(),
            },
            passed_over: (1..)
                .zip(&self.0[..before])
                .map(|(number, rule)| PassedOver {
                    rule: number,
                    why: say(rule, false),
                })
                .collect(),
        }
    }
}

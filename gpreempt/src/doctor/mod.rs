// SPDX-License-Identifier: MIT OR Apache-2.0
//! What works on this machine, what is missing and how to fix it: one check per fact, each with the evidence that it was
//! decided on. Attaches nothing, and never opens /dev/kfd.

mod driver;
mod gpus;
mod kernel;
mod preempt;
mod probes;

use std::path::PathBuf;

use serde::Serialize;

use crate::kfd::snapshot::{self, Want};
use crate::kfd::Root;
use crate::source::Probe;

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// As it should be.
    Ok,
    /// Could be otherwise, and nothing is wrong with it as it is.
    Info,
    /// Something works less well than it could.
    Warn,
    /// `watch` cannot start.
    Fail,
    /// Could not be decided here.
    Skip,
}

/// What a failed check takes away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Lack {
    /// A permission.
    Permission,
    /// A GPU, driver or kernel feature.
    Feature,
}

/// One fact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at.
    pub name: &'static str,
    /// How it came out.
    pub status: Status,
    /// What was found.
    pub evidence: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
    /// For a failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lack: Option<Lack>,
}

impl Check {
    fn new(name: &'static str, status: Status, evidence: impl Into<String>) -> Self {
        Self {
            name,
            status,
            evidence: evidence.into(),
            fix: None,
            lack: None,
        }
    }

    fn ok(name: &'static str, evidence: impl Into<String>) -> Self {
        Self::new(name, Status::Ok, evidence)
    }

    fn skip(name: &'static str, evidence: impl Into<String>) -> Self {
        Self::new(name, Status::Skip, evidence)
    }

    fn info(name: &'static str, evidence: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            fix: Some(fix.into()),
            ..Self::new(name, Status::Info, evidence)
        }
    }

    fn warn(name: &'static str, evidence: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            fix: Some(fix.into()),
            ..Self::new(name, Status::Warn, evidence)
        }
    }

    fn fail(
        name: &'static str,
        lack: Lack,
        evidence: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self {
            fix: Some(fix.into()),
            lack: Some(lack),
            ..Self::new(name, Status::Fail, evidence)
        }
    }
}

/// Everything that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Facts, in the order in which one would look for the trouble.
    pub checks: Vec<Check>,
    /// The attach plan as it is in this kernel; `attached` says whether it could be. Empty without a driver.
    pub probes: Vec<Probe>,
    /// Functions that are often looked for and not in the plan: name, what is here, and what is watched instead.
    pub replaced: Vec<Replaced>,
}

/// A function that is often looked for, and what is watched instead.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Replaced {
    /// The function.
    pub function: &'static str,
    /// The symbols of this kernel; empty = the compiler inlined it, or this driver has none.
    pub symbols: Vec<String>,
    /// What stands in.
    pub instead: &'static str,
}

impl Report {
    /// What keeps `watch` from starting, the worst first decides.
    #[must_use]
    pub fn lack(&self) -> Option<Lack> {
        self.checks.iter().filter_map(|check| check.lack).max()
    }
}

/// Looks at everything.
#[must_use]
pub fn examine(root: &Root, profile: Option<&PathBuf>) -> Report {
    let driver = driver::driver(root);
    let loaded = driver.status == Status::Ok;
    let symbols = if loaded { probes::symbols(root) } else { None };
    let mut report = Report {
        checks: vec![kernel::kernel(root), driver],
        probes: Vec::new(),
        replaced: Vec::new(),
    };
    let checks = &mut report.checks;
    checks.extend(kernel::programs(root));
    checks.push(kernel::capabilities(root));
    checks.push(kernel::kprobes(root));
    checks.push(kernel::lockdown(root));
    checks.push(kernel::kptr_restrict(root));
    checks.push(driver::offsets(root, loaded, profile));
    match &symbols {
        Some(symbols) => {
            report.probes = probes::planned(symbols);
            report.replaced = probes::replaced(symbols);
            checks.push(probes::summary(&report.probes));
        }
        None if loaded => checks.push(Check::skip(
            "probes",
            "no symbol of amdkfd is in /proc/kallsyms",
        )),
        None => checks.push(Check::skip("probes", "not to be told without the driver")),
    }
    checks.push(kernel::tracers(root));
    if loaded {
        let nodes = crate::kfd::topology::read(root);
        checks.push(gpus::gpus(&nodes));
        checks.extend(gpus::partitions(&nodes));
        checks.push(gpus::scheduler(root, &nodes));
        checks.push(gpus::kernel_queues(root, &nodes));
        checks.extend(gpus::runlists(&snapshot::collect(root, Want::default())));
        checks.push(gpus::cwsr(root));
        checks.extend(gpus::preemption_timeout(root));
        checks.push(driver::debugfs(root));
        checks.extend(preempt::checks(root, symbols.as_ref()));
    }
    report
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! The attach plan against the symbols of this kernel.

use super::{Check, Lack, Replaced};
use crate::kfd::Root;
use crate::source::symbols::Symbols;
use crate::source::{plan, Probe, ProbeSet};

/// Functions that people look for, and what is watched instead (seen in the built modules of Linux 6.1, 6.12 and 7.3).
const LOOKED_FOR: &[(&str, &str)] = &[
    (
        "execute_queues_cpsch",
        "unmap_queues_cpsch and map_queues_cpsch, the two halves of it; compilers inline it or drop one of its parameters",
    ),
    (
        "allocate_hqd",
        "nothing: it is inlined, and runs only without the hardware scheduler (sched_policy 2); else firmware picks the slot",
    ),
    ("suspend_single_queue", "suspend_queues, which calls it for every queue; it is inlined"),
    ("resume_single_queue", "resume_queues, which calls it for every queue; it is inlined"),
];

pub(super) fn symbols(root: &Root) -> Option<Symbols> {
    if root.is_real() {
        return Symbols::of_running_kernel().ok().flatten();
    }
    let text = root.text("/proc/kallsyms").ok()?;
    Some(Symbols::from_names(
        "amdgpu",
        crate::kfd::module::symbols(&text),
    ))
}

/// Every probe of the plan; `attached` = it could be.
pub(super) fn planned(symbols: &Symbols) -> Vec<Probe> {
    plan::resolve(symbols, ProbeSet::Full)
        .iter()
        .map(|planned| planned.to_probe(!planned.symbols.is_empty(), None))
        .collect()
}

pub(super) fn replaced(symbols: &Symbols) -> Vec<Replaced> {
    LOOKED_FOR
        .iter()
        .map(|(function, instead)| {
            let exact = (symbols.count(function) > 0).then(|| (*function).to_owned());
            let symbols = exact
                .into_iter()
                .chain(symbols.variants(function).map(str::to_owned))
                .collect();
            Replaced {
                function,
                symbols,
                instead,
            }
        })
        .collect()
}

pub(super) fn summary(probes: &[Probe]) -> Check {
    let here = probes.iter().filter(|probe| probe.attached).count();
    let all = probes.iter().filter(|probe| probe.applies).count();
    let evidence = format!("{here} of {all} functions can be probed");
    let missing: Vec<&str> = probes
        .iter()
        .filter(|p| p.required && !p.attached)
        .map(|p| p.function.as_str())
        .collect();
    if !missing.is_empty() {
        let evidence = format!(
            "{evidence}; {} cannot, and nothing works without",
            missing.join(", ")
        );
        return Check::fail(
            "probes",
            Lack::Feature,
            evidence,
            "update gpreempt: this driver is not supported by this version",
        );
    }
    if here < all {
        return Check::warn(
            "probes",
            evidence,
            "nothing to fix here: what is lost is said below",
        );
    }
    Check::ok("probes", evidence)
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! The attach plan: which functions of amdkfd are probed, by which programs, and what is lost without them.
//!
//! The compiler renames (`.constprop.N`: constant parameters removed, `.isra.N`: parameters replaced) and inlines functions, and
//! functions come and go between kernels. So each entry says which arguments its program reads and which of those a renamed
//! variant still passes in the same register, and where to probe instead if the function is not there.

use super::{symbols::Symbols, Probe, ProbeSet};

/// What is attached to a function: names of programs in the eBPF object. A program for fentry is called the same with `_f`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Programs {
    /// At entry.
    pub entry: Option<&'static str>,
    /// At return.
    pub exit: Option<&'static str>,
}

/// Another function to probe where the wanted one is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fallback {
    /// Name of the function.
    pub function: &'static str,
    /// Its programs.
    pub programs: Programs,
    /// How it differs.
    pub note: &'static str,
}

/// One entry of the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Name of the function in the source.
    pub function: &'static str,
    /// What to attach.
    pub programs: Programs,
    /// Arguments that the entry program reads, from 0.
    pub reads: &'static [u8],
    /// Of these, the arguments that stay in their registers when the compiler removes constant parameters: pointers that
    /// differ from call to call, with nothing before them that could be constant.
    pub stable: &'static [u8],
    /// Where to look if it is not there.
    pub fallback: Option<Fallback>,
    /// Without it there is no use in starting.
    pub required: bool,
    /// Part of the minimal set too.
    pub minimal: bool,
    /// Part of the control set too.
    pub control: bool,
    /// Part of the daemon's set, beside all of the minimal one.
    pub daemon: bool,
    /// Only a driver with this project's patches has it.
    pub patched: bool,
    /// What is missing without it.
    pub lost_without: &'static str,
}

const fn probe(function: &'static str, entry: &'static str, exit: &'static str) -> Wanted {
    Wanted {
        function,
        programs: Programs {
            entry: if entry.is_empty() { None } else { Some(entry) },
            exit: if exit.is_empty() { None } else { Some(exit) },
        },
        reads: &[],
        stable: &[],
        fallback: None,
        required: false,
        minimal: false,
        control: false,
        daemon: false,
        patched: false,
        lost_without: "",
    }
}

/// Why what only a patched driver has is not there.
const NOT_PATCHED: &str =
    "the driver is not patched: there are no holds to be seen, and preempt uses debug-trap or criu";

/// The plan, inner functions first: what is attached first never waits for what is attached later.
///
/// Signatures: kfd-facts of 6.1, 6.12 and 7.3; arguments that differ between them are not read.
pub const PLAN: &[Wanted] = &[
    Wanted {
        reads: &[0],
        stable: &[0],
        required: true,
        minimal: true,
        lost_without: "queue_created",
        ..probe("kfd_procfs_add_queue", "queue_added", "")
    },
    Wanted {
        reads: &[0],
        stable: &[0],
        required: true,
        minimal: true,
        lost_without: "queue_destroyed",
        ..probe("kfd_procfs_del_queue", "queue_deleted", "")
    },
    Wanted {
        reads: &[1],
        stable: &[1],
        minimal: true,
        lost_without: "queue_updated; lock_wait_ns of updates",
        ..probe("update_queue", "queue_update_enter", "queue_update_leave")
    },
    Wanted {
        control: true,
        lost_without: "runlist_unmapped",
        ..probe("pm_send_unmap_queue", "unmap_sent", "")
    },
    Wanted {
        control: true,
        lost_without: "fence_ns of runlist_unmapped",
        ..probe("amdkfd_fence_wait_timeout", "fence_enter", "fence_leave")
    },
    Wanted {
        reads: &[0, 1],
        stable: &[0],
        control: true,
        lost_without: "runlist_unmapped",
        ..probe("unmap_queues_cpsch", "unmap_enter", "unmap_leave")
    },
    Wanted {
        reads: &[0],
        stable: &[0],
        control: true,
        lost_without: "runlist_mapped",
        ..probe("pm_send_runlist", "runlist_sent", "")
    },
    Wanted {
        reads: &[0],
        stable: &[0],
        control: true,
        lost_without: "runlist_mapped",
        ..probe("map_queues_cpsch", "map_enter", "map_leave")
    },
    Wanted {
        lost_without: "lock_wait_ns of creations",
        ..probe("create_queue_cpsch", "scheduler_enter", "")
    },
    Wanted {
        lost_without: "lock_wait_ns of destructions",
        ..probe("destroy_queue_cpsch", "scheduler_enter", "")
    },
    Wanted {
        reads: &[1],
        stable: &[1],
        lost_without:
            "cause process_exit and lock_wait_ns of the runlist changes at the end of a process",
        ..probe(
            "process_termination_cpsch",
            "terminate_enter",
            "scheduler_leave",
        )
    },
    Wanted {
        lost_without: "cause scheduler",
        ..probe("start_cpsch", "start_stop_enter", "scheduler_leave")
    },
    Wanted {
        lost_without: "cause scheduler",
        ..probe("stop_cpsch", "start_stop_enter", "scheduler_leave")
    },
    Wanted {
        reads: &[0, 1],
        stable: &[0, 1],
        control: true,
        lost_without: "process_evicted",
        ..probe("evict_process_queues_cpsch", "evict_enter", "evict_leave")
    },
    Wanted {
        reads: &[0, 1],
        stable: &[0, 1],
        control: true,
        lost_without: "process_restored",
        ..probe(
            "restore_process_queues_cpsch",
            "restore_enter",
            "restore_leave",
        )
    },
    Wanted {
        reads: &[0, 1],
        stable: &[0],
        lost_without: "reason of process_evicted",
        ..probe(
            "kfd_process_evict_queues",
            "evict_all_enter",
            "process_leave",
        )
    },
    Wanted {
        reads: &[0],
        stable: &[0],
        lost_without: "cause restore where a restore begins",
        ..probe(
            "kfd_process_restore_queues",
            "restore_all_enter",
            "process_leave",
        )
    },
    Wanted {
        reads: &[0, 1],
        stable: &[0],
        control: true,
        lost_without: "queues_suspended (no debugger API before Linux 6.5)",
        ..probe("suspend_queues", "suspend_enter", "suspend_leave")
    },
    Wanted {
        reads: &[0, 1],
        stable: &[0],
        control: true,
        lost_without: "queues_resumed (no debugger API before Linux 6.5)",
        ..probe("resume_queues", "resume_enter", "resume_leave")
    },
    Wanted {
        reads: &[0],
        stable: &[0],
        lost_without: "cause debug_trap when a debugger goes (no debugger API before Linux 6.5)",
        ..probe("kfd_dbg_trap_disable", "debug_off_enter", "debug_off_leave")
    },
    Wanted {
        reads: &[0],
        stable: &[0],
        control: true,
        patched: true,
        lost_without: "queues_held, queues_released",
        ..probe("kfd_gpreempt_note", "hold_note", "")
    },
    Wanted {
        reads: &[1],
        stable: &[1],
        control: true,
        patched: true,
        lost_without: "causes hold, release and reserve, and lock_wait_ns of the runlist changes that they make",
        ..probe("kfd_gpreempt_apply_node", "hold_enter", "hold_leave")
    },
    Wanted {
        reads: &[0],
        stable: &[0],
        fallback: Some(Fallback {
            function: "kfd_process_hw_exception",
            programs: Programs {
                entry: Some("hang_work"),
                exit: None,
            },
            note: "inlined here; probed where the reset is carried out, a moment later",
        }),
        daemon: true,
        lost_without:
            "gpu_reset of phase hang; the runlist_unmapped that failed still has status ETIME",
        ..probe("kfd_hws_hang", "hang", "")
    },
    Wanted {
        reads: &[0],
        stable: &[0],
        daemon: true,
        lost_without: "gpu_reset of phase pre",
        ..probe("kgd2kfd_pre_reset", "reset_enter", "pre_reset_leave")
    },
    Wanted {
        reads: &[0],
        stable: &[0],
        daemon: true,
        lost_without: "gpu_reset of phase post",
        ..probe("kgd2kfd_post_reset", "reset_enter", "post_reset_leave")
    },
    Wanted {
        lost_without: "cause debug_trap (no debugger API before Linux 6.5)",
        ..probe("kfd_ioctl_set_debug_trap", "debug_enter", "other_leave")
    },
    Wanted {
        reads: &[1],
        stable: &[1],
        lost_without: "cause criu",
        ..probe("kfd_ioctl_criu", "criu_enter", "other_leave")
    },
    Wanted {
        minimal: true,
        lost_without: "queue_updated, queue_rejected of updates",
        ..probe("kfd_ioctl_update_queue", "update_enter", "update_leave")
    },
    Wanted {
        minimal: true,
        lost_without: "total_ns and cause of queue_destroyed, queue_rejected of destructions",
        ..probe("kfd_ioctl_destroy_queue", "destroy_enter", "destroy_leave")
    },
    Wanted {
        minimal: true,
        lost_without:
            "total_ns of queue_created, queue_rejected of creations, the check of the offsets",
        ..probe("kfd_ioctl_create_queue", "create_enter", "create_leave")
    },
    Wanted {
        reads: &[0],
        stable: &[0],
        minimal: true,
        lost_without: "process_exited",
        ..probe("kfd_process_notifier_release", "process_released", "")
    },
    Wanted {
        minimal: true,
        lost_without: "process_attached",
        ..probe("kfd_create_process", "", "process_created")
    },
];

/// One entry of the plan as it is in this kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// The entry.
    pub wanted: &'static Wanted,
    /// The programs to attach: those of the entry or of its fallback.
    pub programs: Programs,
    /// Symbols to attach to: the function itself, or its variants, or both where the compiler kept both; empty = not here.
    pub symbols: Vec<String>,
    /// Why not, or what is different.
    pub note: Option<String>,
    /// False where a driver without this project's patches lacks what only those bring.
    pub applies: bool,
}

impl Planned {
    /// For the startup record and the doctor.
    #[must_use]
    pub fn to_probe(&self, attached: bool, problem: Option<String>) -> Probe {
        Probe {
            function: self.wanted.function.to_owned(),
            symbol: (!self.symbols.is_empty()).then(|| self.symbols.join(" ")),
            attached,
            required: self.wanted.required,
            applies: self.applies || attached,
            lost_without: self.wanted.lost_without.to_owned(),
            reason: problem.or_else(|| self.note.clone()),
        }
    }
}

/// Whether a symbol has to do with the plan: it is kept of a kernel that has amdkfd built in.
#[must_use]
pub(super) fn mentions(symbol: &str) -> bool {
    let plain = symbol.split('.').next().unwrap_or(symbol);
    PLAN.iter().any(|wanted| {
        wanted.function == plain || wanted.fallback.is_some_and(|other| other.function == plain)
    })
}

/// What of the plan this module has, without attaching anything.
#[must_use]
pub fn resolve(symbols: &Symbols, set: ProbeSet) -> Vec<Planned> {
    let patched = is_patched(symbols);
    PLAN.iter()
        .filter(|wanted| match set {
            ProbeSet::Full => true,
            ProbeSet::Minimal => wanted.minimal,
            ProbeSet::Control => wanted.control,
            ProbeSet::Daemon => wanted.minimal || wanted.daemon,
        })
        .map(|wanted| match wanted.patched && !patched {
            false => resolve_one(wanted, symbols),
            true => Planned {
                wanted,
                programs: wanted.programs,
                symbols: Vec::new(),
                note: Some(NOT_PATCHED.to_owned()),
                applies: false,
            },
        })
        .collect()
}

/// Whether the driver has this project's patches: one of the functions that only they bring, under any name.
#[must_use]
pub fn is_patched(symbols: &Symbols) -> bool {
    PLAN.iter().filter(|wanted| wanted.patched).any(|wanted| {
        symbols.count(wanted.function) > 0 || symbols.variants(wanted.function).next().is_some()
    })
}

fn resolve_one(wanted: &'static Wanted, symbols: &Symbols) -> Planned {
    let mut planned = Planned {
        wanted,
        programs: wanted.programs,
        symbols: Vec::new(),
        note: None,
        applies: true,
    };
    match symbols.count(wanted.function) {
        0 => {}
        1 => planned.symbols.push(wanted.function.to_owned()),
        several => {
            planned.note = Some(format!("{several} functions of the module are called so"));
            return planned;
        }
    }
    let mut unusable = Vec::new();
    for variant in symbols.variants(wanted.function) {
        if accepts(wanted, variant) {
            planned.symbols.push(variant.to_owned());
        } else {
            unusable.push(variant);
        }
    }
    if !unusable.is_empty() {
        planned.note = Some(format!(
            "{}: its arguments are not where the source has them",
            unusable.join(" ")
        ));
    }
    if !planned.symbols.is_empty() {
        return planned;
    }
    if let Some(other) = wanted.fallback {
        if symbols.count(other.function) == 1 {
            planned.symbols.push(other.function.to_owned());
            planned.programs = other.programs;
            planned.note = Some(format!("{}: {}", other.function, other.note));
            return planned;
        }
    }
    if planned.note.is_none() {
        planned.note = Some(
            "not in this module: this kernel does not have it, or the compiler inlined it"
                .to_owned(),
        );
    }
    planned
}

/// Whether a compiler's variant passes what the entry program reads. `.isra` replaces parameters: only a program that reads
/// none fits. `.constprop` removes those that are constant.
fn accepts(wanted: &Wanted, variant: &str) -> bool {
    wanted.reads.is_empty()
        || (!variant.contains(".isra.")
            && wanted
                .reads
                .iter()
                .all(|argument| wanted.stable.contains(argument)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Functions of the plan and their variants in Debian's amdgpu.ko of three kernels.
    const KERNELS: [(&str, &str); 3] = [
        ("6.1", include_str!("testdata/symbols-6.1.txt")),
        ("6.12", include_str!("testdata/symbols-6.12.txt")),
        ("7.3", include_str!("testdata/symbols-7.3.txt")),
    ];

    fn planned(kernel: &str, set: ProbeSet) -> Vec<Planned> {
        let (_, names) = KERNELS.iter().find(|(name, _)| *name == kernel).unwrap();
        resolve(
            &Symbols::from_names(
                "amdgpu",
                names.lines().filter(|line| !line.starts_with('#')),
            ),
            set,
        )
    }

    fn absent(kernel: &str) -> Vec<&'static str> {
        planned(kernel, ProbeSet::Full)
            .iter()
            .filter(|p| p.symbols.is_empty() && p.applies)
            .map(|p| p.wanted.function)
            .collect()
    }

    #[test]
    fn every_kernel_has_the_whole_plan_but_the_debugger_api() {
        let debugger = [
            "suspend_queues",
            "resume_queues",
            "kfd_dbg_trap_disable",
            "kfd_ioctl_set_debug_trap",
        ];
        assert_eq!(absent("6.1"), debugger);
        assert_eq!(absent("6.12"), [""; 0]);
        assert_eq!(absent("7.3"), [""; 0]);
    }

    #[test]
    fn a_driver_that_is_not_patched_lacks_nothing() {
        for (kernel, _) in KERNELS {
            for set in [ProbeSet::Full, ProbeSet::Control] {
                let planned = planned(kernel, set);
                let holds: Vec<_> = planned.iter().filter(|p| p.wanted.patched).collect();
                assert_eq!(holds.len(), 2, "{kernel}");
                for planned in holds {
                    let probe = planned.to_probe(false, None);
                    assert!(!probe.applies && !probe.attached && !probe.required);
                    assert!(probe
                        .reason
                        .unwrap()
                        .starts_with("the driver is not patched"));
                }
            }
        }
    }

    #[test]
    fn a_patched_driver_that_lacks_a_function_lacks_something() {
        let symbols = Symbols::from_names("amdgpu", ["kfd_gpreempt_note"]);
        assert!(is_patched(&symbols));
        let planned = resolve(&symbols, ProbeSet::Control);
        let of = |function| {
            let planned = planned.iter().find(|p| p.wanted.function == function);
            planned.unwrap()
        };
        assert_eq!(of("kfd_gpreempt_note").symbols, ["kfd_gpreempt_note"]);
        let other = of("kfd_gpreempt_apply_node");
        assert!(other.symbols.is_empty() && other.applies);
        assert!(other.note.as_ref().unwrap().contains("inlined"));
    }

    #[test]
    fn the_control_set_sees_runlists_and_who_changed_them() {
        let control: Vec<_> = planned("6.12", ProbeSet::Control)
            .iter()
            .map(|p| p.wanted.function)
            .collect();
        for function in ["unmap_queues_cpsch", "map_queues_cpsch", "suspend_queues"] {
            assert!(control.contains(&function), "{function}");
        }
        assert!(control.len() < PLAN.len() / 2, "{control:?}");
    }

    #[test]
    fn the_daemons_set_sees_resets_and_all_that_the_minimal_one_does() {
        for (kernel, _) in KERNELS {
            let of = |set| -> Vec<_> {
                let planned = planned(kernel, set);
                planned.iter().map(|p| p.wanted.function).collect()
            };
            let daemon = of(ProbeSet::Daemon);
            for function in ["kfd_hws_hang", "kgd2kfd_pre_reset", "kgd2kfd_post_reset"] {
                assert!(daemon.contains(&function), "{kernel}: {function}");
            }
            for function in of(ProbeSet::Minimal) {
                assert!(daemon.contains(&function), "{kernel}: {function}");
            }
        }
    }

    #[test]
    fn every_required_probe_is_in_every_kernel_and_in_the_minimal_set() {
        for (kernel, _) in KERNELS {
            let minimal = planned(kernel, ProbeSet::Minimal);
            for wanted in PLAN.iter().filter(|wanted| wanted.required) {
                let planned = minimal
                    .iter()
                    .find(|p| p.wanted.function == wanted.function)
                    .unwrap();
                assert_eq!(planned.symbols, [wanted.function], "{kernel}");
            }
        }
    }

    #[test]
    fn an_inlined_function_is_replaced_by_its_fallback() {
        let hang = planned("6.1", ProbeSet::Full)
            .into_iter()
            .find(|p| p.wanted.function == "kfd_hws_hang")
            .unwrap();
        assert_eq!(hang.symbols, ["kfd_process_hw_exception"]);
        assert_eq!(hang.programs.entry, Some("hang_work"));
        assert!(hang.note.unwrap().contains("inlined"));
        let hang = planned("6.12", ProbeSet::Full)
            .into_iter()
            .find(|p| p.wanted.function == "kfd_hws_hang")
            .unwrap();
        assert_eq!(hang.symbols, ["kfd_hws_hang"]);
    }

    fn of(function: &str, names: &[&str]) -> Planned {
        let wanted = PLAN
            .iter()
            .find(|wanted| wanted.function == function)
            .unwrap();
        resolve_one(
            wanted,
            &Symbols::from_names("amdgpu", names.iter().copied()),
        )
    }

    #[test]
    fn a_variant_is_used_only_if_the_arguments_read_are_in_place() {
        // Reads the manager only: constant propagation leaves it.
        assert_eq!(
            of("map_queues_cpsch", &["map_queues_cpsch.constprop.0"]).symbols,
            ["map_queues_cpsch.constprop.0"]
        );
        // Reads the filter, which may be the constant that was removed.
        let filter = of("unmap_queues_cpsch", &["unmap_queues_cpsch.constprop.0"]);
        assert_eq!(filter.symbols, [""; 0]);
        assert!(filter
            .note
            .unwrap()
            .contains("unmap_queues_cpsch.constprop.0"));
        // Parameters replaced by the compiler are nobody's.
        assert_eq!(
            of("map_queues_cpsch", &["map_queues_cpsch.isra.0"]).symbols,
            [""; 0]
        );
        // Reads nothing.
        assert_eq!(
            of("pm_send_unmap_queue", &["pm_send_unmap_queue.isra.0"]).symbols,
            ["pm_send_unmap_queue.isra.0"]
        );
    }

    #[test]
    fn a_function_and_its_variant_are_both_attached() {
        let both = of(
            "start_cpsch",
            &[
                "start_cpsch",
                "start_cpsch.constprop.0",
                "start_cpsch.part.0",
                "start_cpsch.cold",
            ],
        );
        assert_eq!(both.symbols, ["start_cpsch", "start_cpsch.constprop.0"]);
    }

    #[test]
    fn an_ambiguous_name_is_not_attached() {
        let twice = of("update_queue", &["update_queue", "update_queue"]);
        assert_eq!(twice.symbols, [""; 0]);
        assert!(twice.note.unwrap().starts_with('2'));
    }

    #[test]
    fn every_entry_says_what_is_lost_and_has_a_program() {
        for wanted in PLAN {
            assert!(!wanted.lost_without.is_empty(), "{}", wanted.function);
            assert!(
                wanted.programs.entry.is_some() || wanted.programs.exit.is_some(),
                "{}",
                wanted.function
            );
            assert!(
                wanted
                    .stable
                    .iter()
                    .all(|argument| wanted.reads.contains(argument)),
                "{}",
                wanted.function
            );
            assert!(!wanted.required || wanted.minimal, "{}", wanted.function);
        }
    }
}

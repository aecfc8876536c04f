// SPDX-License-Identifier: MIT OR Apache-2.0
//! By what means queues of other processes can be stopped here, and whether that can be seen. None of it keeps `watch` from
//! starting. Nothing is tried out: that would make this process a GPU process.

use super::{Check, Status};
use crate::kfd::{module, Root};
use crate::source::permission::Capabilities;
use crate::source::symbols::Symbols;

/// Version of the patched driver's interface that this program knows (kernel-patch/uapi/kfd_gpreempt_ioctl.h).
const ABI: &str = "1";

pub(super) fn checks(root: &Root, symbols: Option<&Symbols>) -> Vec<Check> {
    let status = root.text("/proc/self/status").unwrap_or_default();
    let capabilities = Capabilities::parse(&status);
    let patched = patched(root);
    let instead = patched.status == Status::Ok;
    let debug_trap = debug_trap(root, symbols, capabilities, instead);
    let instead = instead || debug_trap.status == Status::Ok;
    let criu = criu(root, symbols, capabilities, instead);
    vec![patched, debug_trap, criu, observe(root, capabilities)]
}

fn patched(root: &Root) -> Check {
    match module::parameter(root, "gpreempt_abi").as_deref() {
        Some(ABI) => Check::ok(
            "patched",
            "gpreempt_abi 1: preempt holds many queues in one call, those of the same user without any privilege",
        ),
        Some(other) => Check::warn(
            "patched",
            format!("gpreempt_abi {other}, and this gpreempt knows {ABI}: preempt cannot use the patched driver"),
            "use the gpreempt and the kernel-patch/ of one version",
        ),
        None => Check::info(
            "patched",
            "the driver is not patched: preempt uses debug-trap or criu",
            "kernel-patch/README.md tells how to patch it: one call for many queues, no ptrace, holds that end with their owner",
        ),
    }
}

/// What is in the way of attaching to a process (`ptrace_may_access`, `yama_ptrace_access_check`); `Ok` says whose can be.
fn ptrace(root: &Root, capabilities: Capabilities) -> Result<&'static str, (String, &'static str)> {
    let scope = root
        .number("/proc/sys/kernel/yama/ptrace_scope")
        .unwrap_or(0);
    let all = capabilities.can_trace_all();
    match scope {
        3 => Err((
            "kernel.yama.ptrace_scope is 3: nobody may trace".to_owned(),
            "boot with another kernel.yama.ptrace_scope: 3 cannot be changed",
        )),
        _ if all => Ok("any process: CAP_SYS_PTRACE"),
        0 => Ok("processes of the same user"),
        scope => Err((
            format!("kernel.yama.ptrace_scope is {scope} and CAP_SYS_PTRACE is missing"),
            "run as root, or `sysctl kernel.yama.ptrace_scope=0`",
        )),
    }
}

/// `instead`: something better can do it, so that nothing is wrong.
fn impossible(
    name: &'static str,
    why: impl Into<String>,
    fix: impl Into<String>,
    instead: bool,
) -> Check {
    if instead {
        Check::info(name, why, fix)
    } else {
        Check::warn(name, why, fix)
    }
}

fn without_function(
    name: &'static str,
    symbols: Option<&Symbols>,
    function: &str,
) -> Option<Check> {
    match symbols {
        None => Some(Check::skip(
            name,
            "no symbol of amdkfd is in /proc/kallsyms",
        )),
        Some(symbols) if symbols.count(function) == 0 => Some(Check::info(
            name,
            format!("this driver has no {function}"),
            "use a newer kernel: 6.5 for debug-trap, 5.18 for criu",
        )),
        Some(_) => None,
    }
}

fn debug_trap(
    root: &Root,
    symbols: Option<&Symbols>,
    capabilities: Capabilities,
    instead: bool,
) -> Check {
    const NAME: &str = "debug-trap";
    if let Some(check) = without_function(NAME, symbols, "kfd_ioctl_set_debug_trap") {
        return check;
    }
    if module::is_without_hws(root) {
        let why = "not possible with sched_policy 2: there is no hardware scheduler";
        return impossible(NAME, why, "load amdgpu without sched_policy=2", instead);
    }
    match ptrace(root, capabilities) {
        Ok(whose) => Check::ok(NAME, format!("possible for {whose}")),
        Err((why, fix)) => impossible(NAME, format!("not possible: {why}"), fix, instead),
    }
}

fn criu(
    root: &Root,
    symbols: Option<&Symbols>,
    capabilities: Capabilities,
    instead: bool,
) -> Check {
    const NAME: &str = "criu";
    if let Some(check) = without_function(NAME, symbols, "kfd_ioctl_criu") {
        return check;
    }
    if !capabilities.can_checkpoint() {
        return impossible(
            NAME,
            "not possible: CAP_CHECKPOINT_RESTORE is missing",
            "run as root, or `setcap cap_checkpoint_restore,cap_sys_ptrace+ep` on the program",
            instead,
        );
    }
    match ptrace(root, capabilities) {
        Ok(whose) => Check::ok(NAME, format!("possible for {whose}")),
        Err((why, fix)) => impossible(NAME, format!("not possible: {why}"), fix, instead),
    }
}

fn observe(root: &Root, capabilities: Capabilities) -> Check {
    const NAME: &str = "observe";
    let rls = root.text("/sys/kernel/debug/kfd/rls").is_ok();
    if capabilities.missing().is_empty() {
        let judge = if rls {
            ", the runlist in debugfs where there are none"
        } else {
            "; no runlist in debugfs to judge by where there are none"
        };
        return Check::ok(
            NAME,
            format!("preempt sees by events that queues stopped{judge}"),
        );
    }
    if rls {
        return Check::ok(
            NAME,
            "preempt sees in the runlist of debugfs that queues stopped",
        );
    }
    Check::info(
        NAME,
        "preempt cannot see whether queues stopped and has to believe the driver's answer",
        "run as root with debugfs mounted on /sys/kernel/debug",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Machine(std::path::PathBuf);

    impl Machine {
        fn new(name: &str, effective: u64) -> Self {
            let dir =
                std::env::temp_dir().join(format!("gpreempt-means-{name}-{}", std::process::id()));
            let _ = std::fs::remove_dir_all(&dir);
            let machine = Self(dir);
            machine.file("/proc/self/status", &format!("CapEff:\t{effective:016x}\n"));
            machine
        }

        fn file(&self, path: &str, text: &str) {
            let path = self.0.join(path.trim_start_matches('/'));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }

        /// Status of each check by its name, and the whole.
        fn examine(&self, functions: &[&str]) -> Vec<(&'static str, Status, String)> {
            let symbols = Symbols::from_names("amdgpu", functions.iter().copied());
            checks(&Root::at(self.0.clone()), Some(&symbols))
                .into_iter()
                .map(|check| {
                    assert_eq!(
                        check.fix.is_some(),
                        matches!(check.status, Status::Info | Status::Warn),
                        "{check:?}"
                    );
                    assert!(check.lack.is_none(), "{check:?}");
                    (check.name, check.status, check.evidence)
                })
                .collect()
        }
    }

    impl Drop for Machine {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    const BOTH: [&str; 2] = ["kfd_ioctl_set_debug_trap", "kfd_ioctl_criu"];

    fn statuses(found: &[(&'static str, Status, String)]) -> Vec<Status> {
        found.iter().map(|(_, status, _)| *status).collect()
    }

    #[test]
    fn root_on_a_stock_driver_has_both_and_that_it_is_not_patched_is_no_fault() {
        let machine = Machine::new("root", u64::MAX);
        machine.file("/proc/sys/kernel/yama/ptrace_scope", "1\n");
        let found = machine.examine(&BOTH);
        assert_eq!(
            statuses(&found),
            [Status::Info, Status::Ok, Status::Ok, Status::Ok]
        );
        assert!(found[1].2.contains("CAP_SYS_PTRACE"));
        machine.file("/sys/module/amdgpu/parameters/gpreempt_abi", "1\n");
        assert_eq!(machine.examine(&BOTH)[0].1, Status::Ok);
        machine.file("/sys/module/amdgpu/parameters/gpreempt_abi", "9\n");
        assert_eq!(machine.examine(&BOTH)[0].1, Status::Warn);
    }

    #[test]
    fn a_user_is_told_what_is_in_the_way() {
        let machine = Machine::new("user", 0);
        let found = machine.examine(&BOTH);
        assert_eq!(
            statuses(&found),
            [Status::Info, Status::Ok, Status::Info, Status::Info]
        );
        assert!(found[1].2.contains("same user"));
        machine.file("/proc/sys/kernel/yama/ptrace_scope", "1\n");
        let found = machine.examine(&BOTH);
        assert_eq!(
            statuses(&found),
            [Status::Info, Status::Warn, Status::Warn, Status::Info]
        );
        // With a patched driver nobody needs them.
        machine.file("/sys/module/amdgpu/parameters/gpreempt_abi", "1\n");
        let found = machine.examine(&BOTH);
        assert_eq!(
            statuses(&found),
            [Status::Ok, Status::Info, Status::Info, Status::Info]
        );
    }

    #[test]
    fn what_nothing_can_lift_is_said() {
        let machine = Machine::new("scope-3", u64::MAX);
        machine.file("/proc/sys/kernel/yama/ptrace_scope", "3\n");
        let found = machine.examine(&BOTH);
        assert!(found[1].2.contains("nobody may trace"));
        assert_eq!(found[1].1, Status::Warn);
        let found = machine.examine(&[]);
        assert!(found[1].2.contains("no kfd_ioctl_set_debug_trap"));
        machine.file("/sys/module/amdgpu/parameters/sched_policy", "2\n");
        assert!(machine.examine(&BOTH)[1].2.contains("hardware scheduler"));
    }
}

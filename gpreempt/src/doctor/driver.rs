// SPDX-License-Identifier: MIT OR Apache-2.0
//! The driver: presence, struct offsets, debugfs.

use std::io;
use std::path::PathBuf;

use super::{Check, Lack};
use crate::kfd::{self, module, Root};
use crate::source::profile::Profile;

pub(super) fn driver(root: &Root) -> Check {
    match module::loaded(root) {
        Some(module) => {
            let version = module
                .version
                .map_or_else(|| "no version".to_owned(), |v| format!("version {v}"));
            let built_in = if root.exists("/sys/module/amdgpu") {
                ""
            } else {
                ", built in or under another name"
            };
            Check::ok("driver", format!("amdgpu with amdkfd, {version}{built_in}"))
        }
        None => {
            let absent = module::absent(root);
            Check::fail("driver", Lack::Feature, absent.why, absent.fix)
        }
    }
}

/// Where the offsets of struct members can come from.
pub(super) fn offsets(root: &Root, loaded: bool, profile: Option<&PathBuf>) -> Check {
    if let Some(path) = profile {
        return match profile_usable(root, path) {
            Ok(()) => Check::ok(
                "offsets",
                format!("the profile {} fits the loaded driver", path.display()),
            ),
            Err(e) => {
                let fix = "extract a profile from the loaded module: `gpreempt doctor --extract-offsets amdgpu.ko`";
                Check::fail("offsets", Lack::Feature, format!("{e:#}"), fix)
            }
        };
    }
    if !root.exists("/sys/kernel/btf/vmlinux") {
        let fix = "use a kernel with CONFIG_DEBUG_INFO_BTF, or give a profile with --offsets";
        return Check::fail(
            "offsets",
            Lack::Feature,
            "no /sys/kernel/btf/vmlinux: this kernel has no BTF",
            fix,
        );
    }
    if !loaded {
        return Check::skip(
            "offsets",
            "BTF of the kernel is there; that of amdgpu is told when it is loaded",
        );
    }
    if root.exists("/sys/module/amdgpu/initstate") && !root.exists("/sys/kernel/btf/amdgpu") {
        return Check::fail(
            "offsets",
            Lack::Feature,
            "no /sys/kernel/btf/amdgpu: the driver was built without BTF",
            "rebuild it after `cp /sys/kernel/btf/vmlinux` into the kernel's build directory; or give a profile with \
             --offsets, made by `gpreempt doctor --extract-offsets` from a build of the same driver that has BTF",
        );
    }
    Check::ok("offsets", "BTF of the driver and of the kernel")
}

fn profile_usable(root: &Root, path: &std::path::Path) -> anyhow::Result<()> {
    let release = root.text("/proc/sys/kernel/osrelease")?;
    Profile::load(path)?.check_module(&root.path("/sys/module/amdgpu"), &release)
}

/// The dumps that later verbs join with events. `hqds` is not read: that takes thousands of register reads under a lock.
pub(super) fn debugfs(root: &Root) -> Check {
    const DIR: &str = "/sys/kernel/debug/kfd";
    let read = |file: &str| std::fs::read_to_string(root.path(&format!("{DIR}/{file}")));
    match read("rls").and_then(|rls| Ok((rls, read("mqds")?))) {
        Ok((rls, mqds)) => match (kfd::rls::parse(&rls), kfd::mqds::parse(&mqds)) {
            (Ok(nodes), Ok(processes)) => {
                let mapped: usize = nodes
                    .iter()
                    .map(kfd::rls::NodeRunlist::compute_queues)
                    .sum();
                let queues: usize = processes.iter().map(|process| process.queues.len()).sum();
                Check::ok(
                    "debugfs",
                    format!(
                        "{queues} queues of {} processes, {mapped} compute queues in runlists",
                        processes.len()
                    ),
                )
            }
            (rls, mqds) => {
                let (file, e) = match (rls, mqds) {
                    (Err(e), _) => ("rls", e.to_string()),
                    (_, Err(e)) => ("mqds", e.to_string()),
                    _ => ("", String::new()),
                };
                let fix = "report it with the file: this driver prints another format; `watch` does without";
                Check::warn(
                    "debugfs",
                    format!("{DIR}/{file} is not understood: {e}"),
                    fix,
                )
            }
        },
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Check::warn(
            "debugfs",
            format!("{DIR} is not readable"),
            "run as root; `watch` does without",
        ),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let fix =
                "`mount -t debugfs none /sys/kernel/debug`, or use a kernel with CONFIG_DEBUG_FS; `watch` does without";
            Check::warn("debugfs", format!("{DIR} is not there"), fix)
        }
        Err(e) => Check::warn("debugfs", format!("{DIR}: {e}"), "`watch` does without"),
    }
}

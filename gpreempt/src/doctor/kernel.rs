// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the kernel and the caller's permissions allow.

use super::{Check, Lack};
use crate::kfd::Root;
use crate::source::permission::Capabilities;

pub(super) fn kernel(root: &Root) -> Check {
    let Ok(release) = root.text("/proc/sys/kernel/osrelease") else {
        return Check::skip("kernel", "/proc/sys/kernel/osrelease cannot be read");
    };
    let mut numbers = release
        .split(['.', '-'])
        .map_while(|n| n.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    // BPF_MAP_TYPE_RINGBUF is 5.8's; per-thread entry state and BTF of modules are older than 5.11.
    if version < (5, 11) {
        let fix = "use Linux 6.1 or newer";
        return Check::fail(
            "kernel",
            Lack::Feature,
            format!("Linux {release}, older than 5.11"),
            fix,
        );
    }
    if version < (6, 1) {
        let fix = "use Linux 6.1 or newer: gpreempt is tested from there on";
        return Check::warn("kernel", format!("Linux {release}"), fix);
    }
    Check::ok("kernel", format!("Linux {release}"))
}

/// Whether this build has what it would load; nothing to say about a machine that is not the running one.
pub(super) fn programs(root: &Root) -> Option<Check> {
    if !root.is_real() {
        return None;
    }
    Some(if crate::source::programs::embedded() {
        Check::ok("programs", "the eBPF programs are built in")
    } else {
        let fix = "build it with `cargo xtask build`, which embeds them";
        Check::fail(
            "programs",
            Lack::Feature,
            "this gpreempt was built without its eBPF programs",
            fix,
        )
    })
}

pub(super) fn capabilities(root: &Root) -> Check {
    let Ok(status) = root.text("/proc/self/status") else {
        return Check::skip("capabilities", "/proc/self/status cannot be read");
    };
    let capabilities = Capabilities::parse(&status);
    let missing = capabilities.missing();
    if !missing.is_empty() {
        let fix = "run as root, or `setcap cap_bpf,cap_perfmon+ep` on the program";
        return Check::fail(
            "capabilities",
            Lack::Permission,
            format!("{} missing", missing.join(" and ")),
            fix,
        );
    }
    if capabilities.can_use_fentry() {
        Check::ok(
            "capabilities",
            "CAP_SYS_ADMIN: programs can be attached by fentry, the cheapest way",
        )
    } else {
        Check::ok(
            "capabilities",
            "CAP_BPF and CAP_PERFMON: programs are attached by kprobe",
        )
    }
}

pub(super) fn kprobes(root: &Root) -> Check {
    if !root.exists("/sys/bus/event_source/devices/kprobe/type") {
        return Check::warn(
            "kprobes",
            "this kernel has no kprobe event source: only functions that fentry reaches can be probed",
            "use a kernel with CONFIG_KPROBE_EVENTS and CONFIG_BPF_EVENTS",
        );
    }
    if debugfs_text(root, "kprobes/enabled").as_deref() == Some("0") {
        return Check::warn(
            "kprobes",
            "/sys/kernel/debug/kprobes/enabled is 0: kprobes are attached but never run",
            "`echo 1 > /sys/kernel/debug/kprobes/enabled`",
        );
    }
    Check::ok("kprobes", "available")
}

fn debugfs_text(root: &Root, path: &str) -> Option<String> {
    root.text(&format!("/sys/kernel/debug/{path}")).ok()
}

pub(super) fn lockdown(root: &Root) -> Check {
    let Ok(modes) = root.text("/sys/kernel/security/lockdown") else {
        return Check::ok(
            "lockdown",
            "this kernel has no lockdown, or securityfs is not mounted",
        );
    };
    let mode = modes.split(['[', ']']).nth(1).unwrap_or("none");
    if mode == "confidentiality" {
        return Check::fail(
            "lockdown",
            Lack::Feature,
            "mode confidentiality: no program may read kernel memory",
            "boot with lockdown=integrity or without lockdown",
        );
    }
    Check::ok("lockdown", format!("mode {mode}"))
}

pub(super) fn kptr_restrict(root: &Root) -> Check {
    match root.number("/proc/sys/kernel/kptr_restrict") {
        Some(n) => Check::ok(
            "kptr_restrict",
            format!("{n}: no matter, symbols are found by name"),
        ),
        None => Check::skip("kptr_restrict", "cannot be read"),
    }
}

/// Others that trace the same functions: their cost is in the durations that are measured here.
pub(super) fn tracers(root: &Root) -> Check {
    let tracing = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"]
        .into_iter()
        .find(|dir| root.text(&format!("{dir}/current_tracer")).is_ok());
    let mut found = Vec::new();
    if let Some(dir) = tracing {
        let tracer = root
            .text(&format!("{dir}/current_tracer"))
            .unwrap_or_default();
        if tracer != "nop" {
            found.push(format!("ftrace runs the tracer {tracer}"));
        }
        let functions = root
            .text(&format!("{dir}/enabled_functions"))
            .unwrap_or_default();
        let hooked = functions
            .lines()
            .filter(|line| line.contains("[amdgpu]"))
            .count();
        if hooked > 0 {
            found.push(format!("{hooked} functions of amdgpu are hooked"));
        }
    }
    let list = debugfs_text(root, "kprobes/list").unwrap_or_default();
    let kprobes = list
        .lines()
        .filter(|line| line.contains("[amdgpu]") || line.contains(" amdgpu"))
        .count();
    if kprobes > 0 {
        found.push(format!("{kprobes} kprobes are on amdgpu"));
    }
    if !found.is_empty() {
        let fix = "stop the other tracer, or keep in mind that its cost is part of every duration";
        return Check::warn("tracers", found.join(", "), fix);
    }
    match tracing {
        Some(_) => Check::ok("tracers", "nobody else traces amdgpu"),
        None => Check::skip("tracers", "tracefs is not mounted or not readable"),
    }
}

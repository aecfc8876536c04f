// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a kernel says when something is wrong with it. Tests provoke it; none of them may make it say this.

/// A line by which a kernel complains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Complaint {
    /// The line without its time.
    pub line: String,
    /// The kernel did not go on after it.
    pub fatal: bool,
}

impl Complaint {
    /// Whether it only follows another one, unless it stands alone.
    pub fn is_trace(&self) -> bool {
        self.line == TRACE
    }
}

const TRACE: &str = "Call Trace:";

/// How complaints begin.
const BEGINNINGS: &[(&str, bool)] = &[
    ("Kernel panic", true),
    // WARN_ON, and every kind of report of lockdep.
    ("WARNING: ", false),
    // KASAN, KFENCE, bad pages, sleeping or scheduling where that is forbidden, workqueue lockups.
    ("BUG: ", false),
    ("kernel BUG at", false),
    ("Oops: ", false),
    ("general protection fault", false),
    ("invalid opcode: ", false),
    ("divide error: ", false),
    ("double fault: ", false),
    ("stack segment: ", false),
    ("Unable to handle kernel", false),
    // Soft and hard lockups.
    ("watchdog: ", false),
    ("rcu: INFO: ", false),
    ("INFO: rcu_", false),
    ("UBSAN: ", false),
    ("refcount_t: ", false),
    ("list_add corruption", false),
    ("list_del corruption", false),
    ("INFO: trying to register non-static key", false),
    ("kmemleak: ", false),
    ("sysfs: cannot create duplicate filename", false),
    ("kobject_add_internal failed", false),
    // Of whatever is not named here.
    (TRACE, false),
];

/// What complaints hold anywhere.
const PARTS: &[&str] = &[
    "use-after-free",
    "slab-out-of-bounds",
    "double-free",
    "soft lockup",
    "hard LOCKUP",
    "detected stalls on CPUs",
    "self-detected stall on CPU",
    "possible circular locking dependency",
    "possible recursive locking",
    "possible deadlock",
    "inconsistent lock state",
    "suspicious RCU usage",
    "unbalanced enter/exit",
    "still has locks held",
    "object still in use",
];

/// What begins like a complaint and is none.
const HARMLESS: &[&str] = &[
    // Printed at boot on processors without the counter it wants.
    "watchdog: Delayed init of the lockup detector failed",
    "watchdog: Perf NMI watchdog permanently disabled",
    "watchdog: Enabled",
    "watchdog: Disabling",
];

/// The complaint in a line of a kernel's log, with or without its time before it.
pub fn complaint_in(line: &str) -> Option<Complaint> {
    let text = without_time(line);
    if HARMLESS.iter().any(|start| text.starts_with(start)) {
        return None;
    }
    let begins = BEGINNINGS.iter().find(|(start, _)| text.starts_with(start));
    let hung = text.starts_with("INFO: task ") && text.contains(" blocked for more than ");
    let holds = hung || PARTS.iter().any(|part| text.contains(part));
    let fatal = begins.map(|(_, fatal)| *fatal).or(holds.then_some(false))?;
    Some(Complaint {
        line: text.to_owned(),
        fatal,
    })
}

/// The line without `[   12.345678] `, what the console put before it, and the end of the line.
pub fn without_time(line: &str) -> &str {
    let line = line.trim();
    let stamped = line.split_once('[').filter(|(before, _)| before.is_empty());
    let rest = stamped
        .and_then(|(_, rest)| rest.split_once("] "))
        .filter(|(time, _)| {
            !time.is_empty()
                && time
                    .bytes()
                    .all(|c| c.is_ascii_digit() || matches!(c, b' ' | b'.'))
        });
    rest.map_or(line, |(_, text)| text)
}

/// What `vm-tests` writes into the kernel's log when a test begins, so that whoever reads the log knows during which
/// test a line appeared.
pub fn begin_mark(test: &str) -> String {
    format!("{MARK}{test}")
}

/// The test that begins with a line of the kernel's log.
pub fn begun_by(line: &str) -> Option<&str> {
    without_time(line).strip_prefix(MARK)
}

const MARK: &str = "vm-tests: begin ";

#[cfg(test)]
mod tests {
    use super::*;

    /// As kernels print them.
    const COMPLAINTS: &[&str] = &[
        "[   12.345678] WARNING: CPU: 1 PID: 99 at kernel/x.c:5 f+0x1/0x2 [amdgpu]",
        "[   12.3] WARNING: possible circular locking dependency detected",
        "WARNING: suspicious RCU usage",
        "[   13.0] BUG: kernel NULL pointer dereference, address: 0000000000000000",
        "BUG: KASAN: slab-use-after-free in kfd_gpreempt_apply_node+0x1/0x2 [amdgpu]",
        "BUG: sleeping function called from invalid context at kernel/locking/mutex.c:585",
        "BUG: scheduling while atomic: kfd-load/99/0x00000002",
        "BUG: workqueue lockup - pool cpus=0 node=0 flags=0x0 nice=0 stuck for 31s!",
        "kernel BUG at lib/list_debug.c:62!",
        "Oops: general protection fault, probably for non-canonical address",
        "general protection fault, probably for non-canonical address 0xdead000000000100",
        "[   14.0] INFO: task kfd:12 blocked for more than 120 seconds.",
        "watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [kfd-load:99]",
        "watchdog: Watchdog detected hard LOCKUP on cpu 1",
        "rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:",
        "rcu: INFO: rcu_preempt self-detected stall on CPU",
        "UBSAN: array-index-out-of-bounds in kfd_gpreempt.c:1:2",
        "refcount_t: underflow; use-after-free.",
        "list_del corruption. prev->next should be ffff, but was 0",
        "=============== kfence: use-after-free read in f",
        "[   15.0] Kernel panic - not syncing: Attempted to kill init!",
        "[   16.0] Call Trace:",
    ];

    const ORDINARY: &[&str] = &[
        "[    0.000000] Linux version 6.12",
        "[    1.5] amdgpu: module verification failed: signature and/or required key missing - tainting kernel",
        "[    2.0] amdgpu: sim: leaked bo 0 mem 0 files 0",
        "[    2.0] amdgpu 0000:00:00.0: amdgpu: cp queue preemption time out",
        "[    2.0] amdgpu: Failed to evict process queues",
        "[   12.345679] Modules linked in: amdgpu",
        "DEBUG: no",
        "[    0.1] watchdog: Delayed init of the lockup detector failed: -19",
        "[    0.1] rcu: Hierarchical RCU implementation.",
        "[    3.0] clocksource: Switched to clocksource tsc",
        "vm-tests: begin patched::a_warning_of_nothing",
    ];

    #[test]
    fn complaints_are_found_and_ordinary_lines_are_not() {
        for line in COMPLAINTS {
            let found = complaint_in(line);
            assert!(found.is_some(), "{line}");
            assert_eq!(
                found.unwrap().fatal,
                line.contains("Kernel panic"),
                "{line}"
            );
        }
        for line in ORDINARY {
            assert_eq!(complaint_in(line), None, "{line}");
        }
    }

    #[test]
    fn a_complaint_loses_its_time_and_its_end() {
        let found = complaint_in("[    1.0] BUG: x\r").unwrap();
        assert_eq!(found.line, "BUG: x");
    }

    #[test]
    fn marks_are_read_back() {
        let line = format!("[    9.25] {}\r", begin_mark("patched::a"));
        assert_eq!(begun_by(&line), Some("patched::a"));
        assert_eq!(begun_by("[    9.25] amdgpu: x"), None);
    }
}

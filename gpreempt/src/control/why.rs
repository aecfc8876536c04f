// SPDX-License-Identifier: MIT OR Apache-2.0
//! Refusals that the stock backends have in common: what an errno means here, and what the user can do.

use nix::errno::Errno;

use super::Refusal;
use crate::event::Pid;
use crate::kfd::{process, task, Root};

pub(crate) const SEIZE: &str = "ptrace SEIZE";

const PATCHED: &str = "use --backend patched on a driver with our patches, which needs no tracing";

fn refusal(call: &'static str, errno: Option<Errno>, what: String, fix: &str) -> Refusal {
    Refusal {
        call,
        errno,
        what,
        fix: fix.to_owned(),
    }
}

/// Not in sysfs.
pub(crate) fn not_kfd(root: &Root, pid: Pid) -> Refusal {
    if root.exists(&format!("/proc/{pid}")) {
        refusal(
            "look for /sys/class/kfd/kfd/proc/PID",
            Some(Errno::ENOENT),
            format!("process {pid} has not opened /dev/kfd, so it has no queues"),
            "name a process that uses a GPU: gpreempt watch shows them",
        )
    } else {
        ended(SEIZE, pid)
    }
}

pub(crate) fn ended(call: &'static str, pid: Pid) -> Refusal {
    refusal(
        call,
        Some(Errno::ESRCH),
        format!("there is no process {pid} any more"),
        "nothing is left to stop",
    )
}

/// The pid means another process than the one that was selected.
pub(crate) fn other_process(pid: Pid) -> Refusal {
    refusal(
        SEIZE,
        Some(Errno::ESRCH),
        format!("the process that had pid {pid} ended, and another one has it now"),
        "select again",
    )
}

pub(crate) fn is_self(pid: Pid) -> Refusal {
    refusal(
        SEIZE,
        Some(Errno::EPERM),
        format!("{pid} is this program, which cannot trace itself"),
        "name another process",
    )
}

/// Who traces, as users know it: what procfs calls TracerPid is the number of a thread.
pub(crate) fn tracer_name(root: &Root, thread: Pid) -> String {
    let process = process::group_of(root, thread).unwrap_or(thread);
    let comm = task::comm(root, process).map_or_else(String::new, |comm| format!(" ({comm})"));
    format!("process {process}{comm}")
}

pub(crate) fn traced(root: &Root, pid: Pid, tracer: Pid) -> Refusal {
    let tracer = tracer_name(root, tracer);
    refusal(
        SEIZE,
        Some(Errno::EPERM),
        format!("process {pid} is traced by {tracer} already, and only one can"),
        &format!("end that debugger, tracer or other gpreempt, or {PATCHED}"),
    )
}

/// PTRACE_SEIZE failed: `__ptrace_may_access`, the Yama module, or a second tracer.
pub(crate) fn not_traceable(root: &Root, pid: Pid, errno: Errno) -> Refusal {
    if errno != Errno::EPERM {
        return ended(SEIZE, pid);
    }
    if let Some(tracer) = process::tracer(root, pid) {
        return traced(root, pid, tracer);
    }
    if process::start_ticks(root, pid).is_some_and(|ticks| !process::is_alive(root, pid, ticks)) {
        return refusal(
            SEIZE,
            Some(errno),
            format!("the main thread of process {pid} has ended, or all of it"),
            &format!("wait for its end, or {PATCHED}"),
        );
    }
    let scope = root.number("/proc/sys/kernel/yama/ptrace_scope");
    let owner = process::owner(root, pid);
    let own = nix::unistd::geteuid().as_raw();
    let (what, fix) = match (scope, owner) {
        (Some(3), _) => (
            "the Yama module forbids all tracing (kernel.yama.ptrace_scope = 3)".to_owned(),
            format!("boot without that setting, which nobody can change back, or {PATCHED}"),
        ),
        (_, Some(uid)) if uid != own && own != 0 => (
            format!("process {pid} belongs to user {uid}, and this is user {own}"),
            format!("run as that user or root, with CAP_SYS_PTRACE, or {PATCHED}"),
        ),
        (Some(scope @ (1 | 2)), _) => (
            format!("the Yama module lets users trace no foreign process (kernel.yama.ptrace_scope = {scope})"),
            format!("run as root, with CAP_SYS_PTRACE, sysctl kernel.yama.ptrace_scope=0, or {PATCHED}"),
        ),
        _ => (
            format!("no right to trace process {pid}: it has capabilities that this lacks, does not let itself be dumped, or a \
                     security module objects"),
            format!("run with CAP_SYS_PTRACE in the initial user namespace, or {PATCHED}"),
        ),
    };
    refusal(SEIZE, Some(errno), what, &fix)
}

/// Nothing more could be allocated.
pub(crate) fn resources(call: &'static str, errno: Errno) -> Refusal {
    refusal(
        call,
        Some(errno),
        "this program cannot get what it needs for one more process".to_owned(),
        "raise the limits of open files and processes (ulimit -n, -u), or stop fewer processes at once",
    )
}

/// A thread panicked.
pub(crate) fn thread_ended() -> Refusal {
    refusal(
        "trace",
        None,
        "the thread that traces the process has ended".to_owned(),
        "end this program: the kernel restarts what it stopped; please report the message above",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn root(name: &str, files: &[(&str, &str)]) -> Root {
        let base = std::env::temp_dir().join(format!("gpreempt-why-{}-{name}", std::process::id()));
        for (path, text) in files {
            let path = base.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        Root::at(base)
    }

    const STAT: &str = "7 (job) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 777 20";

    #[test]
    fn each_reason_has_its_message() {
        let files = |status: &'static str, scope: &'static str| {
            [
                ("proc/7/status", status),
                ("proc/7/stat", STAT),
                ("proc/9/comm", "rocgdb\n"),
                ("proc/sys/kernel/yama/ptrace_scope", scope),
            ]
        };
        let what = |root: &Root| not_traceable(root, Pid(7), Errno::EPERM).what;
        let debugged = root("traced", &files("TracerPid:\t9\n", "0"));
        assert!(what(&debugged).contains("traced by process 9 (rocgdb)"));
        for (scope, part) in [
            ("1", "scope = 1"),
            ("2", "scope = 2"),
            ("3", "scope = 3"),
            ("0", "no right"),
        ] {
            let yama = root(scope, &files("TracerPid:\t0\n", scope));
            assert!(what(&yama).contains(part), "{}", what(&yama));
        }
        let zombie = STAT.replace(" S ", " Z ");
        let dead = root(
            "dead",
            &[
                ("proc/7/status", "TracerPid:\t0\n"),
                ("proc/7/stat", &zombie),
            ],
        );
        assert!(what(&dead).contains("main thread"));
        assert!(not_traceable(&dead, Pid(7), Errno::ESRCH)
            .what
            .contains("no process 7"));
        assert!(not_kfd(&dead, Pid(7)).what.contains("/dev/kfd"));
        assert!(not_kfd(&dead, Pid(8)).what.contains("no process 8"));
    }
}

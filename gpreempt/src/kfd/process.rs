// SPDX-License-Identifier: MIT OR Apache-2.0
//! What procfs says of a process that somebody acts on: when it started, its pids, its cgroups, who traces it.

use std::os::unix::fs::MetadataExt as _;

use super::Root;
use crate::event::Pid;

/// Inode of the initial pid namespace (`PROC_PID_INIT_INO`, include/linux/proc_ns.h).
const INITIAL_PID_NAMESPACE: &str = "pid:[4026531836]";

/// When a process started: field 22 of `/proc/PID/stat`, in ticks of USER_HZ since boot. With the pid it is the process's
/// key. `None` if there is no such process.
#[must_use]
pub fn start_ticks(root: &Root, pid: Pid) -> Option<u64> {
    parse_start_ticks(&root.bytes(&format!("/proc/{pid}/stat")).ok()?)
}

/// Its parent, field 4 of `/proc/PID/stat`. `None` if there is no such process, or it has none.
#[must_use]
pub fn parent(root: &Root, pid: Pid) -> Option<Pid> {
    let stat = root.bytes(&format!("/proc/{pid}/stat")).ok()?;
    Pid::known(field(&stat, 1)?)
}

fn parse_start_ticks(stat: &[u8]) -> Option<u64> {
    field(stat, 19)
}

/// A field after the name, which stands in parentheses and may hold blanks and parentheses itself: the last one ends it.
fn field<T: std::str::FromStr>(stat: &[u8], at: usize) -> Option<T> {
    let after = stat.iter().rposition(|byte| *byte == b')')? + 1;
    let rest = std::str::from_utf8(stat.get(after..)?).ok()?;
    rest.split_ascii_whitespace().nth(at)?.parse().ok()
}

/// Whether this very process still runs. A zombie does not: its queues are gone or going.
#[must_use]
pub fn is_alive(root: &Root, pid: Pid, started: u64) -> bool {
    let Ok(stat) = root.bytes(&format!("/proc/{pid}/stat")) else {
        return false;
    };
    let state = stat
        .iter()
        .rposition(|byte| *byte == b')')
        .and_then(|at| stat.get(at + 2));
    parse_start_ticks(&stat) == Some(started) && !matches!(state, Some(b'Z' | b'X'))
}

/// Its pids, from the reader's pid namespace to its own: one outside of containers.
#[must_use]
pub fn ns_pids(root: &Root, pid: Pid) -> Vec<u32> {
    status(root, pid, "NSpid:")
        .map(|line| {
            line.split_ascii_whitespace()
                .filter_map(|n| n.parse().ok())
                .collect()
        })
        .unwrap_or_default()
}

/// The user that the process is of. A process whose memory may not be dumped is root's, as for ptrace.
#[must_use]
pub fn owner(root: &Root, pid: Pid) -> Option<u32> {
    let directory = std::fs::metadata(root.path(&format!("/proc/{pid}")));
    directory.ok().map(|meta| meta.uid())
}

/// Who traces it.
#[must_use]
pub fn tracer(root: &Root, pid: Pid) -> Option<Pid> {
    status(root, pid, "TracerPid:")?
        .trim()
        .parse()
        .ok()
        .and_then(Pid::known)
}

/// The process that a pid belongs to: itself, unless it is a thread's.
#[must_use]
pub fn group_of(root: &Root, pid: Pid) -> Option<Pid> {
    status(root, pid, "Tgid:")?.trim().parse().ok().map(Pid)
}

fn status(root: &Root, pid: Pid, key: &str) -> Option<String> {
    let text = root.text(&format!("/proc/{pid}/status")).ok()?;
    text.lines()
        .find_map(|line| line.strip_prefix(key))
        .map(str::to_owned)
}

/// Paths of its cgroups: that of cgroup v2, and of every v1 hierarchy.
#[must_use]
pub fn cgroups(root: &Root, pid: Pid) -> Vec<String> {
    root.text(&format!("/proc/{pid}/cgroup"))
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.splitn(3, ':').nth(2))
        .map(str::to_owned)
        .collect()
}

/// Path of its cgroup: that of v2 where it is in one, else the longest of v1, which tells a container best.
#[must_use]
pub fn main_cgroup(root: &Root, pid: Pid) -> Option<String> {
    let text = root.text(&format!("/proc/{pid}/cgroup")).ok()?;
    let lines = || {
        text.lines()
            .map(|line| line.splitn(3, ':').collect::<Vec<_>>())
    };
    let v2 = lines()
        .find(|parts| parts.first() == Some(&"0") && parts.get(2).is_some_and(|path| *path != "/"));
    v2.or_else(|| lines().max_by_key(|parts| parts.get(2).map_or(0, |path| path.len())))
        .and_then(|parts| parts.get(2).map(|path| (*path).to_owned()))
}

/// The file that it executes. `None` without the permission to see it.
#[must_use]
pub fn exe(root: &Root, pid: Pid) -> Option<String> {
    let link = std::fs::read_link(root.path(&format!("/proc/{pid}/exe"))).ok()?;
    Some(link.to_string_lossy().into_owned())
}

/// Its arguments, with spaces between them.
#[must_use]
pub fn cmdline(root: &Root, pid: Pid) -> Option<String> {
    let bytes = root.bytes(&format!("/proc/{pid}/cmdline")).ok()?;
    let words = bytes.strip_suffix(b"\0").unwrap_or(&bytes);
    let words: Vec<_> = words
        .split(|byte| *byte == 0)
        .map(String::from_utf8_lossy)
        .collect();
    Some(words.join(" ")).filter(|line| !line.is_empty())
}

/// Real user id.
#[must_use]
pub fn uid(root: &Root, pid: Pid) -> Option<u32> {
    status(root, pid, "Uid:")?
        .split_ascii_whitespace()
        .next()?
        .parse()
        .ok()
}

/// Whether this program sees the host's pids, as sysfs and the driver's dumps use them.
#[must_use]
pub fn sees_host_pids(root: &Root) -> bool {
    match std::fs::read_link(root.path("/proc/self/ns/pid")) {
        Ok(link) => link.as_os_str() == INITIAL_PID_NAMESPACE,
        Err(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_with_parentheses_do_not_mislead() {
        let tail = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 777 20 21";
        for name in ["kfd-load", "a b", "x) S 1 1", "(((", ""] {
            let stat = format!("12 ({name}) {tail}\n");
            assert_eq!(parse_start_ticks(stat.as_bytes()), Some(777), "{name}");
        }
        assert_eq!(parse_start_ticks(b"12 (\xff\xfe) S 1"), None);
    }

    #[test]
    fn this_process_is_alive_since_it_started() {
        let (root, me) = (Root::real(), Pid(std::process::id()));
        let started = start_ticks(&root, me).unwrap();
        assert!(started > 0);
        assert!(is_alive(&root, me, started));
        assert!(!is_alive(&root, me, started + 1));
        assert!(!is_alive(&root, Pid(u32::MAX), 0));
        assert_eq!(group_of(&root, me), Some(me));
        assert_eq!(ns_pids(&root, me).first(), Some(&me.0));
        assert_eq!(tracer(&root, me), None);
    }

    proptest! {
        #[test]
        fn any_stat_is_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse_start_ticks(&bytes);
        }
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! Queues that exist, from `/sys/class/kfd/kfd/proc/PID/queues/ID/{size,type,gpuid}`. The files end without a newline
//! (kfd_procfs_queue_show, Linux 6.12); `gpuid` is decimal.

use std::io;

use super::Root;
use crate::event::{GpuId, Pid, QueueId};

const PROC: &str = "/sys/class/kfd/kfd/proc";

/// A queue as sysfs shows it: priority, percentage and state are not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SysfsQueue {
    /// Owner, in the initial pid namespace.
    pub pid: Pid,
    /// Id in its process.
    pub queue_id: QueueId,
    /// Node.
    pub gpu_id: GpuId,
    /// `enum kfd_queue_type`.
    pub queue_type: u32,
    /// Bytes of the ring.
    pub ring_bytes: u64,
}

/// Processes that have /dev/kfd open, ascending.
///
/// # Errors
/// When the directory cannot be read. That it does not exist means that there is no driver or no process: empty.
pub fn processes(root: &Root) -> io::Result<Vec<Pid>> {
    let pids = numbered(root, PROC)?;
    for pid in &pids {
        // A recording has directories with something in them only, and a process need not have a queue.
        let _ = root.inode(&format!("{PROC}/{pid}/"));
    }
    Ok(pids.into_iter().map(Pid).collect())
}

/// Every queue of every process, ascending. What disappears while it is read is left out.
///
/// # Errors
/// As [`processes`].
pub fn read(root: &Root) -> io::Result<Vec<SysfsQueue>> {
    Ok(of(root, &processes(root)?))
}

/// Every queue of these processes, in their order. What disappears while it is read is left out.
#[must_use]
pub fn of(root: &Root, pids: &[Pid]) -> Vec<SysfsQueue> {
    let mut queues = Vec::new();
    for pid in pids.iter().copied() {
        let dir = format!("{PROC}/{pid}/queues");
        let Ok(ids) = numbered(root, &dir) else {
            continue;
        };
        for id in ids {
            let number = |file: &str| {
                root.text(&format!("{dir}/{id}/{file}"))
                    .ok()?
                    .parse::<u64>()
                    .ok()
            };
            let (Some(size), Some(kind), Some(gpu)) =
                (number("size"), number("type"), number("gpuid"))
            else {
                continue;
            };
            let (Ok(queue_type), Ok(gpu_id)) = (u32::try_from(kind), u32::try_from(gpu)) else {
                continue;
            };
            queues.push(SysfsQueue {
                pid,
                queue_id: QueueId(id),
                gpu_id: GpuId(gpu_id),
                queue_type,
                ring_bytes: size,
            });
        }
    }
    queues
}

fn numbered(root: &Root, dir: &str) -> io::Result<Vec<u32>> {
    let names = match root.names(dir) {
        Ok(names) => names,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let mut numbers: Vec<u32> = names.iter().filter_map(|name| name.parse().ok()).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

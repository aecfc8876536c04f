// SPDX-License-Identifier: MIT OR Apache-2.0
//! How far each queue is: its indices lie in the memory of its owner.

use std::io;

use super::{Lack, Queue};
use crate::kfd::{process, Root};

/// Reads the indices of AQL queues, which count packets; those of others count bytes or dwords and say nothing of work.
pub fn read_indices(root: &Root, queues: &mut [Queue], lack: &mut dyn FnMut(Lack)) {
    let (mut denied, mut device, mut absent) = (0, 0, 0);
    let visible = process::sees_host_pids(root);
    for queue in queues {
        queue.write_index = None;
        queue.read_index = None;
        let (Some(true), Some(write), Some(read), true) =
            (queue.aql, queue.wptr_address, queue.rptr_address, visible)
        else {
            continue;
        };
        // The read index first: what is written meanwhile makes the queue deeper, not shallower than nothing.
        let indices = root
            .memory(queue.pid, read)
            .and_then(|read| root.memory(queue.pid, write).map(|write| (read, write)));
        match indices {
            Ok((read, write)) => {
                queue.read_index = Some(read);
                queue.write_index = Some(write);
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => denied += 1,
            Err(_) if !root.is_real() => absent += 1,
            // The process is gone.
            Err(error)
                if error.kind() == io::ErrorKind::NotFound
                    || error.raw_os_error() == Some(libc::ESRCH) => {}
            Err(_) => device += 1,
        }
    }
    let what = |n: u32| {
        format!(
            "depth and rate of {n} {}",
            if n == 1 { "queue" } else { "queues" }
        )
    };
    if denied > 0 {
        lack(Lack {
            what: what(denied),
            why: "no permission to read the memory of their processes".to_owned(),
            fix: "run as root, or grant CAP_SYS_PTRACE".to_owned(),
        });
    }
    if absent > 0 {
        lack(Lack {
            what: what(absent),
            why: "the recording has no memory of their processes".to_owned(),
            fix: "record as root".to_owned(),
        });
    }
    if device > 0 {
        lack(Lack {
            what: what(device),
            why: "their indices are not in memory that another process can read".to_owned(),
            fix: "none: the owner's runtime put them there".to_owned(),
        });
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! From the driver's hash table of processes to every queue: `kfd_processes_table` -> `kfd_process` -> `pdds[]` ->
//! `qcm_process_device.queues_list` -> `queue` (kfd_priv.h, Linux 6.1 to 7.3).
//!
//! No lock is held, so everything can change or be freed while it is read. What is read is believed only if it points back:
//! an entry of the table to its predecessor, a device of a process and a queue to the process. Else the process is read again.

use std::collections::HashSet;
use std::io;

use gpreempt_common::offsets::{Offsets, UNKNOWN};

use crate::kfd::states::{QueueState, States};

/// Memory of a kernel.
pub trait Kernel {
    /// Copies what is at an address.
    ///
    /// # Errors
    /// Where nothing is.
    fn read(&self, address: u64, into: &mut [u8]) -> io::Result<()>;
}

/// The hash table: heads of lists, one pointer each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Table {
    address: u64,
    buckets: u64,
}

const POINTER_BYTES: u64 = 8;

/// `KFD_PROCESS_TABLE_SIZE` is 5 bits in every kernel so far. BTF does not tell it: it has no variables of modules.
const MOST_BUCKETS: u64 = 512;

/// More than a table of 32 lists holds on the largest machine; a list that is longer goes round in circles.
const MOST_PROCESSES: usize = 16_384;

/// `MAX_GPU_INSTANCE` is 64.
const MOST_DEVICES: u32 = 256;

/// `KFD_MAX_NUM_OF_QUEUES_PER_PROCESS` is 1024.
const MOST_QUEUES: usize = 4096;

/// More than any struct that is read at once has. Offsets can be those of a profile that is not what it says.
const MOST_BYTES: u32 = 1 << 20;

/// How often a list that changed is read.
const TRIES: u32 = 3;

impl Table {
    /// With as many lists as fit before the next object. What pads the table reads as lists that are empty or do not point back.
    #[must_use]
    pub fn new(address: u64, room_bytes: Option<u64>) -> Self {
        let buckets = room_bytes.map_or(MOST_BUCKETS, |bytes| bytes / POINTER_BYTES);
        Self {
            address,
            buckets: buckets.min(MOST_BUCKETS),
        }
    }
}

/// It changed while it was read, or is nothing.
struct Torn;

impl From<io::Error> for Torn {
    fn from(_: io::Error) -> Self {
        Self
    }
}

/// Reads every queue.
///
/// # Errors
/// The members whose place is not known and without which nothing can be found.
pub fn walk(
    kernel: &dyn Kernel,
    offsets: &Offsets,
    table: Table,
) -> Result<States, Vec<&'static str>> {
    let o = offsets;
    let needed = [
        (o.process_table_node, "kfd_process.kfd_processes"),
        (o.process_pdds, "kfd_process.pdds"),
        (o.process_n_pdds, "kfd_process.n_pdds"),
        (o.process_lead_thread, "kfd_process.lead_thread"),
        (o.task_tgid, "task_struct.tgid"),
        (o.pdd_process, "kfd_process_device.process"),
        (o.pdd_dev, "kfd_process_device.dev"),
        (o.pdd_qpd, "kfd_process_device.qpd"),
        (o.qpd_queues_list, "qcm_process_device.queues_list"),
        (o.node_id, "kfd_node.id"),
        (o.queue_list, "queue.list"),
        (o.queue_process, "queue.process"),
        (o.queue_id, "queue.properties.queue_id"),
        (o.list_next, "list_head.next"),
        (o.hlist_next, "hlist_node.next"),
        (o.hlist_pprev, "hlist_node.pprev"),
    ];
    let lacking: Vec<_> = needed
        .iter()
        .filter(|(offset, _)| *offset == UNKNOWN)
        .map(|(_, name)| *name)
        .collect();
    if !lacking.is_empty() {
        return Err(lacking);
    }
    let walk = Walk {
        kernel,
        o,
        span: Span::of(o),
    };
    let mut queues = Vec::new();
    let mut torn = Vec::new();
    for process in walk.processes(table) {
        match (0..TRIES).find_map(|_| walk.process(process).ok()) {
            Some(found) => queues.extend(found),
            None => torn.push(process),
        }
    }
    if !torn.is_empty() {
        // A process that is gone meanwhile has left the table.
        let left: HashSet<u64> = walk.processes(table).into_iter().collect();
        torn.retain(|process| left.contains(process));
    }
    Ok(States::Known {
        queues,
        torn: u32::try_from(torn.len()).unwrap_or(u32::MAX),
    })
}

struct Walk<'a> {
    kernel: &'a dyn Kernel,
    o: &'a Offsets,
    span: Span,
}

impl Walk<'_> {
    fn u64_at(&self, base: u64, offset: u32) -> Result<u64, Torn> {
        let mut bytes = [0; 8];
        self.kernel
            .read(base.wrapping_add(u64::from(offset)), &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn u32_at(&self, base: u64, offset: u32) -> Result<u32, Torn> {
        let mut bytes = [0; 4];
        self.kernel
            .read(base.wrapping_add(u64::from(offset)), &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    /// Addresses of every process in the table.
    fn processes(&self, table: Table) -> Vec<u64> {
        let mut found: Vec<u64> = Vec::new();
        for bucket in 0..table.buckets {
            let head = table.address + bucket * POINTER_BYTES;
            let from = found.len();
            for _ in 0..TRIES {
                found.truncate(from);
                if self.bucket(head, &mut found).is_ok() {
                    break;
                }
            }
        }
        found
    }

    /// Processes of one list. After an error, those before it.
    fn bucket(&self, head: u64, found: &mut Vec<u64>) -> Result<(), Torn> {
        let mut previous = head;
        let mut node = self.u64_at(head, 0)?;
        while node != 0 {
            if found.len() >= MOST_PROCESSES || self.u64_at(node, self.o.hlist_pprev)? != previous {
                return Err(Torn);
            }
            found.push(node.wrapping_sub(u64::from(self.o.process_table_node)));
            previous = node.wrapping_add(u64::from(self.o.hlist_next));
            node = self.u64_at(node, self.o.hlist_next)?;
        }
        Ok(())
    }

    fn process(&self, process: u64) -> Result<Vec<QueueState>, Torn> {
        let lead = self.u64_at(process, self.o.process_lead_thread)?;
        let pid = self.u32_at(lead, self.o.task_tgid)?;
        let devices = self.u32_at(process, self.o.process_n_pdds)?;
        if devices > MOST_DEVICES {
            return Err(Torn);
        }
        let mut queues = Vec::new();
        for index in 0..devices {
            let at = process.wrapping_add(u64::from(index) * POINTER_BYTES);
            let pdd = self.u64_at(at, self.o.process_pdds)?;
            if self.u64_at(pdd, self.o.pdd_process)? != process {
                return Err(Torn);
            }
            let gpu_id = self.u32_at(self.u64_at(pdd, self.o.pdd_dev)?, self.o.node_id)?;
            let qpd = pdd.wrapping_add(u64::from(self.o.pdd_qpd));
            let of_process = QueueState {
                pid,
                gpu_id,
                evictions: self.if_known(self.o.qpd_evicted, |o| self.u32_at(qpd, o))?,
                ..QueueState::default()
            };
            self.queues(process, qpd, &of_process, &mut queues)?;
        }
        Ok(queues)
    }

    fn if_known<T>(
        &self,
        offset: u32,
        read: impl Fn(u32) -> Result<T, Torn>,
    ) -> Result<Option<T>, Torn> {
        match offset {
            UNKNOWN => Ok(None),
            offset => read(offset).map(Some),
        }
    }

    fn queues(
        &self,
        process: u64,
        qpd: u64,
        of_process: &QueueState,
        into: &mut Vec<QueueState>,
    ) -> Result<(), Torn> {
        let head = qpd.wrapping_add(u64::from(self.o.qpd_queues_list));
        let mut node = self.u64_at(head, self.o.list_next)?;
        let mut bytes = vec![0; self.span.bytes];
        while into.len() < MOST_QUEUES {
            if node == head {
                return Ok(());
            }
            let queue = node.wrapping_sub(u64::from(self.o.queue_list));
            self.kernel
                .read(queue.wrapping_add(u64::from(self.span.first)), &mut bytes)?;
            let read = Read {
                first: self.span.first,
                bytes: &bytes,
            };
            if read.u64_at(self.o.queue_process) != Some(process) {
                return Err(Torn);
            }
            into.push(read.queue(self.o, of_process).ok_or(Torn)?);
            node = read
                .u64_at(self.o.queue_list.saturating_add(self.o.list_next))
                .ok_or(Torn)?;
        }
        Err(Torn)
    }
}

/// The part of `struct queue` that is wanted, to be read at once.
struct Span {
    first: u32,
    bytes: usize,
}

impl Span {
    fn of(o: &Offsets) -> Self {
        let members = [
            o.queue_list.saturating_add(o.list_next),
            o.queue_process,
            o.queue_id,
            o.queue_format,
            o.queue_priority,
            o.queue_percent,
            o.queue_doorbell_off,
            o.queue_ring_address,
            o.queue_ring_bytes,
            o.queue_read_ptr,
            o.queue_write_ptr,
            o.queue_mqd_address,
            o.queue_is_active,
            o.queue_is_evicted,
            o.queue_is_suspended,
            o.queue_is_being_destroyed,
            o.queue_hold,
        ];
        let known = || members.iter().copied().filter(|offset| *offset != UNKNOWN);
        let first = known().min().unwrap_or(0);
        let last = known().max().unwrap_or(0);
        Self {
            first,
            // What lies beyond is not known.
            bytes: (last - first).min(MOST_BYTES) as usize + 8,
        }
    }
}

/// Bytes of a queue.
struct Read<'a> {
    first: u32,
    bytes: &'a [u8],
}

impl Read<'_> {
    fn at<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        if offset == UNKNOWN {
            return None;
        }
        let start = offset.checked_sub(self.first)? as usize;
        self.bytes.get(start..start + N)?.try_into().ok()
    }

    fn u64_at(&self, offset: u32) -> Option<u64> {
        self.at(offset).map(u64::from_le_bytes)
    }

    fn u32_at(&self, offset: u32) -> Option<u32> {
        self.at(offset).map(u32::from_le_bytes)
    }

    fn u8_at(&self, offset: u32) -> Option<u8> {
        self.at(offset).map(u8::from_le_bytes)
    }

    fn flag(&self, offset: u32) -> Option<bool> {
        self.u8_at(offset).map(|byte| byte != 0)
    }

    fn queue(&self, o: &Offsets, of_process: &QueueState) -> Option<QueueState> {
        Some(QueueState {
            queue_id: self.u32_at(o.queue_id)?,
            format: self.u32_at(o.queue_format),
            priority: self.u32_at(o.queue_priority),
            percent: self.u32_at(o.queue_percent),
            doorbell: self.u32_at(o.queue_doorbell_off),
            ring_address: self.u64_at(o.queue_ring_address),
            ring_bytes: self.u64_at(o.queue_ring_bytes),
            rptr_address: self.u64_at(o.queue_read_ptr),
            wptr_address: self.u64_at(o.queue_write_ptr),
            mqd_address: self.u64_at(o.queue_mqd_address),
            active: self.flag(o.queue_is_active),
            evicted: self.flag(o.queue_is_evicted),
            suspended: self.flag(o.queue_is_suspended),
            being_destroyed: self.flag(o.queue_is_being_destroyed),
            hold: self.u8_at(o.queue_hold),
            ..of_process.clone()
        })
    }
}

#[cfg(test)]
mod tests;

// SPDX-License-Identifier: MIT OR Apache-2.0
//! The walk on a memory that is made up.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;

use gpreempt_common::offsets::{Offsets, UNKNOWN};
use proptest::prelude::*;

use super::{walk, Kernel, Table};
use crate::kfd::states::{QueueState, States};

/// Words by address. Reads count, so that memory can change meanwhile.
#[derive(Clone, Default)]
struct Memory {
    bytes: BTreeMap<u64, u8>,
    reads: RefCell<usize>,
    /// From this read on, what is there.
    later: Option<(usize, BTreeMap<u64, u8>)>,
}

impl Kernel for Memory {
    fn read(&self, address: u64, into: &mut [u8]) -> io::Result<()> {
        *self.reads.borrow_mut() += 1;
        let bytes = match &self.later {
            Some((from, later)) if *self.reads.borrow() > *from => later,
            _ => &self.bytes,
        };
        for (at, byte) in (address..).zip(into) {
            *byte = *bytes
                .get(&at)
                .ok_or_else(|| io::Error::from_raw_os_error(14))?;
        }
        Ok(())
    }
}

impl Memory {
    /// Room of zeros.
    fn room(&mut self, address: u64, bytes: u64) {
        for at in address..address + bytes {
            self.bytes.entry(at).or_insert(0);
        }
    }

    fn u64(&mut self, address: u64, value: u64) {
        self.bytes.extend((address..).zip(value.to_le_bytes()));
    }

    fn u32(&mut self, address: u64, value: u32) {
        self.bytes.extend((address..).zip(value.to_le_bytes()));
    }

    fn u8(&mut self, address: u64, value: u8) {
        self.bytes.insert(address, value);
    }
}

/// A layout of no kernel.
fn offsets() -> Offsets {
    Offsets {
        process_table_node: 16,
        process_pdds: 64,
        process_n_pdds: 256,
        process_lead_thread: 48,
        task_tgid: 40,
        pdd_process: 0,
        pdd_dev: 8,
        pdd_qpd: 16,
        qpd_queues_list: 32,
        qpd_evicted: 4,
        node_id: 12,
        queue_list: 8,
        queue_process: 200,
        queue_id: 24,
        queue_format: 28,
        queue_priority: 32,
        queue_percent: 36,
        queue_doorbell_off: 40,
        queue_ring_address: 48,
        queue_ring_bytes: 56,
        queue_read_ptr: 64,
        queue_write_ptr: 72,
        queue_mqd_address: 80,
        queue_is_active: 88,
        queue_is_evicted: 89,
        queue_is_suspended: 90,
        queue_is_being_destroyed: 91,
        queue_hold: UNKNOWN,
        list_next: 0,
        hlist_next: 0,
        hlist_pprev: 8,
        ..Offsets::NONE
    }
}

const TABLE: u64 = 0xffff_0000;
const BUCKETS: u64 = 4;
const QUEUE_BYTES: u64 = 256;

fn table() -> Table {
    Table::new(TABLE, Some(BUCKETS * 8))
}

/// A process, its one device and its queues in a list, all in a place of their own.
fn process(memory: &mut Memory, index: u64, bucket: u64, queues: u32) {
    let o = offsets();
    let base = 0x10_0000 * (index + 1);
    let (task, node, pdd) = (base + 0x1000, base + 0x2000, base + 0x3000);
    memory.room(base, 0x200);
    memory.room(pdd, 0x100);
    memory.u64(base + u64::from(o.process_lead_thread), task);
    memory.u32(task + u64::from(o.task_tgid), 100 + index as u32);
    memory.u32(node + u64::from(o.node_id), 0x52a1);
    memory.u32(base + u64::from(o.process_n_pdds), 1);
    memory.u64(base + u64::from(o.process_pdds), pdd);
    memory.u64(pdd, base);
    memory.u64(pdd + 8, node);
    memory.u32(pdd + 16 + 4, index as u32);
    // At the head of its list.
    let head = TABLE + bucket * 8;
    let entry = base + u64::from(o.process_table_node);
    let old = memory
        .bytes
        .range(head..head + 8)
        .rev()
        .fold(0, |all, (_, byte)| all << 8 | u64::from(*byte));
    memory.u64(entry, old);
    memory.u64(entry + 8, head);
    if old != 0 {
        memory.u64(old + 8, entry);
    }
    memory.u64(head, entry);

    let list = pdd + 16 + 32;
    let at = |queue: u32| base + 0x4000 + u64::from(queue) * QUEUE_BYTES;
    let link = |queue: u32| match queue < queues {
        true => at(queue) + u64::from(o.queue_list),
        false => list,
    };
    memory.u64(list, link(0));
    for id in 0..queues {
        let queue = at(id);
        memory.room(queue, QUEUE_BYTES);
        memory.u64(queue + 8, link(id + 1));
        memory.u64(queue + 200, base);
        memory.u32(queue + 24, id);
        memory.u32(queue + 28, 1);
        memory.u32(queue + 32, 7);
        memory.u32(queue + 36, 100);
        memory.u32(queue + 40, 0x1000 + 2 * id);
        memory.u64(queue + 64, 0x7f00_0000_0080);
        memory.u64(queue + 80, 0x6000_0000_0000 + u64::from(id));
        memory.u8(queue + 88, 1);
    }
}

fn machine(processes: &[(u64, u32)]) -> Memory {
    let mut memory = Memory::default();
    memory.room(TABLE, BUCKETS * 8);
    for (index, (bucket, queues)) in (0..).zip(processes) {
        process(&mut memory, index, *bucket, *queues);
    }
    memory
}

fn known(memory: &Memory) -> (Vec<QueueState>, u32) {
    match walk(memory, &offsets(), table()).unwrap() {
        States::Known { mut queues, torn } => {
            queues.sort_by_key(|queue| (queue.pid, queue.queue_id));
            (queues, torn)
        }
        States::Unknown { why, .. } => panic!("{why}"),
    }
}

#[test]
fn every_queue_of_every_process_is_found() {
    let (queues, torn) = known(&machine(&[(0, 2), (2, 0), (2, 1), (3, 3)]));
    assert_eq!(torn, 0);
    let keys: Vec<_> = queues.iter().map(|q| (q.pid, q.queue_id)).collect();
    assert_eq!(
        keys,
        [(100, 0), (100, 1), (102, 0), (103, 0), (103, 1), (103, 2)]
    );
    let queue = &queues[1];
    assert_eq!(queue.gpu_id, 0x52a1);
    assert_eq!(
        (queue.format, queue.priority, queue.percent),
        (Some(1), Some(7), Some(100))
    );
    assert_eq!(queue.doorbell, Some(0x1002));
    assert_eq!(queue.rptr_address, Some(0x7f00_0000_0080));
    assert_eq!(queue.mqd_address, Some(0x6000_0000_0001));
    assert_eq!(
        (queue.active, queue.evicted, queue.hold),
        (Some(true), Some(false), None)
    );
    assert_eq!(queues[2].evictions, Some(2));
}

#[test]
fn an_unknown_place_is_named() {
    let offsets = Offsets {
        queue_list: UNKNOWN,
        list_next: UNKNOWN,
        ..offsets()
    };
    let lacking = walk(&machine(&[]), &offsets, table()).unwrap_err();
    assert_eq!(lacking, ["queue.list", "list_head.next"]);
}

#[test]
fn a_list_without_end_ends() {
    let mut memory = machine(&[(1, 2)]);
    // The second queue leads back to the first.
    memory.u64(0x10_0000 + 0x4000 + QUEUE_BYTES + 8, 0x10_0000 + 0x4000 + 8);
    assert_eq!(known(&memory), (vec![], 1));
}

#[test]
fn a_queue_of_another_process_is_not_believed() {
    let mut memory = machine(&[(1, 2), (1, 1)]);
    memory.u64(0x10_0000 + 0x4000 + 200, 0xdead);
    let (queues, torn) = known(&memory);
    assert_eq!((queues.len(), torn), (1, 1), "{queues:?}");
    assert_eq!(queues[0].pid, 101);
}

#[test]
fn what_does_not_point_back_is_no_process() {
    let mut memory = machine(&[(1, 2)]);
    memory.u64(TABLE + 3 * 8, 0x9999);
    memory.u64(0x9999, 0);
    memory.u64(0x9999 + 8, 0x1234);
    assert_eq!(known(&memory).0.len(), 2);
}

#[test]
fn a_process_that_changes_once_is_read_again() {
    let mut memory = machine(&[(1, 2)]);
    let whole = memory.bytes.clone();
    memory.u64(0x10_0000 + 0x4000 + 200, 0xdead);
    memory.later = Some((14, whole));
    assert_eq!(known(&memory).1, 0);
    assert_eq!(known(&memory).0.len(), 2);
}

proptest! {
    /// Whatever the memory holds, the walk comes to an end and finds at most what can be there.
    #[test]
    fn no_memory_holds_the_walk_up(
        damage in proptest::collection::vec((0usize..4000, any::<u64>()), 1..20),
    ) {
        let mut memory = machine(&[(0, 3), (0, 2), (1, 1)]);
        let places: Vec<u64> = memory.bytes.keys().copied().collect();
        for (at, value) in damage {
            let place = places[at % places.len()];
            memory.u64(place & !7, if value % 3 == 0 { places[value as usize % places.len()] & !7 } else { value });
        }
        let (queues, _) = known(&memory);
        prop_assert!(queues.len() <= 3 * 4096);
    }
}

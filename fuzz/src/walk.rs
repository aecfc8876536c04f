// SPDX-License-Identifier: MIT OR Apache-2.0
//! The driver's structs read from a memory that holds anything: the walk ends, and believes only what points back.

use std::io;

use gpreempt::inspect::{walk as walk_memory, Kernel, Table};
use gpreempt::kfd::states::States;
use gpreempt_common::offsets::{Offsets, UNKNOWN};

/// Where the memory begins. The table is the first that is in it.
const BASE: u64 = 0x1_0000;

const BUCKETS: u64 = 2;

struct Memory<'a>(&'a [u8]);

impl Kernel for Memory<'_> {
    fn read(&self, address: u64, into: &mut [u8]) -> io::Result<()> {
        let fault = || io::Error::from_raw_os_error(14);
        let at = address.checked_sub(BASE).ok_or_else(fault)?;
        let rest = self
            .0
            .get(usize::try_from(at).map_err(|_| fault())?..)
            .ok_or_else(fault)?;
        into.copy_from_slice(rest.get(..into.len()).ok_or_else(fault)?);
        Ok(())
    }
}

/// A layout of no kernel: as close as it can be.
fn offsets() -> Offsets {
    Offsets {
        process_table_node: 0,
        process_lead_thread: 16,
        process_n_pdds: 24,
        process_pdds: 32,
        task_tgid: 0,
        pdd_process: 0,
        pdd_dev: 8,
        pdd_qpd: 16,
        qpd_queues_list: 0,
        qpd_evicted: 16,
        node_id: 4,
        queue_list: 0,
        queue_process: 16,
        queue_id: 24,
        queue_priority: 28,
        queue_is_active: 32,
        queue_hold: UNKNOWN,
        list_next: 0,
        hlist_next: 0,
        hlist_pprev: 8,
        ..Offsets::NONE
    }
}

/// The first byte says whether the layout is a sensible one, or the words that follow it: a profile can hold any.
pub fn walk(bytes: &[u8]) {
    let Some((kind, bytes)) = bytes.split_first() else {
        return;
    };
    let words = offsets().as_words().len();
    let (offsets, memory) = match bytes.split_at_checked(words * 4) {
        Some((head, memory)) if *kind == b'o' => {
            let word = |bytes: &[u8]| bytes.try_into().map_or(0, u32::from_le_bytes);
            (Offsets::from_words(head.chunks(4).map(word)), memory)
        }
        _ => (offsets(), bytes),
    };
    let table = Table::new(BASE, Some(BUCKETS * 8));
    match walk_memory(&Memory(memory), &offsets, table) {
        Err(lacking) => assert!(!lacking.is_empty()),
        Ok(States::Unknown { .. }) => panic!("a walk knows"),
        Ok(states @ States::Known { .. }) => {
            assert_eq!(states.to_string().parse::<States>().ok(), Some(states));
        }
    }
}

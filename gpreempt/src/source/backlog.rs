// SPDX-License-Identifier: MIT OR Apache-2.0
//! Records taken out of the ring that nobody has looked at yet.
//!
//! To copy a record costs little, to decode and write it much more. A burst that would fill the ring waits here instead: its
//! memory is there only while it is needed, a larger ring would always be.

use gpreempt_common::record::Header;
use zerocopy::FromBytes as _;

/// Most bytes that wait; then the ring fills up and the kernel counts what is lost.
const MOST_BYTES: usize = 8 << 20;

/// What an idle backlog keeps of its memory.
const KEPT_BYTES: usize = 64 << 10;

/// A queue of whole records, each as long as its header says.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    bytes: Vec<u8>,
    /// Bytes at the front that were handed out.
    taken: usize,
}

impl Backlog {
    /// Whether a record of this length still fits.
    pub(super) fn has_room(&self, len: usize) -> bool {
        self.bytes.len() - self.taken + len <= MOST_BYTES
    }

    /// Appends a record.
    pub(super) fn push(&mut self, record: &[u8]) {
        let grows = self.bytes.len() + record.len() > self.bytes.capacity();
        if grows && self.taken > self.bytes.len() / 4 {
            self.bytes.drain(..self.taken);
            self.taken = 0;
        }
        self.bytes.extend_from_slice(record);
    }

    /// The oldest record.
    pub(super) fn pop(&mut self) -> Option<&[u8]> {
        let rest = self.bytes.len() - self.taken;
        if rest == 0 {
            self.bytes.clear();
            self.bytes.shrink_to(KEPT_BYTES);
            self.taken = 0;
            return None;
        }
        let start = self.taken;
        let len = match Header::read_from_prefix(&self.bytes[start..]) {
            Ok((header, _)) => usize::from(header.len).clamp(1, rest),
            // Not a record of ours: whole, so that it is counted as undecodable.
            Err(_) => rest,
        };
        self.taken += len;
        Some(&self.bytes[start..start + len])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::IntoBytes as _;

    fn record(ts_ns: u64, more: usize) -> Vec<u8> {
        let len = size_of::<Header>() + more;
        let header = Header {
            ts_ns,
            total_ns: 0,
            len: u16::try_from(len).unwrap(),
            kind: 1,
            cause: 0,
            reserved: 0,
            status: 0,
            pid: 1,
            actor_pid: 1,
            actor_tid: 1,
        };
        [header.as_bytes(), &vec![7; more]].concat()
    }

    #[test]
    fn records_come_out_whole_and_in_order() {
        let mut backlog = Backlog::default();
        let mut expected = 0;
        for n in 0..1000 {
            backlog.push(&record(n, (n % 5) as usize * 8));
            // Fewer out than in, so that it is compacted on the way.
            if n % 3 == 0 {
                assert_eq!(
                    backlog.pop().unwrap(),
                    record(expected, (expected % 5) as usize * 8)
                );
                expected += 1;
            }
        }
        while let Some(bytes) = backlog.pop() {
            assert_eq!(bytes, record(expected, (expected % 5) as usize * 8));
            expected += 1;
        }
        assert_eq!(expected, 1000);
    }

    #[test]
    fn it_is_bounded_and_gives_its_memory_back() {
        let mut backlog = Backlog::default();
        let one = record(0, 24);
        let mut count = 0;
        while backlog.has_room(one.len()) {
            backlog.push(&one);
            count += 1;
        }
        assert_eq!(count, MOST_BYTES / one.len());
        while backlog.pop().is_some() {
            count -= 1;
        }
        assert_eq!(count, 0);
        assert!(backlog.bytes.capacity() <= KEPT_BYTES);
    }

    #[test]
    fn garbage_comes_out_too() {
        let mut backlog = Backlog::default();
        backlog.push(&[0; 3]);
        assert_eq!(backlog.pop(), Some(&[0; 3][..]));
        backlog.push(&[0; 40]);
        // A header that says it is empty must not stop the queue.
        assert_eq!(
            std::iter::from_fn(|| backlog.pop().map(<[u8]>::len)).sum::<usize>(),
            40
        );
    }
}

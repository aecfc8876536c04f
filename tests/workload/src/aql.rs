// SPDX-License-Identifier: MIT OR Apache-2.0
//! AQL packets: 64 bytes that a compute queue's packet processor understands (HSA Platform System Architecture 2.9).

/// Size of every AQL packet.
pub const PACKET_BYTES: usize = 64;

const TYPE_INVALID: u16 = 1;
const TYPE_KERNEL_DISPATCH: u16 = 2;
const TYPE_BARRIER_AND: u16 = 3;
/// The packet waits for all packets before it.
const BARRIER_BIT: u16 = 1 << 8;
/// Acquire (bits 9-10) and release (bits 11-12) fences of system scope.
const SYSTEM_FENCES: u16 = 2 << 9 | 2 << 11;

/// A packet as 16 words. Word 0 holds the header in its low half and must be written last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet(pub [u32; 16]);

impl Packet {
    /// A dispatch of one work-group without a kernel: only a simulated GPU may get it. `work_ns` is the GPU time that it
    /// stands for (`reserved2`). `ordered` makes it wait for the packets before it.
    pub fn dispatch(work_ns: u64, completion_signal: u64, ordered: bool) -> Self {
        let mut words = [0; 16];
        let barrier = if ordered { BARRIER_BIT } else { 0 };
        let one_dimension = 1 << 16;
        words[0] = u32::from(TYPE_KERNEL_DISPATCH | barrier | SYSTEM_FENCES) | one_dimension;
        // workgroup_size x, y; z, reserved0; grid_size x, y, z.
        words[1] = 64 | 1 << 16;
        words[2] = 1;
        words[3] = 64;
        words[4] = 1;
        words[5] = 1;
        put(&mut words, 12, work_ns);
        put(&mut words, 14, completion_signal);
        Self(words)
    }

    /// A barrier that waits for the packets before it, and for no signal.
    pub fn barrier(completion_signal: u64) -> Self {
        let mut words = [0; 16];
        words[0] = u32::from(TYPE_BARRIER_AND | BARRIER_BIT | SYSTEM_FENCES);
        put(&mut words, 14, completion_signal);
        Self(words)
    }

    /// What every slot of a fresh ring must hold: the processor stops at it.
    pub fn invalid_header() -> u32 {
        u32::from(TYPE_INVALID)
    }
}

fn put(words: &mut [u32; 16], index: usize, value: u64) {
    words[index] = (value & 0xffff_ffff) as u32;
    words[index + 1] = (value >> 32) as u32;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(packet: Packet) -> Vec<u8> {
        packet
            .0
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect()
    }

    #[test]
    fn dispatch_puts_duration_and_signal_where_the_processor_reads_them() {
        let packet = bytes(Packet::dispatch(0x1122_3344_5566, 0x7fff_0000_1040, true));
        assert_eq!(packet[0], 2);
        assert_eq!(packet[1] & 1, 1, "barrier bit");
        assert_eq!(packet[48..56], 0x1122_3344_5566_u64.to_le_bytes());
        assert_eq!(packet[56..64], 0x7fff_0000_1040_u64.to_le_bytes());
        assert_eq!(packet[32..40], [0; 8], "no kernel object");
    }

    #[test]
    fn barrier_depends_on_no_signal() {
        let packet = bytes(Packet::barrier(0x40));
        assert_eq!(packet[0], 3);
        assert!(packet[8..56].iter().all(|&byte| byte == 0));
        assert_eq!(packet[56], 0x40);
    }
}

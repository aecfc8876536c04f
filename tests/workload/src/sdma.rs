// SPDX-License-Identifier: MIT OR Apache-2.0
//! Packets of the copy engine (SDMA 4.x to 6.x).

const OP_COPY: u32 = 1;
const OP_FENCE: u32 = 5;
const OP_TRAP: u32 = 6;

/// Words of [`copy_and_signal`].
pub const COPY_AND_SIGNAL_WORDS: usize = 7 + 4 + 4 + 2;

/// Where a finished copy is announced.
#[derive(Debug, Clone, Copy)]
pub struct Completion {
    /// Address of the signal's value, which becomes 0.
    pub value_address: u64,
    /// Address of the event's slot.
    pub mailbox: u64,
    pub event_id: u32,
}

/// Copies `bytes`, then clears the signal, fills the event slot and interrupts.
pub fn copy_and_signal(
    from: u64,
    to: u64,
    bytes: u32,
    done: Completion,
) -> [u32; COPY_AND_SIGNAL_WORDS] {
    let [from_low, from_high] = halves(from);
    let [to_low, to_high] = halves(to);
    let [value_low, value_high] = halves(done.value_address);
    let [mailbox_low, mailbox_high] = halves(done.mailbox);
    [
        OP_COPY,
        // Counts are one less since gfx9.
        bytes - 1,
        0,
        from_low,
        from_high,
        to_low,
        to_high,
        OP_FENCE,
        value_low,
        value_high,
        0,
        OP_FENCE,
        mailbox_low,
        mailbox_high,
        done.event_id,
        OP_TRAP,
        done.event_id,
    ]
}

fn halves(address: u64) -> [u32; 2] {
    [(address & 0xffff_ffff) as u32, (address >> 32) as u32]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signal_is_cleared_before_the_interrupt() {
        let done = Completion {
            value_address: 0x1_0000_0008,
            mailbox: 0x2_0000_0010,
            event_id: 5,
        };
        let words = copy_and_signal(0x1000, 0x2000, 64, done);
        assert_eq!(words[0..7], [1, 63, 0, 0x1000, 0, 0x2000, 0]);
        assert_eq!(words[7..11], [5, 8, 1, 0]);
        assert_eq!(words[11..15], [5, 0x10, 2, 5]);
        assert_eq!(words[15..], [6, 5]);
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! The driver's dumps in debugfs. One that holds something and yields nothing is an error: a driver that prints otherwise must not look
//! like one without queues. Blanks at the ends of lines mean nothing.

use std::fmt::Debug;

use gpreempt::kfd::{hqds, mqds, rls};

/// Parses a dump and checks what holds of each of them.
fn parse<T: PartialEq + Debug, E: PartialEq + Debug>(
    bytes: &[u8],
    parse: fn(&str) -> Result<Vec<T>, E>,
) -> Vec<T> {
    let text = String::from_utf8_lossy(bytes);
    let parsed = parse(&text);
    let blank: String = text
        .lines()
        .map(|line| format!("{} \n\n", line.trim_end()))
        .collect();
    let again = parse(&blank);
    assert_eq!(parsed.as_ref().ok(), again.as_ref().ok());
    let Ok(found) = parsed else {
        return Vec::new();
    };
    assert_eq!(found.is_empty(), text.trim().is_empty());
    found
}

pub fn rls(bytes: &[u8]) {
    for node in parse(bytes, rls::parse) {
        let packets = node.packets.as_ref().map_or(0, Vec::len);
        assert!(node.packets.is_none() || packets > 0);
        assert!(node.compute_queues() + node.processes() <= packets);
        assert!(!node.oversubscribed() || packets > 0);
    }
}

pub fn mqds(bytes: &[u8]) {
    for process in parse(bytes, mqds::parse) {
        for queue in &process.queues {
            let doorbell = queue.doorbell();
            assert!(doorbell.is_none() || !queue.images.is_empty());
            for image in &queue.images {
                let ring = image.ring_bytes();
                assert!(ring.is_none_or(u64::is_power_of_two));
                let _ = (
                    image.mqd_address(),
                    image.wptr_address(),
                    image.rptr_address(),
                );
                let _ = (
                    image.is_aql(),
                    image.priority(),
                    image.save_ticks(),
                    image.restore_ticks(),
                );
            }
        }
    }
}

pub fn hqds(bytes: &[u8]) {
    for node in parse(bytes, hqds::parse) {
        assert!(node.stopped || !node.slots.is_empty());
        for slot in &node.slots {
            assert!(slot.vmid() < 16 && !slot.registers.is_empty());
            let _ = (
                slot.is_active(),
                slot.mqd_address(),
                slot.wptr_address(),
                slot.doorbell(),
            );
            let (used, all) = node.compute_slots(slot.xcc);
            assert!(used <= all);
        }
    }
}

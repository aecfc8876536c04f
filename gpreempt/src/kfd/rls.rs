// SPDX-License-Identifier: MIT OR Apache-2.0
//! Parser of `/sys/kernel/debug/kfd/rls`: the runlist of every node, the packets by which the driver tells the hardware
//! scheduler what to run (pm_debugfs_runlist, Linux 6.12). It costs no register access.

use super::dump::{lines, node, Line, ParseError};
use crate::event::GpuId;

/// A node and its runlist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRunlist {
    /// Number of the topology node.
    pub node: u32,
    /// Its id.
    pub gpu_id: GpuId,
    /// `None`: no active runlist.
    pub packets: Option<Vec<Packet>>,
}

/// One packet of a runlist (kfd_pm4_headers_ai.h and kfd_pm4_headers_aldebaran.h, Linux 6.12).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packet {
    /// MAP_PROCESS: the queues that follow are of this process.
    MapProcess {
        /// Address space id.
        pasid: u32,
        /// Queues of the process, inactive ones included; 0 under a debugger. Known in the 21-word form of gfx90a and gfx94x.
        num_queues: Option<u32>,
    },
    /// MAP_QUEUES.
    MapQueue {
        /// What it runs on.
        engine: Engine,
        /// Dword index on the doorbell BAR.
        doorbell: u32,
        /// GPU address of the descriptor, of XCC 0.
        mqd_address: u64,
        /// User address of the write pointer.
        wptr_address: u64,
    },
    /// RUN_LIST: chains to the start again, only when oversubscribed.
    RunList,
    /// A packet that is not interpreted.
    Other {
        /// Its opcode.
        opcode: u8,
    },
}

/// What a mapped queue runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// Command processor.
    Compute,
    /// Copy engine, by its number in the packet.
    Sdma(u32),
}

impl NodeRunlist {
    /// Compute queues in the runlist.
    #[must_use]
    pub fn compute_queues(&self) -> usize {
        self.count(|p| {
            matches!(
                p,
                Packet::MapQueue {
                    engine: Engine::Compute,
                    ..
                }
            )
        })
    }

    /// Processes in the runlist, also those without an active queue.
    #[must_use]
    pub fn processes(&self) -> usize {
        self.count(|p| matches!(p, Packet::MapProcess { .. }))
    }

    /// More than the hardware holds at once.
    #[must_use]
    pub fn oversubscribed(&self) -> bool {
        self.count(|p| matches!(p, Packet::RunList)) > 0
    }

    fn count(&self, of: impl Fn(&Packet) -> bool) -> usize {
        self.packets.iter().flatten().filter(|p| of(p)).count()
    }
}

/// Parses the dump. An empty file is a machine without GPU nodes.
///
/// # Errors
/// A line or packet that is not understood, and a dump without any heading.
pub fn parse(text: &str) -> Result<Vec<NodeRunlist>, ParseError> {
    let mut nodes: Vec<NodeRunlist> = Vec::new();
    let mut words: Vec<u32> = Vec::new();
    let mut last = 0;
    for (number, line) in lines(text) {
        last = number;
        if let Line::Other(line) = line {
            if let Some((node, gpu_id)) = node(line) {
                finish(nodes.last_mut(), &mut words, number)?;
                nodes.push(NodeRunlist {
                    node,
                    gpu_id,
                    packets: None,
                });
                continue;
            }
        }
        if nodes.is_empty() {
            return Err(ParseError::nothing_found("node"));
        }
        let row = match line {
            Line::Row(row) => row,
            Line::Other(line) if line.trim_start() == "No active runlist" => continue,
            Line::Other(line) => {
                return Err(ParseError::new(
                    number,
                    format!("not understood: {:?}", line.trim_start()),
                ))
            }
        };
        if words.len() * 4 != row.offset as usize {
            return Err(ParseError::new(
                number,
                format!("offset {:#x} does not continue the runlist", row.offset),
            ));
        }
        for word in row.words() {
            words.push(
                word.ok_or_else(|| ParseError::new(number, "a word is not 8 hexadecimal digits"))?,
            );
        }
    }
    finish(nodes.last_mut(), &mut words, last)?;
    Ok(nodes)
}

fn finish(
    node: Option<&mut NodeRunlist>,
    words: &mut Vec<u32>,
    line: usize,
) -> Result<(), ParseError> {
    if let (Some(node), false) = (node, words.is_empty()) {
        let packets = packets(words).map_err(|what| ParseError::new(line, what))?;
        if packets.is_empty() {
            return Err(ParseError::new(
                line,
                format!("the runlist of node {} holds no packet", node.node),
            ));
        }
        node.packets = Some(packets);
    }
    words.clear();
    Ok(())
}

const MAP_PROCESS: u8 = 0xa1;
const MAP_QUEUES: u8 = 0xa2;
const RUN_LIST: u8 = 0xa5;

fn packets(mut words: &[u32]) -> Result<Vec<Packet>, String> {
    let mut packets = Vec::new();
    // The tail of the buffer is zeroed by the driver (pm_create_runlist_ib).
    while let Some(header) = words.first().copied().filter(|header| *header != 0) {
        if header >> 30 != 3 {
            return Err(format!("{header:08x} is no packet header"));
        }
        let opcode = u8::try_from(header >> 8 & 0xff).unwrap_or_default();
        let len = (header >> 16 & 0x3fff) as usize + 2;
        let Some((packet, rest)) = words.split_at_checked(len) else {
            return Err(format!(
                "packet {header:08x} of {len} words is cut off after {}",
                words.len()
            ));
        };
        let wide = |at: usize| u64::from(packet[at]) | u64::from(packet[at + 1]) << 32;
        packets.push(match (opcode, len) {
            (MAP_PROCESS, 2..) => Packet::MapProcess {
                pasid: packet[1] & 0xffff,
                num_queues: (len == 21).then(|| packet[13] >> 22),
            },
            (MAP_QUEUES, 7) => Packet::MapQueue {
                engine: match packet[1] >> 26 & 7 {
                    0 => Engine::Compute,
                    other => Engine::Sdma(other.saturating_sub(2)),
                },
                doorbell: packet[2] >> 2 & 0x3ff_ffff,
                mqd_address: wide(3),
                wptr_address: wide(5),
            },
            (RUN_LIST, _) => Packet::RunList,
            _ => Packet::Other { opcode },
        });
        words = rest;
    }
    if words.iter().any(|word| *word != 0) {
        return Err("words follow the end of the runlist".to_owned());
    }
    Ok(packets)
}

#[cfg(test)]
mod tests;

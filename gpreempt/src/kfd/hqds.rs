// SPDX-License-Identifier: MIT OR Apache-2.0
//! Parser of `/sys/kernel/debug/kfd/hqds`: the registers of every hardware queue slot (dqm_debugfs_hqds, Linux 6.12).
//! Reading the file costs thousands of register reads under a lock: never poll it.

use super::dump::{lines, node, Line, ParseError};
use crate::event::GpuId;

/// A node and its slots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeHqds {
    /// Number of the topology node.
    pub node: u32,
    /// Its id.
    pub gpu_id: GpuId,
    /// The driver printed `Device is stopped` instead of slots.
    pub stopped: bool,
    /// Its slots, of all XCCs.
    pub slots: Vec<Slot>,
}

/// What a slot is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotKind {
    /// The driver's own queue to the hardware scheduler.
    Hiq {
        /// Micro engine.
        mec: u32,
        /// Pipe.
        pipe: u32,
        /// Queue.
        queue: u32,
    },
    /// User compute queue slot.
    Compute {
        /// Pipe.
        pipe: u32,
        /// Queue.
        queue: u32,
    },
    /// User copy queue slot.
    Sdma {
        /// Engine.
        engine: u32,
        /// Run list controller.
        rlc: u32,
    },
}

/// A hardware queue slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// XCC; 0 for SDMA, and on drivers before multi-XCC parts.
    pub xcc: u32,
    /// What it is for.
    pub kind: SlotKind,
    /// Register byte addresses and values as printed. SDMA addresses have gaps.
    pub registers: Vec<(u32, u32)>,
}

/// Registers of a compute slot, from CP_MQD_BASE_ADDR on (kgd_gfx_v9_hqd_dump). Local patches append more.
const COMPUTE_REGISTERS: usize = 56;

/// SDMA0_RLC0_DOORBELL_OFFSET is that many bytes after SDMA0_RLC0_RB_CNTL (sdma0_4_2_2_offset.h).
const SDMA_DOORBELL_OFFSET: u32 = 0xac;

impl Slot {
    fn value(&self, at: usize) -> u32 {
        self.registers.get(at).map_or(0, |(_, value)| *value)
    }

    fn wide(&self, at: usize) -> u64 {
        u64::from(self.value(at)) | u64::from(self.value(at + 1)) << 32
    }

    /// Whether a queue is connected. Slots keep the rest of their registers after a queue left: only this tells.
    #[must_use]
    pub fn is_active(&self) -> bool {
        match self.kind {
            // CP_HQD_ACTIVE bit 0.
            SlotKind::Hiq { .. } | SlotKind::Compute { .. } => self.value(2) & 1 == 1,
            // RB_CNTL bit 12, RPTR_WRITEBACK_ENABLE: clear in slots that were never given to a queue.
            SlotKind::Sdma { .. } => self.value(0) >> 12 & 1 == 1,
        }
    }

    /// GPU address of the descriptor; 0 for SDMA.
    #[must_use]
    pub fn mqd_address(&self) -> u64 {
        match self.kind {
            SlotKind::Sdma { .. } => 0,
            _ => self.wide(0),
        }
    }

    /// Address space of the queue; 0 for SDMA.
    #[must_use]
    pub fn vmid(&self) -> u32 {
        match self.kind {
            SlotKind::Sdma { .. } => 0,
            // CP_HQD_VMID: bits 3:0; 11:8 are the same again, for indirect buffers.
            _ => self.value(3) & 0xf,
        }
    }

    /// User address of the write pointer; 0 for SDMA.
    #[must_use]
    pub fn wptr_address(&self) -> u64 {
        match self.kind {
            SlotKind::Sdma { .. } => 0,
            _ => self.wide(13),
        }
    }

    /// Dword index of the doorbell.
    #[must_use]
    pub fn doorbell(&self) -> Option<u32> {
        let raw = match self.kind {
            SlotKind::Sdma { .. } => {
                let at = self
                    .registers
                    .first()?
                    .0
                    .checked_add(SDMA_DOORBELL_OFFSET)?;
                self.registers.iter().find(|(address, _)| *address == at)?.1
            }
            _ => self.value(15),
        };
        Some(raw >> 2 & 0x3ff_ffff)
    }
}

impl NodeHqds {
    /// Compute slots of one XCC: in use, and all.
    #[must_use]
    pub fn compute_slots(&self, xcc: u32) -> (usize, usize) {
        let of_xcc = || {
            self.slots
                .iter()
                .filter(|s| s.xcc == xcc && matches!(s.kind, SlotKind::Compute { .. }))
        };
        (of_xcc().filter(|s| s.is_active()).count(), of_xcc().count())
    }
}

/// Parses the dump. An empty file is a machine without GPU nodes.
///
/// # Errors
/// A line that is not understood, a compute slot with too few registers, a node without slots, and a dump without any
/// heading.
pub fn parse(text: &str) -> Result<Vec<NodeHqds>, ParseError> {
    let mut nodes: Vec<NodeHqds> = Vec::new();
    let mut last = 0;
    for (number, line) in lines(text) {
        last = number;
        if let Line::Other(line) = line {
            if let Some((node, gpu_id)) = node(line) {
                check(nodes.last(), number)?;
                nodes.push(NodeHqds {
                    node,
                    gpu_id,
                    stopped: false,
                    slots: Vec::new(),
                });
                continue;
            }
        }
        let Some(node) = nodes.last_mut() else {
            return Err(ParseError::nothing_found("node"));
        };
        match line {
            Line::Other(line) if line.trim_start() == "Device is stopped" => node.stopped = true,
            Line::Other(line) => {
                let Some((xcc, kind)) = heading(line.trim_start()) else {
                    return Err(ParseError::new(
                        number,
                        format!("not understood: {:?}", line.trim_start()),
                    ));
                };
                check_slot(node.slots.last(), number)?;
                node.slots.push(Slot {
                    xcc,
                    kind,
                    registers: Vec::new(),
                });
            }
            Line::Row(row) => {
                let Some(slot) = node.slots.last_mut() else {
                    return Err(ParseError::new(
                        number,
                        "registers before the heading of a slot",
                    ));
                };
                for (at, word) in (0..).zip(row.words()) {
                    let value = word.ok_or_else(|| {
                        ParseError::new(number, "a word is not 8 hexadecimal digits")
                    })?;
                    slot.registers
                        .push((row.offset.wrapping_add(at * 4), value));
                }
            }
        }
    }
    check(nodes.last(), last)?;
    Ok(nodes)
}

fn check(node: Option<&NodeHqds>, line: usize) -> Result<(), ParseError> {
    let Some(node) = node else { return Ok(()) };
    if node.slots.is_empty() && !node.stopped {
        return Err(ParseError::new(
            line,
            format!("no slot of node {} was found", node.node),
        ));
    }
    check_slot(node.slots.last(), line)
}

fn check_slot(slot: Option<&Slot>, line: usize) -> Result<(), ParseError> {
    let Some(slot) = slot else { return Ok(()) };
    let least = if matches!(slot.kind, SlotKind::Sdma { .. }) {
        1
    } else {
        COMPUTE_REGISTERS
    };
    if slot.registers.len() < least {
        let got = slot.registers.len();
        return Err(ParseError::new(
            line,
            format!("the slot before has {got} registers instead of {least}"),
        ));
    }
    Ok(())
}

/// `Inst 0,  CP Pipe 0, Queue 2`, `Inst 0, HIQ on MEC 2 Pipe 0 Queue 0`, `SDMA Engine 0, RLC 5`; drivers before multi-XCC
/// parts print no `Inst`.
fn heading(line: &str) -> Option<(u32, SlotKind)> {
    let (xcc, what) = match line.strip_prefix("Inst ") {
        Some(rest) => {
            let (xcc, what) = rest.split_once(',')?;
            (xcc.parse().ok()?, what.trim_start())
        }
        None => (0, line),
    };
    let mut numbers = what
        .split([' ', ','])
        .filter_map(|word| word.parse::<u32>().ok());
    let mut next = || numbers.next();
    let kind = if what.starts_with("HIQ on MEC ") {
        SlotKind::Hiq {
            mec: next()?,
            pipe: next()?,
            queue: next()?,
        }
    } else if what.starts_with("CP Pipe ") {
        SlotKind::Compute {
            pipe: next()?,
            queue: next()?,
        }
    } else if what.starts_with("SDMA Engine ") {
        SlotKind::Sdma {
            engine: next()?,
            rlc: next()?,
        }
    } else {
        return None;
    };
    Some((xcc, kind))
}

#[cfg(test)]
mod tests;

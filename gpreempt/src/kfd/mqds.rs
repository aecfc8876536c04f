// SPDX-License-Identifier: MIT OR Apache-2.0
//! Parser of `/sys/kernel/debug/kfd/mqds`: the memory queue descriptor of every user queue, one image per XCC
//! (pqm_debugfs_mqds, Linux 6.12). No line says where an image ends: offsets start again at 0.
//!
//! What a mapped queue's descriptor says of its pointers is stale: the hardware writes it back when it unmaps the queue.

use super::dump::{lines, Line, ParseError};
use crate::event::{GpuId, Pid};

/// A process of the dump; it may have no queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessMqds {
    /// Thread group id.
    pub pid: Pid,
    /// As printed: hexadecimal with `0x`, or decimal in newer drivers, which print the pid here.
    pub pasid: u32,
    /// Its queues, newest first as the driver lists them.
    pub queues: Vec<QueueMqd>,
}

/// What the heading of a queue says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MqdKind {
    /// Compute.
    Compute,
    /// Copy engine.
    Sdma,
    /// Debug interface queue, which the kernel owns.
    Diq,
}

/// A queue of the dump.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueMqd {
    /// Type.
    pub kind: MqdKind,
    /// Node.
    pub gpu_id: GpuId,
    /// One image per XCC, in order of the XCCs. A queue of which the driver printed none has none.
    pub images: Vec<Image>,
}

/// The words of one descriptor, as far as something is asked of them here: the first [`KEPT`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image(pub Vec<u32>);

/// `struct v9_mqd`: the copy of the HQD registers starts at word 128.
const HQD: usize = 128;

/// Up to the last register that is asked for. The rest is two thirds of a dump, and as long as it looks like words, nobody cares which.
const KEPT: usize = HQD + 56;

impl Image {
    /// A word, if the image is that long.
    #[must_use]
    pub fn word(&self, at: usize) -> Option<u32> {
        self.0.get(at).copied()
    }

    fn wide(&self, at: usize) -> Option<u64> {
        Some(u64::from(self.word(at)?) | u64::from(self.word(at + 1)?) << 32)
    }

    /// GPU address of the descriptor itself.
    #[must_use]
    pub fn mqd_address(&self) -> Option<u64> {
        self.wide(HQD)
    }

    /// User address of the write pointer: the `write_pointer_address` of the create ioctl.
    #[must_use]
    pub fn wptr_address(&self) -> Option<u64> {
        self.wide(HQD + 13)
    }

    /// User address that the read pointer is reported to.
    #[must_use]
    pub fn rptr_address(&self) -> Option<u64> {
        self.wide(HQD + 11)
    }

    /// Whether a compute queue takes AQL packets (cp_hqd_aql_control, set by update_mqd of kfd_mqd_manager_v9.c, Linux 6.12).
    #[must_use]
    pub fn is_aql(&self) -> Option<bool> {
        Some(self.word(HQD + 53)? & 1 == 1)
    }

    /// Queue priority of a compute queue (cp_hqd_queue_priority), 0 to 15.
    #[must_use]
    pub fn priority(&self) -> Option<u32> {
        self.word(HQD + 6)
    }

    /// Bytes of a compute queue's ring (QUEUE_SIZE of cp_hqd_pq_control: log2 of dwords, less 1).
    #[must_use]
    pub fn ring_bytes(&self) -> Option<u64> {
        Some(8 << (self.word(HQD + 17)? & 0x3f).min(60))
    }

    /// Last wave save, start and end, in ticks of the GPU counter; zeros if there never was one.
    #[must_use]
    pub fn save_ticks(&self) -> Option<(u64, u64)> {
        Some((self.wide(98)?, self.wide(100)?))
    }

    /// Last wave restore, start and end, in ticks of the GPU counter.
    #[must_use]
    pub fn restore_ticks(&self) -> Option<(u64, u64)> {
        Some((self.wide(102)?, self.wide(104)?))
    }
}

impl QueueMqd {
    /// Dword index of the doorbell, the key to the queue: the dump prints no queue id.
    #[must_use]
    pub fn doorbell(&self) -> Option<u32> {
        let image = self.images.first()?;
        match self.kind {
            // cp_hqd_pq_doorbell_control.
            MqdKind::Compute => Some(image.word(HQD + 15)? >> 2 & 0x3ff_ffff),
            // sdmax_rlcx_doorbell_offset.
            MqdKind::Sdma => Some(image.word(22)? >> 2 & 0x3ff_ffff),
            MqdKind::Diq => None,
        }
    }
}

/// Parses the dump. An empty file is a driver without processes.
///
/// # Errors
/// A line that is not understood, words that do not continue the line before, and a dump without any heading.
pub fn parse(text: &str) -> Result<Vec<ProcessMqds>, ParseError> {
    let mut processes: Vec<ProcessMqds> = Vec::new();
    // Words of the image so far.
    let mut read = 0;
    for (number, line) in lines(text) {
        if let Line::Other(line) = line {
            if let Some((pid, pasid)) = process(line) {
                processes.push(ProcessMqds {
                    pid,
                    pasid,
                    queues: Vec::new(),
                });
                continue;
            }
        }
        let Some(process) = processes.last_mut() else {
            return Err(ParseError::nothing_found("process"));
        };
        match line {
            Line::Row(row) => {
                let Some(queue) = process.queues.last_mut() else {
                    return Err(ParseError::new(
                        number,
                        "words before the heading of a queue",
                    ));
                };
                if row.offset == 0 {
                    queue.images.push(Image::default());
                    read = 0;
                }
                let Some(image) = queue.images.last_mut() else {
                    return Err(ParseError::new(
                        number,
                        "the first line of an image does not start at 0",
                    ));
                };
                if read * 4 != row.offset as usize {
                    let (offset, at) = (row.offset, read * 4);
                    return Err(ParseError::new(
                        number,
                        format!("offset {offset:#x} does not continue the image at {at:#x}"),
                    ));
                }
                let kept = KEPT.saturating_sub(read);
                image.0.extend(row.words().take(kept).flatten());
                read += row
                    .count()
                    .ok_or_else(|| ParseError::new(number, "a word is not 8 hexadecimal digits"))?;
            }
            Line::Other(line) => {
                if let Some((kind, gpu_id)) = queue(line) {
                    process.queues.push(QueueMqd {
                        kind,
                        gpu_id,
                        images: Vec::new(),
                    });
                } else if !is_remark(line) {
                    return Err(ParseError::new(
                        number,
                        format!("not understood: {:?}", line.trim_start()),
                    ));
                }
            }
        }
    }
    Ok(processes)
}

fn process(line: &str) -> Option<(Pid, u32)> {
    let (pid, pasid) = line
        .strip_prefix("Process ")?
        .strip_suffix(':')?
        .split_once(" PASID ")?;
    let pasid = match pasid.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16).ok()?,
        None => pasid.parse().ok()?,
    };
    Some((pid.parse().ok()?, pasid))
}

fn queue(line: &str) -> Option<(MqdKind, GpuId)> {
    let (what, gpu_id) = line.trim_start().split_once(" on device ")?;
    let kind = match what {
        "Compute queue" => MqdKind::Compute,
        "SDMA queue" => MqdKind::Sdma,
        "DIQ" => MqdKind::Diq,
        _ => return None,
    };
    Some((kind, GpuId(u32::from_str_radix(gpu_id, 16).ok()?)))
}

/// Lines by which the driver says that it has nothing to print for a queue.
fn is_remark(line: &str) -> bool {
    let line = line.trim_start();
    ["Bad user queue type", "Bad kernel queue type", "Weird:"]
        .iter()
        .any(|start| line.starts_with(start))
}

#[cfg(test)]
mod tests;

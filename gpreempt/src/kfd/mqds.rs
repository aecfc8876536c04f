// SPDX-License-Identifier: MIT OR Apache-2.0
//! Parser of `/sys/kernel/debug/kfd/mqds`: the memory queue descriptor of every user queue, one image per XCC
//! (pqm_debugfs_mqds, Linux 6.12). No line says where an image ends: offsets start again at 0.
//!
//! What a mapped queue's descriptor says of its pointers is stale: the hardware writes it back when it unmaps the queue.

use std::sync::Arc;

use super::dump::{lines_after, Line, ParseError};
use crate::event::{GpuId, Pid};

/// Where it is.
pub const PATH: &str = "/sys/kernel/debug/kfd/mqds";

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

/// The words of one descriptor that something is asked of below, and where in it they are, ascending. Of a dump that is one word in
/// twenty: to keep all of them takes as long as to read them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image(Vec<(usize, u32)>);

/// `struct v9_mqd`: the copy of the HQD registers starts at word 128.
const HQD: usize = 128;

/// Which words are kept.
const KEPT: [bool; HQD + 54] = {
    let mut kept = [false; HQD + 54];
    let mut at = 0;
    while at < kept.len() {
        kept[at] = matches!(at, 22 | 98..=105 | 128 | 129 | 134 | 139..=143 | 145 | 181);
        at += 1;
    }
    kept
};

impl Image {
    /// Of all words of a descriptor.
    #[cfg(test)]
    pub(crate) fn of(words: &[u32]) -> Self {
        let mut image = Self::default();
        image.add(0, words.len(), words.iter().copied());
        image
    }

    /// Takes so many words that are there and on.
    fn add(&mut self, from: usize, count: usize, words: impl Iterator<Item = u32>) {
        let kept = KEPT.get(from..).unwrap_or_default();
        let kept = kept.get(..count).unwrap_or(kept);
        // Nobody asks for any word of most lines.
        if kept.contains(&true) {
            let words = (from..).zip(words).zip(kept);
            self.0
                .extend(words.filter_map(|(word, kept)| kept.then_some(word)));
        }
    }

    fn word(&self, at: usize) -> Option<u32> {
        let place = self.0.binary_search_by_key(&at, |(at, _)| *at).ok()?;
        self.0.get(place).map(|(_, word)| *word)
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

/// What a dump says. Shared, as there is much of it.
pub type Parsed = Result<Arc<Vec<ProcessMqds>>, ParseError>;

/// Parses the dump. An empty file is a driver without processes.
///
/// # Errors
/// A line that is not understood, words that do not continue the line before, and a dump without any heading.
pub fn parse(text: &str) -> Result<Vec<ProcessMqds>, ParseError> {
    let mut parser = Parser::default();
    parser.take(text)?;
    Ok(parser.processes)
}

/// Parses a dump that comes in pieces: it has hundreds of times the size of what is kept of it.
#[derive(Debug, Default)]
pub struct Parser {
    processes: Vec<ProcessMqds>,
    /// Lines so far.
    lines: usize,
    /// Words of the image so far.
    words: usize,
}

impl Parser {
    /// Takes whole lines.
    ///
    /// # Errors
    /// As [`parse`]; then there is no point in going on.
    pub fn take(&mut self, text: &str) -> Result<(), ParseError> {
        let mut lines = lines_after(self.lines, text);
        for (number, line) in &mut lines {
            self.line(number, line)?;
        }
        self.lines = lines.number;
        Ok(())
    }

    /// All of it was taken.
    #[must_use]
    pub fn finish(self) -> Arc<Vec<ProcessMqds>> {
        Arc::new(self.processes)
    }

    fn line(&mut self, number: usize, line: Line<'_>) -> Result<(), ParseError> {
        let error = |what: String| ParseError::new(number, what);
        if let Line::Other(line) = line {
            if let Some((pid, pasid)) = process(line) {
                self.processes.push(ProcessMqds {
                    pid,
                    pasid,
                    queues: Vec::new(),
                });
                return Ok(());
            }
        }
        let Some(process) = self.processes.last_mut() else {
            return Err(ParseError::nothing_found("process"));
        };
        match line {
            Line::Row(row) => {
                let queue = process.queues.last_mut();
                let queue =
                    queue.ok_or_else(|| error("words before the heading of a queue".to_owned()))?;
                if row.offset == 0 {
                    // As long as the one before.
                    let words = queue.images.last().map_or(0, |image| image.0.len());
                    queue.images.push(Image(Vec::with_capacity(words)));
                    self.words = 0;
                }
                let image = queue.images.last_mut().ok_or_else(|| {
                    error("the first line of an image does not start at 0".to_owned())
                })?;
                let (offset, at) = (row.offset, self.words * 4);
                if at != offset as usize {
                    return Err(error(format!(
                        "offset {offset:#x} does not continue the image at {at:#x}"
                    )));
                }
                let count = row
                    .count()
                    .ok_or_else(|| error("a word is not 8 hexadecimal digits".to_owned()))?;
                image.add(self.words, count, row.words().flatten());
                self.words += count;
            }
            Line::Other(line) => {
                if let Some((kind, gpu_id)) = queue(line) {
                    process.queues.push(QueueMqd {
                        kind,
                        gpu_id,
                        images: Vec::new(),
                    });
                } else if !is_remark(line) {
                    return Err(error(format!("not understood: {:?}", line.trim_start())));
                }
            }
        }
        Ok(())
    }
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

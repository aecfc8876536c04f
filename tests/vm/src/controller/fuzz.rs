// SPDX-License-Identifier: MIT OR Apache-2.0
//! Random calls: valid ones of which a little is changed, by several threads, each with files of its own, mixed with the
//! driver's other ioctls. The seed decides everything but how the threads meet.

use anyhow::Context;
use gpreempt::kfd::uapi::gpreempt::{request, ALL_GPUS, ALL_QUEUES};
use nix::errno::Errno;
use workload::pace::Random;

use super::protocol::{FuzzPlan, FuzzTally};
use crate::gpreempt_fd::{Arena, GpreemptFd};

const ENTRY_BYTES: usize = 40;
/// Where in the arena arguments and entries are.
const ARGS_AT: usize = 0;
const ENTRIES_AT: usize = 4096;
/// Writable pages: `MAX_ENTRIES` and more fit.
const PAGES: usize = 16;
/// Longest lease that a random call may ask for, so that none outlives the test by much.
const LONGEST_MS: u64 = 40;

/// Makes the calls of a plan.
pub(super) fn run(plan: &FuzzPlan) -> anyhow::Result<FuzzTally> {
    let share = plan.calls.div_ceil(plan.threads);
    let threads: Vec<_> = (0..plan.threads)
        .map(|index| {
            let plan = plan.clone();
            std::thread::spawn(move || Fuzzer::new(&plan, index as u64)?.calls(share))
        })
        .collect();
    let mut total = FuzzTally::default();
    for thread in threads {
        let tally = thread
            .join()
            .map_err(|_| anyhow::anyhow!("a thread panicked"))??;
        total.calls += tally.calls;
        total.succeeded += tally.succeeded;
        for (errno, count) in tally.failed {
            *total.failed.entry(errno).or_default() += count;
        }
    }
    Ok(total)
}

struct Fuzzer {
    random: Random,
    arena: Arena,
    file: GpreemptFd,
    /// Processes with queues, this one, none, and impossible ones.
    pids: Vec<i32>,
    gpu_id: u32,
    slots: u32,
}

/// A field of an argument struct: where and how long it is, and what could be in it.
type Field = (usize, usize, fn(&mut Fuzzer) -> u64);

const BATCH: &[Field] = &[
    (8, 4, |fuzzer| fuzzer.number()),
    (12, 4, |fuzzer| fuzzer.entry_size()),
    (16, 4, |fuzzer| fuzzer.bits()),
    (20, 4, |fuzzer| fuzzer.number()),
    (24, 4, |fuzzer| fuzzer.random.below(LONGEST_MS)),
    (24, 4, |_| u64::from(u32::MAX)),
    (28, 4, |fuzzer| fuzzer.number()),
    (44, 4, |fuzzer| fuzzer.bits()),
    (72, 8, |fuzzer| fuzzer.bits()),
];

const RESERVE: &[Field] = &[
    (8, 4, |fuzzer| fuzzer.number()),
    (12, 4, |fuzzer| fuzzer.entry_size()),
    (16, 4, |fuzzer| fuzzer.gpu()),
    (20, 4, |fuzzer| fuzzer.random.below(5)),
    (24, 4, |fuzzer| fuzzer.bits()),
    (28, 4, |fuzzer| fuzzer.number()),
    (32, 4, |fuzzer| fuzzer.number()),
    (72, 8, |fuzzer| fuzzer.bits()),
];

const ENTRY: &[Field] = &[
    (0, 4, |fuzzer| fuzzer.pid()),
    (4, 4, |fuzzer| fuzzer.gpu()),
    (8, 4, |fuzzer| fuzzer.random.below(8)),
    (8, 4, |fuzzer| fuzzer.number()),
    (12, 4, |fuzzer| fuzzer.bits()),
    (16, 8, |fuzzer| fuzzer.number()),
    (24, 4, |fuzzer| fuzzer.number()),
];

/// Ioctls of the unmodified driver, with the size of their structs and the offsets of addresses in them. Those are left
/// out that make things which live until the process ends, that wait, and that stop processes.
const OTHERS: &[(u64, usize, &[usize])] = &[
    (0x01, 8, &[]),          // GET_VERSION
    (0x02, 96, &[0, 8, 16]), // CREATE_QUEUE
    (0x03, 8, &[]),          // DESTROY_QUEUE
    (0x05, 40, &[]),         // GET_CLOCK_COUNTERS
    (0x07, 24, &[0]),        // UPDATE_QUEUE
    (0x09, 8, &[]),          // DESTROY_EVENT
    (0x0a, 8, &[]),          // SET_EVENT
    (0x0b, 8, &[]),          // RESET_EVENT
    (0x14, 16, &[0]),        // GET_PROCESS_APERTURES_NEW
    (0x17, 8, &[]),          // FREE_MEMORY_OF_GPU
    (0x18, 24, &[8]),        // MAP_MEMORY_TO_GPU
    (0x19, 24, &[8]),        // UNMAP_MEMORY_FROM_GPU
    (0x1b, 24, &[0]),        // GET_QUEUE_WAVE_STATE
    (0x7f, 80, &[0]),        // none
    (0xe3, 80, &[0]),        // none
    (0xff, 80, &[0]),        // none
];

impl Fuzzer {
    fn new(plan: &FuzzPlan, index: u64) -> anyhow::Result<Self> {
        let mut pids: Vec<i32> = plan.pids.iter().map(|pid| pid.cast_signed()).collect();
        // Most calls shall reach queues.
        pids.extend_from_within(..);
        pids.extend_from_within(..);
        pids.extend([
            std::process::id().cast_signed(),
            1,
            0,
            -1,
            i32::MIN,
            i32::MAX,
        ]);
        Ok(Self {
            random: Random::new(plan.seed.wrapping_add(index)),
            arena: Arena::new(PAGES)?,
            file: GpreemptFd::open()?,
            pids,
            gpu_id: plan.gpu_id,
            slots: plan.slots,
        })
    }

    fn calls(mut self, count: usize) -> anyhow::Result<FuzzTally> {
        let mut tally = FuzzTally::default();
        for _ in 0..count {
            let (ours, result) = match self.random.below(20) {
                0 => {
                    // What this thread holds ends with its file.
                    self.file = GpreemptFd::open()?;
                    tally.calls += 1;
                    continue;
                }
                1..=4 => (false, self.other()?),
                5..=7 => (true, self.reserve()),
                _ => (true, self.batch()),
            };
            tally.calls += 1;
            match result {
                Ok(_) => tally.succeeded += usize::from(ours),
                Err(errno) => *tally.failed.entry(format!("{errno:?}")).or_default() += 1,
            }
        }
        Ok(tally)
    }

    /// Small, large, or any.
    fn number(&mut self) -> u64 {
        match self.random.below(4) {
            0 => self.random.below(8),
            1 => u64::from(u32::MAX) - self.random.below(3),
            2 => 1 << self.random.below(64),
            _ => self.random.bits(),
        }
    }

    /// One or a few bits, mostly low ones.
    fn bits(&mut self) -> u64 {
        match self.random.below(3) {
            0 => 1 << self.random.below(3),
            1 => self.random.below(8),
            _ => 1 << self.random.below(64),
        }
    }

    fn entry_size(&mut self) -> u64 {
        [0, 1, 39, 40, 41, 48, 80, 4096, u64::from(u32::MAX)][self.random.below(9) as usize]
    }

    fn pid(&mut self) -> u64 {
        let pid = self.pids[self.random.below(self.pids.len() as u64) as usize];
        pid.cast_unsigned().into()
    }

    fn gpu(&mut self) -> u64 {
        match self.random.below(4) {
            0 => self.random.bits() & u64::from(u32::MAX),
            1 => ALL_GPUS.into(),
            _ => self.gpu_id.into(),
        }
    }

    /// An address that is right, or wrong in one of many ways.
    fn entries_address(&mut self, bytes: usize) -> u64 {
        match self.random.below(24) {
            0 => 0,
            1 => self.random.below(4096),
            2 => u64::MAX - self.random.below(4096),
            3 => 1 << 63 | self.random.bits() >> 1,
            // Ends on the page that can only be read, or the one that cannot be touched.
            4 => self
                .arena
                .address(self.arena.read_only_at() + self.random.below(4096) as usize),
            5 => {
                let over = self.random.below(bytes as u64 + 1) as usize;
                self.arena.address(self.arena.read_only_at() - bytes + over)
            }
            6 => self
                .arena
                .address(ENTRIES_AT + self.random.below(8) as usize),
            // Arguments and entries in the same place.
            7 => self.arena.address(ARGS_AT + self.random.below(80) as usize),
            _ => self.arena.address(ENTRIES_AT),
        }
    }

    /// Sets one of `fields` in `bytes` to something else.
    fn mutate(&mut self, bytes: &mut [u8], fields: &[Field]) {
        let (at, length, value) = fields[self.random.below(fields.len() as u64) as usize];
        let value = value(self).to_le_bytes();
        bytes[at..at + length].copy_from_slice(&value[..length]);
    }

    /// Writes entries of which most are valid. Returns their number.
    fn entries(&mut self) -> usize {
        let count = match self.random.below(32) {
            0 => 1024,
            1 => 0,
            _ => 1 + self.random.below(6) as usize,
        };
        let mut bytes = Vec::with_capacity(count * ENTRY_BYTES);
        for _ in 0..count {
            let mut entry = [0; ENTRY_BYTES];
            let queue = match self.random.below(2) {
                0 => ALL_QUEUES,
                _ => self.random.below(6) as u32,
            };
            entry[..4].copy_from_slice(&(self.pid() as u32).to_le_bytes());
            entry[8..12].copy_from_slice(&queue.to_le_bytes());
            if queue == ALL_QUEUES {
                entry[12] = self.random.below(4) as u8;
            }
            if self.random.below(8) == 0 {
                self.mutate(&mut entry, ENTRY);
            }
            bytes.extend(entry);
        }
        self.arena.write(ENTRIES_AT, &bytes);
        count
    }

    fn batch(&mut self) -> Result<i32, Errno> {
        let count = self.entries();
        let mut args = [0; 80];
        let release = self.random.below(2) == 0;
        args[..8].copy_from_slice(&self.entries_address(count * ENTRY_BYTES).to_le_bytes());
        args[8..12].copy_from_slice(&(count as u32).to_le_bytes());
        args[12] = ENTRY_BYTES as u8;
        match self.random.below(8) {
            0 => args[16] = 1,
            1 if release => args[16] = 2,
            _ => {}
        }
        if !release && self.random.below(2) == 0 {
            args[24] = self.random.below(LONGEST_MS) as u8;
        }
        if self.random.below(4) == 0 {
            self.mutate(&mut args, BATCH);
        }
        let number = if release {
            request::FAST_REMAP
        } else {
            request::BATCH_UNMAP_QUEUES
        };
        self.send(number, &args)
    }

    fn reserve(&mut self) -> Result<i32, Errno> {
        let count = self.entries();
        let mut args = [0; 80];
        args[..8].copy_from_slice(&self.entries_address(count * ENTRY_BYTES).to_le_bytes());
        args[8..12].copy_from_slice(&(count as u32).to_le_bytes());
        args[12] = ENTRY_BYTES as u8;
        args[16..20].copy_from_slice(&self.gpu_id.to_le_bytes());
        args[20] = self.random.below(3) as u8;
        if args[20] == 1 {
            let slots = self.random.below(u64::from(self.slots)) as u32;
            args[28..32].copy_from_slice(&slots.to_le_bytes());
            args[32] = self.random.below(50) as u8;
        }
        if self.random.below(4) == 0 {
            self.mutate(&mut args, RESERVE);
        }
        self.send(request::SET_HQD_RESERVATION, &args)
    }

    /// Sends 80 bytes with a number whose size or direction may be wrong.
    fn send(&mut self, number: u64, args: &[u8; 80]) -> Result<i32, Errno> {
        self.arena.write(ARGS_AT, args);
        let number = match self.random.below(32) {
            0 => number & !(0x3fff << 16) | self.random.below(1 << 12) << 16,
            1 => number & !(3 << 30) | self.random.below(4) << 30,
            2 => number & !(0xff << 8) | self.random.below(256) << 8,
            _ => number,
        };
        self.file.raw(number, &self.arena, ARGS_AT)
    }

    /// Another ioctl, with random numbers and an address in the arena or none.
    fn other(&mut self) -> anyhow::Result<Result<i32, Errno>> {
        let &(number, bytes, addresses) = OTHERS
            .get(self.random.below(OTHERS.len() as u64) as usize)
            .context("no other ioctl")?;
        let mut args = vec![0; bytes];
        for at in (0..bytes).step_by(4) {
            // Nothing large: the driver allocates as much as some of these say, and the kernel complains about that.
            let value = match self.random.below(3) {
                0 => self.random.below(64),
                1 => self.gpu_id.into(),
                _ => 0,
            };
            args[at..at + 4].copy_from_slice(&value.to_le_bytes()[..4]);
        }
        for &at in addresses {
            let address = match self.random.below(3) {
                0 => 0,
                _ => self.arena.address(ENTRIES_AT),
            };
            anyhow::ensure!(self.arena.is_harmless(address), "{address:#x}");
            args[at..at + 8].copy_from_slice(&address.to_le_bytes());
        }
        self.arena.write(ARGS_AT, &args);
        let number = 3 << 30 | (bytes as u64) << 16 | 0x4b << 8 | number;
        Ok(self.file.raw(number, &self.arena, ARGS_AT))
    }
}

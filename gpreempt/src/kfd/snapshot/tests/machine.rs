// SPDX-License-Identifier: MIT OR Apache-2.0
//! A directory that stands for a machine, with dumps written as the drivers write them.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use crate::kfd::states::{QueueState, States};
use crate::kfd::Root;

pub(super) const GPU: u32 = 0x52a1;
/// `KFD_QUEUE_TYPE_SDMA`.
pub(super) const SDMA: u32 = 1;

/// How a driver prints.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dump {
    pub(super) xccs: u32,
    hex_pasid: bool,
    /// A register more than the 56 at the end of each slot.
    extra_register: bool,
}

impl Dump {
    pub(super) const ALL: [Self; 3] = [
        Self {
            xccs: 4,
            hex_pasid: true,
            extra_register: false,
        },
        Self {
            xccs: 1,
            hex_pasid: false,
            extra_register: true,
        },
        Self {
            xccs: 4,
            hex_pasid: false,
            extra_register: true,
        },
    ];
}

pub(super) struct Machine {
    dir: PathBuf,
    dump: Dump,
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Queues of a process, by id, and whether they are copy queues.
type Queues<'a> = (u32, &'a [(u32, bool)]);

impl Machine {
    /// With one GPU; of a name that no other test has.
    pub(super) fn new(name: &str, dump: Dump) -> Self {
        let dir =
            std::env::temp_dir().join(format!("gpreempt-snapshot-{name}-{}", std::process::id()));
        let machine = Self { dir, dump };
        machine.file(
            "/sys/class/kfd/kfd/topology/nodes/1/gpu_id",
            &GPU.to_string(),
        );
        machine.node("gfx_target_version 90402\nnum_cp_queues 24\n");
        machine
    }

    pub(super) fn root(&self) -> Root {
        Root::at(self.dir.clone())
    }

    pub(super) fn file(&self, path: &str, content: &str) {
        let path = self.dir.join(path.trim_start_matches('/'));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    pub(super) fn remove(&self, path: &str) {
        let path = self.dir.join(path.trim_start_matches('/'));
        match path.is_dir() {
            true => fs::remove_dir_all(path).unwrap(),
            false => fs::remove_file(path).unwrap(),
        }
    }

    pub(super) fn node(&self, properties: &str) {
        let path = "/sys/class/kfd/kfd/topology/nodes/1/properties";
        self.file(path, &format!("{properties}num_xcc {}\n", self.dump.xccs));
    }

    pub(super) fn process(&self, pid: u32, comm: &str) {
        self.file(&format!("/sys/class/kfd/kfd/proc/{pid}/pasid"), "32770");
        self.file(&format!("/proc/{pid}/comm"), &format!("{comm}\n"));
    }

    pub(super) fn queue(&self, pid: u32, id: u32, kind: u32, bytes: u64) {
        let dir = format!("/sys/class/kfd/kfd/proc/{pid}/queues/{id}");
        self.file(&format!("{dir}/type"), &kind.to_string());
        self.file(&format!("{dir}/size"), &bytes.to_string());
        self.file(&format!("{dir}/gpuid"), &GPU.to_string());
    }

    pub(super) fn doorbell(&self, pid: u32, id: u32) -> u32 {
        pid * 1024 + id * 2
    }

    fn mqd(&self, pid: u32, id: u32, xcc: u32) -> u64 {
        (u64::from(pid) << 24) + u64::from(id) * 0xc000 + u64::from(xcc) * 0x3000
    }

    fn index_address(&self, pid: u32, id: u32, write: bool) -> u64 {
        0x7f00_0000_0000
            + (u64::from(pid) << 20)
            + u64::from(id) * 0x1000
            + if write { 0x38 } else { 0x80 }
    }

    pub(super) fn index_file(&self, pid: u32, id: u32, write: bool) -> String {
        format!("/proc/{pid}/mem#{:x}", self.index_address(pid, id, write))
    }

    pub(super) fn indices(&self, pid: u32, id: u32, write: u64, read: u64) {
        self.file(&self.index_file(pid, id, true), &write.to_string());
        self.file(&self.index_file(pid, id, false), &read.to_string());
    }

    /// As the driver keeps an active queue.
    pub(super) fn state(&self, pid: u32, id: u32) -> QueueState {
        let copies = id == 2;
        QueueState {
            pid,
            gpu_id: GPU,
            queue_id: id,
            format: Some(u32::from(!copies)),
            priority: Some(7),
            percent: Some(100),
            doorbell: Some(self.doorbell(pid, id)),
            ring_address: Some(0x7f00_0000_0000),
            ring_bytes: Some(16_384),
            rptr_address: Some(self.index_address(pid, id, false)),
            wptr_address: Some(self.index_address(pid, id, true)),
            mqd_address: Some(self.mqd(pid, id, 0)),
            active: Some(true),
            evicted: Some(false),
            suspended: Some(false),
            being_destroyed: Some(false),
            hold: None,
            evictions: Some(0),
        }
    }

    pub(super) fn states(&self, queues: &[QueueState]) {
        let states = States::Known {
            queues: queues.to_vec(),
            torn: 0,
        };
        self.file("/sys/class/kfd/kfd#queues", &states.to_string());
    }

    pub(super) fn no_states(&self) {
        let states = States::Unknown {
            why: "no permission".to_owned(),
            fix: "run as root".to_owned(),
        };
        self.file("/sys/class/kfd/kfd#queues", &states.to_string());
    }

    pub(super) fn runlist(&self, processes: &[Queues<'_>]) {
        let mut words = Vec::new();
        for (pid, queues) in processes {
            let mut packet = vec![0; 21];
            packet[0] = 0xc013_a100;
            packet[1] = 0x1400_0000 | (pid & 0xffff);
            packet[13] = (queues.len() as u32) << 22;
            words.extend(packet);
            for (id, copies) in *queues {
                let mqd = self.mqd(*pid, *id, 0);
                let wptr = self.index_address(*pid, *id, true);
                words.extend([
                    0xc005_a200,
                    if *copies { 0x2800_0010 } else { 0x2000_0010 },
                    self.doorbell(*pid, *id) << 2,
                    mqd as u32,
                    (mqd >> 32) as u32,
                    wptr as u32,
                    (wptr >> 32) as u32,
                ]);
            }
        }
        let text = match words.is_empty() {
            true => "  No active runlist\n".to_owned(),
            false => rows(0, &words, "  "),
        };
        self.file(
            "/sys/kernel/debug/kfd/rls",
            &format!("Node 1, gpu_id {GPU:x}:\n{text}"),
        );
    }

    pub(super) fn mqds(&self, processes: &[Queues<'_>]) {
        let mut text = String::new();
        for (pid, queues) in processes {
            let _ = match self.dump.hex_pasid {
                true => writeln!(text, "Process {pid} PASID 0x8002:"),
                false => writeln!(text, "Process {pid} PASID {pid}:"),
            };
            for (id, copies) in *queues {
                if *copies {
                    let mut words = vec![0; 128];
                    words[0] = 0x0406_102a;
                    words[22] = self.doorbell(*pid, *id) << 2;
                    let _ = write!(
                        text,
                        "  SDMA queue on device {GPU:x}\n{}",
                        rows(0, &words, "    ")
                    );
                    continue;
                }
                let _ = writeln!(text, "  Compute queue on device {GPU:x}");
                for xcc in 0..self.dump.xccs {
                    text.push_str(&rows(0, &self.image(*pid, *id, xcc), "    "));
                }
            }
        }
        self.file("/sys/kernel/debug/kfd/mqds", &text);
    }

    fn image(&self, pid: u32, id: u32, xcc: u32) -> Vec<u32> {
        let mut words = vec![0; 512];
        words[0] = 0xc031_0800;
        words[98..106].copy_from_slice(&[
            0xb372_1df2,
            0x1049,
            0xb372_306a,
            0x1049,
            0xb377_afd2,
            0x1049,
            0xb377_b126,
            0x1049,
        ]);
        words[128..184].copy_from_slice(&self.registers(pid, id, xcc));
        words
    }

    /// Registers of a slot, and their copy in the descriptor.
    fn registers(&self, pid: u32, id: u32, xcc: u32) -> [u32; 56] {
        let mut words = [0; 56];
        let mqd = self.mqd(pid, id, xcc);
        let (write, read) = (
            self.index_address(pid, id, true),
            self.index_address(pid, id, false),
        );
        let lo_hi = |value: u64| [value as u32, (value >> 32) as u32];
        words[0..2].copy_from_slice(&lo_hi(mqd));
        words[2] = 1;
        // The VMID twice, as the driver sets it.
        words[3] = 0x0808;
        words[5..7].copy_from_slice(&[1, 7]);
        words[11..13].copy_from_slice(&lo_hi(read));
        words[13..15].copy_from_slice(&lo_hi(write));
        words[15] = 0x4000_0000 | self.doorbell(pid, id) << 2;
        // 16 KiB are 4096 dwords.
        words[17] = 0x1401_c500 | 11;
        words[53] = 1;
        words
    }

    /// Slots of the queues of a process, and one that its queue 1 left.
    pub(super) fn hqds(&self, pid: u32, queues: &[(u32, bool)]) {
        let mut text = format!("Node 1, gpu_id {GPU:x}:\n");
        let mut slot = |heading: &str, base: u32, words: &[u32]| {
            let _ = writeln!(text, "{heading}");
            text.push_str(&rows(base, words, "    "));
            if self.dump.extra_register && !heading.contains("SDMA") {
                let _ = writeln!(text, "    {:08x}: 00000001", base + 8);
            }
        };
        for xcc in 0..self.dump.xccs {
            let base = 0xc914 + xcc * 0xc_0000;
            slot(
                &format!("   Inst {xcc}, HIQ on MEC 2 Pipe 0 Queue 0"),
                base,
                &[0; 56],
            );
            for (at, (id, _)) in queues.iter().filter(|(_, copies)| !copies).enumerate() {
                let words = self.registers(pid, *id, xcc);
                slot(
                    &format!(" Inst {xcc},  CP Pipe 0, Queue {}", at + 2),
                    base,
                    &words,
                );
            }
            let mut left = self.registers(pid, 1, xcc);
            left[2] = 0;
            slot(&format!(" Inst {xcc},  CP Pipe 1, Queue 2"), base, &left);
        }
        for (id, _) in queues.iter().filter(|(_, copies)| *copies) {
            let _ = writeln!(text, "  SDMA Engine 0, RLC 5");
            let mut first = vec![0; 19];
            first[0] = 0x0406_102b;
            text.push_str(&rows(0x5520, &first, "    "));
            let door = self.doorbell(pid, *id) << 2;
            text.push_str(&rows(0x55c0, &[0, 0, 0, door, 0, 0], "    "));
        }
        self.file("/sys/kernel/debug/kfd/hqds", &text);
    }
}

/// Eight words a line, as `seq_hex_dump` prints them.
fn rows(base: u32, words: &[u32], indent: &str) -> String {
    let mut text = String::new();
    for (at, row) in words.chunks(8).enumerate() {
        let _ = write!(text, "{indent}{:08x}:", base + at as u32 * 32);
        for word in row {
            let _ = write!(text, " {word:08x}");
        }
        text.push('\n');
    }
    text
}

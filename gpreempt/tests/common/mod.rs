// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the tests of the program share: trees that stand for /sys and /proc, records as the kernel side writes them, and
//! the program itself.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

use std::fs;
use std::path::{Path, PathBuf};

use gpreempt_common::record::{self as rec, Body, Header};
use snapbox::cmd::Command;
use zerocopy::IntoBytes;

/// The GPU of [`Tree::with_gpu`].
pub const GPU: u32 = 0x52a1;
/// When scripts begin.
pub const T0: u64 = 1_000_000_000_000;

/// A directory that stands for `/`.
pub struct Tree(PathBuf);

impl Tree {
    /// An empty one of this name, which must be unique among all tests.
    pub fn new(name: &str) -> Self {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).expect("a directory can be made");
        let tree = Self(dir);
        tree.file("/proc/sys/kernel/osrelease", "6.12.95\n");
        tree.capabilities(u64::MAX);
        tree
    }

    /// With a loaded driver and one GPU of two XCCs.
    pub fn with_gpu(name: &str) -> Self {
        let tree = Self::new(name);
        tree.file("/sys/module/amdgpu/srcversion", "0123456789ABCDEF\n");
        tree.file("/sys/module/amdgpu/parameters/sched_policy", "0\n");
        tree.file("/sys/module/amdgpu/parameters/num_kcq", "-1\n");
        tree.file("/sys/module/amdgpu/parameters/cwsr_enable", "1\n");
        tree.file("/sys/class/kfd/kfd/topology/nodes/0/gpu_id", "0\n");
        tree.file(
            "/sys/class/kfd/kfd/topology/nodes/0/properties",
            "cpu_cores_count 8\nsimd_count 0\n",
        );
        tree.gpu(
            1,
            GPU,
            "gfx_target_version 90402\nlocation_id 2560\ndomain 0\nnum_cp_queues 24\nnum_xcc 2\n",
        );
        tree
    }

    pub fn gpu(&self, node: u32, gpu_id: u32, properties: &str) {
        let dir = format!("/sys/class/kfd/kfd/topology/nodes/{node}");
        self.file(&format!("{dir}/gpu_id"), &format!("{gpu_id}\n"));
        self.file(&format!("{dir}/name"), "ip discovery\n");
        self.file(&format!("{dir}/properties"), properties);
    }

    /// A queue in sysfs, and its process in procfs.
    pub fn queue(&self, pid: u32, comm: &str, queue_id: u32, queue_type: u32, bytes: u64) {
        let dir = format!("/sys/class/kfd/kfd/proc/{pid}/queues/{queue_id}");
        self.file(&format!("{dir}/size"), &bytes.to_string());
        self.file(&format!("{dir}/type"), &queue_type.to_string());
        self.file(&format!("{dir}/gpuid"), &GPU.to_string());
        self.file(&format!("/proc/{pid}/comm"), &format!("{comm}\n"));
    }

    pub fn capabilities(&self, effective: u64) {
        self.file(
            "/proc/self/status",
            &format!("Name:\tgpreempt\nCapEff:\t{effective:016x}\n"),
        );
    }

    pub fn file(&self, path: &str, content: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().expect("a file has a parent"))
            .expect("a directory can be made");
        fs::write(path, content).expect("a file can be written");
    }

    pub fn remove(&self, path: &str) {
        fs::remove_dir_all(self.path(path)).expect("it was there");
    }

    pub fn path(&self, absolute: &str) -> PathBuf {
        self.0.join(absolute.trim_start_matches('/'))
    }

    /// The program, with /sys and /proc here.
    pub fn gpreempt(&self) -> Command {
        gpreempt().arg("--root").arg(&self.0)
    }

    /// `watch` on a script of records.
    pub fn watch(&self, records: &[Vec<u8>]) -> Command {
        self.scripted("watch", records)
    }

    /// Another verb on a script of records.
    pub fn scripted(&self, verb: &str, records: &[Vec<u8>]) -> Command {
        let script = self.path("/script");
        fs::write(&script, records.concat()).expect("a file can be written");
        self.gpreempt().arg(verb).arg("--script").arg(script)
    }
}

/// The program, with nothing of the caller's environment that changes its output.
pub fn gpreempt() -> Command {
    Command::new(snapbox::cmd::cargo_bin!("gpreempt"))
        .env_remove("COLUMNS")
        .env_remove("NO_COLOR")
}

/// Parts of a header that tests vary.
#[derive(Clone, Copy, Default)]
pub struct Head {
    pub at_us: u64,
    pub took_us: u64,
    pub cause: u16,
    pub status: i32,
    pub pid: u32,
    pub actor: u32,
}

/// A record as the kernel side writes it.
pub fn record<B: Body>(head: Head, body: B) -> Vec<u8> {
    let len = size_of::<Header>() + size_of::<B>();
    let actor = if head.actor == 0 {
        head.pid
    } else {
        head.actor
    };
    let header = Header {
        ts_ns: T0 + head.at_us * 1000,
        total_ns: head.took_us * 1000,
        len: u16::try_from(len).expect("records are small"),
        kind: B::KIND,
        cause: head.cause,
        reserved: 0,
        status: head.status,
        pid: head.pid,
        actor_pid: actor,
        actor_tid: actor,
    };
    [header.as_bytes(), body.as_bytes()].concat()
}

pub fn comm(name: &[u8]) -> [u8; rec::COMM_BYTES] {
    let mut comm = [0; rec::COMM_BYTES];
    comm[..name.len()].copy_from_slice(name);
    comm
}

pub fn created(head: Head, queue_id: u32, name: &[u8]) -> Vec<u8> {
    record(
        head,
        rec::QueueCreated {
            ring_bytes: 65536,
            gpu_id: GPU,
            queue_id,
            queue_type: 0,
            format: 1,
            priority: 7,
            percent: 100,
            doorbell: 4096,
            evicted: 0,
            comm: comm(name),
        },
    )
}

/// The life of one process that is evicted, debugged, held and hit by a reset: every kind of record once or more.
pub fn life() -> Vec<Vec<u8>> {
    use rec::cause;
    let head = |at_us, took_us, cause| Head {
        at_us,
        took_us,
        cause,
        pid: 212,
        ..Head::default()
    };
    let unmap = |fence_us: u64, lock_ns| rec::RunlistUnmapped {
        lock_wait_ns: lock_ns,
        fence_ns: fence_us * 1000,
        gpu_id: GPU,
        filter: 2,
    };
    let map = |queues, oversubscribed| rec::RunlistMapped {
        gpu_id: GPU,
        queues,
        cp_queues: queues,
        processes: 1,
        oversubscribed,
        reserved: 0,
    };
    let name = comm(b"kfd-load");
    vec![
        record(
            head(0, 40, 0),
            rec::ProcessAttached {
                start_boottime_ns: T0 - 5,
                cgroup_id: 77,
                ns_pid: 5,
                reserved: 0,
                comm: name,
            },
        ),
        record(head(1200, 3, cause::CREATE_QUEUE), map(1, 0)),
        created(head(1203, 148, cause::CREATE_QUEUE), 0, b"kfd-load"),
        record(head(2000, 75, cause::CREATE_QUEUE), unmap(61, 3_100)),
        record(head(2010, 4, cause::CREATE_QUEUE), map(2, 0)),
        created(head(2020, 160, cause::CREATE_QUEUE), 1, b"kfd-load"),
        record(
            Head {
                status: -22,
                ..head(2100, 2, cause::CREATE_QUEUE)
            },
            rec::QueueRejected { reserved: 0 },
        ),
        record(
            head(2500, 90, cause::UPDATE_QUEUE),
            rec::QueueUpdated {
                gpu_id: GPU,
                queue_id: 1,
                priority: 3,
                percent: 0,
                active: 0,
                reserved: 0,
            },
        ),
        record(
            Head {
                actor: 9,
                ..head(3000, 70, cause::EVICT)
            },
            unmap(58, 200),
        ),
        record(
            Head {
                actor: 9,
                ..head(3001, 80, cause::EVICT)
            },
            rec::ProcessEvicted {
                gpu_id: GPU,
                reason: rec::evict_reason::TTM,
                depth: 1,
                reserved: 0,
            },
        ),
        record(
            Head {
                actor: 9,
                ..head(103_001, 12, cause::RESTORE)
            },
            rec::ProcessRestored {
                gpu_id: GPU,
                depth: 0,
            },
        ),
        record(
            Head {
                actor: 300,
                status: 1,
                ..head(200_000, 900, cause::SUSPEND)
            },
            rec::QueuesSuspended {
                count: 1,
                requested: 2,
            },
        ),
        record(
            Head {
                actor: 300,
                status: 1,
                ..head(210_000, 80, cause::RESUME)
            },
            rec::QueuesResumed {
                count: 1,
                requested: 0,
            },
        ),
        record(
            Head {
                pid: 300,
                ..head(220_000, 66, cause::HOLD)
            },
            unmap(62, 1_200),
        ),
        record(
            Head {
                actor: 300,
                ..head(220_001, 70, cause::HOLD)
            },
            rec::QueuesHeld {
                lock_wait_ns: 1_200,
                hw_ns: 62_000,
                gpu_id: GPU,
                count: 2,
                owner_pid: 300,
                cause: rec::hold_cause::IOCTL,
            },
        ),
        record(
            Head {
                actor: 9,
                ..head(250_001, 5, cause::RELEASE)
            },
            rec::QueuesReleased {
                lock_wait_ns: 800,
                hw_ns: 0,
                gpu_id: GPU,
                count: 2,
                owner_pid: 300,
                cause: rec::hold_cause::LEASE,
            },
        ),
        record(
            Head {
                status: -62,
                ..head(9_300_000, 9_000_000, cause::DESTROY_QUEUE)
            },
            unmap(9_000_000, 0),
        ),
        record(
            Head {
                at_us: 9_300_010,
                actor: 40,
                cause: cause::RESET,
                ..Head::default()
            },
            rec::GpuReset {
                gpu_id: GPU,
                phase: rec::reset_phase::PRE,
            },
        ),
        record(
            head(9_400_000, 0, cause::PROCESS_EXIT),
            rec::QueueDestroyed {
                gpu_id: GPU,
                queue_id: 0,
            },
        ),
        record(
            head(9_400_010, 95, cause::DESTROY_QUEUE),
            rec::QueueDestroyed {
                gpu_id: GPU,
                queue_id: 1,
            },
        ),
        record(
            head(9_400_100, 0, 0),
            rec::ProcessExited {
                start_boottime_ns: T0 - 5,
                ns_pid: 5,
                reserved: 0,
                comm: name,
            },
        ),
    ]
}

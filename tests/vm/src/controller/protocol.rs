// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a test tells a controller to do, and what it answers: one JSON object a line.

use std::fmt;

use gpreempt::kfd::uapi::gpreempt::{
    BatchArgs, Entry, ReserveArgs, ALL_GPUS, ALL_QUEUES, INHERIT, NO_SDMA,
};
use nix::errno::Errno;
use serde::{Deserialize, Serialize};

/// First argument that makes `vm-tests` a controller.
pub(crate) const VERB: &str = "controller";

/// Which queues: the part of `struct kfd_gpreempt_entry` that goes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Spec {
    pub(crate) pid: i32,
    pub(crate) gpu_id: u32,
    pub(crate) queue_id: u32,
    pub(crate) flags: u32,
    pub(crate) start_ticks: u64,
}

impl Spec {
    /// Every queue of a process.
    pub(crate) fn all(pid: u32) -> Self {
        Self {
            pid: pid.cast_signed(),
            gpu_id: ALL_GPUS,
            queue_id: ALL_QUEUES,
            flags: 0,
            start_ticks: 0,
        }
    }

    /// A process as reservations name it.
    pub(crate) fn process(pid: u32) -> Self {
        Self {
            queue_id: 0,
            ..Self::all(pid)
        }
    }

    /// One queue.
    pub(crate) fn queue(pid: u32, queue_id: u32) -> Self {
        Self {
            queue_id,
            ..Self::all(pid)
        }
    }

    /// On this node only.
    pub(crate) fn on(self, gpu_id: u32) -> Self {
        Self { gpu_id, ..self }
    }

    /// And those created later.
    pub(crate) fn inherit(self) -> Self {
        Self {
            flags: self.flags | INHERIT,
            ..self
        }
    }

    /// But no copy queues.
    pub(crate) fn no_sdma(self) -> Self {
        Self {
            flags: self.flags | NO_SDMA,
            ..self
        }
    }

    /// Only if the process started then.
    pub(crate) fn started(self, start_ticks: u64) -> Self {
        Self {
            start_ticks,
            ..self
        }
    }

    /// With other flags.
    pub(crate) fn flags(self, flags: u32) -> Self {
        Self { flags, ..self }
    }

    /// As the driver reads it.
    pub(crate) fn entry(self) -> Entry {
        Entry {
            pid: self.pid,
            gpu_id: self.gpu_id,
            queue_id: self.queue_id,
            flags: self.flags,
            start_ticks: self.start_ticks,
            ..Entry::default()
        }
    }
}

/// A `BATCH_UNMAP_QUEUES` or `FAST_REMAP`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Call {
    /// Which of the controller's files.
    pub(crate) slot: usize,
    pub(crate) release: bool,
    pub(crate) entries: Vec<Spec>,
    pub(crate) flags: u32,
    pub(crate) grace_period: u32,
    pub(crate) lease_ms: u32,
}

impl Call {
    pub(crate) fn args(&self) -> BatchArgs {
        BatchArgs {
            flags: self.flags,
            grace_period: self.grace_period,
            lease_ms: self.lease_ms,
            ..BatchArgs::default()
        }
    }
}

/// A `SET_HQD_RESERVATION`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Reservation {
    pub(crate) slot: usize,
    pub(crate) op: u32,
    pub(crate) gpu_id: u32,
    pub(crate) flags: u32,
    pub(crate) slots_reserved: u32,
    pub(crate) rotate_ms: u32,
    pub(crate) entries: Vec<Spec>,
}

impl Reservation {
    pub(crate) fn args(&self) -> ReserveArgs {
        ReserveArgs {
            gpu_id: self.gpu_id,
            op: self.op,
            flags: self.flags,
            slots_reserved: self.slots_reserved,
            rotate_ms: self.rotate_ms,
            ..ReserveArgs::default()
        }
    }
}

/// Any call, with any bytes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct RawCall {
    /// Direction, size, type and number in one word.
    pub(crate) number: u64,
    /// The argument struct. Its first eight bytes become the address of the entries, unless `at` says otherwise.
    pub(crate) args: Vec<u8>,
    pub(crate) entries: Vec<u8>,
    pub(crate) at: At,
}

/// Where the entries of a raw call are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum At {
    Writable,
    /// On a page that can only be read.
    ReadOnly,
    /// All but the last so many bytes writable, those on the page that can only be read.
    TailReadOnly(usize),
    /// At an address that holds no entries.
    Address(u64),
}

/// Random calls by several threads.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct FuzzPlan {
    pub(crate) seed: u64,
    pub(crate) calls: usize,
    pub(crate) threads: usize,
    /// Processes with queues.
    pub(crate) pids: Vec<u32>,
    pub(crate) gpu_id: u32,
    /// Most slots that a random reservation takes.
    pub(crate) slots: u32,
}

/// What to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub(crate) enum Command {
    /// Opens `/dev/kfd` as file `slot`.
    Open {
        slot: usize,
    },
    /// Closes a file.
    Close {
        slot: usize,
    },
    /// Makes `to` another descriptor of the file `slot`.
    Duplicate {
        slot: usize,
        to: usize,
    },
    Batch(Call),
    Reserve(Reservation),
    /// Holds and releases `entries` without end, with and without lease. No answer: it is to be killed.
    Spin {
        entries: Vec<Spec>,
        seed: u64,
    },
    /// Makes a child that has all files, calls once on the first, answers like `Batch`, and lives until it is killed.
    Fork(Call),
    /// Becomes another program that has the first file open, and obeys as before.
    Exec,
    /// Gives the file to whoever listens on a socket.
    SendFile {
        slot: usize,
        path: String,
    },
    /// Takes a file from a socket that it makes; answers when it listens, and again when the file is there.
    ReceiveFile {
        slot: usize,
        path: String,
    },
    Raw(RawCall),
    Fuzz(FuzzPlan),
    /// Becomes the debugger of a process; needed for the four after it.
    Attach {
        pid: u32,
    },
    /// Suspends queues by the debugger interface.
    Suspend {
        queues: Vec<u32>,
    },
    /// Resumes them.
    Resume {
        queues: Vec<u32>,
    },
    /// Evicts the process by the checkpoint interface.
    Pause,
    /// Ends that.
    Unpause,
    /// Ends being a debugger.
    Detach,
}

/// The part of an entry that comes out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Result {
    pub(crate) status: i32,
    pub(crate) state: u32,
    pub(crate) n_matched: u32,
    pub(crate) n_changed: u32,
}

impl From<&Entry> for Result {
    fn from(entry: &Entry) -> Self {
        Self {
            status: entry.status,
            state: entry.state,
            n_matched: entry.n_matched,
            n_changed: entry.n_changed,
        }
    }
}

impl Result {
    /// The errno in `status`, 0 = none.
    pub(crate) fn errno(&self) -> Errno {
        Errno::from_raw(-self.status)
    }
}

/// What a hold or release answered.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Reply {
    pub(crate) abi_version: u32,
    pub(crate) num_changed: u32,
    pub(crate) num_failed: u32,
    pub(crate) num_nodes: u32,
    pub(crate) lock_wait_ns: u64,
    pub(crate) hw_ns: u64,
    pub(crate) total_ns: u64,
    pub(crate) entries: Vec<Result>,
}

impl Reply {
    pub(crate) fn new(args: &BatchArgs, entries: &[Entry]) -> Self {
        Self {
            abi_version: args.abi_version,
            num_changed: args.num_changed,
            num_failed: args.num_failed,
            num_nodes: args.num_nodes,
            lock_wait_ns: args.lock_wait_ns,
            hw_ns: args.hw_ns,
            total_ns: args.total_ns,
            entries: entries.iter().map(Result::from).collect(),
        }
    }
}

/// What a reservation answered.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Reserved {
    pub(crate) slots_reserved: u32,
    pub(crate) rotate_ms: u32,
    pub(crate) abi_version: u32,
    pub(crate) slots_total: u32,
    pub(crate) cp_queues_active: u32,
    pub(crate) queues_capped: u32,
    pub(crate) processes: u32,
    pub(crate) processes_max: u32,
    pub(crate) oversubscribed: u32,
    pub(crate) owner_pid: u32,
    pub(crate) num_failed: u32,
    pub(crate) entries: Vec<Result>,
}

impl Reserved {
    pub(crate) fn new(args: &ReserveArgs, entries: &[Entry]) -> Self {
        Self {
            slots_reserved: args.slots_reserved,
            rotate_ms: args.rotate_ms,
            abi_version: args.abi_version,
            slots_total: args.slots_total,
            cp_queues_active: args.cp_queues_active,
            queues_capped: args.queues_capped,
            processes: args.processes,
            processes_max: args.processes_max,
            oversubscribed: args.oversubscribed,
            owner_pid: args.owner_pid,
            num_failed: args.num_failed,
            entries: entries.iter().map(Result::from).collect(),
        }
    }
}

/// What a raw call that succeeded left.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct RawReply {
    pub(crate) args: Vec<u8>,
    pub(crate) entries: Vec<u8>,
}

/// How many random calls ended how.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct FuzzTally {
    pub(crate) calls: usize,
    /// Of these, holds, releases and reservations that the driver carried out.
    pub(crate) succeeded: usize,
    /// By the name of the errno.
    pub(crate) failed: std::collections::BTreeMap<String, usize>,
}

/// An answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub(crate) enum Answer {
    Done,
    /// An ioctl failed with this errno.
    Errno {
        errno: i32,
    },
    /// What was asked could not be tried.
    Broken {
        message: String,
    },
    Batch(Reply),
    Reserved(Reserved),
    /// A child with this pid was made, and its call ended so.
    Forked {
        pid: u32,
        errno: i32,
    },
    Fuzzed(FuzzTally),
    Raw(RawReply),
    /// So many queues changed.
    Count {
        count: u32,
    },
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Errno { errno } => write!(f, "{}", Errno::from_raw(*errno)),
            Self::Broken { message } => f.write_str(message),
            other => write!(f, "{other:?}"),
        }
    }
}

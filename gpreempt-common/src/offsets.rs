// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where the members of kernel structs are, filled in by user space before the programs are loaded.
//!
//! Offsets differ between kernels and are never written down in this project: user space resolves each
//! [`Field`] from BTF (of the module that carries amdkfd, then of vmlinux) or from an offset profile.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A member that this kernel does not have. The eBPF programs then leave what depends on it at zero.
pub const UNKNOWN: u32 = u32::MAX;

/// What of a member the table holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The byte offset of the member in its struct.
    Offset,
    /// The size in bytes of the struct (the member path is empty).
    Size,
}

/// One entry of the table: how to find it by name.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Name of the entry in [`Offsets`].
    pub name: &'static str,
    /// Where it is looked for, first match wins: (struct, member path with dots). More than one where kernels differ.
    pub places: &'static [(&'static str, &'static str)],
    /// Offset or size.
    pub wanted: Wanted,
    /// Without it no record can be attributed: the program refuses to start.
    pub required: bool,
}

macro_rules! offsets {
    ($( $(#[$doc:meta])* $name:ident : $wanted:ident $required:literal $( ($strukt:literal, $member:literal) )+ ; )+) => {
        /// Byte offsets of kernel struct members; [`UNKNOWN`] where the kernel lacks one.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
        #[repr(C)]
        pub struct Offsets {
            $( $(#[$doc])* pub $name: u32, )+
        }

        impl Offsets {
            /// A table in which nothing is known.
            pub const NONE: Self = Self { $( $name: UNKNOWN, )+ };
        }

        /// Every entry of [`Offsets`], in order.
        pub const FIELDS: &[Field] = &[
            $( Field {
                name: stringify!($name),
                places: &[$( ($strukt, $member) ),+],
                wanted: Wanted::$wanted,
                required: $required,
            }, )+
        ];
    };
}

offsets! {
    queue_process: Offset true ("queue", "process");
    queue_device: Offset true ("queue", "device");
    queue_id: Offset true ("queue", "properties.queue_id");
    queue_type: Offset true ("queue", "properties.type");
    queue_format: Offset false ("queue", "properties.format");
    queue_ring_bytes: Offset false ("queue", "properties.queue_size");
    queue_priority: Offset false ("queue", "properties.priority");
    queue_percent: Offset false ("queue", "properties.queue_percent");
    queue_doorbell_off: Offset false ("queue", "properties.doorbell_off");
    queue_is_active: Offset false ("queue", "properties.is_active");
    queue_is_evicted: Offset false ("queue", "properties.is_evicted");
    /// Absent before the debugger API (Linux 6.5).
    queue_is_suspended: Offset false ("queue", "properties.is_suspended");
    queue_is_being_destroyed: Offset false ("queue", "properties.is_being_destroyed");
    queue_ring_address: Offset false ("queue", "properties.queue_address");
    queue_read_ptr: Offset false ("queue", "properties.read_ptr");
    queue_write_ptr: Offset false ("queue", "properties.write_ptr");
    /// Exists in a driver with this project's patches only.
    queue_hold: Offset false ("queue", "properties.gp_hold");
    queue_mqd_address: Offset false ("queue", "gart_mqd_addr");
    queue_list: Offset false ("queue", "list");

    process_lead_thread: Offset true ("kfd_process", "lead_thread");
    process_mmu_notifier: Offset true ("kfd_process", "mmu_notifier");
    process_table_node: Offset false ("kfd_process", "kfd_processes");
    process_pdds: Offset false ("kfd_process", "pdds");
    process_n_pdds: Offset false ("kfd_process", "n_pdds");

    pdd_process: Offset true ("kfd_process_device", "process");
    pdd_dev: Offset true ("kfd_process_device", "dev");
    pdd_qpd: Offset true ("kfd_process_device", "qpd");
    qpd_evicted: Offset false ("qcm_process_device", "evicted");
    qpd_queues_list: Offset false ("qcm_process_device", "queues_list");

    pqm_process: Offset true ("process_queue_manager", "process");

    dqm_dev: Offset true ("device_queue_manager", "dev");
    dqm_processes_count: Offset false ("device_queue_manager", "processes_count");
    dqm_active_queue_count: Offset false ("device_queue_manager", "active_queue_count");
    dqm_active_cp_queue_count: Offset false ("device_queue_manager", "active_cp_queue_count");
    /// Gone in 7.x, where `kfd_hws_hang` is a function of its own.
    dqm_hw_exception_work: Offset false ("device_queue_manager", "hw_exception_work");

    /// A KFD node is `struct kfd_node` since 6.5, `struct kfd_dev` before.
    node_id: Offset true ("kfd_node", "id") ("kfd_dev", "id");
    /// First node of a device; absent where the device is the node (before 6.5).
    kfd_dev_nodes: Offset false ("kfd_dev", "nodes");

    pm_dqm: Offset true ("packet_manager", "dqm");
    pm_is_over_subscription: Offset false ("packet_manager", "is_over_subscription");

    /// These and the following exist in a driver with this project's patches only.
    hold_op_kind: Offset false ("kfd_gpreempt_op", "kind");
    hold_op_owner_pid: Offset false ("kfd_gpreempt_op", "owner_pid");
    hold_note_kind: Offset false ("kfd_gpreempt_note", "kind");
    hold_note_cause: Offset false ("kfd_gpreempt_note", "cause");
    hold_note_status: Offset false ("kfd_gpreempt_note", "status");
    hold_note_owner_pid: Offset false ("kfd_gpreempt_note", "owner_pid");
    hold_note_pid: Offset false ("kfd_gpreempt_note", "pid");
    hold_note_gpu_id: Offset false ("kfd_gpreempt_note", "gpu_id");
    hold_note_queues: Offset false ("kfd_gpreempt_note", "queues");
    hold_note_lock_wait_ns: Offset false ("kfd_gpreempt_note", "lock_wait_ns");
    hold_note_hw_ns: Offset false ("kfd_gpreempt_note", "hw_ns");
    hold_note_total_ns: Offset false ("kfd_gpreempt_note", "total_ns");

    list_next: Offset false ("list_head", "next");
    hlist_next: Offset false ("hlist_node", "next");
    hlist_pprev: Offset false ("hlist_node", "pprev");

    task_tgid: Offset true ("task_struct", "tgid");
    task_start_boottime: Offset false ("task_struct", "start_boottime");
    task_comm: Offset false ("task_struct", "comm");
    task_thread_pid: Offset false ("task_struct", "thread_pid");
    pid_level: Offset false ("pid", "level");
    pid_numbers: Offset false ("pid", "numbers");
    upid_nr: Offset false ("upid", "nr");
    upid_bytes: Size false ("upid", "");
}

const _: () = assert!(size_of::<Offsets>() == FIELDS.len() * 4);

impl Offsets {
    /// The table as a slice in the order of [`FIELDS`].
    #[must_use]
    pub fn as_words(&self) -> &[u32] {
        <[u32]>::ref_from_bytes(self.as_bytes()).unwrap_or(&[])
    }

    /// The table from values in the order of [`FIELDS`]; missing ones are [`UNKNOWN`].
    #[must_use]
    pub fn from_words(words: impl IntoIterator<Item = u32>) -> Self {
        let mut table = Self::NONE;
        if let Ok(slots) = <[u32]>::mut_from_bytes(table.as_mut_bytes()) {
            for (slot, word) in slots.iter_mut().zip(words) {
                *slot = word;
            }
        }
        table
    }
}

/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note OR MIT */
/*
 * Hold and release the queues of other processes, and keep HQD slots free:
 * ioctls of /dev/kfd beside those of <linux/kfd_ioctl.h>.
 *
 * The numbers stay clear of upstream (below 0x29 in Linux 7.3) and of ROCm's
 * out-of-tree driver (0x80 to 0x87). All structs have the same layout on
 * 64-bit and 32-bit.
 *
 * Feature detection: the module parameter gpreempt_abi holds
 * KFD_GPREEMPT_ABI_VERSION, and AMDKFD_IOC_BATCH_UNMAP_QUEUES with
 * num_entries == 0 returns 0 and sets abi_version. Without these ioctls it is
 * ENOTTY (upstream) or EINVAL (ROCm).
 */
#ifndef KFD_GPREEMPT_IOCTL_H_INCLUDED
#define KFD_GPREEMPT_IOCTL_H_INCLUDED

#include <linux/types.h>
#include <linux/ioctl.h>

#define KFD_GPREEMPT_ABI_VERSION	1

/* Most entries of one call. */
#define KFD_GPREEMPT_MAX_ENTRIES	1024
/* Longest lease and rotation, in milliseconds. */
#define KFD_GPREEMPT_MAX_MS		3600000

#define KFD_GPREEMPT_ALL_GPUS		0u
#define KFD_GPREEMPT_ALL_QUEUES		0xffffffffu

/* kfd_gpreempt_entry.flags */
/* Queues that the process creates later on this GPU start held. */
#define KFD_GPREEMPT_INHERIT		(1u << 0)
/* SDMA queues are left alone. */
#define KFD_GPREEMPT_NO_SDMA		(1u << 1)

/* kfd_gpreempt_entry.state: what is true of at least one matched queue */
#define KFD_GPREEMPT_ACTIVE		(1u << 0)	/* in the runlist */
#define KFD_GPREEMPT_HELD		(1u << 1)	/* held by the caller */
#define KFD_GPREEMPT_HELD_OTHER		(1u << 2)	/* held by another owner */
#define KFD_GPREEMPT_CAPPED		(1u << 3)	/* parked by the reservation */
#define KFD_GPREEMPT_EVICTED		(1u << 4)
#define KFD_GPREEMPT_SUSPENDED		(1u << 5)	/* by a debugger */
#define KFD_GPREEMPT_RESET		(1u << 6)	/* lost in a reset */

/**
 * struct kfd_gpreempt_entry - queues of one process
 *
 * @pid: process id in the caller's pid namespace
 * @gpu_id: KFD node, or KFD_GPREEMPT_ALL_GPUS
 * @queue_id: queue of the process, or KFD_GPREEMPT_ALL_QUEUES
 * @flags: KFD_GPREEMPT_INHERIT (only with ALL_QUEUES), KFD_GPREEMPT_NO_SDMA
 * @start_ticks: start of the process in clock ticks, as field 22 of
 *	/proc/PID/stat; ESRCH if the process started at another time.
 *	0: not compared
 * @status: out: 0 or a negative errno, filled after the hardware answered:
 *	ESRCH no such process or another one by now, ENXIO no KFD process,
 *	EPERM not allowed, ENOENT no such queue or GPU, EBUSY held by another
 *	owner, EOPNOTSUPP the GPU runs without a hardware scheduler, EIO a
 *	reset is going on (the hold is noted and applies at the next mapping),
 *	ETIME the GPU did not answer and is reset, ENOTRECOVERABLE the queue
 *	was lost in a reset, EINVAL the entry is malformed
 * @state: out: KFD_GPREEMPT_ACTIVE and others
 * @n_matched: out: queues that the entry names
 * @n_changed: out: of these, queues whose hold this call set or cleared
 */
struct kfd_gpreempt_entry {
	__s32 pid;
	__u32 gpu_id;
	__u32 queue_id;
	__u32 flags;
	__u64 start_ticks;
	__s32 status;
	__u32 state;
	__u32 n_matched;
	__u32 n_changed;
};

/* kfd_gpreempt_batch_args.flags */
/* Check and report, change nothing. */
#define KFD_GPREEMPT_DRY_RUN		(1u << 0)
/* FAST_REMAP: release holds of other owners too; needs CAP_SYS_ADMIN. */
#define KFD_GPREEMPT_FORCE		(1u << 1)

/**
 * struct kfd_gpreempt_batch_args - hold or release many queues
 *
 * One runlist update for each GPU concerned, none where nothing changes. GPUs
 * are updated in parallel. A failed entry does not stop the others. The call
 * returns 0 when the batch was processed: look at @num_failed.
 *
 * The owner of a hold is the calling process and the file it called on,
 * whichever ends first (exit, exec, last close). What it holds is released
 * then.
 *
 * @entries_ptr: array of struct kfd_gpreempt_entry, read and written
 * @num_entries: at most KFD_GPREEMPT_MAX_ENTRIES; 0 asks for @abi_version only
 * @entry_size: size of an entry in bytes; larger than known is fine if the
 *	rest is zero, E2BIG else
 * @flags: KFD_GPREEMPT_DRY_RUN, KFD_GPREEMPT_FORCE
 * @grace_period: BATCH_UNMAP_QUEUES: time for waves to end before they are
 *	saved, in 1000 GPU clocks; 0 = the driver's default. 0 with FAST_REMAP
 * @lease_ms: BATCH_UNMAP_QUEUES: the hold ends by itself after this time; the
 *	last call decides; 0 = no limit. 0 with FAST_REMAP
 * @abi_version: out: KFD_GPREEMPT_ABI_VERSION
 * @num_changed: out: queues whose hold was set or cleared
 * @num_failed: out: entries whose status is not 0
 * @num_nodes: out: GPUs whose runlist was updated
 * @pad: 0
 * @lock_wait_ns: out: longest wait for a GPU's scheduler lock
 * @hw_ns: out: longest time from UNMAP_QUEUES to the fence on one GPU
 * @total_ns: out: the whole call
 * @reserved: 0
 */
struct kfd_gpreempt_batch_args {
	__u64 entries_ptr;
	__u32 num_entries;
	__u32 entry_size;
	__u32 flags;
	__u32 grace_period;
	__u32 lease_ms;
	__u32 abi_version;
	__u32 num_changed;
	__u32 num_failed;
	__u32 num_nodes;
	__u32 pad;
	__u64 lock_wait_ns;
	__u64 hw_ns;
	__u64 total_ns;
	__u64 reserved;
};

/* kfd_gpreempt_reserve_args.op */
#define KFD_GPREEMPT_RESERVE_QUERY	0
#define KFD_GPREEMPT_RESERVE_SET	1
#define KFD_GPREEMPT_RESERVE_CLEAR	2

/**
 * struct kfd_gpreempt_reserve_args - keep HQD slots free on one GPU
 *
 * Admission control where the runlist is built: the processes named as offline
 * may together have at most @slots_total - @slots_reserved compute queues in
 * the runlist. Room is shared out evenly among them and rotates. It reserves
 * neither compute units nor bandwidth. The reservation ends with its owner,
 * as a hold does. One owner for each GPU: EBUSY for others.
 *
 * @entries_ptr: SET: array of struct kfd_gpreempt_entry of which pid,
 *	start_ticks and status count, the rest is 0: the offline processes,
 *	replacing those named before
 * @num_entries, @entry_size: as in struct kfd_gpreempt_batch_args
 * @gpu_id: KFD node
 * @op: KFD_GPREEMPT_RESERVE_QUERY, _SET, _CLEAR
 * @flags: CLEAR: KFD_GPREEMPT_FORCE clears another owner's too
 * @slots_reserved: SET: in, less than @slots_total; out: in force now
 * @rotate_ms: SET: how often parked queues take turns; 0 = 1000;
 *	out: in force now
 * @abi_version: out
 * @slots_total: out: compute HQD slots that the scheduler may use
 * @cp_queues_active: out: compute queues in the runlist
 * @queues_capped: out: queues parked by the reservation
 * @processes: out: processes in the runlist
 * @processes_max: out: processes that run without time slicing
 * @oversubscribed: out: 1 = the runlist is time-sliced
 * @owner_pid: out: who reserved, in the caller's pid namespace; 0 = nobody
 * @num_failed: out: entries whose status is not 0; then nothing was set
 */
struct kfd_gpreempt_reserve_args {
	__u64 entries_ptr;
	__u32 num_entries;
	__u32 entry_size;
	__u32 gpu_id;
	__u32 op;
	__u32 flags;
	__u32 slots_reserved;
	__u32 rotate_ms;
	__u32 abi_version;
	__u32 slots_total;
	__u32 cp_queues_active;
	__u32 queues_capped;
	__u32 processes;
	__u32 processes_max;
	__u32 oversubscribed;
	__u32 owner_pid;
	__u32 num_failed;
	__u64 reserved;
};

#define AMDKFD_IOC_BATCH_UNMAP_QUEUES	\
	_IOWR('K', 0xE0, struct kfd_gpreempt_batch_args)
#define AMDKFD_IOC_FAST_REMAP		\
	_IOWR('K', 0xE1, struct kfd_gpreempt_batch_args)
#define AMDKFD_IOC_SET_HQD_RESERVATION	\
	_IOWR('K', 0xE2, struct kfd_gpreempt_reserve_args)

#endif /* KFD_GPREEMPT_IOCTL_H_INCLUDED */

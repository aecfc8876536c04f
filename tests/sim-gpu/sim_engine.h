/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The engine half of the simulated GPU: command processor, hardware scheduler (HWS),
 * hardware queue descriptors (HQD) and SDMA engines.
 *
 * One kernel thread per GPU (all XCCs are one KFD node) plays the firmware: it consumes the
 * HIQ, keeps the HQD table and executes the packets of the mapped user queues.
 *
 *	sim_hws.c	the thread, HIQ packets
 *	sim_runlist.c	run list: parsing, windows of an over-subscribed list
 *	sim_hqd.c	slots: mapping, unmapping, latencies
 *	sim_mqd.c	what the firmware reads from and writes to an MQD
 *	sim_exec.c	queue execution: doorbells, sharing of GPU time
 *	sim_umem.c	memory of processes, page faults
 *	sim_aql.c sim_pm4.c sim_sdma.c	packet processors
 *	sim_fault.c	injected hangs and refusals, GPU page faults
 *	sim_irq.c	interrupt payloads
 *	sim_kfd2kgd.c sim_regs.c sim_mes.c	entry points of amdkfd, register dumps, MES
 *	sim_debugfs.c	debugfs simgpu/
 *
 * Locking: engine->lock protects everything in struct sim_engine. The thread drops it
 * whenever it sleeps. amdkfd calls in with its dqm lock held, so nothing below engine->lock
 * may wait for amdkfd; kgd2kfd_interrupt() only queues work and is fine.
 */
#ifndef SIM_ENGINE_H
#define SIM_ENGINE_H

#include <linux/kthread.h>
#include <linux/wait.h>
#include <linux/workqueue.h>

#include "sim.h"

struct mes_add_queue_input;
struct mes_remove_queue_input;

/* ---- calls the device half makes, in addition to those in sim.h ---- */

/*
 * GART memory is about to be freed: queues whose MQD lies in it are dropped. Normally there
 * are none; after a hang amdkfd frees the MQDs of queues that never left the hardware.
 * May sleep.
 */
void sim_engine_forget(struct sim_gpu *gpu, u64 gpu_addr, u64 size);

/* amdgpu_amdkfd_unmap_hiq(): the HIQ of this XCC goes away. */
int sim_engine_unmap_hiq(struct sim_gpu *gpu, u32 inst);

/* GPU clock, 100 MHz, for amdgpu_amdkfd_get_gpu_clock_counter() and all timestamps. */
u64 sim_gpu_clock(void);

/* adev->mes.funcs->{add,remove}_hw_queue of gfx11 and gfx12 */
int sim_engine_mes_add(struct amdgpu_mes *mes, struct mes_add_queue_input *in);
int sim_engine_mes_remove(struct amdgpu_mes *mes, struct mes_remove_queue_input *in);

/* ---- inside the engine half ---- */

#define SIM_SDMA_ENGINES	16
#define SIM_SDMA_RLCS		10	/* kfd_device_info.num_sdma_queues_per_engine is 8 or less, 10 in some */
#define SIM_HQD_REGS		56	/* CP_MQD_BASE_ADDR .. CP_HQD_PQ_WPTR_HI */

/* Indices into the HQD registers that the firmware changes. */
enum {
	SIM_REG_ACTIVE = 2,
	SIM_REG_VMID = 3,
	SIM_REG_PQ_BASE = 8,
	SIM_REG_PQ_BASE_HI = 9,
	SIM_REG_PQ_RPTR = 10,
	SIM_REG_DOORBELL = 15,
	SIM_REG_PQ_CONTROL = 17,
	SIM_REG_WPTR_LO = 54,
	SIM_REG_WPTR_HI = 55,
};

enum sim_kind { SIM_AQL, SIM_PM4, SIM_SDMA };

/* A queue as the run list (or MES, or hqd_load) names it. */
struct sim_queue_desc {
	u32 proc;		/* index into sim_runlist.procs */
	u32 doorbell;		/* dword index on the BAR */
	u64 mqd_addr;
	u64 wptr_addr;		/* of SDMA queues, whose MQD has none */
	bool sdma;
	bool is_static;
	u8 engine;
};

struct sim_rl_proc {
	u32 pasid;
	u32 vmid;		/* while the process is in the window */
};

/* amdkfd's max_num_of_queues_per_device defaults to 4096. */
#define SIM_RL_QUEUES	4096
#define SIM_RL_PROCS	1024

struct sim_runlist {
	struct sim_rl_proc *procs;
	struct sim_queue_desc *queues;
	u32 num_procs;
	u32 num_queues;
	u32 process_cnt;	/* processes that may be mapped at once */
	u32 window;		/* first queue of the window to map next */
	u64 next_mqd;		/* its MQD if the list is time-sliced, else 0 */
	bool chained;		/* amdkfd says: over-subscribed */
	bool rotating;		/* does not fit, so it is time-sliced */
	u64 next_switch_ns;
};

/* Why a queue does not execute although it is mapped. */
enum sim_stop {
	SIM_RUNNING,
	SIM_FAULTING,		/* a user page is being brought in */
	SIM_PAGE_FAULT,		/* GPU page fault: stands still until it is unmapped */
	SIM_BAD_PACKET,		/* so does a queue with an undecodable packet */
	SIM_GONE,		/* its process is gone */
};

/* One HQD (on all XCCs) or SDMA RLC. */
struct sim_slot {
	struct list_head link;	/* engine.slots while used */
	bool used;
	bool frozen;		/* preemption in progress: executes nothing */
	bool is_static;
	enum sim_kind kind;
	enum sim_stop stop;
	u8 pipe, queue;		/* SDMA: engine, RLC */
	u32 vmid, pasid;
	u32 doorbell;
	u64 mqd_addr;
	void *mqd;		/* XCC 0; further XCCs follow at stride */
	u32 stride;
	struct sim_vm *vm;
	u32 serial;		/* distinguishes successive queues of one slot */

	u64 ring, ring_bytes;
	u64 rptr_addr, wptr_addr;
	u64 rptr, wptr;		/* AQL packets, PM4 dwords, SDMA bytes; never wrap */
	u64 reported;		/* rptr as last written to rptr_addr (not AQL) */

	bool pending;		/* something may be in the ring */
	u64 retry_ns;		/* stalled (unmet barrier, ...): look again then */
	u32 retry_step_ns;

	/* the packet at rptr */
	bool busy;		/* a dispatch executes */
	u64 work;		/* what is left of it, in 1/1024 ns of GPU time */
	u64 start_ns;
	bool finishing;		/* executed, completion not fully written yet */
	u8 step;		/* ... completion: parts already written, see sim_aql.c */
	u64 end_ns;
	u64 signal, mailbox;	/* valid while step != 0 */
	u32 event_id;
	u64 progress;		/* SDMA: bytes of the packet done */
	u64 dispatches;		/* since it was mapped */
	bool read_wptr;		/* SDMA: take the write pointer from memory once */

	u64 fault_va;		/* page the queue waits for or faulted on */
	bool fault_write;
	u32 fault_tries;
	u32 prefault;		/* bytes from there on that will be needed next */

	u32 regs[SIM_MAX_XCCS][SIM_HQD_REGS];
};

struct sim_hiq {
	bool loaded;
	void *mqd[SIM_MAX_XCCS];
	u32 regs[SIM_MAX_XCCS][SIM_HQD_REGS];
	u64 ring_addr, rptr_addr;
	u32 ring_dw;
	u32 doorbell;
	u64 rptr;
};

struct sim_stats {
	u64 run_lists, map_process, map_queues, unmap_packets, query_status, set_resources;
	u64 bad_packets, rotations;
	u64 aql_packets, aql_barriers, aql_dispatches, sdma_packets, pm4_packets;
	u64 interrupts, resets, hangs, refused, vm_faults;
};

struct sim_engine {
	struct sim_gpu *gpu;
	struct task_struct *task;
	wait_queue_head_t wq;
	bool kicked;
	u64 kick_ns;		/* time of the last kick the thread saw */
	struct mutex lock;
	u32 generation;		/* incremented by a reset; sleepers compare */
	bool hung;		/* undecodable HIQ packet: stands still until the next reset */
	bool hanging;		/* packets met sim_hang, for the counter */

	struct sim_hiq hiq;
	u32 vmid_mask;
	u64 queue_mask;
	u32 wait_times;		/* CP_IQ_WAIT_TIME2 */
	u16 vmid_pasid[16];
	struct sim_runlist rl;
	struct sim_mes_request *mes_request;	/* waits for the thread */
	struct sim_slot cp[SIM_MAX_CP_SLOTS];
	struct sim_slot sdma[SIM_SDMA_ENGINES * SIM_SDMA_RLCS];
	struct list_head slots;	/* used ones */
	u32 mapped;		/* how many */
	u32 next_serial;
	u64 pace_ns;		/* time the mappings or unmappings done so far should take */

	u64 gpu_ns;		/* dispatches are executed up to this time */
	u64 last_work_ns;	/* something was executed then: poll fast for a while */
	struct sim_vm *cur_vm;	/* address space the thread has taken on */
	bool cur_mm;

	struct workqueue_struct *fault_wq;
	void *bounce;		/* one page, for SDMA copies */

	struct sim_stats stats;
};

#define sim_for_each_slot(e, s)	list_for_each_entry(s, &(e)->slots, link)

/* A mapped queue that may execute now. */
static inline bool sim_runnable(const struct sim_slot *s)
{
	return !s->frozen && s->stop == SIM_RUNNING;
}

/* Not written by anybody: what a doorbell holds when it was not rung since the engine looked. */
#define SIM_DOORBELL_IDLE	(~0ull)

static inline u64 sim_now(void)
{
	return ktime_get_raw_ns();
}

/* SDMA engines and RLCs that exist */
u32 sim_sdma_engines(struct sim_engine *e);

/* sim_hws.c */
/* Sleeps without engine->lock. false: a reset or the end of the thread came in between. */
bool sim_pause(struct sim_engine *e, u64 until_ns);
void sim_wake(struct sim_engine *e);

/* sim_runlist.c */
bool sim_runlist_parse(struct sim_engine *e, const u32 *pkt);
void sim_runlist_map(struct sim_engine *e);
void sim_runlist_rotate(struct sim_engine *e, u64 now_ns);
void sim_runlist_drop(struct sim_engine *e);

/* Packets wait in the HIQ. */
bool sim_hiq_waiting(struct sim_engine *e);

/* sim_mes.c */
void sim_mes_run(struct sim_engine *e);

/* sim_hqd.c */
enum sim_unmap_sel { SIM_UNMAP_PASID, SIM_UNMAP_ALL, SIM_UNMAP_DYNAMIC, SIM_UNMAP_DOORBELL };
struct sim_slot *sim_find_mqd(struct sim_engine *e, u64 mqd_addr);
struct sim_slot *sim_find_doorbell(struct sim_engine *e, u32 doorbell);
u32 sim_free_cp_slots(struct sim_engine *e);
struct sim_slot *sim_take_slot(struct sim_engine *e, const struct sim_queue_desc *q);
bool sim_map_slot(struct sim_engine *e, struct sim_slot *s, const struct sim_queue_desc *q,
		  u32 pasid, u32 vmid);
bool sim_map_queue(struct sim_engine *e, const struct sim_queue_desc *q, u32 pasid, u32 vmid);
/* reset: waves are killed, not saved */
bool sim_unmap_queues(struct sim_engine *e, enum sim_unmap_sel sel, u32 param, bool reset);
void sim_drop_slot(struct sim_engine *e, struct sim_slot *s);
void sim_slots_clear(struct sim_engine *e);

/* sim_mqd.c */
bool sim_mqd_load(struct sim_engine *e, struct sim_slot *s, const struct sim_queue_desc *q);
void sim_mqd_store(struct sim_engine *e, struct sim_slot *s);
bool sim_mqd_has_waves(struct sim_slot *s);
void sim_mqd_stamp_save(struct sim_engine *e, struct sim_slot *s, u64 start_ns, u64 end_ns);
void sim_mqd_stamp_restore(struct sim_engine *e, struct sim_slot *s, u64 start_ns, u64 end_ns);
/* Brings the registers up to date with rptr and wptr, before they are shown or stored. */
void sim_slot_sync_regs(struct sim_engine *e, struct sim_slot *s);

/* sim_exec.c */
/* Executes user queues up to now; returns the time of the next thing to do. */
u64 sim_exec(struct sim_engine *e, u64 now_ns);
/* Only the dispatches in progress: keeps time right while the thread does something else. */
void sim_exec_progress(struct sim_engine *e, u64 now_ns);
/* Brings the queues up to now before some of them are preempted, within limits. */
void sim_exec_settle(struct sim_engine *e, u64 now_ns);
void sim_stall(struct sim_slot *s);
void sim_bad_packet(struct sim_engine *e, struct sim_slot *s);

/* The packet processors: execute what is in the ring until a dispatch, a stall, the end of the
 * ring or of the budget. at_ns is the GPU time at which the next packet starts. */
void sim_aql_run(struct sim_engine *e, struct sim_slot *s, u64 at_ns, int *budget);
/* The write pointer is news although a dispatch executes. */
void sim_aql_peek(struct sim_engine *e, struct sim_slot *s);
void sim_pm4_run(struct sim_engine *e, struct sim_slot *s, u64 at_ns, int *budget);
void sim_sdma_run(struct sim_engine *e, struct sim_slot *s, u64 at_ns, int *budget);

/* sim_umem.c: 0, or an error after which the caller returns; the slot remembers why */
int sim_umem_read(struct sim_engine *e, struct sim_slot *s, u64 va, void *dst, u32 len);
int sim_umem_write(struct sim_engine *e, struct sim_slot *s, u64 va, const void *src, u32 len);
int sim_umem_add64(struct sim_engine *e, struct sim_slot *s, u64 va, s64 add, u64 *old);
int sim_umem_cmpxchg64(struct sim_engine *e, struct sim_slot *s, u64 va, u64 old, u64 new, u64 *found);
/* Leaves the address space the last access took on; before sleeping or dropping the lock. */
void sim_umem_leave(struct sim_engine *e);
void sim_umem_init(struct sim_engine *e);
void sim_umem_fini(struct sim_engine *e);

/* sim_fault.c */
bool sim_fault_hang(struct sim_engine *e);
bool sim_fault_refuses(struct sim_engine *e, struct sim_slot *s);
void sim_fault_page(struct sim_engine *e, struct sim_slot *s);

/* sim_irq.c */
void sim_irq_eop(struct sim_engine *e, struct sim_slot *s, u32 context_id);
void sim_irq_sdma_trap(struct sim_engine *e, struct sim_slot *s, u32 context_id);
void sim_irq_vm_fault(struct sim_engine *e, struct sim_slot *s, u64 va, bool write);
void sim_irq_bad_packet(struct sim_engine *e, struct sim_slot *s);

/* sim_regs.c */
int sim_regs_dump_hqd(struct sim_engine *e, u32 pipe, u32 queue, u32 inst,
		      u32 (**dump)[2], u32 *n_regs);
int sim_regs_dump_sdma(struct sim_engine *e, u32 engine, u32 rlc,
		       u32 (**dump)[2], u32 *n_regs);

#endif /* SIM_ENGINE_H */

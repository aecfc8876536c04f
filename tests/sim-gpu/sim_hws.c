// SPDX-License-Identifier: GPL-2.0
/*
 * The hardware scheduler: one kernel thread that consumes the HIQ and drives everything else.
 *
 * amdkfd writes PM4 packets into the HIQ (kq_submit_packet, 6.12 kfd_kernel_queue.c) and waits
 * for a fence in amdkfd_fence_wait_timeout(). Both call amdgpu_amdkfd_is_fed(), which is where
 * the device half kicks this thread. The kick comes just before the doorbell is written, so
 * after a kick the thread looks at the doorbell in short intervals for a while.
 */
#include <linux/delay.h>
#include <linux/sched.h>

#include "sim_engine.h"
#include "kfd_pm4_headers_ai.h"
#include "kfd_pm4_opcodes.h"

#define SIM_MAX_PACKET_DW	32
#define SIM_KICK_WINDOW_NS	(2 * NSEC_PER_MSEC)
#define SIM_KICK_POLL_NS	(15 * NSEC_PER_USEC)
/* Nothing mapped: only a kick matters, this is for lost ones. */
#define SIM_IDLE_NS		(50 * NSEC_PER_MSEC)
/* The thread has real-time priority; leave the CPU to others at least this long. */
#define SIM_YIELD_NS		(20 * NSEC_PER_USEC)
#define SIM_STOPPED_NS		(500 * NSEC_PER_USEC)
#define SIM_PAUSE_CHUNK_NS	(5 * NSEC_PER_MSEC)

void sim_wake(struct sim_engine *e)
{
	if (!READ_ONCE(e->kicked)) {
		WRITE_ONCE(e->kicked, true);
		wake_up(&e->wq);
	}
}

void sim_engine_kick(struct sim_gpu *gpu)
{
	if (gpu->engine)
		sim_wake(gpu->engine);
}

static void sim_sleep_ns(u64 ns)
{
	ktime_t t = ns_to_ktime(ns);

	set_current_state(TASK_IDLE);
	schedule_hrtimeout(&t, HRTIMER_MODE_REL);
}

bool sim_pause(struct sim_engine *e, u64 until_ns)
{
	u32 generation = e->generation;
	u64 now = sim_now();

	if (until_ns <= now)
		return true;
	if (until_ns - now < 10 * NSEC_PER_USEC) {
		udelay(DIV_ROUND_UP(until_ns - now, NSEC_PER_USEC));
		return true;
	}

	sim_umem_leave(e);
	while (now < until_ns) {
		mutex_unlock(&e->lock);
		sim_sleep_ns(min_t(u64, until_ns - now, SIM_PAUSE_CHUNK_NS));
		mutex_lock(&e->lock);
		if (e->generation != generation)
			return false;
		if (current == e->task && kthread_should_stop())
			return false;
		now = sim_now();
	}
	return true;
}

/* ---- HIQ ---- */

/* The scheduler answers nothing. */
static bool sim_hws_stopped(struct sim_engine *e)
{
	return e->hung || READ_ONCE(sim_hang);
}

bool sim_hiq_waiting(struct sim_engine *e)
{
	struct sim_hiq *hiq = &e->hiq;

	return hiq->loaded && !sim_hws_stopped(e) &&
	       sim_doorbell_read(e->gpu, hiq->doorbell) != hiq->rptr;
}

static void sim_hiq_stuck(struct sim_engine *e)
{
	e->stats.bad_packets++;
	e->hung = true;
}

static bool sim_set_resources(struct sim_engine *e, const u32 *pkt)
{
	const struct pm4_mes_set_resources *p = (const void *)pkt;

	e->vmid_mask = p->bitfields2.vmid_mask;
	e->queue_mask = (u64)p->queue_mask_hi << 32 | p->queue_mask_lo;
	e->stats.set_resources++;
	return true;
}

static bool sim_unmap_packet(struct sim_engine *e, const u32 *pkt, u32 len)
{
	const struct pm4_mes_unmap_queues *p = (const void *)pkt;
	bool reset = p->bitfields2.action == action__mes_unmap_queues__reset_queues;
	u32 i;

	e->stats.unmap_packets++;
	/* The list itself is not mapped again until the next RUN_LIST. */
	switch (p->bitfields2.queue_sel) {
	case queue_sel__mes_unmap_queues__perform_request_on_pasid_queues:
		e->rl.rotating = false;
		return sim_unmap_queues(e, SIM_UNMAP_PASID, p->bitfields3a.pasid, reset);
	case queue_sel__mes_unmap_queues__unmap_all_queues:
		sim_runlist_drop(e);
		return sim_unmap_queues(e, SIM_UNMAP_ALL, 0, reset);
	case queue_sel__mes_unmap_queues__unmap_all_non_static_queues:
		sim_runlist_drop(e);
		return sim_unmap_queues(e, SIM_UNMAP_DYNAMIC, 0, reset);
	case queue_sel__mes_unmap_queues__perform_request_on_specified_queues:
		/* up to four doorbells follow the second dword */
		for (i = 0; i < p->bitfields2.num_queues && 2 + i < len; i++)
			if (!sim_unmap_queues(e, SIM_UNMAP_DOORBELL,
					      pkt[2 + i] >> 2 & 0x3ffffff, reset))
				return false;
		return true;
	}
	return true;
}

static bool sim_query_status(struct sim_engine *e, const u32 *pkt)
{
	const struct pm4_mes_query_status *p = (const void *)pkt;
	u64 *fence = sim_gart_to_cpu(e->gpu, (u64)p->addr_hi << 32 | p->addr_lo);

	if (!fence)
		return false;
	e->stats.query_status++;
	/* whatever was unmapped before must be visible to the waiter */
	smp_store_release(fence, (u64)p->data_hi << 32 | p->data_lo);
	return true;
}

/* One HIQ packet. false: the scheduler cannot go on (undecodable, or a reset came in between). */
static bool sim_hiq_packet(struct sim_engine *e, const u32 *pkt, u32 len)
{
	union PM4_MES_TYPE_3_HEADER hdr = { .u32All = pkt[0] };

	switch (hdr.opcode) {
	case IT_NOP:
		return true;
	case IT_SET_RESOURCES:
		return len * 4 >= sizeof(struct pm4_mes_set_resources) &&
		       sim_set_resources(e, pkt);
	case IT_RUN_LIST:
		if (len * 4 < sizeof(struct pm4_mes_runlist) || !sim_runlist_parse(e, pkt))
			return false;
		sim_runlist_map(e);
		return true;
	case IT_UNMAP_QUEUES:
		return len * 4 >= sizeof(struct pm4_mes_unmap_queues) &&
		       sim_unmap_packet(e, pkt, len);
	case IT_QUERY_STATUS:
		return len * 4 >= sizeof(struct pm4_mes_query_status) &&
		       sim_query_status(e, pkt);
	case IT_WRITE_DATA:
		/* the grace period, pm_set_grace_period_v9(): one register, CP_IQ_WAIT_TIME2 */
		if (len * 4 < sizeof(struct pm4_mec_write_data_mmio))
			return false;
		e->wait_times = ((const struct pm4_mec_write_data_mmio *)pkt)->data;
		return true;
	default:
		return false;
	}
}

/* Consumes the HIQ; true if there was anything. Called and returns with engine->lock held. */
static bool sim_hiq_run(struct sim_engine *e)
{
	struct sim_hiq *hiq = &e->hiq;
	bool any = false;

	if (hiq->loaded && sim_doorbell_read(e->gpu, hiq->doorbell) != hiq->rptr &&
	    sim_fault_hang(e))
		return false;

	while (sim_hiq_waiting(e)) {
		u64 wptr = sim_doorbell_read(e->gpu, hiq->doorbell);
		const u32 *ring = sim_gart_to_cpu(e->gpu, hiq->ring_addr);
		u32 *report = sim_gart_to_cpu(e->gpu, hiq->rptr_addr);
		union PM4_MES_TYPE_3_HEADER hdr;
		u32 pkt[SIM_MAX_PACKET_DW] = {};
		u32 generation = e->generation;
		u32 len, i;

		any = true;
		if (!ring || !report || wptr - hiq->rptr > hiq->ring_dw) {
			sim_hiq_stuck(e);
			break;
		}

		/* The packet must be read after the doorbell that announces it. */
		rmb();
		hdr.u32All = ring[hiq->rptr % hiq->ring_dw];
		/* kq_initialize() fills the end of the ring with one-dword NOPs, count 0x3fff. */
		len = hdr.opcode == IT_NOP && hdr.count == 0x3fff ? 1 : hdr.count + 2;
		if (hdr.type != PM4_TYPE_3 || len > SIM_MAX_PACKET_DW ||
		    len > wptr - hiq->rptr) {
			sim_hiq_stuck(e);
			break;
		}
		for (i = 0; i < len; i++)
			pkt[i] = ring[(hiq->rptr + i) % hiq->ring_dw];

		if (hdr.opcode == IT_UNMAP_QUEUES)
			sim_exec_settle(e, sim_now());
		else
			sim_exec_progress(e, sim_now());
		if (!sim_hiq_packet(e, pkt, len)) {
			if (e->generation == generation)
				sim_hiq_stuck(e);
			break;
		}
		if (e->generation != generation)
			break;
		hiq->rptr += len;
		/* kq_acquire_packet_buffer() computes the free space from this */
		WRITE_ONCE(*report, hiq->rptr % hiq->ring_dw);
	}
	return any;
}

/* ---- the thread ---- */

static void sim_hws_wait(struct sim_engine *e, u64 next_ns)
{
	u64 now = sim_now();
	u64 ns = next_ns > now ? next_ns - now : 0;

	if (sim_hws_stopped(e)) {
		/* amdkfd kicks without pause until it gives up: not worth the CPU */
		sim_sleep_ns(SIM_STOPPED_NS);
		return;
	}
	if (now - e->kick_ns < SIM_KICK_WINDOW_NS)
		ns = min_t(u64, ns, SIM_KICK_POLL_NS);
	ns = clamp_t(u64, ns, SIM_YIELD_NS, SIM_IDLE_NS);

	wait_event_interruptible_hrtimeout(e->wq,
					   READ_ONCE(e->kicked) || kthread_should_stop(),
					   ns_to_ktime(ns));
}

static int sim_hws_thread(void *data)
{
	struct sim_engine *e = data;

	/*
	 * amdkfd_fence_wait_timeout() spins with schedule(). Without real-time priority this
	 * thread would often wait for a tick before it gets the CPU.
	 */
	sched_set_fifo(current);

	while (!kthread_should_stop()) {
		u64 next;

		mutex_lock(&e->lock);
		if (xchg(&e->kicked, false))
			e->kick_ns = sim_now();
		if (sim_hiq_run(e))
			e->kick_ns = sim_now();	/* amdkfd often sends several in a row */
		sim_mes_run(e);
		next = sim_exec(e, sim_now());
		if (e->rl.rotating && !sim_hws_stopped(e)) {
			if (!sim_hiq_waiting(e))
				sim_runlist_rotate(e, sim_now());
			next = min(next, e->rl.next_switch_ns);
		}
		sim_umem_leave(e);
		mutex_unlock(&e->lock);

		sim_hws_wait(e, next);
	}
	return 0;
}

int sim_engine_init(struct sim_gpu *gpu)
{
	struct sim_engine *e = kvzalloc(sizeof(*e), GFP_KERNEL);
	int r = -ENOMEM;

	if (!e)
		return -ENOMEM;
	e->gpu = gpu;
	e->wait_times = 0x40400040;	/* CP_IQ_WAIT_TIME2 after power-on: QUE_SLEEP 0x40 */
	mutex_init(&e->lock);
	init_waitqueue_head(&e->wq);
	INIT_LIST_HEAD(&e->slots);
	e->rl.procs = kvcalloc(SIM_RL_PROCS, sizeof(*e->rl.procs), GFP_KERNEL);
	e->rl.queues = kvcalloc(SIM_RL_QUEUES, sizeof(*e->rl.queues), GFP_KERNEL);
	e->bounce = (void *)__get_free_page(GFP_KERNEL);
	e->fault_wq = alloc_workqueue("sim_fault/%d", WQ_UNBOUND, 0, gpu->index);
	if (!e->rl.procs || !e->rl.queues || !e->bounce || !e->fault_wq)
		goto fail;

	e->task = kthread_create(sim_hws_thread, e, "sim_hws/%d", gpu->index);
	if (IS_ERR(e->task)) {
		r = PTR_ERR(e->task);
		e->task = NULL;
		goto fail;
	}
	gpu->engine = e;
	wake_up_process(e->task);
	return 0;

fail:
	gpu->engine = e;
	sim_engine_fini(gpu);
	return r;
}

void sim_engine_fini(struct sim_gpu *gpu)
{
	struct sim_engine *e = gpu->engine;

	if (!e)
		return;
	if (e->task)
		kthread_stop(e->task);
	/* Drop the queues first: what the fault workers find then is nothing. */
	mutex_lock(&e->lock);
	sim_slots_clear(e);
	mutex_unlock(&e->lock);
	if (e->fault_wq)
		destroy_workqueue(e->fault_wq);
	gpu->engine = NULL;
	free_page((unsigned long)e->bounce);
	kvfree(e->rl.queues);
	kvfree(e->rl.procs);
	mutex_destroy(&e->lock);
	kvfree(e);
}

void sim_engine_reset(struct sim_gpu *gpu)
{
	struct sim_engine *e = gpu->engine;

	if (!e)
		return;
	mutex_lock(&e->lock);
	e->generation++;
	e->stats.resets++;
	e->hung = false;
	sim_runlist_drop(e);
	sim_slots_clear(e);
	memset(&e->hiq, 0, sizeof(e->hiq));
	memset(e->vmid_pasid, 0, sizeof(e->vmid_pasid));
	mutex_unlock(&e->lock);
	sim_wake(e);
}

void sim_engine_forget(struct sim_gpu *gpu, u64 gpu_addr, u64 size)
{
	struct sim_engine *e = gpu->engine;
	struct sim_slot *s, *tmp;

	if (!e)
		return;
	mutex_lock(&e->lock);
	list_for_each_entry_safe(s, tmp, &e->slots, link)
		if (s->mqd_addr >= gpu_addr && s->mqd_addr - gpu_addr < size)
			sim_drop_slot(e, s);
	if (e->hiq.loaded && e->hiq.ring_addr >= gpu_addr && e->hiq.ring_addr - gpu_addr < size)
		e->hiq.loaded = false;
	mutex_unlock(&e->lock);
}

int sim_engine_unmap_hiq(struct sim_gpu *gpu, u32 inst)
{
	struct sim_engine *e = gpu->engine;

	if (!e || inst >= SIM_MAX_XCCS)
		return 0;
	mutex_lock(&e->lock);
	e->hiq.mqd[inst] = NULL;
	e->hiq.regs[inst][SIM_REG_ACTIVE] = 0;
	if (inst == 0)
		e->hiq.loaded = false;
	mutex_unlock(&e->lock);
	return 0;
}

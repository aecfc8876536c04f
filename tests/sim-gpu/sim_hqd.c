// SPDX-License-Identifier: GPL-2.0
/*
 * Hardware queue slots: HQDs of the compute pipes and RLC queues of the SDMA engines.
 *
 * A compute queue takes the same HQD on every XCC, so one struct sim_slot stands for all of
 * them and only the register contents exist per XCC.
 *
 * Mapping and unmapping take time, queue by queue (sim_map_us, ...). The times of one batch are
 * added up and slept as deadlines, so that the imprecision of timers is paid once per batch and
 * not once per queue.
 */
#include "sim_engine.h"

u32 sim_sdma_engines(struct sim_engine *e)
{
	return min_t(u32, e->gpu->adev.sdma.num_instances, SIM_SDMA_ENGINES);
}

static u32 sim_sdma_rlcs(struct sim_engine *e)
{
	struct kfd_dev *kfd = e->gpu->adev.kfd.dev;
	u32 n = kfd ? kfd->device_info.num_sdma_queues_per_engine : 0;

	return min_t(u32, n ?: 8, SIM_SDMA_RLCS);
}

struct sim_slot *sim_find_mqd(struct sim_engine *e, u64 mqd_addr)
{
	struct sim_slot *s;

	sim_for_each_slot(e, s)
		if (s->mqd_addr == mqd_addr)
			return s;
	return NULL;
}

struct sim_slot *sim_find_doorbell(struct sim_engine *e, u32 doorbell)
{
	struct sim_slot *s;

	sim_for_each_slot(e, s)
		if (s->doorbell == doorbell)
			return s;
	return NULL;
}

/* Bit n of the queue mask of SET_RESOURCES is queue n % 8 of pipe n / 8. */
static bool sim_cp_slot_free(struct sim_engine *e, u32 i)
{
	return (e->queue_mask & BIT_ULL(i)) && !e->cp[i].used;
}

u32 sim_free_cp_slots(struct sim_engine *e)
{
	u32 i, n = 0;

	for (i = 0; i < SIM_MAX_CP_SLOTS; i++)
		n += sim_cp_slot_free(e, i);
	return n;
}

struct sim_slot *sim_take_slot(struct sim_engine *e, const struct sim_queue_desc *q)
{
	u32 i;

	if (!q->sdma) {
		for (i = 0; i < SIM_MAX_CP_SLOTS; i++)
			if (sim_cp_slot_free(e, i)) {
				e->cp[i].pipe = i / SIM_QUEUES_PER_PIPE;
				e->cp[i].queue = i % SIM_QUEUES_PER_PIPE;
				return &e->cp[i];
			}
		return NULL;
	}

	if (q->engine >= sim_sdma_engines(e))
		return NULL;
	for (i = 0; i < sim_sdma_rlcs(e); i++) {
		struct sim_slot *s = &e->sdma[q->engine * SIM_SDMA_RLCS + i];

		if (!s->used) {
			s->pipe = q->engine;
			s->queue = i;
			return s;
		}
	}
	return NULL;
}

/* false: reset or end of the thread while it slept */
static bool sim_take_time(struct sim_engine *e, u32 us)
{
	e->pace_ns += us * (u64)NSEC_PER_USEC;
	return sim_pause(e, e->pace_ns);
}

/* Puts a queue into this free slot. */
bool sim_map_slot(struct sim_engine *e, struct sim_slot *s, const struct sim_queue_desc *q,
		  u32 pasid, u32 vmid)
{
	u8 pipe = s->pipe, queue = s->queue;
	u32 serial;
	u64 start;

	memset(s, 0, offsetof(struct sim_slot, regs));
	s->pipe = pipe;
	s->queue = queue;
	s->pasid = pasid;
	s->vmid = vmid;
	s->doorbell = q->doorbell;
	s->mqd_addr = q->mqd_addr;
	s->is_static = q->is_static;
	s->serial = serial = ++e->next_serial;
	/* 64-bit doorbells within the BAR only, sim_take_doorbell() relies on it */
	if (s->doorbell & 1 || s->doorbell >= e->gpu->adev.doorbell.size / sizeof(u32))
		return false;
	if (!sim_mqd_load(e, s, q))
		return false;
	/* A process without a VM on this GPU any more: the queue is there but executes nothing. */
	s->vm = sim_vm_get(e->gpu, pasid);
	if (!s->vm)
		s->stop = SIM_GONE;

	s->used = true;
	s->frozen = true;
	list_add_tail(&s->link, &e->slots);
	if (!e->mapped++)
		e->gpu_ns = e->last_work_ns = sim_now();

	if (!sim_take_time(e, sim_map_us))
		return false;
	start = sim_now();
	if (s->serial == serial && s->used && sim_mqd_has_waves(s)) {
		if (!sim_take_time(e, sim_restore_us))
			return false;
		if (s->used && s->serial == serial)
			sim_mqd_stamp_restore(e, s, start, sim_now());
	}
	sim_exec_progress(e, sim_now());
	if (!s->used || s->serial != serial)
		return false;
	s->frozen = false;
	s->pending = true;	/* the doorbell may have been rung while it was unmapped */
	return true;
}

bool sim_map_queue(struct sim_engine *e, const struct sim_queue_desc *q, u32 pasid, u32 vmid)
{
	struct sim_slot *s = sim_take_slot(e, q);

	return s && sim_map_slot(e, s, q, pasid, vmid);
}

/* Empties a slot without writing anything back. The HQD registers keep their stale content. */
void sim_drop_slot(struct sim_engine *e, struct sim_slot *s)
{
	int i;

	if (e->cur_vm && e->cur_vm == s->vm)
		sim_umem_leave(e);
	if (s->vm)
		sim_vm_put(s->vm);
	s->vm = NULL;
	s->mqd = NULL;
	s->used = false;
	list_del_init(&s->link);
	e->mapped--;
	for (i = 0; i < e->gpu->num_xcc; i++) {
		s->regs[i][SIM_REG_ACTIVE] = 0;
		s->regs[i][SIM_REG_DOORBELL] &= ~(BIT(30) | BIT(29));
	}
}

void sim_slots_clear(struct sim_engine *e)
{
	struct sim_slot *s, *tmp;

	list_for_each_entry_safe(s, tmp, &e->slots, link)
		sim_drop_slot(e, s);
	memset(e->cp, 0, sizeof(e->cp));
	memset(e->sdma, 0, sizeof(e->sdma));
}

static bool sim_selected(struct sim_slot *s, enum sim_unmap_sel sel, u32 param)
{
	switch (sel) {
	case SIM_UNMAP_PASID:
		return s->pasid == param;
	case SIM_UNMAP_ALL:
		return true;
	case SIM_UNMAP_DYNAMIC:
		return !s->is_static;
	case SIM_UNMAP_DOORBELL:
		return s->doorbell == param;
	}
	return false;
}

/* Preempts one frozen queue. false: reset or end of the thread in between. */
static bool sim_unmap_slot(struct sim_engine *e, struct sim_slot *s, bool reset)
{
	u32 serial = s->serial;
	u64 start;

	if (!sim_take_time(e, sim_unmap_us))
		return false;
	if (!s->used || s->serial != serial)
		return true;	/* sim_engine_forget() took it */
	if (reset) {
		/* the waves are killed, nothing is left to go on with */
		s->busy = false;
		s->finishing = false;
	} else if (sim_mqd_has_waves(s)) {
		start = sim_now();
		if (!sim_take_time(e, sim_save_us))
			return false;
		if (!s->used || s->serial != serial)
			return true;
		sim_mqd_stamp_save(e, s, start, sim_now());
	}
	sim_mqd_store(e, s);
	sim_drop_slot(e, s);
	sim_exec_progress(e, sim_now());
	return true;
}

bool sim_unmap_queues(struct sim_engine *e, enum sim_unmap_sel sel, u32 param, bool reset)
{
	struct sim_slot *s;
	bool found;

	/* The preemption request reaches all of them at once: they all stop here. */
	e->pace_ns = sim_now();
	sim_exec_progress(e, e->pace_ns);
	sim_for_each_slot(e, s)
		if (sim_selected(s, sel, param) && !sim_fault_refuses(e, s))
			s->frozen = true;

	/* The list may change while sim_unmap_slot() sleeps, hence from the start each time. */
	do {
		found = false;
		sim_for_each_slot(e, s) {
			if (!s->frozen)
				continue;
			if (!sim_unmap_slot(e, s, reset))
				return false;
			found = true;
			break;
		}
	} while (found);
	return true;
}

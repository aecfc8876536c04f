// SPDX-License-Identifier: GPL-2.0
/*
 * Run lists, as pm_create_runlist_ib() (6.12 kfd_packet_manager.c) builds them: MAP_PROCESS,
 * then MAP_QUEUES for each of its queues, for every process; a RUN_LIST packet at the end
 * when amdkfd considers the list over-subscribed.
 *
 * The list is copied at once, because amdkfd frees the buffer after the next unmap. If it does
 * not fit into the HQD slots or VMIDs, it is mapped in windows: every quantum all queues are
 * unmapped and as many as fit are mapped, starting with the first one that had no turn.
 */
#include "sim_engine.h"
#include "kfd_pm4_headers_ai.h"
#include "kfd_pm4_opcodes.h"

static bool sim_rl_add_process(struct sim_engine *e, const u32 *pkt)
{
	struct sim_runlist *rl = &e->rl;

	if (rl->num_procs == SIM_RL_PROCS)
		return false;
	/* The pasid is at the same place in all variants of the packet. */
	rl->procs[rl->num_procs++] = (struct sim_rl_proc) {
		.pasid = ((const struct pm4_mes_map_process *)pkt)->bitfields2.pasid,
	};
	e->stats.map_process++;
	return true;
}

/* pm_map_queues_v9() encodes SDMA engines in two ways. false: no such engine. */
static bool sim_rl_engine(const struct pm4_mes_map_queues *p, struct sim_queue_desc *q)
{
	u32 sel = p->bitfields2.engine_sel;

	switch (p->bitfields2.extended_engine_sel) {
	case extended_engine_sel__mes_map_queues__legacy_engine_sel:
		q->sdma = sel != engine_sel__mes_map_queues__compute_vi;
		q->engine = q->sdma ? sel - engine_sel__mes_map_queues__sdma0_vi : 0;
		return !q->sdma || sel == engine_sel__mes_map_queues__sdma0_vi ||
		       sel == engine_sel__mes_map_queues__sdma1_vi;
	case extended_engine_sel__mes_map_queues__sdma0_to_7_sel:
		q->sdma = true;
		q->engine = sel;
		return true;
	case extended_engine_sel__mes_map_queues__sdma8_to_15_sel:
		q->sdma = true;
		q->engine = 8 + sel;
		return true;
	default:
		return false;
	}
}

static bool sim_rl_add_queue(struct sim_engine *e, const u32 *pkt)
{
	const struct pm4_mes_map_queues *p = (const void *)pkt;
	struct sim_runlist *rl = &e->rl;
	struct sim_queue_desc *q = &rl->queues[rl->num_queues];
	u32 type = p->bitfields2.queue_type;

	if (!rl->num_procs || rl->num_queues == SIM_RL_QUEUES)
		return false;
	memset(q, 0, sizeof(*q));
	if (!sim_rl_engine(p, q))
		return false;
	q->proc = rl->num_procs - 1;
	q->doorbell = p->bitfields3.doorbell_offset;
	q->mqd_addr = (u64)p->mqd_addr_hi << 32 | p->mqd_addr_lo;
	q->wptr_addr = (u64)p->wptr_addr_hi << 32 | p->wptr_addr_lo;
	q->is_static = type == queue_type__mes_map_queues__normal_latency_static_queue_vi ||
		       type == queue_type__mes_map_queues__low_latency_static_queue_vi;
	rl->num_queues++;
	e->stats.map_queues++;
	return true;
}

void sim_runlist_drop(struct sim_engine *e)
{
	e->rl.num_procs = 0;
	e->rl.num_queues = 0;
	e->rl.window = 0;
	e->rl.chained = false;
	e->rl.rotating = false;
}

/*
 * Over-subscribed lists are replaced with every queue that is created, updated or destroyed.
 * Going on with the queue whose turn it is keeps the last ones of the list from starving.
 */
static void sim_rl_resume_window(struct sim_runlist *rl)
{
	u32 i;

	for (i = 0; i < rl->num_queues; i++)
		if (rl->queues[i].mqd_addr == rl->next_mqd)
			rl->window = i;
}

bool sim_runlist_parse(struct sim_engine *e, const u32 *pkt)
{
	const struct pm4_mes_runlist *p = (const void *)pkt;
	u32 size = p->bitfields4.ib_size;
	const u32 *ib = sim_gart_to_cpu(e->gpu, (u64)p->ib_base_hi << 32 | (p->ordinal2 & ~3u));
	u32 pos, len;

	e->stats.run_lists++;
	sim_runlist_drop(e);
	e->rl.process_cnt = p->bitfields4.process_cnt;
	if (!ib && size)
		return false;

	for (pos = 0; pos < size; pos += len) {
		union PM4_MES_TYPE_3_HEADER hdr = { .u32All = ib[pos] };
		bool ok;

		/* The counters that size the buffer may be larger than the content. */
		if (!hdr.u32All)
			break;
		len = hdr.count + 2;
		if (hdr.type != PM4_TYPE_3 || len > size - pos)
			return false;

		switch (hdr.opcode) {
		case IT_NOP:
			ok = true;
			break;
		case IT_MAP_PROCESS:
			ok = len >= 2 && sim_rl_add_process(e, ib + pos);
			break;
		case IT_MAP_QUEUES:
			ok = len * 4 >= sizeof(struct pm4_mes_map_queues) &&
			     sim_rl_add_queue(e, ib + pos);
			break;
		case IT_RUN_LIST:
			/* chained to its own start: over-subscribed; nothing follows */
			e->rl.chained = true;
			size = pos;
			ok = true;
			break;
		default:
			ok = false;
		}
		if (!ok)
			return false;
	}
	sim_rl_resume_window(&e->rl);
	return true;
}

/* VMIDs that queues hold which stayed mapped (static ones). */
static u32 sim_rl_used_vmids(struct sim_engine *e)
{
	struct sim_runlist *rl = &e->rl;
	struct sim_slot *s;
	u32 used = 0, i;

	for (i = 0; i < rl->num_procs; i++)
		rl->procs[i].vmid = 0;
	sim_for_each_slot(e, s) {
		used |= BIT(s->vmid);
		for (i = 0; i < rl->num_procs; i++)
			if (rl->procs[i].pasid == s->pasid)
				rl->procs[i].vmid = s->vmid;
	}
	return used;
}

/* Maps the next window of the list. */
void sim_runlist_map(struct sim_engine *e)
{
	struct sim_runlist *rl = &e->rl;
	u32 vmids = e->vmid_mask & ~sim_rl_used_vmids(e);
	u32 procs = 0, limit = rl->process_cnt ?: 1;
	u32 free_slots = sim_free_cp_slots(e);
	u32 generation = e->generation;
	u32 n = rl->num_queues, i;

	e->pace_ns = sim_now();
	for (i = 0; i < n; i++) {
		struct sim_queue_desc *q = &rl->queues[(rl->window + i) % n];
		struct sim_rl_proc *p = &rl->procs[q->proc];

		if (sim_find_mqd(e, q->mqd_addr))
			continue;
		if (!q->sdma && !free_slots)
			break;
		if (!p->vmid) {
			if (procs == limit || !vmids)
				break;
			p->vmid = __ffs(vmids);
			vmids &= vmids - 1;
			procs++;
		}
		/* A queue that cannot be mapped (no MQD, no SDMA slot) does not stop the others. */
		if (sim_map_queue(e, q, p->pasid, p->vmid) && !q->sdma)
			free_slots--;
		if (e->generation != generation)
			return;
	}

	rl->rotating = i < n;
	rl->next_mqd = 0;
	if (rl->rotating) {
		rl->window = (rl->window + i) % n;
		rl->next_mqd = rl->queues[rl->window].mqd_addr;
		rl->next_switch_ns = sim_now() + max(sim_quantum_ms, 1u) * (u64)NSEC_PER_MSEC;
	}
}

void sim_runlist_rotate(struct sim_engine *e, u64 now_ns)
{
	u32 generation = e->generation;

	if (now_ns < e->rl.next_switch_ns)
		return;
	sim_exec_settle(e, now_ns);
	if (!sim_unmap_queues(e, SIM_UNMAP_DYNAMIC, 0, false) || e->generation != generation)
		return;
	e->stats.rotations++;
	sim_runlist_map(e);
}

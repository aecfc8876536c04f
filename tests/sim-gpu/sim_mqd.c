// SPDX-License-Identifier: GPL-2.0
/*
 * Memory queue descriptors: what the firmware takes from an MQD when it maps a queue and what
 * it writes back. Compute MQDs of gfx9 (include/v9_structs.h) are used for all generations; the
 * dwords touched here are at the same place in v10, v11 and v12.
 *
 * State that real hardware keeps in the context save area goes into dwords that all these
 * generations reserve, so that a queue goes on exactly where it was preempted.
 */
#include "sim_engine.h"
#include "v9_structs.h"

#define SIM_SAVED_MAGIC		0x53494d51	/* "SIMQ" */
#define SIM_SAVED_CP_DW		336
#define SIM_SAVED_SDMA_DW	100

/* CP_HQD_PQ_CONTROL */
#define SIM_PQ_SIZE(v)		((v) & 0x3f)
#define SIM_PQ_QUEUE_FULL_EN	BIT(14)		/* set for AQL queues only, update_mqd() */
#define SIM_PQ_EMPTY		BIT(15)
/* CP_HQD_PQ_DOORBELL_CONTROL: DOORBELL_EN, DOORBELL_SCHD_HIT */
#define SIM_DB_ENABLED		(BIT(30) | BIT(29))
/* CP_MQD_CONNECT_START_TIME_HI as seen on hardware: top bit set */
#define SIM_CONNECTED		BIT(31)

/* A busy queue saves this much per XCC: 8 waves of 8 and 512 bytes. */
#define SIM_CTL_STACK_BYTES	64
#define SIM_WAVE_BYTES		4096

struct sim_saved {
	u32 magic;
	u32 busy;
	u64 rptr;
	u64 work;
	u64 start_ns;
	u64 progress;
};

static_assert(sizeof(struct sim_saved) <= 16 * sizeof(u32));

u64 sim_gpu_clock(void)
{
	return div_u64(sim_now(), 10);
}

static struct sim_saved *sim_saved(struct sim_slot *s)
{
	u32 dw = s->kind == SIM_SDMA ? SIM_SAVED_SDMA_DW : SIM_SAVED_CP_DW;

	return (struct sim_saved *)((u32 *)s->mqd + dw);
}

static struct v9_mqd *sim_cp_mqd(struct sim_slot *s, int xcc)
{
	return s->mqd + (size_t)s->stride * xcc;
}

/* Where the dwords of an SDMA MQD are that moved between generations. */
struct sim_sdma_layout {
	u8 rptr_addr_hi, rptr_addr_lo;
};

static struct sim_sdma_layout sim_sdma_layout(struct sim_engine *e)
{
	switch (amdgpu_ip_version(&e->gpu->adev, GC_HWIP, 0) >> 24) {
	case 11:
		return (struct sim_sdma_layout) { .rptr_addr_hi = 7, .rptr_addr_lo = 8 };
	case 12:
		return (struct sim_sdma_layout) { .rptr_addr_hi = 8, .rptr_addr_lo = 7 };
	default:
		return (struct sim_sdma_layout) { .rptr_addr_hi = 8, .rptr_addr_lo = 9 };
	}
}

/* Goes on where the queue was preempted, or starts a new one. */
static void sim_resume(struct sim_engine *e, struct sim_slot *s)
{
	struct sim_saved *saved = sim_saved(s);

	if (saved->magic != SIM_SAVED_MAGIC) {
		/*
		 * Never mapped before. Whatever the doorbell holds was written for an earlier
		 * queue: start from the write pointer in memory, which is set before the doorbell.
		 */
		sim_doorbell_write(e->gpu, s->doorbell, SIM_DOORBELL_IDLE);
		memset(saved, 0, sizeof(*saved));
		saved->magic = SIM_SAVED_MAGIC;
	}
	if (s->kind != SIM_SDMA)
		s->rptr = saved->rptr;
	s->wptr = s->rptr;
	s->reported = s->rptr;
	s->busy = saved->busy;
	s->work = saved->work;
	s->start_ns = saved->start_ns;
	s->progress = saved->progress;
}

static bool sim_load_sdma(struct sim_engine *e, struct sim_slot *s, const struct sim_queue_desc *q)
{
	struct sim_sdma_layout at = sim_sdma_layout(e);
	struct v9_sdma_mqd *m = s->mqd;
	const u32 *dw = s->mqd;

	s->kind = SIM_SDMA;
	s->ring = ((u64)m->sdmax_rlcx_rb_base_hi << 32 | m->sdmax_rlcx_rb_base) << 8;
	s->ring_bytes = 4ull << min(m->sdmax_rlcx_rb_cntl >> 1 & 0x1f, 28u);
	s->rptr_addr = (u64)dw[at.rptr_addr_hi] << 32 | dw[at.rptr_addr_lo];
	s->wptr_addr = q->wptr_addr;
	s->rptr = (u64)m->sdmax_rlcx_rb_rptr_hi << 32 | m->sdmax_rlcx_rb_rptr;
	s->read_wptr = s->wptr_addr != 0;
	return true;
}

static bool sim_load_cp(struct sim_engine *e, struct sim_slot *s)
{
	struct v9_mqd *m = s->mqd;
	u32 size = SIM_PQ_SIZE(m->cp_hqd_pq_control);
	u64 now = sim_gpu_clock();
	int i;

	if (e->gpu->num_xcc > 1)
		s->stride = m->cp_mqd_stride_size;
	if (e->gpu->num_xcc > 1 && s->stride < sizeof(*m))
		return false;
	s->kind = m->cp_hqd_pq_control & SIM_PQ_QUEUE_FULL_EN ? SIM_AQL : SIM_PM4;
	s->ring = ((u64)m->cp_hqd_pq_base_hi << 32 | m->cp_hqd_pq_base_lo) << 8;
	s->ring_bytes = 8ull << min(size, 28u);
	s->rptr_addr = (u64)m->cp_hqd_pq_rptr_report_addr_hi << 32 |
		       m->cp_hqd_pq_rptr_report_addr_lo;
	s->wptr_addr = (u64)m->cp_hqd_pq_wptr_poll_addr_hi << 32 |
		       m->cp_hqd_pq_wptr_poll_addr_lo;

	for (i = 0; i < e->gpu->num_xcc; i++) {
		m = sim_cp_mqd(s, i);
		m->cp_hqd_active = 1;
		/* VMID and IB_VMID */
		m->cp_hqd_vmid = s->vmid | s->vmid << 8;
		m->cp_hqd_pq_doorbell_control |= SIM_DB_ENABLED;
		m->cp_mqd_connect_start_time_lo = lower_32_bits(now);
		m->cp_mqd_connect_start_time_hi = upper_32_bits(now) | SIM_CONNECTED;
		memcpy(s->regs[i], &m->cp_mqd_base_addr_lo, sizeof(s->regs[i]));
	}
	return true;
}

bool sim_mqd_load(struct sim_engine *e, struct sim_slot *s, const struct sim_queue_desc *q)
{
	s->mqd = sim_gart_to_cpu(e->gpu, q->mqd_addr);
	if (!s->mqd)
		return false;
	if (q->sdma ? !sim_load_sdma(e, s, q) : !sim_load_cp(e, s))
		return false;
	if (s->kind == SIM_AQL && s->ring_bytes < 64)
		return false;
	sim_resume(e, s);
	sim_slot_sync_regs(e, s);
	return true;
}

/* Read pointer as the register has it: dwords within the ring. */
static u32 sim_rptr_reg(struct sim_slot *s)
{
	u64 dw = s->kind == SIM_AQL ? s->rptr * 16 : s->rptr;

	return dw & (s->ring_bytes / 4 - 1);
}

void sim_slot_sync_regs(struct sim_engine *e, struct sim_slot *s)
{
	u64 wptr = s->kind == SIM_AQL ? s->wptr * 16 : s->wptr;
	int i;

	if (s->kind == SIM_SDMA)
		return;
	for (i = 0; i < e->gpu->num_xcc; i++) {
		u32 *r = s->regs[i];

		r[SIM_REG_PQ_RPTR] = sim_rptr_reg(s);
		r[SIM_REG_WPTR_LO] = lower_32_bits(wptr);
		r[SIM_REG_WPTR_HI] = upper_32_bits(wptr);
		if (s->rptr == s->wptr)
			r[SIM_REG_PQ_CONTROL] |= SIM_PQ_EMPTY;
		else
			r[SIM_REG_PQ_CONTROL] &= ~SIM_PQ_EMPTY;
	}
}

bool sim_mqd_has_waves(struct sim_slot *s)
{
	return s->kind == SIM_AQL && s->busy;
}

void sim_mqd_stamp_save(struct sim_engine *e, struct sim_slot *s, u64 start_ns, u64 end_ns)
{
	u64 start = div_u64(start_ns, 10), end = div_u64(end_ns, 10);
	int i;

	for (i = 0; i < e->gpu->num_xcc; i++) {
		struct v9_mqd *m = sim_cp_mqd(s, i);

		m->cp_mqd_save_start_time_lo = lower_32_bits(start);
		m->cp_mqd_save_start_time_hi = upper_32_bits(start);
		m->cp_mqd_save_end_time_lo = lower_32_bits(end);
		m->cp_mqd_save_end_time_hi = upper_32_bits(end);
	}
}

void sim_mqd_stamp_restore(struct sim_engine *e, struct sim_slot *s, u64 start_ns, u64 end_ns)
{
	u64 start = div_u64(start_ns, 10), end = div_u64(end_ns, 10);
	int i;

	for (i = 0; i < e->gpu->num_xcc; i++) {
		struct v9_mqd *m = sim_cp_mqd(s, i);

		m->cp_mqd_restore_start_time_lo = lower_32_bits(start);
		m->cp_mqd_restore_start_time_hi = upper_32_bits(start);
		m->cp_mqd_restore_end_time_lo = lower_32_bits(end);
		m->cp_mqd_restore_end_time_hi = upper_32_bits(end);
	}
}

static void sim_store_cp(struct sim_engine *e, struct sim_slot *s)
{
	bool waves = sim_mqd_has_waves(s);
	u64 now = sim_gpu_clock(), count;
	int i;

	for (i = 0; i < e->gpu->num_xcc; i++) {
		struct v9_mqd *m = sim_cp_mqd(s, i);
		u32 *r = s->regs[i];

		m->cp_hqd_active = 0;
		m->cp_hqd_pq_rptr = r[SIM_REG_PQ_RPTR];
		m->cp_hqd_pq_wptr_lo = r[SIM_REG_WPTR_LO];
		m->cp_hqd_pq_wptr_hi = r[SIM_REG_WPTR_HI];
		m->cp_hqd_pq_control = r[SIM_REG_PQ_CONTROL];
		m->cp_mqd_readindex_lo = lower_32_bits(s->rptr);
		m->cp_mqd_readindex_hi = upper_32_bits(s->rptr);
		m->cp_mqd_connect_end_time_lo = lower_32_bits(now);
		m->cp_mqd_connect_end_time_hi = upper_32_bits(now);
		m->cp_mqd_connect_end_pq_rptr = r[SIM_REG_PQ_RPTR];
		m->cp_mqd_connect_end_pq_wptr = r[SIM_REG_WPTR_LO];
		count = ((u64)m->cp_compute_csinvoc_count_hi << 32 |
			 m->cp_compute_csinvoc_count_lo) + s->dispatches;
		m->cp_compute_csinvoc_count_lo = lower_32_bits(count);
		m->cp_compute_csinvoc_count_hi = upper_32_bits(count);

		/* get_wave_state() derives the sizes it reports from these. Both stacks grow
		 * away from the end of the control stack. */
		if (m->cp_hqd_cntl_stack_size >= SIM_CTL_STACK_BYTES) {
			m->cp_hqd_cntl_stack_offset = m->cp_hqd_cntl_stack_size -
						      (waves ? SIM_CTL_STACK_BYTES : 0);
			m->cp_hqd_wg_state_offset = m->cp_hqd_cntl_stack_size +
						    (waves ? SIM_WAVE_BYTES : 0);
		}
	}
}

void sim_mqd_store(struct sim_engine *e, struct sim_slot *s)
{
	struct sim_saved *saved = sim_saved(s);

	/* Its completion is half written: nothing of it may happen twice. */
	if (s->finishing && s->step) {
		s->finishing = false;
		s->rptr++;
	}
	/* Executed, but its completion could not be written yet: no work left. */
	if (s->finishing) {
		s->busy = true;
		s->work = 0;
	}

	sim_slot_sync_regs(e, s);
	saved->busy = s->busy;
	saved->work = s->busy ? s->work : 0;
	saved->start_ns = s->start_ns;
	saved->progress = s->progress;
	saved->rptr = s->rptr;
	if (s->kind == SIM_SDMA) {
		struct v9_sdma_mqd *m = s->mqd;

		m->sdmax_rlcx_rb_rptr = lower_32_bits(s->rptr);
		m->sdmax_rlcx_rb_rptr_hi = upper_32_bits(s->rptr);
		m->sdmax_rlcx_rb_wptr = lower_32_bits(s->wptr);
		m->sdmax_rlcx_rb_wptr_hi = upper_32_bits(s->wptr);
	} else {
		sim_store_cp(e, s);
	}
}

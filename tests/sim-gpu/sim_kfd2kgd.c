// SPDX-License-Identifier: GPL-2.0
/*
 * struct kfd2kgd_calls: the functions by which amdkfd reaches the hardware directly. One set
 * serves all graphics generations; what the simulation does not model answers success.
 *
 * With the hardware scheduler amdkfd loads only the HIQ this way. hqd_load and friends are used
 * with sched_policy=2 (no scheduler) and for queue resets.
 */
#include "sim_engine.h"
#include "kfd_device_queue_manager.h"
#include "v9_structs.h"
#include "gc/gc_9_0_offset.h"

/* CP_IQ_WAIT_TIME2.SCH_WAVE */
#define SIM_SCH_WAVE_SHIFT	8
#define SIM_SCH_WAVE_MASK	0x0000ff00

static struct sim_engine *engine_of(struct amdgpu_device *adev)
{
	return adev_to_sim(adev)->engine;
}

/* Slot of an HQD, NULL if there is no such. */
static struct sim_slot *cp_slot(struct sim_engine *e, u32 pipe, u32 queue)
{
	if (pipe >= SIM_PIPES || queue >= SIM_QUEUES_PER_PIPE)
		return NULL;
	return &e->cp[pipe * SIM_QUEUES_PER_PIPE + queue];
}

/* ---- HIQ ---- */

static int sim_hiq_mqd_load(struct amdgpu_device *adev, void *mqd, u32 pipe_id, u32 queue_id,
			    u32 doorbell_off, u32 inst)
{
	struct sim_engine *e = engine_of(adev);
	struct sim_hiq *hiq = &e->hiq;
	struct v9_mqd *m = mqd;

	if (inst >= SIM_MAX_XCCS)
		return -EINVAL;
	mutex_lock(&e->lock);
	hiq->mqd[inst] = mqd;
	memcpy(hiq->regs[inst], &m->cp_mqd_base_addr_lo, sizeof(hiq->regs[inst]));
	hiq->regs[inst][SIM_REG_ACTIVE] = 1;
	hiq->regs[inst][SIM_REG_DOORBELL] |= BIT(30);
	m->queue_doorbell_id0 = 0;
	/* Only the first XCC of the node reads the ring. */
	if (inst == 0) {
		hiq->ring_addr = ((u64)m->cp_hqd_pq_base_hi << 32 | m->cp_hqd_pq_base_lo) << 8;
		hiq->ring_dw = 2u << min(m->cp_hqd_pq_control & 0x3f, 20u);
		hiq->rptr_addr = (u64)m->cp_hqd_pq_rptr_report_addr_hi << 32 |
				 m->cp_hqd_pq_rptr_report_addr_lo;
		hiq->doorbell = doorbell_off;
		hiq->rptr = 0;
		sim_doorbell_write(e->gpu, doorbell_off, 0);
		hiq->loaded = true;
		e->hung = false;
	}
	mutex_unlock(&e->lock);
	return 0;
}

/* ---- HQDs, without scheduler ---- */

static int sim_set_pasid_vmid_mapping(struct amdgpu_device *adev, u32 pasid, unsigned int vmid,
				      u32 inst)
{
	struct sim_engine *e = engine_of(adev);

	if (vmid >= ARRAY_SIZE(e->vmid_pasid))
		return -EINVAL;
	mutex_lock(&e->lock);
	e->vmid_pasid[vmid] = pasid;
	mutex_unlock(&e->lock);
	return 0;
}

static int sim_hqd_load(struct amdgpu_device *adev, void *mqd, u32 pipe_id, u32 queue_id,
			u32 __user *wptr, u32 wptr_shift, u32 wptr_mask,
			struct mm_struct *mm, u32 inst)
{
	struct sim_engine *e = engine_of(adev);
	struct v9_mqd *m = mqd;
	struct sim_queue_desc q = {
		.doorbell = m->cp_hqd_pq_doorbell_control >> 2 & 0x3ffffff,
		.mqd_addr = (u64)m->cp_mqd_base_addr_hi << 32 | m->cp_mqd_base_addr_lo,
	};
	u32 vmid = m->cp_hqd_vmid & 0xf;
	struct sim_slot *s = cp_slot(e, pipe_id, queue_id);
	int r = 0;

	/* Called per XCC; the slot stands for all of them. */
	if (inst != 0)
		return 0;
	if (!s)
		return -EINVAL;
	mutex_lock(&e->lock);
	s->pipe = pipe_id;
	s->queue = queue_id;
	e->pace_ns = sim_now();
	if (s->used || !sim_map_slot(e, s, &q, e->vmid_pasid[vmid], vmid))
		r = -EBUSY;
	mutex_unlock(&e->lock);
	sim_wake(e);
	return r;
}

static bool sim_hqd_is_occupied(struct amdgpu_device *adev, u64 queue_address, u32 pipe_id,
				u32 queue_id, u32 inst)
{
	struct sim_engine *e = engine_of(adev);
	struct sim_slot *s = cp_slot(e, pipe_id, queue_id);
	bool r;

	mutex_lock(&e->lock);
	r = s && s->used && s->ring == queue_address;
	mutex_unlock(&e->lock);
	return r;
}

static int sim_unmap_one(struct sim_engine *e, u64 mqd_addr, bool reset)
{
	struct sim_slot *s;
	int r = 0;

	mutex_lock(&e->lock);
	s = sim_find_mqd(e, mqd_addr);
	if (s && !sim_unmap_queues(e, SIM_UNMAP_DOORBELL, s->doorbell, reset))
		r = -EIO;
	if (!r && sim_find_mqd(e, mqd_addr))
		r = -ETIME;	/* refused */
	mutex_unlock(&e->lock);
	sim_wake(e);
	return r;
}

static int sim_hqd_destroy(struct amdgpu_device *adev, void *mqd, enum kfd_preempt_type type,
			   unsigned int timeout, u32 pipe_id, u32 queue_id, u32 inst)
{
	struct v9_mqd *m = mqd;

	if (inst != 0)
		return 0;
	return sim_unmap_one(engine_of(adev),
			     (u64)m->cp_mqd_base_addr_hi << 32 | m->cp_mqd_base_addr_lo,
			     type == KFD_PREEMPT_TYPE_WAVEFRONT_RESET);
}

/* ---- SDMA, without scheduler. amdkfd passes the CPU address of the MQD only. ---- */

static struct sim_slot *sdma_slot(struct sim_engine *e, void *mqd)
{
	struct sim_slot *s;

	sim_for_each_slot(e, s)
		if (s->mqd == mqd)
			return s;
	return NULL;
}

static int sim_hqd_sdma_load(struct amdgpu_device *adev, void *mqd, u32 __user *wptr,
			     struct mm_struct *mm)
{
	struct sim_engine *e = engine_of(adev);
	struct kfd_node *node = adev->kfd.dev->nodes[0];
	struct kfd_mem_obj *obj = &node->dqm->hiq_sdma_mqd;
	struct v9_sdma_mqd *m = mqd;
	struct sim_queue_desc q = {
		.sdma = true,
		.engine = m->sdma_engine_id,
		.doorbell = m->sdmax_rlcx_doorbell_offset >> 2 & 0x3ffffff,
		/* all SDMA MQDs lie in one buffer, allocate_hiq_sdma_mqd() */
		.mqd_addr = obj->gpu_addr + ((u8 *)mqd - (u8 *)obj->cpu_ptr),
		.wptr_addr = (uintptr_t)wptr,
	};
	u32 vmid = m->sdmax_rlcx_rb_cntl >> 24 & 0xf;	/* RB_VMID */
	int r;

	mutex_lock(&e->lock);
	e->pace_ns = sim_now();
	r = sim_map_queue(e, &q, e->vmid_pasid[vmid], vmid) ? 0 : -EBUSY;
	mutex_unlock(&e->lock);
	sim_wake(e);
	return r;
}

static bool sim_hqd_sdma_is_occupied(struct amdgpu_device *adev, void *mqd)
{
	struct sim_engine *e = engine_of(adev);
	bool r;

	mutex_lock(&e->lock);
	r = sdma_slot(e, mqd) != NULL;
	mutex_unlock(&e->lock);
	return r;
}

static int sim_hqd_sdma_destroy(struct amdgpu_device *adev, void *mqd, unsigned int timeout)
{
	struct sim_engine *e = engine_of(adev);
	struct sim_slot *s;
	u64 addr;

	mutex_lock(&e->lock);
	s = sdma_slot(e, mqd);
	addr = s ? s->mqd_addr : 0;
	mutex_unlock(&e->lock);
	return addr ? sim_unmap_one(e, addr, false) : 0;
}

/* ---- dumps ---- */

static int sim_hqd_dump(struct amdgpu_device *adev, u32 pipe_id, u32 queue_id,
			u32 (**dump)[2], u32 *n_regs, u32 inst)
{
	return sim_regs_dump_hqd(engine_of(adev), pipe_id, queue_id, inst, dump, n_regs);
}

static int sim_hqd_sdma_dump(struct amdgpu_device *adev, u32 engine_id, u32 queue_id,
			     u32 (**dump)[2], u32 *n_regs)
{
	return sim_regs_dump_sdma(engine_of(adev), engine_id, queue_id, dump, n_regs);
}

/* ---- queue reset after a refused preemption, reset_queues_on_hws_hang() ---- */

static u64 sim_hqd_get_pq_addr(struct amdgpu_device *adev, u32 pipe_id, u32 queue_id, u32 inst)
{
	struct sim_engine *e = engine_of(adev);
	struct sim_slot *s = cp_slot(e, pipe_id, queue_id);
	u64 addr = 0;

	mutex_lock(&e->lock);
	if (s && s->used && inst < SIM_MAX_XCCS && s->regs[inst][SIM_REG_ACTIVE])
		addr = s->ring;
	mutex_unlock(&e->lock);
	return addr;
}

/* Resets the queue on one XCC; it is gone when that is done on all. */
static u64 sim_hqd_reset(struct amdgpu_device *adev, u32 pipe_id, u32 queue_id, u32 inst,
			 unsigned int utimeout)
{
	struct sim_engine *e = engine_of(adev);
	struct sim_slot *s = cp_slot(e, pipe_id, queue_id);
	bool active = false;
	u64 addr = 0;
	int i;

	mutex_lock(&e->lock);
	if (s && s->used && inst < SIM_MAX_XCCS && s->regs[inst][SIM_REG_ACTIVE]) {
		addr = s->ring;
		s->regs[inst][SIM_REG_ACTIVE] = 0;
		s->frozen = true;
		for (i = 0; i < e->gpu->num_xcc; i++)
			active |= s->regs[i][SIM_REG_ACTIVE];
		if (!active)
			sim_drop_slot(e, s);
	}
	mutex_unlock(&e->lock);
	return addr;
}

/* ---- state ---- */

/* The dispatches in progress share all CUs, so each has its part of the wave slots. */
static void sim_get_cu_occupancy(struct amdgpu_device *adev, struct kfd_cu_occupancy *occupancy,
				 int *max_waves_per_cu, u32 inst)
{
	struct sim_engine *e = engine_of(adev);
	u32 waves, busy = 0, i;

	*max_waves_per_cu = adev->gfx.cu_info.simd_per_cu * adev->gfx.cu_info.max_waves_per_simd;
	mutex_lock(&e->lock);
	for (i = 0; i < SIM_MAX_CP_SLOTS; i++)
		busy += e->cp[i].used && e->cp[i].busy;
	waves = SIM_NUM_SE * SIM_CU_PER_SE * *max_waves_per_cu / max(busy, 1u);
	for (i = 0; i < SIM_MAX_CP_SLOTS; i++) {
		if (!e->cp[i].used || !e->cp[i].busy)
			continue;
		occupancy[i].wave_cnt = waves;
		occupancy[i].doorbell_off = e->cp[i].doorbell;
	}
	mutex_unlock(&e->lock);
}

static bool sim_get_atc_vmid_pasid(struct amdgpu_device *adev, u8 vmid, u16 *p_pasid)
{
	struct sim_engine *e = engine_of(adev);
	struct sim_slot *s;

	*p_pasid = 0;
	mutex_lock(&e->lock);
	if (vmid < ARRAY_SIZE(e->vmid_pasid))
		*p_pasid = e->vmid_pasid[vmid];
	sim_for_each_slot(e, s)
		if (s->vmid == vmid)
			*p_pasid = s->pasid;
	mutex_unlock(&e->lock);
	return *p_pasid != 0;
}

static void sim_get_iq_wait_times(struct amdgpu_device *adev, u32 *wait_times, u32 inst)
{
	*wait_times = READ_ONCE(engine_of(adev)->wait_times);
}

static void sim_build_grace_period(struct amdgpu_device *adev, u32 wait_times, u32 grace_period,
				   u32 *reg_offset, u32 *reg_data)
{
	/* 0 would be forever to the CP; kgd_gfx_v9_build_grace_period_packet_info() */
	if (!grace_period)
		grace_period = 1;
	*reg_data = (wait_times & ~SIM_SCH_WAVE_MASK) |
		    (grace_period << SIM_SCH_WAVE_SHIFT & SIM_SCH_WAVE_MASK);
	*reg_offset = 0x2000 + mmCP_IQ_WAIT_TIME2;
}

/* ---- nothing to do ---- */

static void sim_program_sh_mem(struct amdgpu_device *adev, u32 vmid, u32 config, u32 base,
			       u32 limit, u32 bases, u32 inst)
{
}

static int sim_init_interrupts(struct amdgpu_device *adev, u32 pipe_id, u32 inst)
{
	return 0;
}

static int sim_wave_control(struct amdgpu_device *adev, u32 gfx_index, u32 sq_cmd, u32 inst)
{
	return 0;
}

static void sim_set_page_table(struct amdgpu_device *adev, u32 vmid, u64 base)
{
}

static void sim_trap_handler(struct amdgpu_device *adev, u32 vmid, u64 tba, u64 tma, u32 inst)
{
}

static u32 sim_enable_debug_trap(struct amdgpu_device *adev, bool restore, u32 vmid)
{
	return 0;
}

static u32 sim_disable_debug_trap(struct amdgpu_device *adev, bool keep, u32 vmid)
{
	return 0;
}

static int sim_validate_override(struct amdgpu_device *adev, u32 override, u32 *mask)
{
	return 0;
}

static u32 sim_set_override(struct amdgpu_device *adev, u32 vmid, u32 override, u32 bits,
			    u32 request, u32 *prev, u32 cntl_prev)
{
	*prev = 0;
	return 0;
}

static u32 sim_set_launch_mode(struct amdgpu_device *adev, u8 mode, u32 vmid)
{
	return 0;
}

static u32 sim_set_watch(struct amdgpu_device *adev, u64 address, u32 mask, u32 id, u32 mode,
			 u32 vmid, u32 inst)
{
	return 0;
}

static u32 sim_clear_watch(struct amdgpu_device *adev, u32 id)
{
	return 0;
}

#define SIM_KFD2KGD {							\
	.program_sh_mem_settings = sim_program_sh_mem,			\
	.set_pasid_vmid_mapping = sim_set_pasid_vmid_mapping,		\
	.init_interrupts = sim_init_interrupts,				\
	.hqd_load = sim_hqd_load,					\
	.hiq_mqd_load = sim_hiq_mqd_load,				\
	.hqd_sdma_load = sim_hqd_sdma_load,				\
	.hqd_dump = sim_hqd_dump,					\
	.hqd_sdma_dump = sim_hqd_sdma_dump,				\
	.hqd_is_occupied = sim_hqd_is_occupied,				\
	.hqd_sdma_is_occupied = sim_hqd_sdma_is_occupied,		\
	.hqd_destroy = sim_hqd_destroy,					\
	.hqd_sdma_destroy = sim_hqd_sdma_destroy,			\
	.wave_control_execute = sim_wave_control,			\
	.get_atc_vmid_pasid_mapping_info = sim_get_atc_vmid_pasid,	\
	.set_vm_context_page_table_base = sim_set_page_table,		\
	.enable_debug_trap = sim_enable_debug_trap,			\
	.disable_debug_trap = sim_disable_debug_trap,			\
	.validate_trap_override_request = sim_validate_override,	\
	.set_wave_launch_trap_override = sim_set_override,		\
	.set_wave_launch_mode = sim_set_launch_mode,			\
	.set_address_watch = sim_set_watch,				\
	.clear_address_watch = sim_clear_watch,				\
	.get_iq_wait_times = sim_get_iq_wait_times,			\
	.build_grace_period_packet_info = sim_build_grace_period,	\
	.get_cu_occupancy = sim_get_cu_occupancy,			\
	.program_trap_handler_settings = sim_trap_handler,		\
	.hqd_get_pq_addr = sim_hqd_get_pq_addr,				\
	.hqd_reset = sim_hqd_reset,					\
}

/* The names kfd_device.c refers to. */
const struct kfd2kgd_calls gfx_v7_kfd2kgd = SIM_KFD2KGD;
const struct kfd2kgd_calls gfx_v8_kfd2kgd = SIM_KFD2KGD;
const struct kfd2kgd_calls gfx_v9_kfd2kgd = SIM_KFD2KGD;
const struct kfd2kgd_calls arcturus_kfd2kgd = SIM_KFD2KGD;
const struct kfd2kgd_calls aldebaran_kfd2kgd = SIM_KFD2KGD;
const struct kfd2kgd_calls gc_9_4_3_kfd2kgd = SIM_KFD2KGD;
const struct kfd2kgd_calls gfx_v10_kfd2kgd = SIM_KFD2KGD;
const struct kfd2kgd_calls gfx_v10_3_kfd2kgd = SIM_KFD2KGD;
const struct kfd2kgd_calls gfx_v11_kfd2kgd = SIM_KFD2KGD;
const struct kfd2kgd_calls gfx_v12_kfd2kgd = SIM_KFD2KGD;

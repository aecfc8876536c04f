// SPDX-License-Identifier: GPL-2.0
/*
 * The micro engine scheduler of gfx11 and gfx12: queues are added and removed one by one, there
 * is no HIQ and no run list. add_queue_mes() and remove_queue_mes() (6.12
 * kfd_device_queue_manager.c) call these with the dqm lock held and expect the queue mapped or
 * off the hardware on return.
 */
#include "sim_engine.h"

#define SIM_MES_QUEUE_SDMA	2	/* MES_QUEUE_TYPE_SDMA, mes_v11_api_def.h */

static u32 sim_mes_vmid(struct sim_engine *e, u32 pasid)
{
	u32 vmids = e->gpu->vmid_bitmap;
	struct sim_slot *s;

	sim_for_each_slot(e, s) {
		if (s->pasid == pasid)
			return s->vmid;
		vmids &= ~BIT(s->vmid);
	}
	return vmids ? __ffs(vmids) : 0;
}

static u64 sim_mes_queue_mask(struct sim_engine *e)
{
	u64 mask = 0;
	u32 i;

	for_each_set_bit(i, e->gpu->cp_queue_bitmap, SIM_MAX_CP_SLOTS)
		mask |= BIT_ULL(i);
	return mask;
}

int sim_engine_mes_add(struct amdgpu_mes *mes, struct mes_add_queue_input *in)
{
	struct amdgpu_device *adev = container_of(mes, struct amdgpu_device, mes);
	struct sim_engine *e = adev_to_sim(adev)->engine;
	struct sim_queue_desc q = {
		.doorbell = in->doorbell_offset,
		.mqd_addr = in->mqd_addr,
		.wptr_addr = in->wptr_addr,
		.sdma = in->queue_type == SIM_MES_QUEUE_SDMA,
	};
	u32 i, vmid;
	int r = -ENOSPC;

	mutex_lock(&e->lock);
	if (sim_fault_hang(e)) {
		mutex_unlock(&e->lock);
		return -ETIMEDOUT;
	}
	e->queue_mask = sim_mes_queue_mask(e);
	e->pace_ns = sim_now();
	vmid = sim_mes_vmid(e, in->process_id);
	/* The SDMA engine is MES's choice: the first with room. */
	for (i = 0; vmid && r && i < (q.sdma ? sim_sdma_engines(e) : 1); i++) {
		q.engine = i;
		if (sim_map_queue(e, &q, in->process_id, vmid))
			r = 0;
	}
	e->stats.map_queues++;
	mutex_unlock(&e->lock);
	sim_wake(e);
	return r;
}

int sim_engine_mes_remove(struct amdgpu_mes *mes, struct mes_remove_queue_input *in)
{
	struct amdgpu_device *adev = container_of(mes, struct amdgpu_device, mes);
	struct sim_engine *e = adev_to_sim(adev)->engine;
	int r = 0;

	mutex_lock(&e->lock);
	e->stats.unmap_packets++;
	if (sim_fault_hang(e) ||
	    !sim_unmap_queues(e, SIM_UNMAP_DOORBELL, in->doorbell_offset, false) ||
	    sim_find_doorbell(e, in->doorbell_offset))
		r = -ETIMEDOUT;
	mutex_unlock(&e->lock);
	sim_wake(e);
	return r;
}

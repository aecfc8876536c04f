// SPDX-License-Identifier: GPL-2.0
/*
 * The micro engine scheduler of gfx11 and gfx12: queues are added and removed one by one, there
 * is no HIQ and no run list from amdkfd. add_queue_mes() and remove_queue_mes() (6.12
 * kfd_device_queue_manager.c) call these with the dqm lock and the MES lock held, so there is one
 * request at a time.
 *
 * The thread serves the requests, because it may be in the middle of a time slice: MES keeps a
 * list of what was added, which is mapped like a run list, in windows if it does not fit.
 */
#include <linux/completion.h>

#include "sim_engine.h"

#define SIM_MES_QUEUE_SDMA	2	/* MES_QUEUE_TYPE_SDMA, mes_v11_api_def.h */

struct sim_mes_request {
	const struct mes_add_queue_input *add;		/* one of the two */
	const struct mes_remove_queue_input *remove;
	struct completion done;
	int result;
};

/* Index of the process in the list, adding it if it is new; SIM_RL_PROCS if that is full. */
static u32 sim_mes_process(struct sim_runlist *rl, u32 pasid)
{
	u32 i;

	for (i = 0; i < rl->num_procs; i++)
		if (rl->procs[i].pasid == pasid)
			return i;
	if (i < SIM_RL_PROCS)
		rl->procs[rl->num_procs++] = (struct sim_rl_proc) { .pasid = pasid };
	return i;
}

static int sim_mes_do_add(struct sim_engine *e, const struct mes_add_queue_input *in)
{
	struct sim_runlist *rl = &e->rl;
	struct sim_queue_desc *q = &rl->queues[rl->num_queues];
	u32 proc, i;

	if (rl->num_queues == SIM_RL_QUEUES)
		return -ENOSPC;
	proc = sim_mes_process(rl, in->process_id);
	if (proc == SIM_RL_PROCS)
		return -ENOSPC;
	*q = (struct sim_queue_desc) {
		.proc = proc,
		.doorbell = in->doorbell_offset,
		.mqd_addr = in->mqd_addr,
		.wptr_addr = in->wptr_addr,
		.sdma = in->queue_type == SIM_MES_QUEUE_SDMA,
	};
	/* The SDMA engine is MES's choice: in turn. */
	for (i = 0; q->sdma && i < rl->num_queues; i++)
		q->engine += rl->queues[i].sdma;
	q->engine %= max(sim_sdma_engines(e), 1u);
	rl->num_queues++;
	e->stats.map_queues++;

	/* amdgpu's equivalent of SET_RESOURCES, mes_v11_0_set_hw_resources() */
	e->vmid_mask = e->gpu->vmid_bitmap;
	e->queue_mask = bitmap_read(e->gpu->cp_queue_bitmap, 0, SIM_MAX_CP_SLOTS);
	rl->process_cnt = hweight32(e->vmid_mask);
	/* While time-slicing its turn comes by itself. */
	if (!rl->rotating)
		sim_runlist_map(e);
	return 0;
}

static void sim_mes_forget_process(struct sim_runlist *rl, u32 proc)
{
	u32 i;

	for (i = 0; i < rl->num_queues; i++)
		if (rl->queues[i].proc == proc)
			return;
	rl->num_procs--;
	memmove(&rl->procs[proc], &rl->procs[proc + 1],
		(rl->num_procs - proc) * sizeof(rl->procs[0]));
	for (i = 0; i < rl->num_queues; i++)
		if (rl->queues[i].proc > proc)
			rl->queues[i].proc--;
}

static int sim_mes_do_remove(struct sim_engine *e, u32 doorbell)
{
	struct sim_runlist *rl = &e->rl;
	u32 i, proc;

	e->stats.unmap_packets++;
	sim_exec_settle(e, sim_now());
	if (!sim_unmap_queues(e, SIM_UNMAP_DOORBELL, doorbell, false) ||
	    sim_find_doorbell(e, doorbell))
		return -ETIMEDOUT;
	for (i = 0; i < rl->num_queues; i++) {
		if (rl->queues[i].doorbell != doorbell)
			continue;
		proc = rl->queues[i].proc;
		rl->num_queues--;
		memmove(&rl->queues[i], &rl->queues[i + 1],
			(rl->num_queues - i) * sizeof(rl->queues[0]));
		if (rl->window > i)
			rl->window--;
		sim_mes_forget_process(rl, proc);
		break;
	}
	if (!rl->num_queues)
		sim_runlist_drop(e);
	else
		rl->window %= rl->num_queues;
	return 0;
}

void sim_mes_run(struct sim_engine *e)
{
	struct sim_mes_request *req = e->mes_request;

	if (!req)
		return;
	e->mes_request = NULL;
	if (sim_fault_hang(e))
		req->result = -ETIMEDOUT;
	else if (req->add)
		req->result = sim_mes_do_add(e, req->add);
	else
		req->result = sim_mes_do_remove(e, req->remove->doorbell_offset);
	complete(&req->done);
}

static int sim_mes_submit(struct amdgpu_mes *mes, struct sim_mes_request *req)
{
	struct amdgpu_device *adev = container_of(mes, struct amdgpu_device, mes);
	struct sim_engine *e = adev_to_sim(adev)->engine;

	init_completion(&req->done);
	mutex_lock(&e->lock);
	e->mes_request = req;
	mutex_unlock(&e->lock);
	sim_wake(e);
	wait_for_completion(&req->done);
	return req->result;
}

int sim_engine_mes_add(struct amdgpu_mes *mes, struct mes_add_queue_input *in)
{
	struct sim_mes_request req = { .add = in };

	return sim_mes_submit(mes, &req);
}

int sim_engine_mes_remove(struct amdgpu_mes *mes, struct mes_remove_queue_input *in)
{
	struct sim_mes_request req = { .remove = in };

	return sim_mes_submit(mes, &req);
}

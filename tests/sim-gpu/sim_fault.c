// SPDX-License-Identifier: GPL-2.0
/*
 * Things that go wrong: injected hangs (sim_hang) and refusals (sim_refuse), GPU page faults.
 */
#include "sim_engine.h"
#include "v9_structs.h"

/*
 * sim_hang: while it is set the scheduler does not read the HIQ. amdkfd_fence_wait_timeout()
 * gives up after queue_preemption_timeout_ms and amdkfd resets the GPU. Mapped queues run on.
 */
bool sim_fault_hang(struct sim_engine *e)
{
	bool hang = READ_ONCE(sim_hang);

	if (hang && !e->hanging)
		e->stats.hangs++;
	e->hanging = hang;
	return hang;
}

/*
 * sim_refuse: a compute queue that does not respond to preemption. The firmware abandons it and
 * logs its doorbell in the HIQ MQD of each XCC; unmap_queues_cpsch() looks there after the fence
 * (check_preemption_failed_v9_4_3()) and resets the queues that are still active.
 */
bool sim_fault_refuses(struct sim_engine *e, struct sim_slot *s)
{
	u32 doorbell = READ_ONCE(sim_refuse);
	int i;

	if (!doorbell || s->doorbell != doorbell || s->kind == SIM_SDMA)
		return false;
	for (i = 0; i < e->gpu->num_xcc; i++) {
		struct v9_mqd *m = e->hiq.mqd[i];

		if (m)
			m->queue_doorbell_id0 = doorbell;
	}
	e->stats.refused++;
	return true;
}

/* Access to an address without mapping at s->fault_va. amdkfd evicts the process. */
void sim_fault_page(struct sim_engine *e, struct sim_slot *s)
{
	s->stop = SIM_PAGE_FAULT;
	e->stats.vm_faults++;
	sim_irq_vm_fault(e, s, s->fault_va, s->fault_write);
}

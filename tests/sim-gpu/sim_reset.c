// SPDX-License-Identifier: GPL-2.0
/*
 * GPU reset: the part of 6.12 amdgpu_device_gpu_recover() that amdkfd takes part in.
 *
 * kgd2kfd_pre_reset() stops and evicts everything, the hardware forgets its state,
 * kgd2kfd_post_reset() starts the scheduler again. As in the real driver the processes stay
 * evicted, the reset domain's semaphore keeps everybody else off the hardware meanwhile, and all
 * GPUs of a hive are reset together.
 */
#include "amdgpu_reset.h"

#include "sim.h"

/* GPUs share a reset domain exactly when they are one hive (amdgpu_xgmi_add_device()). */
static struct amdgpu_reset_domain *sim_hive_domain;

static struct amdgpu_reset_domain *sim_domain_create(void)
{
	struct amdgpu_reset_domain *domain;

	domain = kzalloc(sizeof(*domain), GFP_KERNEL);
	if (!domain)
		return NULL;
	domain->wq = alloc_ordered_workqueue("sim-reset", WQ_MEM_RECLAIM);
	if (!domain->wq) {
		kfree(domain);
		return NULL;
	}
	domain->type = sim_gpus > 1 ? XGMI_HIVE : SINGLE_DEVICE;
	kref_init(&domain->refcount);
	init_rwsem(&domain->sem);
	return domain;
}

void amdgpu_reset_destroy_reset_domain(struct kref *ref)
{
	struct amdgpu_reset_domain *domain =
		container_of(ref, struct amdgpu_reset_domain, refcount);

	destroy_workqueue(domain->wq);
	kfree(domain);
}

static bool sim_in_domain(struct sim_gpu *gpu, struct amdgpu_reset_domain *domain)
{
	return gpu && gpu->adev.reset_domain == domain && gpu->adev.kfd.init_complete;
}

static void sim_reset_work(struct work_struct *work)
{
	struct amdgpu_device *adev = container_of(work, struct amdgpu_device, kfd.reset_work);
	struct amdgpu_reset_domain *domain = adev->reset_domain;
	struct amdgpu_reset_context context = {
		.method = AMD_RESET_METHOD_NONE,
		.reset_req_dev = adev,
		.src = AMDGPU_RESET_SRC_HWS,
	};
	int i;

	dev_info(adev->dev, "GPU reset begin!\n");
	/* amdgpu_device_lock_reset_domain() */
	atomic_set(&domain->in_gpu_reset, 1);
	down_write(&domain->sem);

	for (i = 0; i < SIM_MAX_GPUS; i++) {
		struct sim_gpu *gpu = sim_gpu_table[i];

		if (!sim_in_domain(gpu, domain))
			continue;
		/* whoever asked before this point is served by this reset */
		if (&gpu->adev != adev)
			cancel_work(&gpu->adev.kfd.reset_work);
		kgd2kfd_pre_reset(gpu->adev.kfd.dev, &context);
	}
	for (i = 0; i < SIM_MAX_GPUS; i++) {
		struct sim_gpu *gpu = sim_gpu_table[i];

		if (!sim_in_domain(gpu, domain))
			continue;
		sim_engine_reset(gpu);
		atomic_inc(&gpu->reset_count);
	}

	/*
	 * Still locked, as in amdgpu_device_gpu_recover(): SET_RESOURCES does not ask for the
	 * semaphore, and nobody else may submit before it.
	 */
	for (i = 0; i < SIM_MAX_GPUS; i++)
		if (sim_in_domain(sim_gpu_table[i], domain))
			kgd2kfd_post_reset(sim_gpu_table[i]->adev.kfd.dev);

	atomic_set(&domain->in_gpu_reset, 0);
	up_write(&domain->sem);
	dev_info(adev->dev, "GPU reset(%d) succeeded!\n",
		 atomic_read(&adev_to_sim(adev)->reset_count));
}

void sim_gpu_reset_request(struct sim_gpu *gpu)
{
	amdgpu_reset_domain_schedule(gpu->adev.reset_domain, &gpu->adev.kfd.reset_work);
}

void amdgpu_amdkfd_gpu_reset(struct amdgpu_device *adev)
{
	sim_gpu_reset_request(adev_to_sim(adev));
}

int sim_reset_init(struct sim_gpu *gpu)
{
	struct amdgpu_reset_domain *domain;

	INIT_WORK(&gpu->adev.kfd.reset_work, sim_reset_work);
	if (sim_hive_domain) {
		kref_get(&sim_hive_domain->refcount);
		gpu->adev.reset_domain = sim_hive_domain;
		return 0;
	}
	domain = sim_domain_create();
	if (!domain)
		return -ENOMEM;
	gpu->adev.reset_domain = domain;
	/* index 0 is destroyed last, so the pointer is valid while others may look at it */
	if (sim_gpus > 1)
		sim_hive_domain = domain;
	return 0;
}

void sim_reset_drain(struct sim_gpu *gpu)
{
	if (gpu->adev.reset_domain)
		flush_workqueue(gpu->adev.reset_domain->wq);
}

void sim_reset_fini(struct sim_gpu *gpu)
{
	if (!gpu->adev.reset_domain)
		return;
	amdgpu_reset_put_reset_domain(gpu->adev.reset_domain);
	gpu->adev.reset_domain = NULL;
	if (gpu->index == 0)
		sim_hive_domain = NULL;
}

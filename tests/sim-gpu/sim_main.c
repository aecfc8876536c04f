// SPDX-License-Identifier: GPL-2.0
/*
 * Module start and end, and the count of live objects that proves a clean unload.
 *
 * The order is that of the real driver: amdgpu_init() calls amdgpu_amdkfd_init() first, then each
 * probed device calls kgd2kfd_probe() and kgd2kfd_device_init(). amdgpu_exit() begins with amdkfd, too.
 */
#include <linux/mmu_notifier.h>
#include <linux/module.h>

#include "sim.h"

struct sim_gpu *sim_gpu_table[SIM_MAX_GPUS];

atomic_long_t sim_live_bo, sim_live_mem, sim_live_files;

void sim_leaks(struct sim_leaks *now)
{
	now->bo = atomic_long_read(&sim_live_bo);
	now->mem = atomic_long_read(&sim_live_mem);
	now->files = atomic_long_read(&sim_live_files);
}

static void sim_stop(void)
{
	struct sim_leaks leaks;
	int i;

	/* a process that has opened and closed /dev/kfd is still known, and its end looks at the devices */
	kgd2kfd_exit();
	for (i = SIM_MAX_GPUS - 1; i >= 0; i--) {
		if (sim_gpu_table[i])
			sim_gpu_destroy(sim_gpu_table[i]);
		sim_gpu_table[i] = NULL;
	}
	sim_debugfs_fini();
	sim_pasid_fini();
	mmu_notifier_synchronize();

	/* eviction fences are freed by RCU callbacks that live in this module */
	rcu_barrier();

	sim_leaks(&leaks);
	pr_info("sim: leaked bo %ld mem %ld files %ld\n", leaks.bo, leaks.mem, leaks.files);
}

static int __init sim_init(void)
{
	unsigned int i;
	int r;

	if (!sim_gpus || sim_gpus > SIM_MAX_GPUS || !sim_xccs || sim_xccs > SIM_MAX_XCCS ||
	    !sim_slots || sim_slots > SIM_MAX_CP_SLOTS) {
		pr_err("sim: sim_gpus %u, sim_xccs %u or sim_slots %u is out of range\n",
		       sim_gpus, sim_xccs, sim_slots);
		return -EINVAL;
	}
	r = sim_shape_check();
	if (r)
		return r;

	r = kgd2kfd_init();
	if (r)
		return r;
	sim_debugfs_init();

	/* all GPUs exist before the first starts: the hive size is part of a GPU's topology */
	for (i = 0; i < sim_gpus; i++) {
		struct sim_gpu *gpu = sim_gpu_create(i);

		if (IS_ERR(gpu)) {
			r = PTR_ERR(gpu);
			goto err;
		}
		sim_gpu_table[i] = gpu;
	}
	for (i = 0; i < sim_gpus; i++) {
		r = sim_gpu_start(sim_gpu_table[i]);
		if (r)
			goto err;
	}
	pr_info("sim: %u GPU(s), %u XCC(s) each, gfx %u, %u compute slots\n",
		sim_gpus, sim_xccs, sim_gfx, sim_slots);
	return 0;

err:
	sim_stop();
	return r;
}

static void __exit sim_exit(void)
{
	sim_stop();
}

module_init(sim_init);
module_exit(sim_exit);

MODULE_DESCRIPTION("Simulated GPU under the unmodified amdkfd");
MODULE_LICENSE("GPL and additional rights");
/* dma_buf_fd and dma_buf_put, called by amdkfd */
MODULE_IMPORT_NS(DMA_BUF);

// SPDX-License-Identifier: GPL-2.0
/*
 * Memory of the process that the GPU uses in place (USERPTR).
 *
 * As 6.12 amdgpu_hmm.c and amdgpu_amdkfd_gpuvm.c do it: an MMU interval notifier watches the
 * range. When the kernel takes pages away (munmap, fork, swap, migration) the queues of the
 * process are stopped at once; a little later a worker brings the pages back and restarts them.
 */
#include <linux/mmu_notifier.h>
#include <linux/sched/mm.h>

#include "sim.h"

/* AMDGPU_USERPTR_RESTORE_DELAY_MS */
#define SIM_USERPTR_RESTORE_MS	1

/* amdgpu_hmm_invalidate_hsa() and amdgpu_amdkfd_evict_userptr() */
static bool sim_userptr_invalidate(struct mmu_interval_notifier *mni,
				   const struct mmu_notifier_range *range, unsigned long cur_seq)
{
	struct amdgpu_bo *bo = container_of(mni, struct amdgpu_bo, notifier);
	struct kgd_mem *mem = bo->kfd_bo;
	struct amdkfd_process_info *info = mem->process_info;

	if (!mmu_notifier_range_blockable(range))
		return false;
	if (READ_ONCE(info->block_mmu_notifications))
		return true;

	mutex_lock(&info->notifier_lock);
	mmu_interval_set_seq(mni, cur_seq);
	mem->invalid++;
	if (++info->evicted_bos == 1) {
		if (kgd2kfd_quiesce_mm(mni->mm, KFD_QUEUE_EVICTION_TRIGGER_USERPTR))
			pr_err("Failed to quiesce KFD\n");
		queue_delayed_work(system_freezable_wq, &info->restore_userptr_work,
				   msecs_to_jiffies(SIM_USERPTR_RESTORE_MS));
	}
	mutex_unlock(&info->notifier_lock);
	return true;
}

static const struct mmu_interval_notifier_ops sim_userptr_ops = {
	.invalidate = sim_userptr_invalidate,
};

int sim_userptr_register(struct sim_bo *bo)
{
	return mmu_interval_notifier_insert(&bo->bo.notifier, current->mm, bo->user_addr,
					    bo->size, &sim_userptr_ops);
}

void sim_userptr_unregister(struct sim_bo *bo)
{
	if (!bo->bo.notifier.mm)
		return;
	mmu_interval_notifier_remove(&bo->bo.notifier);
	bo->bo.notifier.mm = NULL;
}

/*
 * amdgpu_amdkfd_restore_userptr_worker(). The engine looks pages up at each access and faults them
 * in itself, so that there is nothing to rebuild; what counts is when the queues run again.
 */
void sim_userptr_restore_work(struct work_struct *work)
{
	struct amdkfd_process_info *info =
		container_of(to_delayed_work(work), struct amdkfd_process_info,
			     restore_userptr_work);
	struct task_struct *task;
	struct mm_struct *mm;
	struct kgd_mem *mem;
	u32 evicted;

	mutex_lock(&info->notifier_lock);
	evicted = info->evicted_bos;
	mutex_unlock(&info->notifier_lock);
	if (!evicted)
		return;

	/* gone: so are the queues */
	task = get_pid_task(info->pid, PIDTYPE_PID);
	if (!task)
		return;
	mm = get_task_mm(task);
	put_task_struct(task);
	if (!mm)
		return;

	mutex_lock(&info->lock);
	mutex_lock(&info->notifier_lock);
	list_for_each_entry(mem, &info->userptr_valid_list, validate_list)
		mem->invalid = 0;
	/* a notification that came in since is served by another round, as in the real worker */
	if (info->evicted_bos == evicted) {
		info->evicted_bos = 0;
		if (kgd2kfd_resume_mm(mm))
			pr_err("%s: Failed to resume KFD\n", __func__);
	} else {
		queue_delayed_work(system_freezable_wq, &info->restore_userptr_work,
				   msecs_to_jiffies(SIM_USERPTR_RESTORE_MS));
	}
	mutex_unlock(&info->notifier_lock);
	mutex_unlock(&info->lock);
	mmput(mm);
}

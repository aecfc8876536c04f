// SPDX-License-Identifier: GPL-2.0
/*
 * Per-process state of amdgpu_amdkfd_gpuvm.c: which VMs belong to a process, its eviction fence,
 * and the ways to evict it.
 *
 * The eviction fence is the real one (amdgpu_amdkfd_fence.c is built unmodified): when somebody
 * asks it to signal, as TTM does to make room, amdkfd stops the queues of the process and
 * restores them some 100 ms later.
 */
#include <linux/debugfs.h>
#include <linux/sched/signal.h>

#include "sim.h"

static DEFINE_MUTEX(sim_processes_lock);
static LIST_HEAD(sim_processes);

/* init_kfd_vm(), first VM of a process */
static struct sim_process *sim_process_create(void)
{
	struct amdkfd_process_info *info;
	struct sim_process *process;

	process = kzalloc(sizeof(*process), GFP_KERNEL);
	if (!process)
		return NULL;
	info = &process->info;
	mutex_init(&info->lock);
	mutex_init(&info->notifier_lock);
	INIT_LIST_HEAD(&info->vm_list_head);
	INIT_LIST_HEAD(&info->kfd_bo_list);
	INIT_LIST_HEAD(&info->userptr_valid_list);
	INIT_LIST_HEAD(&info->userptr_inval_list);
	INIT_DELAYED_WORK(&info->restore_userptr_work, sim_userptr_restore_work);
	info->eviction_fence = amdgpu_amdkfd_fence_create(dma_fence_context_alloc(1), current->mm,
							  NULL);
	if (!info->eviction_fence) {
		kfree(process);
		return NULL;
	}
	info->pid = get_task_pid(current->group_leader, PIDTYPE_PID);

	mutex_lock(&sim_processes_lock);
	list_add_tail(&process->list, &sim_processes);
	mutex_unlock(&sim_processes_lock);
	return process;
}

static void sim_process_destroy(struct amdkfd_process_info *info)
{
	struct sim_process *process = container_of(info, struct sim_process, info);

	mutex_lock(&sim_processes_lock);
	list_del(&process->list);
	mutex_unlock(&sim_processes_lock);

	WARN_ON(!list_empty(&info->kfd_bo_list));
	WARN_ON(!list_empty(&info->userptr_valid_list));
	WARN_ON(!list_empty(&info->userptr_inval_list));
	cancel_delayed_work_sync(&info->restore_userptr_work);
	dma_fence_put(&info->eviction_fence->base);
	put_pid(info->pid);
	mutex_destroy(&info->lock);
	mutex_destroy(&info->notifier_lock);
	kfree(process);
}

int amdgpu_amdkfd_gpuvm_acquire_process_vm(struct amdgpu_device *adev, struct amdgpu_vm *avm,
					   void **process_info, struct dma_fence **ef)
{
	struct amdkfd_process_info *info;
	struct sim_process *process;

	/* already a compute VM */
	if (avm->process_info)
		return -EINVAL;
	if (!*process_info) {
		process = sim_process_create();
		if (!process)
			return -ENOMEM;
		*process_info = &process->info;
	}
	info = *process_info;

	mutex_lock(&info->lock);
	avm->process_info = info;
	avm->is_compute_context = true;
	list_add_tail(&avm->vm_list_node, &info->vm_list_head);
	info->n_vms++;
	if (ef)
		*ef = dma_fence_get(&info->eviction_fence->base);
	mutex_unlock(&info->lock);
	return 0;
}

/* Called when the render node is closed, and by amdkfd if kfd_process_device_init_vm() fails. */
void amdgpu_amdkfd_gpuvm_destroy_cb(struct amdgpu_device *adev, struct amdgpu_vm *vm)
{
	struct amdkfd_process_info *info = vm->process_info;
	bool last;

	if (!info)
		return;
	mutex_lock(&info->lock);
	last = --info->n_vms == 0;
	list_del(&vm->vm_list_node);
	mutex_unlock(&info->lock);
	vm->process_info = NULL;
	if (last)
		sim_process_destroy(info);
}

/*
 * The tail of the real function: there is nothing to move back into VRAM, but a signaled fence
 * cannot be used again, so the process needs a new one.
 */
int amdgpu_amdkfd_gpuvm_restore_process_bos(void *process_info, struct dma_fence __rcu **ef)
{
	struct amdkfd_process_info *info = process_info;
	struct amdgpu_amdkfd_fence *fence;
	struct dma_fence *old;
	int r = 0;

	mutex_lock(&info->lock);
	if (!dma_fence_is_signaled(&info->eviction_fence->base))
		goto out;
	fence = amdgpu_amdkfd_fence_create(info->eviction_fence->base.context,
					   info->eviction_fence->mm, NULL);
	if (!fence) {
		r = -ENOMEM;
		goto out;
	}
	dma_fence_put(&info->eviction_fence->base);
	info->eviction_fence = fence;
	/* replace_eviction_fence() */
	old = rcu_replace_pointer(*ef, dma_fence_get(&fence->base), true);
	dma_fence_put(old);
out:
	mutex_unlock(&info->lock);
	return r;
}

/* CRIU restore: no MMU notifications between creation of the buffers and CRIU_OP_RESUME. */
void amdgpu_amdkfd_block_mmu_notifications(void *p)
{
	struct amdkfd_process_info *info = p;

	mutex_lock(&info->lock);
	WRITE_ONCE(info->block_mmu_notifications, true);
	mutex_unlock(&info->lock);
}

int amdgpu_amdkfd_criu_resume(void *p)
{
	struct amdkfd_process_info *info = p;
	int r = -EINVAL;

	mutex_lock(&info->lock);
	mutex_lock(&info->notifier_lock);
	info->evicted_bos++;
	mutex_unlock(&info->notifier_lock);
	if (READ_ONCE(info->block_mmu_notifications)) {
		WRITE_ONCE(info->block_mmu_notifications, false);
		queue_delayed_work(system_freezable_wq, &info->restore_userptr_work, 0);
		r = 0;
	}
	mutex_unlock(&info->lock);
	return r;
}

/*
 * Evicts what TTM would evict to make room: asks for the fence to signal. amdkfd's
 * amdkfd_fence_enable_signaling() then schedules evict_process_worker().
 */
static int sim_evict(pid_t pid)
{
	struct sim_process *process;
	int r = -ESRCH;

	mutex_lock(&sim_processes_lock);
	list_for_each_entry(process, &sim_processes, list) {
		struct dma_fence *fence;

		if (pid && pid_nr(process->info.pid) != pid)
			continue;
		mutex_lock(&process->info.lock);
		fence = dma_fence_get(&process->info.eviction_fence->base);
		mutex_unlock(&process->info.lock);
		dma_fence_enable_sw_signaling(fence);
		dma_fence_put(fence);
		r = 0;
	}
	mutex_unlock(&sim_processes_lock);
	return r;
}

/* debugfs simgpu/evict: a pid, or 0 for every process */
static ssize_t sim_evict_write(struct file *file, const char __user *buf, size_t count,
			       loff_t *ppos)
{
	int pid, r;

	r = kstrtoint_from_user(buf, count, 0, &pid);
	if (!r)
		r = sim_evict(pid);
	return r ? r : count;
}

static const struct file_operations sim_evict_fops = {
	.owner = THIS_MODULE,
	.open = simple_open,
	.write = sim_evict_write,
};

void sim_evict_debugfs(struct dentry *top)
{
	debugfs_create_file("evict", 0200, top, NULL, &sim_evict_fops);
}

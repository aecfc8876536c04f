// SPDX-License-Identifier: GPL-2.0
/*
 * Memory of processes: the ALLOC / FREE / MAP / UNMAP half of 6.12 amdgpu_amdkfd_gpuvm.c.
 *
 * A kgd_mem is one allocation; an attachment is its mapping in the address space of the process on
 * one GPU (sim_map). Flags, sizes, error codes and the order of checks follow the real functions,
 * because amdkfd and the runtime depend on them.
 */
#include <linux/dma-buf.h>
#include <uapi/linux/kfd_ioctl.h>

#include "sim.h"

#define SIM_MMIO_OR_DOORBELL	(KFD_IOC_ALLOC_MEM_FLAGS_DOORBELL | \
				 KFD_IOC_ALLOC_MEM_FLAGS_MMIO_REMAP)

/* Only VRAM is limited; host memory is whatever the machine has. */
int amdgpu_amdkfd_reserve_mem_limit(struct amdgpu_device *adev, uint64_t size, u32 alloc_flag,
				    int8_t xcp_id)
{
	struct sim_gpu *gpu = adev_to_sim(adev);

	if (!(alloc_flag & KFD_IOC_ALLOC_MEM_FLAGS_VRAM))
		return 0;
	if (atomic64_add_return(size, &gpu->vram_used) > (s64)adev->gmc.real_vram_size) {
		atomic64_sub(size, &gpu->vram_used);
		return -ENOMEM;
	}
	return 0;
}

size_t amdgpu_amdkfd_get_available_memory(struct amdgpu_device *adev, uint8_t xcp_id)
{
	s64 left = adev->gmc.real_vram_size - atomic64_read(&adev_to_sim(adev)->vram_used);

	/* VRAM_AVAILABILITY_ALIGN */
	return left > 0 ? ALIGN_DOWN(left, 1 << 21) : 0;
}

static enum sim_bo_kind sim_mem_kind(u32 flags)
{
	if (flags & (KFD_IOC_ALLOC_MEM_FLAGS_VRAM | KFD_IOC_ALLOC_MEM_FLAGS_GTT))
		return SIM_BO_PAGED;
	if (flags & KFD_IOC_ALLOC_MEM_FLAGS_USERPTR)
		return SIM_BO_USER;
	/* the doorbells themselves belong to the process' doorbell slice, made by amdkfd */
	if (flags & KFD_IOC_ALLOC_MEM_FLAGS_MMIO_REMAP)
		return SIM_BO_MMIO;
	return SIM_BO_EMPTY;
}

static struct sim_bo *sim_mem_create_bo(struct sim_gpu *gpu, u64 size, u32 flags, u64 user_addr)
{
	struct sim_bo *bo;
	int r;

	r = amdgpu_amdkfd_reserve_mem_limit(&gpu->adev, size, flags, 0);
	if (r)
		return ERR_PTR(r);
	bo = sim_bo_create(gpu, size, sim_mem_kind(flags));
	if (IS_ERR(bo)) {
		if (flags & KFD_IOC_ALLOC_MEM_FLAGS_VRAM)
			atomic64_sub(size, &gpu->vram_used);
		return bo;
	}
	bo->charged_vram = flags & KFD_IOC_ALLOC_MEM_FLAGS_VRAM;
	bo->user_addr = user_addr;
	bo->bo.preferred_domains = bo->charged_vram ? AMDGPU_GEM_DOMAIN_VRAM :
						      AMDGPU_GEM_DOMAIN_GTT;
	bo->bo.allowed_domains = bo->bo.preferred_domains;
	if (bo->kind == SIM_BO_USER)
		bo->bo.flags |= AMDGPU_AMDKFD_CREATE_USERPTR_BO;
	return bo;
}

/* add_kgd_mem_to_kfd_bo_list(), remove_kgd_mem_from_kfd_bo_list() */
void sim_mem_list(struct kgd_mem *mem, bool userptr)
{
	struct amdkfd_process_info *info = mem->process_info;

	mutex_lock(&info->lock);
	list_add_tail(&mem->validate_list, userptr ? &info->userptr_valid_list :
						     &info->kfd_bo_list);
	mutex_unlock(&info->lock);
}

static void sim_mem_unlist(struct kgd_mem *mem)
{
	mutex_lock(&mem->process_info->lock);
	list_del(&mem->validate_list);
	mutex_unlock(&mem->process_info->lock);
}

struct kgd_mem *sim_mem_create(struct amdkfd_process_info *info, struct sim_bo *bo)
{
	struct kgd_mem *mem = kzalloc(sizeof(*mem), GFP_KERNEL);

	if (!mem)
		return NULL;
	mutex_init(&mem->lock);
	INIT_LIST_HEAD(&mem->attachments);
	mem->bo = &bo->bo;
	mem->process_info = info;
	atomic_long_inc(&sim_live_mem);
	return mem;
}

static void sim_mem_free(struct kgd_mem *mem)
{
	mutex_destroy(&mem->lock);
	kfree(mem);
	atomic_long_dec(&sim_live_mem);
}

int amdgpu_amdkfd_gpuvm_alloc_memory_of_gpu(struct amdgpu_device *adev, uint64_t va, uint64_t size,
					    void *drm_priv, struct kgd_mem **mem, uint64_t *offset,
					    uint32_t flags, bool criu_resume)
{
	struct amdgpu_vm *avm = drm_priv_to_vm(drm_priv);
	bool aql = flags & KFD_IOC_ALLOC_MEM_FLAGS_AQL_QUEUE_MEM;
	struct sim_gpu *gpu = adev_to_sim(adev);
	u64 user_addr = 0;
	struct sim_bo *bo;
	int r;

	if (flags & KFD_IOC_ALLOC_MEM_FLAGS_USERPTR) {
		if (!offset || !*offset)
			return -EINVAL;
		user_addr = untagged_addr(*offset);
	} else if (!(flags & (KFD_IOC_ALLOC_MEM_FLAGS_VRAM | KFD_IOC_ALLOC_MEM_FLAGS_GTT |
			      SIM_MMIO_OR_DOORBELL))) {
		return -EINVAL;
	}

	/* such a ring is mapped twice in a row; half of the size is memory */
	if (aql)
		size >>= 1;
	size = PAGE_ALIGN(size);
	if (!size)
		return -EINVAL;

	bo = sim_mem_create_bo(gpu, size, flags, user_addr);
	if (IS_ERR(bo))
		return PTR_ERR(bo);
	*mem = sim_mem_create(avm->process_info, bo);
	if (!*mem) {
		r = -ENOMEM;
		goto err_bo;
	}
	(*mem)->va = va;
	(*mem)->alloc_flags = flags;
	(*mem)->aql_queue = aql;
	(*mem)->domain = bo->bo.preferred_domains;
	bo->bo.kfd_bo = *mem;

	if (bo->kind == SIM_BO_USER) {
		/* init_user_pages(), which also faults all of it in; the engine does when it needs to */
		r = sim_userptr_register(bo);
		if (r)
			goto err_mem;
	} else {
		r = sim_bo_add_mmap(bo);
		if (r)
			goto err_mem;
	}
	sim_mem_list(*mem, bo->kind == SIM_BO_USER);
	if (offset)
		*offset = bo->mmap_offset;
	return 0;

err_mem:
	sim_mem_free(*mem);
err_bo:
	sim_bo_put(bo);
	return r;
}

int amdgpu_amdkfd_gpuvm_free_memory_of_gpu(struct amdgpu_device *adev, struct kgd_mem *mem,
					   void *drm_priv, uint64_t *size)
{
	struct sim_bo *bo = to_sim_bo(mem->bo);

	if (mem->mapped_to_gpu_memory)
		return -EBUSY;
	WARN_ON(!list_empty(&mem->attachments));
	if (bo->kind == SIM_BO_USER)
		sim_userptr_unregister(bo);
	sim_mem_unlist(mem);
	/* amdkfd's per-process VRAM counter goes down by this */
	if (size)
		*size = bo->charged_vram && !mem->is_imported ? bo->size : 0;
	if (mem->dmabuf)
		dma_buf_put(mem->dmabuf);
	/* an imported buffer belongs to another allocation */
	if (bo->bo.kfd_bo == mem)
		bo->bo.kfd_bo = NULL;
	sim_mem_free(mem);
	sim_bo_put(bo);
	return 0;
}

static int sim_mem_map_at(struct kgd_mem *mem, struct sim_vm *vm, u64 va)
{
	struct sim_map *map;
	int r;

	map = kzalloc(sizeof(*map), GFP_KERNEL);
	if (!map)
		return -ENOMEM;
	map->bo = to_sim_bo(mem->bo);
	map->attachment.bo_va = &map->bo_va;
	map->attachment.va = va;
	map->attachment.is_mapped = true;
	r = sim_vm_insert(vm, map, va, map->bo->size);
	if (r) {
		kfree(map);
		return r;
	}
	sim_bo_get(map->bo);
	list_add_tail(&map->attachment.list, &mem->attachments);
	mem->mapped_to_gpu_memory++;
	return 0;
}

static void sim_mem_unmap(struct kgd_mem *mem, struct sim_map *map)
{
	sim_vm_remove(map);
	list_del(&map->attachment.list);
	mem->mapped_to_gpu_memory--;
	sim_bo_put(map->bo);
	kfree(map);
}

bool amdgpu_amdkfd_bo_mapped_to_dev(void *drm_priv, struct kgd_mem *mem)
{
	struct amdgpu_vm *avm = drm_priv_to_vm(drm_priv);
	struct kfd_mem_attachment *attachment;

	list_for_each_entry(attachment, &mem->attachments, list)
		if (attachment->bo_va->base.vm == avm)
			return true;
	return false;
}

int amdgpu_amdkfd_gpuvm_map_memory_to_gpu(struct amdgpu_device *adev, struct kgd_mem *mem,
					  void *drm_priv)
{
	struct sim_file *file = sim_file_of(drm_priv);
	u64 size = to_sim_bo(mem->bo)->size;
	int r = 0;

	mutex_lock(&mem->lock);
	if (amdgpu_amdkfd_bo_mapped_to_dev(drm_priv, mem))
		goto out;
	r = sim_mem_map_at(mem, file->vm, mem->va);
	if (!r && mem->aql_queue) {
		r = sim_mem_map_at(mem, file->vm, mem->va + size);
		if (r)
			sim_mem_unmap(mem, list_last_entry(&mem->attachments, struct sim_map,
							   attachment.list));
	}
out:
	mutex_unlock(&mem->lock);
	return r;
}

int amdgpu_amdkfd_gpuvm_unmap_memory_from_gpu(struct amdgpu_device *adev, struct kgd_mem *mem,
					      void *drm_priv)
{
	struct amdgpu_vm *avm = drm_priv_to_vm(drm_priv);
	struct sim_map *map, *next;
	int r = -EINVAL;	/* reserve_bo_and_cond_vms() found no mapping */

	mutex_lock(&mem->lock);
	list_for_each_entry_safe(map, next, &mem->attachments, attachment.list) {
		if (map->bo_va.base.vm != avm)
			continue;
		/* unmap_bo_from_gpuvm(): a queue still uses it */
		if (map->bo_va.queue_refcount) {
			r = -EBUSY;
			break;
		}
		sim_mem_unmap(mem, map);
		r = 0;
	}
	mutex_unlock(&mem->lock);
	return r;
}

int amdgpu_amdkfd_gpuvm_map_gtt_bo_to_kernel(struct kgd_mem *mem, void **kptr, uint64_t *size)
{
	struct sim_bo *bo = to_sim_bo(mem->bo);
	int r;

	r = sim_bo_kmap(bo);
	if (r)
		return r;
	*kptr = bo->cpu;
	if (size)
		*size = bo->size;
	return 0;
}

/* CRIU checkpoint asks for the user address of a USERPTR buffer. */
int amdgpu_ttm_tt_get_userptr(const struct ttm_buffer_object *tbo, uint64_t *user_addr)
{
	const struct sim_bo *bo = container_of(tbo, struct sim_bo, bo.tbo);

	if (bo->kind != SIM_BO_USER)
		return -EINVAL;
	*user_addr = bo->user_addr;
	return 0;
}

/* ---- global wave sync: an object per GPU that one process at a time may hold ---- */

int amdgpu_amdkfd_alloc_gws(struct amdgpu_device *adev, size_t size, void **mem_obj)
{
	struct sim_bo *bo = sim_bo_create(adev_to_sim(adev), size, SIM_BO_EMPTY);

	if (IS_ERR(bo))
		return PTR_ERR(bo);
	*mem_obj = &bo->bo;
	return 0;
}

void amdgpu_amdkfd_free_gws(struct amdgpu_device *adev, void *mem_obj)
{
	struct amdgpu_bo *bo = mem_obj;

	amdgpu_bo_unref(&bo);
}

int amdgpu_amdkfd_add_gws_to_process(void *info, void *gws, struct kgd_mem **mem)
{
	if (!info || !gws)
		return -EINVAL;
	*mem = sim_mem_create(info, to_sim_bo(gws));
	if (!*mem)
		return -ENOMEM;
	amdgpu_bo_ref(gws);
	(*mem)->domain = AMDGPU_GEM_DOMAIN_GWS;
	sim_mem_list(*mem, false);
	return 0;
}

int amdgpu_amdkfd_remove_gws_from_process(void *info, void *mem)
{
	struct kgd_mem *kgd_mem = mem;
	struct amdgpu_bo *bo = kgd_mem->bo;

	sim_mem_unlist(kgd_mem);
	sim_mem_free(kgd_mem);
	amdgpu_bo_unref(&bo);
	return 0;
}

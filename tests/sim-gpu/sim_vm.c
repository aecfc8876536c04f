// SPDX-License-Identifier: GPL-2.0
/*
 * Address space of a process on one GPU: which GPU address belongs to which buffer.
 *
 * The same interval tree as 6.12 amdgpu_vm.c has (amdgpu_vm_it over amdgpu_bo_va_mapping), without
 * page tables: the engine looks buffers up instead.
 */
#include <linux/interval_tree_generic.h>
#include <linux/sched/mm.h>

#include "sim.h"

#define START(node)	((node)->start)
#define LAST(node)	((node)->last)

INTERVAL_TREE_DEFINE(struct amdgpu_bo_va_mapping, rb, uint64_t, __subtree_last, START, LAST,
		     static, sim_vm_it)

static struct sim_map *to_sim_map(struct amdgpu_bo_va_mapping *mapping)
{
	return container_of(mapping, struct sim_map, mapping);
}

struct sim_vm *sim_vm_create(struct sim_gpu *gpu)
{
	struct sim_vm *vm = kzalloc(sizeof(*vm), GFP_KERNEL);

	if (!vm)
		return NULL;
	kref_init(&vm->ref);
	mutex_init(&vm->lock);
	vm->gpu = gpu;
	vm->tree = RB_ROOT_CACHED;
	return vm;
}

static void sim_vm_release(struct kref *ref)
{
	struct sim_vm *vm = container_of(ref, struct sim_vm, ref);

	WARN_ON(!RB_EMPTY_ROOT(&vm->tree.rb_root));
	if (vm->mm)
		mmdrop(vm->mm);
	mutex_destroy(&vm->lock);
	kfree(vm);
}

void sim_vm_put(struct sim_vm *vm)
{
	kref_put(&vm->ref, sim_vm_release);
}

struct sim_vm *sim_vm_get(struct sim_gpu *gpu, u32 pasid)
{
	struct sim_vm *vm;

	/* sim_vm_unset_pasid() takes the same lock before the file drops its reference */
	xa_lock(&gpu->vms);
	vm = xa_load(&gpu->vms, pasid);
	if (vm)
		kref_get(&vm->ref);
	xa_unlock(&gpu->vms);
	return vm;
}

void sim_vm_unset_pasid(struct sim_vm *vm)
{
	if (vm->pasid)
		xa_erase(&vm->gpu->vms, vm->pasid);
	vm->pasid = 0;
}

int amdgpu_amdkfd_gpuvm_set_vm_pasid(struct amdgpu_device *adev, struct amdgpu_vm *avm, u32 pasid)
{
	struct sim_vm *vm = sim_file_of_vm(avm)->vm;
	int r;

	sim_vm_unset_pasid(vm);
	if (!vm->mm) {
		mmgrab(current->mm);
		vm->mm = current->mm;
	}
	r = xa_err(xa_store(&vm->gpu->vms, pasid, vm, GFP_KERNEL));
	if (r)
		return r;
	vm->pasid = pasid;
	avm->pasid = pasid;
	return 0;
}

void amdgpu_amdkfd_gpuvm_release_process_vm(struct amdgpu_device *adev, void *drm_priv)
{
	struct sim_file *file = sim_file_of(drm_priv);

	/* amdgpu_vm_release_compute(); the pasid is amdkfd's */
	sim_vm_unset_pasid(file->vm);
	file->fpriv.vm.pasid = 0;
	file->fpriv.vm.is_compute_context = false;
}

uint64_t amdgpu_amdkfd_gpuvm_get_process_page_dir(void *drm_priv)
{
	/* goes into MAP_PROCESS; unique, and recognisable in a packet dump */
	return 0x1000000000ULL | ((u64)sim_file_of(drm_priv)->vm->pasid << 12);
}

int sim_vm_insert(struct sim_vm *vm, struct sim_map *map, u64 va, u64 size)
{
	struct amdgpu_bo_va_mapping *mapping = &map->mapping;
	struct sim_file *file = vm->file;
	int r = 0;

	mapping->start = va >> AMDGPU_GPU_PAGE_SHIFT;
	mapping->last = mapping->start + (size >> AMDGPU_GPU_PAGE_SHIFT) - 1;
	mapping->bo_va = &map->bo_va;
	map->bo_va.base.vm = &file->fpriv.vm;
	map->bo_va.base.bo = &map->bo->bo;
	map->vm = vm;

	mutex_lock(&vm->lock);
	/* amdgpu_vm_bo_map() */
	if (sim_vm_it_iter_first(&vm->tree, mapping->start, mapping->last))
		r = -EINVAL;
	else
		sim_vm_it_insert(mapping, &vm->tree);
	mutex_unlock(&vm->lock);
	return r;
}

void sim_vm_remove(struct sim_map *map)
{
	mutex_lock(&map->vm->lock);
	sim_vm_it_remove(&map->mapping, &map->vm->tree);
	mutex_unlock(&map->vm->lock);
}

struct sim_map *sim_vm_lookup_locked(struct sim_vm *vm, u64 va)
{
	struct amdgpu_bo_va_mapping *mapping;

	va >>= AMDGPU_GPU_PAGE_SHIFT;
	mapping = sim_vm_it_iter_first(&vm->tree, va, va);
	return mapping ? to_sim_map(mapping) : NULL;
}

/* ---- lookups of amdkfd: kfd_queue_buffer_get() and kfd_queue_unref_bo_va() ---- */

struct amdgpu_bo_va_mapping *amdgpu_vm_bo_lookup_mapping(struct amdgpu_vm *avm, uint64_t addr)
{
	struct sim_vm *vm = sim_file_of_vm(avm)->vm;
	struct sim_map *map;

	mutex_lock(&vm->lock);
	map = sim_vm_lookup_locked(vm, addr << AMDGPU_GPU_PAGE_SHIFT);
	mutex_unlock(&vm->lock);
	return map ? &map->mapping : NULL;
}

struct amdgpu_bo_va *amdgpu_vm_bo_find(struct amdgpu_vm *avm, struct amdgpu_bo *bo)
{
	struct sim_vm *vm = sim_file_of_vm(avm)->vm;
	struct amdgpu_bo_va_mapping *mapping;
	struct amdgpu_bo_va *found = NULL;

	mutex_lock(&vm->lock);
	for (mapping = sim_vm_it_iter_first(&vm->tree, 0, U64_MAX); mapping;
	     mapping = sim_vm_it_iter_next(mapping, 0, U64_MAX)) {
		if (mapping->bo_va->base.bo == bo) {
			found = mapping->bo_va;
			break;
		}
	}
	mutex_unlock(&vm->lock);
	return found;
}

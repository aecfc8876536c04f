// SPDX-License-Identifier: GPL-2.0
/*
 * Buffers. amdkfd sees the real struct amdgpu_bo; what it reads of one is its reservation lock,
 * size, device and mmap offset.
 *
 * Memory of user buffers appears page by page on first touch, by a CPU fault or by the engine: a
 * ROCm process allocates 140 MiB of scratch with its first queue and never writes it.
 */
#include <linux/dma-resv.h>
#include <linux/vmalloc.h>

#include "sim_engine.h"

/* per GPU, above anything a process can map and unlike any CPU address */
#define SIM_GART_BASE		0x600000000000ULL
#define SIM_GART_STRIDE		(1ULL << 40)
#define SIM_MMAP_BASE		(4ULL << 30)

void sim_bo_gpu_init(struct sim_gpu *gpu)
{
	mutex_init(&gpu->bo_lock);
	mt_init(&gpu->gart);
	mt_init(&gpu->mmap);
	gpu->gart_next = SIM_GART_BASE + gpu->index * SIM_GART_STRIDE;
	gpu->mmap_next = SIM_MMAP_BASE;
}

void sim_bo_gpu_fini(struct sim_gpu *gpu)
{
	WARN_ON(!mtree_empty(&gpu->gart));
	WARN_ON(!mtree_empty(&gpu->mmap));
	mtree_destroy(&gpu->gart);
	mtree_destroy(&gpu->mmap);
}

struct sim_bo *sim_bo_create(struct sim_gpu *gpu, u64 size, enum sim_bo_kind kind)
{
	struct amdgpu_bo *abo;
	struct sim_bo *bo;
	int page;

	size = PAGE_ALIGN(size);
	bo = kzalloc(sizeof(*bo), GFP_KERNEL);
	if (!bo)
		return ERR_PTR(-ENOMEM);

	if (kind == SIM_BO_KERNEL) {
		bo->cpu = vzalloc(size);
		if (!bo->cpu) {
			kfree(bo);
			return ERR_PTR(-ENOMEM);
		}
	} else if (kind == SIM_BO_DOORBELL) {
		page = sim_doorbell_alloc(gpu, size >> PAGE_SHIFT);
		if (page < 0) {
			kfree(bo);
			return ERR_PTR(page);
		}
		bo->cpu = (char *)gpu->doorbell + page * PAGE_SIZE;
	} else if (kind == SIM_BO_MMIO) {
		bo->cpu = page_address(gpu->mmio_page);
	}

	bo->gpu = gpu;
	bo->kind = kind;
	bo->size = size;
	kref_init(&bo->ref);
	mutex_init(&bo->map_lock);
	xa_init(&bo->pages);

	abo = &bo->bo;
	abo->tbo.bdev = &gpu->adev.mman.bdev;
	abo->tbo.base.size = size;
	abo->tbo.base.dev = &gpu->adev.ddev;
	dma_resv_init(&abo->tbo.base._resv);
	abo->tbo.base.resv = &abo->tbo.base._resv;

	atomic_long_inc(&sim_live_bo);
	return bo;
}

struct sim_bo *sim_bo_get(struct sim_bo *bo)
{
	kref_get(&bo->ref);
	return bo;
}

/* Called with bo_lock held: from here on sim_bo_by_mmap() does not find it. Drops the lock. */
static void sim_bo_release(struct kref *ref)
{
	struct sim_bo *bo = container_of(ref, struct sim_bo, ref);
	struct sim_gpu *gpu = bo->gpu;
	unsigned long index;
	struct page *page;

	if (bo->gpu_addr)
		mtree_erase(&gpu->gart, bo->gpu_addr);
	if (bo->mmap_offset)
		mtree_erase(&gpu->mmap, bo->mmap_offset);
	mutex_unlock(&gpu->bo_lock);

	switch (bo->kind) {
	case SIM_BO_KERNEL:
		vfree(bo->cpu);
		break;
	case SIM_BO_DOORBELL:
		sim_doorbell_free(gpu, ((char *)bo->cpu - (char *)gpu->doorbell) >> PAGE_SHIFT,
				  bo->size >> PAGE_SHIFT);
		break;
	case SIM_BO_PAGED:
		if (bo->vmapped)
			vunmap(bo->cpu);
		xa_for_each(&bo->pages, index, page)
			put_page(page);
		break;
	default:
		break;
	}
	xa_destroy(&bo->pages);
	if (bo->charged_vram)
		atomic64_sub(bo->size, &gpu->vram_used);
	dma_resv_fini(&bo->bo.tbo.base._resv);
	mutex_destroy(&bo->map_lock);
	atomic_long_dec(&sim_live_bo);
	kfree(bo);
}

void sim_bo_put(struct sim_bo *bo)
{
	/* sim_bo_by_mmap() looks up and takes its reference under the same lock */
	kref_put_mutex(&bo->ref, sim_bo_release, &bo->gpu->bo_lock);
}

struct page *sim_bo_page(struct sim_bo *bo, pgoff_t index, gfp_t gfp)
{
	struct page *page, *other;

	if (index >= bo->size >> PAGE_SHIFT)
		return NULL;
	page = xa_load(&bo->pages, index);
	if (page)
		return page;

	page = alloc_page(gfp | __GFP_ZERO | __GFP_NOWARN);
	if (!page)
		return NULL;
	other = xa_cmpxchg(&bo->pages, index, NULL, page, gfp | __GFP_NOWARN);
	if (other) {
		put_page(page);
		return xa_is_err(other) ? NULL : other;
	}
	return page;
}

void *sim_bo_at(struct sim_bo *bo, u64 offset, gfp_t gfp)
{
	struct page *page;

	if (offset >= bo->size)
		return NULL;
	if (bo->kind != SIM_BO_PAGED)
		return bo->cpu ? (char *)bo->cpu + offset : NULL;
	page = sim_bo_page(bo, offset >> PAGE_SHIFT, gfp);
	return page ? (char *)page_address(page) + offset_in_page(offset) : NULL;
}

/* amdgpu_bo_kmap(): one kernel mapping of the whole buffer, kept until the buffer goes */
int sim_bo_kmap(struct sim_bo *bo)
{
	pgoff_t i, n = bo->size >> PAGE_SHIFT;
	struct page **pages;
	int r = 0;

	if (bo->cpu)
		return 0;
	if (bo->kind != SIM_BO_PAGED)
		return -EINVAL;

	mutex_lock(&bo->map_lock);
	if (bo->cpu)
		goto out;
	r = -ENOMEM;
	pages = kvmalloc_array(n, sizeof(*pages), GFP_KERNEL);
	if (!pages)
		goto out;
	for (i = 0; i < n; i++) {
		pages[i] = sim_bo_page(bo, i, GFP_KERNEL);
		if (!pages[i])
			goto out_free;
	}
	bo->cpu = vmap(pages, n, VM_MAP, PAGE_KERNEL);
	if (bo->cpu) {
		bo->vmapped = true;
		r = 0;
	}
out_free:
	kvfree(pages);
out:
	mutex_unlock(&bo->map_lock);
	return r;
}

/* Gives the buffer a kernel GPU address. Addresses are not reused, so stale ones are found. */
int sim_bo_bind_gart(struct sim_bo *bo)
{
	struct sim_gpu *gpu = bo->gpu;
	int r = 0;

	mutex_lock(&gpu->bo_lock);
	if (!bo->gpu_addr) {
		r = mtree_insert_range(&gpu->gart, gpu->gart_next, gpu->gart_next + bo->size - 1,
				       bo, GFP_KERNEL);
		if (!r) {
			bo->gpu_addr = gpu->gart_next;
			/* a hole, so that running over the end hits nothing */
			gpu->gart_next += bo->size + PAGE_SIZE;
		}
	}
	mutex_unlock(&gpu->bo_lock);
	return r;
}

void *sim_gart_to_cpu(struct sim_gpu *gpu, u64 gpu_addr)
{
	struct sim_bo *bo = mtree_load(&gpu->gart, gpu_addr);

	return bo ? (char *)bo->cpu + (gpu_addr - bo->gpu_addr) : NULL;
}

/* drm_gem_create_mmap_offset() */
int sim_bo_add_mmap(struct sim_bo *bo)
{
	struct sim_gpu *gpu = bo->gpu;
	int r;

	mutex_lock(&gpu->bo_lock);
	r = mtree_insert_range(&gpu->mmap, gpu->mmap_next, gpu->mmap_next + bo->size - 1,
			       bo, GFP_KERNEL);
	if (!r) {
		bo->mmap_offset = gpu->mmap_next;
		gpu->mmap_next += bo->size + PAGE_SIZE;
		/* read by amdgpu_bo_mmap_offset() in CRIU checkpoint */
		bo->bo.tbo.base.vma_node.vm_node.start = bo->mmap_offset >> PAGE_SHIFT;
		bo->bo.tbo.base.vma_node.vm_node.size = bo->size >> PAGE_SHIFT;
	}
	mutex_unlock(&gpu->bo_lock);
	return r;
}

struct sim_bo *sim_bo_by_mmap(struct sim_gpu *gpu, u64 offset)
{
	struct sim_bo *bo;

	mutex_lock(&gpu->bo_lock);
	bo = mtree_load(&gpu->mmap, offset);
	if (bo && bo->mmap_offset == offset)
		sim_bo_get(bo);
	else
		bo = NULL;
	mutex_unlock(&gpu->bo_lock);
	return bo;
}

/* ---- the amdgpu_object.c functions that amdkfd calls ---- */

struct amdgpu_bo *amdgpu_bo_ref(struct amdgpu_bo *bo)
{
	if (bo)
		sim_bo_get(to_sim_bo(bo));
	return bo;
}

void amdgpu_bo_unref(struct amdgpu_bo **bo)
{
	if (*bo)
		sim_bo_put(to_sim_bo(*bo));
	*bo = NULL;
}

u64 amdgpu_bo_gpu_offset(struct amdgpu_bo *bo)
{
	return to_sim_bo(bo)->gpu_addr;
}

int amdgpu_bo_create_kernel(struct amdgpu_device *adev, unsigned long size, int align,
			    u32 domain, struct amdgpu_bo **bo_ptr, u64 *gpu_addr, void **cpu_addr)
{
	struct sim_bo *bo;
	int r;

	bo = sim_bo_create(adev_to_sim(adev), size, domain == AMDGPU_GEM_DOMAIN_DOORBELL ?
			   SIM_BO_DOORBELL : SIM_BO_KERNEL);
	if (IS_ERR(bo))
		return PTR_ERR(bo);
	if (bo->kind == SIM_BO_KERNEL) {
		r = sim_bo_bind_gart(bo);
		if (r) {
			sim_bo_put(bo);
			return r;
		}
	}
	*bo_ptr = &bo->bo;
	if (gpu_addr)
		*gpu_addr = bo->gpu_addr;
	if (cpu_addr)
		*cpu_addr = bo->cpu;
	return 0;
}

void amdgpu_bo_free_kernel(struct amdgpu_bo **bo, u64 *gpu_addr, void **cpu_addr)
{
	amdgpu_bo_unref(bo);
	if (gpu_addr)
		*gpu_addr = 0;
	if (cpu_addr)
		*cpu_addr = NULL;
}

int amdgpu_amdkfd_alloc_gtt_mem(struct amdgpu_device *adev, size_t size, void **mem_obj,
				uint64_t *gpu_addr, void **cpu_ptr, bool mqd_gfx9)
{
	struct amdgpu_bo *bo = NULL;
	int r;

	r = amdgpu_bo_create_kernel(adev, size, PAGE_SIZE, AMDGPU_GEM_DOMAIN_GTT, &bo, gpu_addr,
				    cpu_ptr);
	*mem_obj = bo;
	return r;
}

void amdgpu_amdkfd_free_gtt_mem(struct amdgpu_device *adev, void **mem_obj)
{
	struct sim_bo *bo = to_sim_bo(*mem_obj);

	/* after a hang this may be the MQD of a queue that never left the hardware */
	sim_engine_forget(bo->gpu, bo->gpu_addr, bo->size);
	amdgpu_bo_unref((struct amdgpu_bo **)mem_obj);
}

/* MES only: a process' write pointer buffer gets a kernel GPU address as well. */
int amdgpu_amdkfd_map_gtt_bo_to_gart(struct amdgpu_bo *bo, struct amdgpu_bo **bo_gart)
{
	int r = sim_bo_bind_gart(to_sim_bo(bo));

	if (!r)
		*bo_gart = amdgpu_bo_ref(bo);
	return r;
}

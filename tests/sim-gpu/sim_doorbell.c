// SPDX-License-Identifier: GPL-2.0
/*
 * The doorbell BAR: ordinary pages at a physical address of their own, which amdkfd maps to
 * user space with io_remap_pfn_range() as it does with the real one. Nothing traps a store to it,
 * so the engine reads it.
 */
#include <linux/bitmap.h>
#include <linux/set_memory.h>

#include "sim.h"

#define SIM_DOORBELL_ORDER	9	/* 2 MiB, as the BAR of gfx9 cards */
#define SIM_DOORBELL_PAGES	(1U << SIM_DOORBELL_ORDER)

int sim_doorbell_init(struct sim_gpu *gpu)
{
	gpu->doorbell_used = bitmap_zalloc(SIM_DOORBELL_PAGES, GFP_KERNEL);
	if (!gpu->doorbell_used)
		return -ENOMEM;
	gpu->doorbell_pages = alloc_pages(GFP_KERNEL | __GFP_ZERO, SIM_DOORBELL_ORDER);
	if (!gpu->doorbell_pages)
		return -ENOMEM;
	gpu->doorbell = page_address(gpu->doorbell_pages);
	/* else PAT complains about each uncached user mapping of RAM */
	set_memory_uc((unsigned long)gpu->doorbell, SIM_DOORBELL_PAGES);

	/* the page of the kernel's own rings (num_kernel_doorbells) */
	__set_bit(0, gpu->doorbell_used);
	gpu->adev.doorbell.base = page_to_phys(gpu->doorbell_pages);
	gpu->adev.doorbell.size = SIM_DOORBELL_PAGES * PAGE_SIZE;
	gpu->adev.doorbell.num_kernel_doorbells = PAGE_SIZE / sizeof(u32);
	return 0;
}

void sim_doorbell_fini(struct sim_gpu *gpu)
{
	if (gpu->doorbell_pages) {
		set_memory_wb((unsigned long)gpu->doorbell, SIM_DOORBELL_PAGES);
		__free_pages(gpu->doorbell_pages, SIM_DOORBELL_ORDER);
	}
	bitmap_free(gpu->doorbell_used);
}

int sim_doorbell_alloc(struct sim_gpu *gpu, unsigned int pages)
{
	unsigned long page;

	mutex_lock(&gpu->bo_lock);
	page = bitmap_find_next_zero_area(gpu->doorbell_used, SIM_DOORBELL_PAGES, 1, pages, 0);
	if (page < SIM_DOORBELL_PAGES)
		bitmap_set(gpu->doorbell_used, page, pages);
	mutex_unlock(&gpu->bo_lock);
	if (page >= SIM_DOORBELL_PAGES)
		return -ENOSPC;

	/* stale write pointers of the last owner */
	memset((char *)gpu->doorbell + page * PAGE_SIZE, 0, pages * PAGE_SIZE);
	return page;
}

void sim_doorbell_free(struct sim_gpu *gpu, unsigned int page, unsigned int pages)
{
	mutex_lock(&gpu->bo_lock);
	bitmap_clear(gpu->doorbell_used, page, pages);
	mutex_unlock(&gpu->bo_lock);
}

static bool sim_doorbell_valid(u32 dword_index)
{
	return dword_index < SIM_DOORBELL_PAGES * PAGE_SIZE / sizeof(u32) - 1;
}

/* A 64-bit doorbell starts at an even dword; an odd index is one of a 32-bit queue. */
u64 sim_doorbell_read(struct sim_gpu *gpu, u32 dword_index)
{
	if (!sim_doorbell_valid(dword_index))
		return 0;
	if (dword_index & 1)
		return READ_ONCE(gpu->doorbell[dword_index]);
	return READ_ONCE(*(u64 *)&gpu->doorbell[dword_index]);
}

void sim_doorbell_write(struct sim_gpu *gpu, u32 dword_index, u64 value)
{
	if (!sim_doorbell_valid(dword_index))
		return;
	if (dword_index & 1)
		WRITE_ONCE(gpu->doorbell[dword_index], lower_32_bits(value));
	else
		WRITE_ONCE(*(u64 *)&gpu->doorbell[dword_index], value);
}

/* 6.12 amdgpu_doorbell_mgr.c: index of a doorbell in dwords of the BAR */
uint32_t amdgpu_doorbell_index_on_bar(struct amdgpu_device *adev, struct amdgpu_bo *db_bo,
				      uint32_t doorbell_index, uint32_t db_size)
{
	struct sim_bo *bo = to_sim_bo(db_bo);
	u32 first = (u32 *)bo->cpu - bo->gpu->doorbell;

	return first + doorbell_index * DIV_ROUND_UP(db_size, 4);
}

// SPDX-License-Identifier: GPL-2.0
/*
 * The engine's loads and stores to memory of a process.
 *
 * The engine must answer the driver at any time: an MMU notifier stops queues and waits for it. So
 * it never faults or allocates with sleeping while it serves; an access that would need that
 * returns -EAGAIN and is repeated after sim_vm_fault_in(), outside of all locks.
 */
#include <linux/kthread.h>
#include <linux/mm.h>
#include <linux/sched/mm.h>

#include "sim.h"

bool sim_vm_begin(struct sim_vm *vm)
{
	if (!vm->mm || !mmget_not_zero(vm->mm))
		return false;
	kthread_use_mm(vm->mm);
	return true;
}

void sim_vm_end(struct sim_vm *vm)
{
	if (current->mm != vm->mm)
		return;		/* begin found the process exiting */
	kthread_unuse_mm(vm->mm);
	/* the last mmput() would run exit_mmap() here, whose notifiers wait for this thread */
	mmput_async(vm->mm);
}

/*
 * Kernel address of the byte at va, valid while vm->lock is held and until sim_vm_page_put().
 * *page is set for user memory only.
 */
static int sim_vm_page_get(struct sim_vm *vm, u64 va, bool write, struct page **page, void **ptr)
{
	struct sim_map *map;
	u64 offset;

	*page = NULL;
	map = sim_vm_lookup_locked(vm, va);
	if (!map)
		return -EFAULT;
	offset = va - sim_map_va(map);

	switch (map->bo->kind) {
	case SIM_BO_USER:
		if (current->mm != vm->mm)
			return -ESRCH;
		if (!get_user_page_fast_only(map->bo->user_addr + offset, write ? FOLL_WRITE : 0,
					     page))
			return -EAGAIN;
		*ptr = (char *)page_address(*page) + offset_in_page(map->bo->user_addr + offset);
		return 0;
	case SIM_BO_PAGED:
		*ptr = sim_bo_at(map->bo, offset, GFP_NOWAIT);
		return *ptr ? 0 : -EAGAIN;
	default:
		*ptr = sim_bo_at(map->bo, offset, GFP_NOWAIT);
		return *ptr ? 0 : -EFAULT;
	}
}

static void sim_vm_page_put(struct page *page, bool dirty)
{
	if (!page)
		return;
	if (dirty)
		set_page_dirty(page);
	put_page(page);
}

/* The other side polls on single 64-bit words (signals, read pointers): do not tear them. */
static void sim_copy(void *dst, const void *src, size_t len)
{
	if (len == sizeof(u64) && IS_ALIGNED((unsigned long)dst | (unsigned long)src, sizeof(u64)))
		WRITE_ONCE(*(u64 *)dst, READ_ONCE(*(const u64 *)src));
	else if (len == sizeof(u32) &&
		 IS_ALIGNED((unsigned long)dst | (unsigned long)src, sizeof(u32)))
		WRITE_ONCE(*(u32 *)dst, READ_ONCE(*(const u32 *)src));
	else
		memcpy(dst, src, len);
}

static int sim_vm_copy(struct sim_vm *vm, u64 va, void *buf, size_t len, bool write)
{
	while (len) {
		size_t n = min_t(size_t, len, PAGE_SIZE - offset_in_page(va));
		struct page *page;
		void *ptr;
		int r;

		mutex_lock(&vm->lock);
		r = sim_vm_page_get(vm, va, write, &page, &ptr);
		if (!r) {
			if (write)
				sim_copy(ptr, buf, n);
			else
				sim_copy(buf, ptr, n);
			sim_vm_page_put(page, write);
		}
		mutex_unlock(&vm->lock);
		if (r)
			return r;
		va += n;
		buf += n;
		len -= n;
	}
	return 0;
}

int sim_vm_read(struct sim_vm *vm, u64 va, void *dst, size_t len)
{
	return sim_vm_copy(vm, va, dst, len, false);
}

int sim_vm_write(struct sim_vm *vm, u64 va, const void *src, size_t len)
{
	return sim_vm_copy(vm, va, (void *)src, len, true);
}

int sim_vm_add64(struct sim_vm *vm, u64 va, s64 add, u64 *old)
{
	struct page *page;
	void *ptr;
	int r;

	if (!IS_ALIGNED(va, sizeof(u64)))
		return -EFAULT;
	mutex_lock(&vm->lock);
	r = sim_vm_page_get(vm, va, true, &page, &ptr);
	if (!r) {
		s64 before = atomic64_fetch_add(add, (atomic64_t *)ptr);

		if (old)
			*old = before;
		sim_vm_page_put(page, true);
	}
	mutex_unlock(&vm->lock);
	return r;
}

int sim_vm_cmpxchg64(struct sim_vm *vm, u64 va, u64 old, u64 new, u64 *found)
{
	struct page *page;
	void *ptr;
	int r;

	if (!IS_ALIGNED(va, sizeof(u64)))
		return -EFAULT;
	mutex_lock(&vm->lock);
	r = sim_vm_page_get(vm, va, true, &page, &ptr);
	if (!r) {
		u64 before = cmpxchg64((u64 *)ptr, old, new);

		if (found)
			*found = before;
		sim_vm_page_put(page, true);
	}
	mutex_unlock(&vm->lock);
	return r;
}

/* Faults one page in; the page is dropped again, so the next access may find it gone: retry. */
static int sim_vm_fault_in_page(struct sim_vm *vm, u64 va, bool write)
{
	unsigned long user_addr = 0;
	struct sim_bo *bo = NULL;
	struct page *page;
	struct sim_map *map;
	u64 offset = 0;
	int locked = 1;
	long r;

	mutex_lock(&vm->lock);
	map = sim_vm_lookup_locked(vm, va);
	if (map) {
		bo = sim_bo_get(map->bo);
		offset = va - sim_map_va(map);
		user_addr = bo->user_addr + offset;
	}
	mutex_unlock(&vm->lock);
	if (!bo)
		return -EFAULT;

	if (bo->kind != SIM_BO_USER) {
		r = sim_bo_at(bo, offset, GFP_KERNEL) ? 0 : -EFAULT;
		goto out;
	}
	r = -ESRCH;
	if (!vm->mm || !mmget_not_zero(vm->mm))
		goto out;
	mmap_read_lock(vm->mm);
	r = get_user_pages_remote(vm->mm, user_addr, 1, write ? FOLL_WRITE : 0, &page, &locked);
	if (locked)
		mmap_read_unlock(vm->mm);
	if (r == 1)
		put_page(page);
	r = r == 1 ? 0 : -EFAULT;
	mmput_async(vm->mm);
out:
	sim_bo_put(bo);
	return r;
}

int sim_vm_fault_in(struct sim_vm *vm, u64 va, size_t len, bool write)
{
	u64 end = va + len;
	int r = 0;

	for (va &= PAGE_MASK; va < end && !r; va += PAGE_SIZE)
		r = sim_vm_fault_in_page(vm, va, write);
	return r;
}

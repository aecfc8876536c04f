// SPDX-License-Identifier: GPL-2.0
/*
 * Memory of processes, as the queues of the thread see it.
 *
 * The thread must never wait for a user page: the process may hold its mmap lock and wait for
 * the scheduler. Accesses therefore do not fault; a page that is not resident is brought in by
 * a worker while the queue stands still, and one that is not mapped is a GPU page fault.
 */
#include <linux/slab.h>

#include "sim_engine.h"

/* A page that does not stay although it was brought in this often. */
#define SIM_FAULT_TRIES	1000

struct sim_fault_work {
	struct work_struct work;
	struct sim_engine *e;
	struct sim_slot *slot;
	struct sim_vm *vm;
	u32 serial;
	u64 va;
	u32 len;
	bool write;
};

static void sim_fault_worker(struct work_struct *work)
{
	struct sim_fault_work *f = container_of(work, struct sim_fault_work, work);
	struct sim_engine *e = f->e;
	struct sim_slot *s = f->slot;
	int r = sim_vm_fault_in(f->vm, f->va, f->len, f->write);

	sim_vm_put(f->vm);
	mutex_lock(&e->lock);
	/* The queue may have been unmapped and the slot reused meanwhile. */
	if (s->used && s->serial == f->serial && s->stop == SIM_FAULTING) {
		s->stop = SIM_RUNNING;
		s->pending = true;
		s->retry_ns = 0;
		if (r == -ESRCH)
			s->stop = SIM_GONE;
		else if (r)
			sim_fault_page(e, s);
	}
	mutex_unlock(&e->lock);
	kfree(f);
	sim_wake(e);
}

static void sim_request_page(struct sim_engine *e, struct sim_slot *s, u64 va, u32 len, bool write)
{
	/* No reclaim: it could wait for an MMU notifier that waits for this thread. */
	struct sim_fault_work *f = kmalloc(sizeof(*f), GFP_NOWAIT | __GFP_NOWARN);

	if (!f) {
		sim_stall(s);
		return;
	}
	INIT_WORK(&f->work, sim_fault_worker);
	f->e = e;
	f->slot = s;
	f->vm = s->vm;
	kref_get(&f->vm->ref);
	f->serial = s->serial;
	f->va = va;
	f->len = max(len, s->prefault);
	f->write = write;
	s->prefault = 0;
	s->stop = SIM_FAULTING;
	queue_work(e->fault_wq, &f->work);
}

void sim_umem_leave(struct sim_engine *e)
{
	if (e->cur_vm)
		sim_vm_end(e->cur_vm);
	e->cur_vm = NULL;
}

/* Taking on an address space is expensive, so it is kept for the next access. */
static void sim_umem_enter(struct sim_engine *e, struct sim_slot *s)
{
	if (e->cur_vm == s->vm)
		return;
	sim_umem_leave(e);
	sim_vm_begin(s->vm);
	e->cur_vm = s->vm;
}

static int sim_umem_result(struct sim_engine *e, struct sim_slot *s, int r,
			   u64 va, u32 len, bool write)
{
	switch (r) {
	case 0:
		s->fault_tries = 0;
		return 0;
	case -EAGAIN:
		s->fault_va = va;
		s->fault_write = write;
		if (++s->fault_tries > SIM_FAULT_TRIES)
			sim_fault_page(e, s);
		else
			sim_request_page(e, s, va, len, write);
		return r;
	case -ESRCH:
		s->stop = SIM_GONE;
		return r;
	default:
		s->fault_va = va;
		s->fault_write = write;
		sim_fault_page(e, s);
		return r;
	}
}

int sim_umem_read(struct sim_engine *e, struct sim_slot *s, u64 va, void *dst, u32 len)
{
	sim_umem_enter(e, s);
	return sim_umem_result(e, s, sim_vm_read(s->vm, va, dst, len), va, len, false);
}

int sim_umem_write(struct sim_engine *e, struct sim_slot *s, u64 va, const void *src, u32 len)
{
	sim_umem_enter(e, s);
	return sim_umem_result(e, s, sim_vm_write(s->vm, va, src, len), va, len, true);
}

int sim_umem_add64(struct sim_engine *e, struct sim_slot *s, u64 va, s64 add, u64 *old)
{
	sim_umem_enter(e, s);
	return sim_umem_result(e, s, va & 7 ? -EFAULT : sim_vm_add64(s->vm, va, add, old),
			       va, 8, true);
}

int sim_umem_cmpxchg64(struct sim_engine *e, struct sim_slot *s, u64 va, u64 old, u64 new,
		       u64 *found)
{
	sim_umem_enter(e, s);
	return sim_umem_result(e, s,
			       va & 7 ? -EFAULT : sim_vm_cmpxchg64(s->vm, va, old, new, found),
			       va, 8, true);
}

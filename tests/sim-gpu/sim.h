/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The simulated GPU: declarations shared by its device half and its engine half.
 *
 * The module is the unmodified amdkfd of Linux 6.12 plus the sim_*.c files, which
 * stand in for the rest of amdgpu (device half) and for the command processor and
 * its firmware (engine half). README.md of this folder explains the whole.
 *
 * Device half:
 *	sim_main.c sim_params.c		module start and end, parameters
 *	sim_shape.c sim_device.c	what kind of GPU, fake PCI device, bring-up
 *	sim_kgd.c sim_stubs.c		small functions amdkfd calls; those that mean nothing here
 *	sim_bo.c sim_doorbell.c		buffers, kernel GPU addresses, doorbell BAR
 *	sim_process.c sim_mem.c		processes, eviction fence; ALLOC, FREE, MAP, UNMAP
 *	sim_userptr.c sim_dmabuf.c	memory of the process itself; shared memory
 *	sim_vm.c sim_vm_access.c	address spaces; the engine's accesses to them
 *	sim_drm.c sim_info.c		render node, AMDGPU_INFO
 *	sim_reset.c			GPU reset
 * Engine half: see sim_engine.h
 */
#ifndef SIM_H
#define SIM_H

#include <linux/kref.h>
#include <linux/maple_tree.h>
#include <linux/mutex.h>
#include <linux/types.h>
#include <linux/xarray.h>

#include "amdgpu.h"
#include "amdgpu_amdkfd.h"
#include "kfd_priv.h"

#define SIM_MAX_GPUS		8
#define SIM_MAX_XCCS		8

/* Compute HQDs of one XCC. amdgpu gives amdkfd only MEC 0 (6.12 amdgpu_amdkfd_device_init). */
#define SIM_PIPES		4
#define SIM_QUEUES_PER_PIPE	8
#define SIM_MAX_CP_SLOTS	(SIM_PIPES * SIM_QUEUES_PER_PIPE)

/* Small shape: 2 SE x 4 CU per XCC keeps the context save area of a queue near 4.9 MB per XCC. */
#define SIM_NUM_SE		2
#define SIM_CU_PER_SE		4

/* ---- module parameters (sim_main.c); run-time ones are read at each use ---- */

/* fixed at load */
extern uint sim_gpus;		/* GPUs */
extern uint sim_xccs;		/* XCCs per GPU, all in one partition (one KFD node) */
extern uint sim_gfx;		/* graphics IP version, MMmmss: 90403 = 9.4.3 */
extern uint sim_slots;		/* compute HQD slots per XCC */
/* 0644 */
extern uint sim_unmap_us;	/* time to unmap one queue */
extern uint sim_save_us;	/* additional time to save the waves of a queue that has work */
extern uint sim_restore_us;	/* additional time to restore them */
extern uint sim_map_us;		/* time to map one queue */
extern uint sim_quantum_ms;	/* time slice when over-subscribed */
extern uint sim_dispatch_us;	/* work of a dispatch packet that names none */
extern uint sim_rate;		/* percent of dispatch work done per unit of time */
extern uint sim_hang;		/* non-zero: the scheduler answers nothing */
extern uint sim_refuse;		/* doorbell dword offset whose queue refuses preemption */

/* ---- objects ---- */

struct sim_engine;		/* private to the engine half */

/* One GPU. adev is the real struct; amdkfd only ever sees that. */
struct sim_gpu {
	struct amdgpu_device adev;
	int index;
	int num_xcc;
	u32 vmid_bitmap;		/* VMIDs amdkfd may use */
	DECLARE_BITMAP(cp_queue_bitmap, AMDGPU_MAX_QUEUES);

	struct platform_device *parent;	/* parent of the DRM device */
	struct drm_device *drm;
	bool drm_registered;

	/* GPU addresses of kernel objects (GART) -> sim_bo */
	struct maple_tree gart;
	u64 gart_next;
	/* fake offsets of the render node -> sim_bo */
	struct maple_tree mmap;
	u64 mmap_next;
	struct mutex bo_lock;		/* the two trees above and their counters */

	/* doorbell BAR: ordinary uncached pages */
	struct page *doorbell_pages;
	u32 *doorbell;
	unsigned long *doorbell_used;	/* one bit per page handed out */

	struct page *mmio_page;		/* MMIO remap page (HDP flush) */

	struct xarray vms;		/* pasid -> sim_vm */

	atomic64_t vram_used;
	atomic_t reset_count;

	struct dentry *debugfs;		/* simgpu/<index>, created by the engine half */
	struct sim_engine *engine;
};

static inline struct sim_gpu *adev_to_sim(struct amdgpu_device *adev)
{
	return container_of(adev, struct sim_gpu, adev);
}

extern struct sim_gpu *sim_gpu_table[SIM_MAX_GPUS];

/* Where the bytes of a buffer live. */
enum sim_bo_kind {
	SIM_BO_KERNEL,		/* vmalloc memory, ->cpu always valid */
	SIM_BO_PAGED,		/* pages appear on first touch; ->cpu after sim_bo_kmap() */
	SIM_BO_USER,		/* memory of the process (USERPTR) */
	SIM_BO_DOORBELL,	/* pages of the doorbell BAR */
	SIM_BO_MMIO,		/* the MMIO remap page */
	SIM_BO_EMPTY,		/* nothing: GWS, page directory */
};

/* A buffer. bo is the real struct and comes first, so that either can be cast to the other. */
struct sim_bo {
	struct amdgpu_bo bo;
	struct kref ref;
	struct sim_gpu *gpu;
	enum sim_bo_kind kind;
	u64 size;
	void *cpu;
	u64 gpu_addr;			/* GART address, 0 = none */
	u64 mmap_offset;		/* in the render node, 0 = none */
	u64 user_addr;			/* SIM_BO_USER */
	struct mutex map_lock;		/* cpu of SIM_BO_PAGED */
	struct xarray pages;		/* SIM_BO_PAGED: page index -> struct page */
	bool vmapped;
	bool charged_vram;
};

static inline struct sim_bo *to_sim_bo(struct amdgpu_bo *bo)
{
	return container_of(bo, struct sim_bo, bo);
}

/*
 * One range of GPU addresses of a process on one GPU. mapping.start and .last are 4 KiB page
 * numbers; the real structs are there because amdkfd reads them (kfd_queue_buffer_get).
 */
struct sim_map {
	struct kfd_mem_attachment attachment;	/* in kgd_mem.attachments */
	struct amdgpu_bo_va bo_va;
	struct amdgpu_bo_va_mapping mapping;	/* .rb in sim_vm.tree */
	struct sim_bo *bo;			/* holds a reference */
	struct sim_vm *vm;			/* does not */
};

static inline u64 sim_map_va(const struct sim_map *map)
{
	return map->mapping.start << AMDGPU_GPU_PAGE_SHIFT;
}

/* The address space of one process on one GPU. Outlives the file while the engine uses it. */
struct sim_file;

struct sim_vm {
	struct kref ref;
	struct sim_gpu *gpu;
	struct sim_file *file;		/* valid while it has mappings */
	struct mm_struct *mm;		/* mmgrab()ed; users must mmget_not_zero() */
	u32 pasid;
	struct mutex lock;		/* tree; a leaf lock: nothing allocates or faults under it */
	struct rb_root_cached tree;	/* interval tree of sim_map.mapping */
};

/* An open render node. driver_priv of its drm_file is &fpriv. */
struct sim_file {
	struct amdgpu_fpriv fpriv;
	struct sim_gpu *gpu;
	struct sim_bo *page_dir;
	struct sim_vm *vm;
};

/* ---- device half, for the engine ---- */

/*
 * Kernel GPU address (MQD, HIQ ring, run list, fence, end-of-pipe buffers of the kernel) to
 * pointer; NULL if the address belongs to nothing. The object must be known to stay allocated.
 */
void *sim_gart_to_cpu(struct sim_gpu *gpu, u64 gpu_addr);

/* Doorbell BAR by dword index, as in the doorbell_offset fields of packets and MQDs. */
u64 sim_doorbell_read(struct sim_gpu *gpu, u32 dword_index);
void sim_doorbell_write(struct sim_gpu *gpu, u32 dword_index, u64 value);

/*
 * Memory of a process by GPU address.
 *
 *	vm = sim_vm_get(gpu, pasid);		NULL: no such process here (any more)
 *	sim_vm_begin(vm);
 *	... sim_vm_read / write / add64 / cmpxchg ..., none of which sleeps for user memory
 *	sim_vm_end(vm);
 *	sim_vm_put(vm);
 *
 * begin/end take the user's mm (kthread_use_mm), so they bracket a few accesses, do not nest, and
 * are for kernel threads only. begin returns false when the process is exiting: BO memory is
 * still accessible then, USERPTR memory is not. end must be called in both cases.
 *
 * Result of the accessors:
 *	0		all bytes done
 *	-EFAULT		no mapping at that address: a GPU page fault
 *	-EAGAIN		the page is not resident: drop every lock, sim_vm_end(), sim_vm_fault_in(), retry
 *	-ESRCH		USERPTR memory of a process that is gone
 *
 * Accesses may cross pages and mappings. 64-bit aligned ones are single copies.
 */
struct sim_vm *sim_vm_get(struct sim_gpu *gpu, u32 pasid);
void sim_vm_put(struct sim_vm *vm);
bool sim_vm_begin(struct sim_vm *vm);
void sim_vm_end(struct sim_vm *vm);
int sim_vm_read(struct sim_vm *vm, u64 va, void *dst, size_t len);
int sim_vm_write(struct sim_vm *vm, u64 va, const void *src, size_t len);
/* va must be 8-byte aligned; truly atomic against CPU atomics of the process */
int sim_vm_add64(struct sim_vm *vm, u64 va, s64 add, u64 *old);
int sim_vm_cmpxchg64(struct sim_vm *vm, u64 va, u64 old, u64 new, u64 *found);
/* May sleep and fault; call without any lock and outside begin/end. 0, -EFAULT or -ESRCH. */
int sim_vm_fault_in(struct sim_vm *vm, u64 va, size_t len, bool write);

/* Queue a GPU reset as the driver's recovery does (sim_reset.c). Callable under any lock. */
void sim_gpu_reset_request(struct sim_gpu *gpu);

/* Live objects, for debugfs simgpu/leaks and the message at unload. */
struct sim_leaks {
	long bo;
	long mem;
	long files;
};
void sim_leaks(struct sim_leaks *now);

/* debugfs simgpu/evict, added to the top directory by sim_debugfs_init(). */
void sim_evict_debugfs(struct dentry *top);

/* ---- engine half, for the device ---- */

/* Called before kgd2kfd_device_init(), which already submits SET_RESOURCES. */
int sim_engine_init(struct sim_gpu *gpu);
/* Called after kgd2kfd_device_exit(). Must cope with a failed or missing init. */
void sim_engine_fini(struct sim_gpu *gpu);
/* "A doorbell is about to be written": from the amdgpu_amdkfd_is_fed() hook. Any context. */
void sim_engine_kick(struct sim_gpu *gpu);
/* Forget all HQDs, the HIQ and scheduler state. Between kgd2kfd_pre_reset and _post_reset. */
void sim_engine_reset(struct sim_gpu *gpu);

/* Directory simgpu/, once per module, before any GPU; sim_debugfs_gpu per GPU after engine_init. */
void sim_debugfs_init(void);
void sim_debugfs_gpu(struct sim_gpu *gpu);
void sim_debugfs_fini(void);

/*
 * kfd2kgd tables, sim_kfd2kgd.c. The names are those kfd_device.c refers to:
 * gfx_v7, gfx_v8, gfx_v9, arcturus, aldebaran, gc_9_4_3, gfx_v10, gfx_v10_3, gfx_v11, gfx_v12 _kfd2kgd.
 */

/* ---- inside the device half ---- */

/* sim_device.c */
struct sim_gpu *sim_gpu_create(int index);
int sim_gpu_start(struct sim_gpu *gpu);
void sim_gpu_destroy(struct sim_gpu *gpu);

/* sim_shape.c: what kind of GPU it is */
int sim_shape_check(void);
void sim_shape_fill(struct sim_gpu *gpu);
void sim_shape_fill_pci(struct pci_dev *pdev);

/* sim_bo.c */
struct sim_bo *sim_bo_create(struct sim_gpu *gpu, u64 size, enum sim_bo_kind kind);
struct sim_bo *sim_bo_get(struct sim_bo *bo);
void sim_bo_put(struct sim_bo *bo);
int sim_bo_bind_gart(struct sim_bo *bo);
int sim_bo_add_mmap(struct sim_bo *bo);
int sim_bo_kmap(struct sim_bo *bo);
/* Page of a SIM_BO_PAGED, allocated on first use; NULL if gfp does not allow that now. */
struct page *sim_bo_page(struct sim_bo *bo, pgoff_t index, gfp_t gfp);
/* Kernel address of one byte of the buffer (to the end of its page); NULL as above. */
void *sim_bo_at(struct sim_bo *bo, u64 offset, gfp_t gfp);
/* Finds the buffer of a render node mmap; takes a reference. */
struct sim_bo *sim_bo_by_mmap(struct sim_gpu *gpu, u64 offset);
void sim_bo_gpu_init(struct sim_gpu *gpu);
void sim_bo_gpu_fini(struct sim_gpu *gpu);

/* sim_doorbell.c */
int sim_doorbell_init(struct sim_gpu *gpu);
void sim_doorbell_fini(struct sim_gpu *gpu);
int sim_doorbell_alloc(struct sim_gpu *gpu, unsigned int pages);
void sim_doorbell_free(struct sim_gpu *gpu, unsigned int page, unsigned int pages);

/* sim_vm.c */
struct sim_vm *sim_vm_create(struct sim_gpu *gpu);
void sim_vm_unset_pasid(struct sim_vm *vm);
int sim_vm_insert(struct sim_vm *vm, struct sim_map *map, u64 va, u64 size);
void sim_vm_remove(struct sim_map *map);
struct sim_map *sim_vm_lookup_locked(struct sim_vm *vm, u64 va);

/* sim_mem.c */
struct kgd_mem *sim_mem_create(struct amdkfd_process_info *info, struct sim_bo *bo);
void sim_mem_list(struct kgd_mem *mem, bool userptr);

/* sim_userptr.c */
int sim_userptr_register(struct sim_bo *bo);
void sim_userptr_unregister(struct sim_bo *bo);
void sim_userptr_restore_work(struct work_struct *work);

/* sim_process.c: the real per-process struct of amdgpu_amdkfd_gpuvm.c and a list of them all */
struct sim_process {
	struct amdkfd_process_info info;	/* first: amdkfd passes it as void * */
	struct list_head list;
};

/* sim_drm.c */
int sim_drm_init(struct sim_gpu *gpu);
int sim_drm_register(struct sim_gpu *gpu);
void sim_drm_fini(struct sim_gpu *gpu);
/* drm_priv of KFD is the struct drm_file of the render node */
struct sim_file *sim_file_of(void *drm_priv);
int sim_bo_mmap(struct sim_bo *bo, struct vm_area_struct *vma);
struct sim_file *sim_file_of_vm(struct amdgpu_vm *avm);

/* sim_info.c */
int sim_info_ioctl(struct drm_device *drm, void *data, struct drm_file *drm_file);

/* sim_reset.c */
int sim_reset_init(struct sim_gpu *gpu);
void sim_reset_drain(struct sim_gpu *gpu);
void sim_reset_fini(struct sim_gpu *gpu);

/* sim_kgd.c */
void sim_pasid_fini(void);

/* counters behind sim_leaks(), sim_main.c */
extern atomic_long_t sim_live_bo, sim_live_mem, sim_live_files;

#endif /* SIM_H */

// SPDX-License-Identifier: GPL-2.0
/*
 * The DRM device: a real one of drm.ko with the little that a compute runtime asks of it, which is
 * the version, AMDGPU_INFO when libdrm opens it, and mmap of buffers.
 */
#include <drm/amdgpu_drm.h>
#include <drm/drm_drv.h>
#include <drm/drm_file.h>
#include <drm/drm_ioctl.h>
#include <linux/platform_device.h>

#include "sim.h"

struct sim_file *sim_file_of_vm(struct amdgpu_vm *avm)
{
	return container_of(avm, struct sim_file, fpriv.vm);
}

struct sim_file *sim_file_of(void *drm_priv)
{
	return sim_file_of_vm(drm_priv_to_vm(drm_priv));
}

static int sim_drm_open(struct drm_device *drm, struct drm_file *drm_file)
{
	struct sim_gpu *gpu = *(struct sim_gpu **)dev_get_platdata(drm->dev);
	struct sim_file *file;

	file = kzalloc(sizeof(*file), GFP_KERNEL);
	if (!file)
		return -ENOMEM;
	file->gpu = gpu;
	file->vm = sim_vm_create(gpu);
	if (!file->vm)
		goto err;
	file->vm->file = file;
	file->page_dir = sim_bo_create(gpu, PAGE_SIZE, SIM_BO_EMPTY);
	if (IS_ERR(file->page_dir))
		goto err_vm;
	/* amdkfd reserves it around its lookups (kfd_queue_acquire_buffers) */
	file->fpriv.vm.root.bo = &file->page_dir->bo;
	file->fpriv.vm.va = RB_ROOT_CACHED;
	drm_file->driver_priv = &file->fpriv;
	atomic_long_inc(&sim_live_files);
	return 0;

err_vm:
	sim_vm_put(file->vm);
err:
	kfree(file);
	return -ENOMEM;
}

/* amdgpu_driver_postclose_kms(). amdkfd holds the file open as long as its process exists. */
static void sim_drm_postclose(struct drm_device *drm, struct drm_file *drm_file)
{
	struct sim_file *file = container_of(drm_file->driver_priv, struct sim_file, fpriv);

	amdgpu_amdkfd_gpuvm_destroy_cb(&file->gpu->adev, &file->fpriv.vm);
	sim_vm_unset_pasid(file->vm);
	sim_vm_put(file->vm);
	sim_bo_put(file->page_dir);
	kfree(file);
	atomic_long_dec(&sim_live_files);
}

/* ---- mmap of buffers ---- */

static void sim_vma_open(struct vm_area_struct *vma)
{
	sim_bo_get(vma->vm_private_data);
}

static void sim_vma_close(struct vm_area_struct *vma)
{
	sim_bo_put(vma->vm_private_data);
}

static vm_fault_t sim_vma_fault(struct vm_fault *vmf)
{
	struct sim_bo *bo = vmf->vma->vm_private_data;
	struct page *page;

	if (vmf->pgoff >= bo->size >> PAGE_SHIFT)
		return VM_FAULT_SIGBUS;
	page = sim_bo_page(bo, vmf->pgoff, GFP_KERNEL);
	if (!page)
		return VM_FAULT_OOM;
	get_page(page);
	vmf->page = page;
	return 0;
}

static const struct vm_operations_struct sim_vm_ops = {
	.open = sim_vma_open,
	.close = sim_vma_close,
	.fault = sim_vma_fault,
};

/* vm_pgoff counts from the start of the buffer; the mapping keeps a reference */
int sim_bo_mmap(struct sim_bo *bo, struct vm_area_struct *vma)
{
	if (bo->kind != SIM_BO_PAGED || vma->vm_pgoff + vma_pages(vma) > bo->size >> PAGE_SHIFT)
		return -EINVAL;
	vm_flags_set(vma, VM_DONTEXPAND | VM_DONTDUMP);
	vma->vm_private_data = sim_bo_get(bo);
	vma->vm_ops = &sim_vm_ops;
	return 0;
}

static int sim_drm_mmap(struct file *filp, struct vm_area_struct *vma)
{
	struct drm_file *drm_file = filp->private_data;
	struct sim_file *file = container_of(drm_file->driver_priv, struct sim_file, fpriv);
	struct sim_bo *bo;
	int r;

	bo = sim_bo_by_mmap(file->gpu, (u64)vma->vm_pgoff << PAGE_SHIFT);
	if (!bo)
		return -EINVAL;
	vma->vm_pgoff -= bo->mmap_offset >> PAGE_SHIFT;
	r = sim_bo_mmap(bo, vma);
	sim_bo_put(bo);
	return r;
}

static const struct file_operations sim_drm_fops = {
	.owner = THIS_MODULE,
	.open = drm_open,
	.release = drm_release,
	.unlocked_ioctl = drm_ioctl,
	.compat_ioctl = drm_compat_ioctl,
	.mmap = sim_drm_mmap,
	.llseek = noop_llseek,
	.fop_flags = FOP_UNSIGNED_OFFSET,
};

int amdgpu_file_to_fpriv(struct file *filp, struct amdgpu_fpriv **fpriv)
{
	if (filp->f_op != &sim_drm_fops)
		return -EINVAL;
	*fpriv = ((struct drm_file *)filp->private_data)->driver_priv;
	return 0;
}

/* ---- the device ---- */

static const struct drm_ioctl_desc sim_drm_ioctls[] = {
	DRM_IOCTL_DEF_DRV(AMDGPU_INFO, sim_info_ioctl, DRM_AUTH | DRM_RENDER_ALLOW),
};

static const struct drm_driver sim_drm_driver = {
	.driver_features = DRIVER_RENDER | DRIVER_GEM,
	.open = sim_drm_open,
	.postclose = sim_drm_postclose,
	.ioctls = sim_drm_ioctls,
	.num_ioctls = ARRAY_SIZE(sim_drm_ioctls),
	.fops = &sim_drm_fops,
	.name = "amdgpu",
	.desc = "AMD GPU (simulated)",
	.date = "20150101",
	.major = 3,	/* libdrm refuses any other */
	.minor = 59,
};

int sim_drm_init(struct sim_gpu *gpu)
{
	struct drm_device *drm;

	/* the PCI device is in no bus, so the DRM device needs a parent that sysfs knows */
	gpu->parent = platform_device_register_data(NULL, "amdgpu_sim", gpu->index, &gpu,
						    sizeof(gpu));
	if (IS_ERR(gpu->parent)) {
		int r = PTR_ERR(gpu->parent);

		gpu->parent = NULL;
		return r;
	}
	drm = drm_dev_alloc(&sim_drm_driver, &gpu->parent->dev);
	if (IS_ERR(drm))
		return PTR_ERR(drm);
	gpu->drm = drm;
	return 0;
}

int sim_drm_register(struct sim_gpu *gpu)
{
	int r = drm_dev_register(gpu->drm, 0);

	if (r)
		return r;
	gpu->drm_registered = true;
	/* amdkfd reads the minor for its topology and for the device cgroup check */
	gpu->adev.ddev.render = gpu->drm->render;
	return 0;
}

void sim_drm_fini(struct sim_gpu *gpu)
{
	if (gpu->drm_registered)
		drm_dev_unregister(gpu->drm);
	gpu->adev.ddev.render = NULL;
	if (gpu->drm)
		drm_dev_put(gpu->drm);
	if (gpu->parent)
		platform_device_unregister(gpu->parent);
}

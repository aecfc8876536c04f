// SPDX-License-Identifier: GPL-2.0
/*
 * One simulated GPU: enough of a struct amdgpu_device and struct pci_dev for amdkfd, and the
 * bring-up of 6.12 amdgpu_amdkfd_device_init().
 */
#include <linux/pci.h>
#include <linux/pm_runtime.h>
#include <linux/set_memory.h>
#include <linux/vmalloc.h>

#include "sim.h"

/* Name only: makes dev_err() and friends print "amdgpu 0000:00:10.0: ..." as the real driver. */
static struct device_driver sim_driver = {
	.name = "amdgpu",
};

static void sim_pci_release(struct device *dev)
{
	kfree(to_pci_dev(dev));
}

/*
 * A PCI device that exists in no bus list. It is never registered, so that no PCI code (runtime
 * power management, config space) touches it; amdkfd reads ids, the bus number and the NUMA node.
 */
static struct pci_dev *sim_pci_create(int index)
{
	struct pci_bus *bus = pci_find_bus(0, 0);
	struct pci_dev *pdev;

	if (!bus) {
		pr_err("sim: needs a PCI bus 0000:00 in the machine\n");
		return NULL;
	}
	pdev = pci_alloc_dev(bus);
	if (!pdev)
		return NULL;

	pdev->vendor = PCI_VENDOR_ID_ATI;
	sim_shape_fill_pci(pdev);
	pdev->subsystem_vendor = PCI_VENDOR_ID_ATI;
	pdev->subsystem_device = 0x0c34;
	pdev->devfn = PCI_DEVFN(0x10 + index, 0);

	device_initialize(&pdev->dev);
	pdev->dev.release = sim_pci_release;
	pdev->dev.driver = &sim_driver;
	dev_set_name(&pdev->dev, "%04x:%02x:%02x.%d", pci_domain_nr(bus), bus->number,
		     PCI_SLOT(pdev->devfn), PCI_FUNC(pdev->devfn));
	/* otherwise kfd_find_numa_node_in_srat() searches ACPI for it */
	set_dev_node(&pdev->dev, 0);
	/* otherwise pm_runtime_get_sync() in kfd_bind_process_to_device() fails with -EACCES */
	pm_runtime_enable(&pdev->dev);
	return pdev;
}

static void sim_pci_destroy(struct pci_dev *pdev)
{
	struct pci_bus *bus = pdev->bus;

	pm_runtime_disable(&pdev->dev);
	pdev->dev.driver = NULL;
	put_device(&pdev->dev);
	/* pci_alloc_dev() took it; pci_release_dev(), which drops it, is not ours to call */
	put_device(&bus->dev);
}

struct sim_gpu *sim_gpu_create(int index)
{
	struct amdgpu_device *adev;
	struct sim_gpu *gpu;
	int r = -ENOMEM;

	/* struct amdgpu_device alone is some 200 KiB */
	gpu = vzalloc(sizeof(*gpu));
	if (!gpu)
		return ERR_PTR(-ENOMEM);
	gpu->index = index;
	adev = &gpu->adev;
	xa_init(&gpu->vms);
	sim_bo_gpu_init(gpu);
	spin_lock_init(&adev->mman.bdev.lru_lock);
	mutex_init(&adev->mes.mutex_hidden);

	adev->pdev = sim_pci_create(index);
	if (!adev->pdev)
		goto err;
	adev->dev = &adev->pdev->dev;
	adev->ddev.dev = adev->dev;
	sim_shape_fill(gpu);

	r = sim_doorbell_init(gpu);
	if (r)
		goto err;

	gpu->mmio_page = alloc_page(GFP_KERNEL | __GFP_ZERO);
	if (!gpu->mmio_page) {
		r = -ENOMEM;
		goto err;
	}
	set_memory_uc((unsigned long)page_address(gpu->mmio_page), 1);
	adev->rmmio_remap.bus_addr = page_to_phys(gpu->mmio_page);

	r = sim_reset_init(gpu);
	if (r)
		goto err;
	r = sim_drm_init(gpu);
	if (r)
		goto err;
	return gpu;

err:
	sim_gpu_destroy(gpu);
	return ERR_PTR(r);
}

/* 6.12 amdgpu_amdkfd_device_probe() and amdgpu_amdkfd_device_init() */
int sim_gpu_start(struct sim_gpu *gpu)
{
	struct amdgpu_device *adev = &gpu->adev;
	struct kgd2kfd_shared_resources res = {
		.compute_vmid_bitmap = gpu->vmid_bitmap,
		.num_pipe_per_mec = adev->gfx.mec.num_pipe_per_mec,
		.num_queue_per_pipe = adev->gfx.mec.num_queue_per_pipe,
		.gpuvm_size = min(adev->vm_manager.max_pfn << AMDGPU_GPU_PAGE_SHIFT,
				  AMDGPU_GMC_HOLE_START),
		.sdma_doorbell_idx = adev->doorbell_index.sdma_engine,
		.non_cp_doorbells_start = adev->doorbell_index.first_non_cp,
		.non_cp_doorbells_end = adev->doorbell_index.last_non_cp,
		.doorbell_physical_address = adev->doorbell.base,
		.enable_mes = adev->enable_mes,
	};
	int r;

	/* amdgpu_doorbell_get_kfd_info() */
	if (!adev->enable_mes) {
		res.doorbell_aperture_size = adev->doorbell.size;
		res.doorbell_start_offset = adev->doorbell.num_kernel_doorbells * sizeof(u32);
	}
	bitmap_copy(res.cp_queue_bitmap, gpu->cp_queue_bitmap, AMDGPU_MAX_QUEUES);

	r = sim_engine_init(gpu);
	if (r)
		return r;
	sim_debugfs_gpu(gpu);

	r = sim_drm_register(gpu);
	if (r)
		return r;
	res.drm_render_minor = adev->ddev.render->index;

	adev->kfd.dev = kgd2kfd_probe(adev, false);
	if (!adev->kfd.dev)
		return -ENODEV;
	adev->kfd.init_complete = kgd2kfd_device_init(adev->kfd.dev, &res);
	return adev->kfd.init_complete ? 0 : -ENODEV;
}

void sim_gpu_destroy(struct sim_gpu *gpu)
{
	struct amdgpu_device *adev = &gpu->adev;

	/* a reset work must not find a half gone kfd_dev */
	sim_reset_drain(gpu);
	if (adev->kfd.dev)
		kgd2kfd_device_exit(adev->kfd.dev);
	adev->kfd.init_complete = false;
	adev->kfd.dev = NULL;

	sim_engine_fini(gpu);
	sim_drm_fini(gpu);
	sim_reset_fini(gpu);
	if (gpu->mmio_page) {
		set_memory_wb((unsigned long)page_address(gpu->mmio_page), 1);
		__free_page(gpu->mmio_page);
	}
	sim_doorbell_fini(gpu);
	sim_bo_gpu_fini(gpu);
	WARN_ON(!xa_empty(&gpu->vms));
	xa_destroy(&gpu->vms);
	if (adev->pdev)
		sim_pci_destroy(adev->pdev);
	vfree(gpu);
}

// SPDX-License-Identifier: GPL-2.0
/*
 * DRM_IOCTL_AMDGPU_INFO: the queries of libdrm's amdgpu_device_initialize(), 6.12 amdgpu_kms.c.
 */
#include <drm/amdgpu_drm.h>
#include <drm/drm_file.h>

#include "sim.h"

#define SIM_GB_ADDR_CONFIG	0x263e	/* dword offset of the register, libdrm reads it */

static int sim_info_copy(const struct drm_amdgpu_info *info, const void *data, size_t size)
{
	/* newer and older user space may know more or fewer fields */
	return copy_to_user(u64_to_user_ptr(info->return_pointer), data,
			    min_t(size_t, info->return_size, size)) ? -EFAULT : 0;
}

static int sim_info_device(struct sim_gpu *gpu, const struct drm_amdgpu_info *info)
{
	struct amdgpu_device *adev = &gpu->adev;
	struct drm_amdgpu_info_device *dev;
	int r;

	dev = kzalloc(sizeof(*dev), GFP_KERNEL);
	if (!dev)
		return -ENOMEM;
	dev->device_id = adev->pdev->device;
	dev->chip_rev = adev->rev_id;
	dev->external_rev = adev->external_rev_id;
	dev->pci_rev = adev->pdev->revision;
	dev->family = adev->family;
	dev->num_shader_engines = adev->gfx.config.max_shader_engines;
	dev->num_shader_arrays_per_engine = adev->gfx.config.max_sh_per_se;
	dev->gpu_counter_freq = 100000;	/* kHz, of sim_gpu_clock() */
	dev->max_engine_clock = 2100000;
	dev->max_memory_clock = 1300000;
	dev->cu_active_number = adev->gfx.cu_info.number;
	memcpy(dev->cu_bitmap, adev->gfx.cu_info.bitmap, sizeof(dev->cu_bitmap));
	dev->virtual_address_offset = 0x200000;
	dev->virtual_address_max = AMDGPU_GMC_HOLE_START;
	dev->high_va_offset = AMDGPU_GMC_HOLE_END;
	dev->high_va_max = AMDGPU_GMC_HOLE_END | adev->vm_manager.max_pfn << AMDGPU_GPU_PAGE_SHIFT;
	dev->virtual_address_alignment = PAGE_SIZE;
	dev->pte_fragment_size = SZ_2M;
	dev->gart_page_size = PAGE_SIZE;
	dev->vram_type = adev->gmc.vram_type;
	dev->vram_bit_width = adev->gmc.vram_width;
	dev->wave_front_size = adev->gfx.cu_info.wave_front_size;
	dev->num_cu_per_sh = adev->gfx.config.max_cu_per_sh;
	r = sim_info_copy(info, dev, sizeof(*dev));
	kfree(dev);
	return r;
}

int sim_info_ioctl(struct drm_device *drm, void *data, struct drm_file *drm_file)
{
	struct sim_file *file = container_of(drm_file->driver_priv, struct sim_file, fpriv);
	struct drm_amdgpu_info *info = data;
	struct sim_gpu *gpu = file->gpu;
	u32 value;

	if (!info->return_size || !info->return_pointer)
		return -EINVAL;

	switch (info->query) {
	case AMDGPU_INFO_ACCEL_WORKING:
		value = 1;
		return sim_info_copy(info, &value, sizeof(value));
	case AMDGPU_INFO_DEV_INFO:
		return sim_info_device(gpu, info);
	case AMDGPU_INFO_READ_MMR_REG:
		if (info->read_mmr_reg.dword_offset != SIM_GB_ADDR_CONFIG ||
		    info->read_mmr_reg.count != 1)
			return -EINVAL;
		value = gpu->adev.gfx.config.gb_addr_config;
		return sim_info_copy(info, &value, sizeof(value));
	case AMDGPU_INFO_HW_IP_COUNT:
		/* no kernel rings: queues are amdkfd's */
		value = 0;
		return sim_info_copy(info, &value, sizeof(value));
	default:
		return -EINVAL;
	}
}

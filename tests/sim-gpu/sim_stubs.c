// SPDX-License-Identifier: GPL-2.0
/*
 * Symbols that amdkfd refers to and that mean nothing to a simulated GPU: caches, power, RAS
 * and SR-IOV.
 */
#include <linux/seq_file.h>

#include "amdgpu_mes.h"
#include "amdgpu_ras.h"
#include "amdgpu_reset.h"
#include "sim_engine.h"

/* ---- memory is coherent: nothing to flush, unmap at once ---- */

void amdgpu_device_flush_hdp(struct amdgpu_device *adev, struct amdgpu_ring *ring) {}

void amdgpu_amdkfd_debug_mem_fence(struct amdgpu_device *adev) {}

int amdgpu_vm_flush_compute_tlb(struct amdgpu_device *adev, struct amdgpu_vm *vm,
				uint32_t flush_type, uint32_t xcc_mask)
{
	return 0;
}

int amdgpu_amdkfd_gpuvm_sync_memory(struct amdgpu_device *adev, struct kgd_mem *mem, bool intr)
{
	return 0;
}

int amdgpu_amdkfd_gpuvm_dmaunmap_mem(struct kgd_mem *mem, void *drm_priv)
{
	return 0;
}

/* sim_bo_kmap() maps once for the life of the buffer */
void amdgpu_amdkfd_gpuvm_unmap_gtt_bo_from_kernel(struct kgd_mem *mem) {}

int amdgpu_amdkfd_gpuvm_get_vm_fault_info(struct amdgpu_device *adev,
					  struct kfd_vm_fault_info *info)
{
	return 0;
}

/* ---- TTM, which holds no simulated memory ---- */

void ttm_bo_move_to_lru_tail(struct ttm_buffer_object *bo) {}

#ifdef CONFIG_DEBUG_FS
int kfd_debugfs_kfd_mem_limits(struct seq_file *m, void *data)
{
	int i;

	for (i = 0; i < SIM_MAX_GPUS && sim_gpu_table[i]; i++)
		seq_printf(m, "GPU %d VRAM used %lldM out of %lluM\n", i,
			   atomic64_read(&sim_gpu_table[i]->vram_used) >> 20,
			   sim_gpu_table[i]->adev.gmc.real_vram_size >> 20);
	return 0;
}
#endif

int amdgpu_amdkfd_get_tile_config(struct amdgpu_device *adev, struct tile_config *config)
{
	config->gb_addr_config = adev->gfx.config.gb_addr_config;
	config->tile_config_ptr = adev->gfx.config.tile_mode_array;
	config->num_tile_configs = ARRAY_SIZE(adev->gfx.config.tile_mode_array);
	config->macro_tile_config_ptr = adev->gfx.config.macrotile_mode_array;
	config->num_macro_tile_configs = ARRAY_SIZE(adev->gfx.config.macrotile_mode_array);
	config->num_banks = adev->gfx.config.num_banks;
	config->num_ranks = adev->gfx.config.num_ranks;
	return 0;
}

/* ---- power, thermal, kernel rings ---- */

void amdgpu_amdkfd_set_compute_idle(struct amdgpu_device *adev, bool idle) {}

void amdgpu_gfx_off_ctrl(struct amdgpu_device *adev, bool enable) {}

uint64_t amdgpu_dpm_get_thermal_throttling_counter(struct amdgpu_device *adev)
{
	return 0;
}

/* only amdkfd's Hawaii path submits through a kernel ring */
int amdgpu_amdkfd_submit_ib(struct amdgpu_device *adev, enum kgd_engine_type engine, uint32_t vmid,
			    uint64_t gpu_addr, uint32_t *ib_cmd, uint32_t ib_len)
{
	return 0;
}

int amdgpu_amdkfd_unmap_hiq(struct amdgpu_device *adev, u32 doorbell_off, u32 inst)
{
	return sim_engine_unmap_hiq(adev_to_sim(adev), inst);
}

/* ---- RAS and SR-IOV ---- */

void amdgpu_amdkfd_ras_poison_consumption_handler(struct amdgpu_device *adev,
						  enum amdgpu_ras_block block, uint32_t reset)
{
}

void amdgpu_amdkfd_ras_pasid_poison_consumption_handler(struct amdgpu_device *adev,
							enum amdgpu_ras_block block,
							uint16_t pasid, pasid_notify pasid_fn,
							void *data, uint32_t reset)
{
}

u64 amdgpu_ras_acquire_event_id(struct amdgpu_device *adev, enum ras_event_type type)
{
	return 0;
}

int amdgpu_ras_mark_ras_event_caller(struct amdgpu_device *adev, enum ras_event_type type,
				     const void *caller)
{
	return 0;
}

void amdgpu_ras_event_log_print(struct amdgpu_device *adev, u64 event_id, const char *fmt, ...) {}

bool amdgpu_sriov_xnack_support(struct amdgpu_device *adev)
{
	return true;
}

/* Text of the SMI pre-reset event, 6.12 amdgpu_reset.c. */
void amdgpu_reset_get_desc(struct amdgpu_reset_context *rst_ctxt, char *buf, size_t len)
{
	if (!buf || !len)
		return;
	strscpy(buf, rst_ctxt && rst_ctxt->src == AMDGPU_RESET_SRC_HWS ? "hws hang" : "unknown",
		len);
}

/* ---- MES: adding and removing queues is sim_mes.c, the rest has nothing to do ---- */

int amdgpu_mes_doorbell_process_slice(struct amdgpu_device *adev)
{
	/* 6.12 amdgpu_mes.c: 8 bytes for each of the 1024 queues a process may have */
	return roundup(8 * 1024, PAGE_SIZE);
}

int amdgpu_mes_suspend(struct amdgpu_device *adev)
{
	return 0;
}

int amdgpu_mes_resume(struct amdgpu_device *adev)
{
	return 0;
}

int amdgpu_mes_set_shader_debugger(struct amdgpu_device *adev, uint64_t process_context_addr,
				   uint32_t spi_gdbg_per_vmid_cntl, const uint32_t *tcp_watch_cntl,
				   uint32_t flags, bool trap_en)
{
	return 0;
}

int amdgpu_mes_flush_shader_debugger(struct amdgpu_device *adev, uint64_t process_context_addr)
{
	return 0;
}

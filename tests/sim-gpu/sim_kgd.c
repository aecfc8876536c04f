// SPDX-License-Identifier: GPL-2.0
/*
 * Small functions of 6.12 amdgpu_amdkfd.c, amdgpu_gfx.c, amdgpu_ids.c and amdgpu_vm.c that have a
 * meaning for the simulation.
 */
#include <linux/idr.h>

#include "amdgpu_xcp.h"
#include "sim_engine.h"

/*
 * kq_submit_packet() calls this immediately before it writes the doorbell of a kernel queue, and
 * amdkfd_fence_wait_timeout() in each turn of its loop. A simulated engine cannot trap doorbell
 * stores, so this is where it learns that the driver wants something.
 */
bool amdgpu_amdkfd_is_fed(struct amdgpu_device *adev)
{
	sim_engine_kick(adev_to_sim(adev));
	return false;
}

uint32_t amdgpu_amdkfd_get_fw_version(struct amdgpu_device *adev, enum kgd_engine_type type)
{
	switch (type) {
	case KGD_ENGINE_MEC1:
		return adev->gfx.mec_fw_version;
	case KGD_ENGINE_MEC2:
		return adev->gfx.mec2_fw_version;
	case KGD_ENGINE_SDMA1:
		return adev->sdma.instance[0].fw_version;
	case KGD_ENGINE_SDMA2:
		return adev->sdma.instance[1].fw_version;
	default:
		return 0;
	}
}

void amdgpu_amdkfd_get_local_mem_info(struct amdgpu_device *adev,
				      struct kfd_local_mem_info *mem_info, struct amdgpu_xcp *xcp)
{
	memset(mem_info, 0, sizeof(*mem_info));
	mem_info->local_mem_size_public = adev->gmc.visible_vram_size;
	mem_info->local_mem_size_private = adev->gmc.real_vram_size - adev->gmc.visible_vram_size;
	mem_info->vram_width = adev->gmc.vram_width;
	mem_info->mem_clk_max = 1300;
}

uint64_t amdgpu_amdkfd_get_gpu_clock_counter(struct amdgpu_device *adev)
{
	return sim_gpu_clock();
}

uint32_t amdgpu_amdkfd_get_max_engine_clock_in_mhz(struct amdgpu_device *adev)
{
	return 2100;
}

bool amdgpu_amdkfd_have_atomics_support(struct amdgpu_device *adev)
{
	return adev->have_atomics_support;
}

u64 amdgpu_amdkfd_xcp_memory_size(struct amdgpu_device *adev, int xcp_id)
{
	return adev->gmc.real_vram_size;
}

/* All GPUs of a simulated hive are one hop apart. */
uint8_t amdgpu_amdkfd_get_xgmi_hops_count(struct amdgpu_device *dst, struct amdgpu_device *src)
{
	return 1;
}

/* One x16 link of 25 Gbit/s lanes, the formula of amdgpu_amdkfd_get_xgmi_bandwidth_mbytes() */
int amdgpu_amdkfd_get_xgmi_bandwidth_mbytes(struct amdgpu_device *dst, struct amdgpu_device *src,
					    bool is_min)
{
	return 16 * 25000 / BITS_PER_BYTE;
}

/* PCIe 5.0 x16 */
int amdgpu_amdkfd_get_pcie_bandwidth_mbytes(struct amdgpu_device *adev, bool is_min)
{
	return 16 * 32000 / BITS_PER_BYTE;
}

/*
 * Sends a marker through the interrupt path and lets amdkfd wait for it
 * (kfd_process_drain_interrupts). Whoever returns 0 here must deliver the marker.
 */
int amdgpu_amdkfd_send_close_event_drain_irq(struct amdgpu_device *adev, uint32_t *payload)
{
	struct kfd_process *p = kfd_lookup_process_by_pasid(payload[3] & 0xffff);
	u32 gc_version = amdgpu_ip_version(adev, GC_HWIP, 0);

	/*
	 * An exiting process has left the table already (kfd_process_notifier_release), so
	 * kfd_process_close_interrupt_drain() could not wake its waiter, who would wait for ever.
	 */
	if (!p)
		return -ESRCH;
	kfd_unref_process(p);

	/* event_interrupt_isr_v9_4_3() drops interrupts whose VMID is not amdkfd's; the marker has 0 */
	if (gc_version == IP_VERSION(9, 4, 3) || gc_version == IP_VERSION(9, 4, 4))
		payload[0] |= adev->vm_manager.first_kfd_vmid << 24;
	kgd2kfd_interrupt(adev->kfd.dev, payload);
	return 0;
}

/* 6.12 amdgpu_gfx.c amdgpu_queue_mask_bit_to_mec_queue(), with one MEC */
void amdgpu_queue_mask_bit_to_mec_queue(struct amdgpu_device *adev, int bit, int *mec, int *pipe,
					int *queue)
{
	*queue = bit % adev->gfx.mec.num_queue_per_pipe;
	*pipe = bit / adev->gfx.mec.num_queue_per_pipe % adev->gfx.mec.num_pipe_per_mec;
	*mec = bit / adev->gfx.mec.num_queue_per_pipe / adev->gfx.mec.num_pipe_per_mec;
}

/* 6.12 amdgpu_gfx.c: SET_RESOURCES counts 4 pipes of 8 queues, as there are here */
int amdgpu_queue_mask_bit_to_set_resource_bit(struct amdgpu_device *adev, int queue_bit)
{
	int mec, pipe, queue;

	amdgpu_queue_mask_bit_to_mec_queue(adev, queue_bit, &mec, &pipe, &queue);
	return mec * 4 * 8 + pipe * 8 + queue;
}

/* ---- pasids, 6.12 amdgpu_ids.c: from the upper half, so that VMIDs' own stay free ---- */

static DEFINE_IDA(sim_pasid_ida);

int amdgpu_pasid_alloc(unsigned int bits)
{
	int i;

	for (i = min(bits, 31U); i > 0; i--) {
		int pasid = ida_alloc_range(&sim_pasid_ida, 1U << (i - 1), (1U << i) - 1,
					    GFP_KERNEL);

		if (pasid != -ENOSPC)
			return pasid;
	}
	return -ENOSPC;
}

void amdgpu_pasid_free(u32 pasid)
{
	ida_free(&sim_pasid_ida, pasid);
}

void sim_pasid_fini(void)
{
	WARN_ON(!ida_is_empty(&sim_pasid_ida));
	ida_destroy(&sim_pasid_ida);
}

/* ---- who owns a pasid, 6.12 amdgpu_vm.c: printed with faults and thermal events ---- */

struct amdgpu_task_info *amdgpu_vm_get_task_info_pasid(struct amdgpu_device *adev, u32 pasid)
{
	struct amdgpu_task_info *info;
	struct kfd_process *p;

	p = kfd_lookup_process_by_pasid(pasid);
	if (!p)
		return NULL;
	info = kzalloc(sizeof(*info), GFP_KERNEL);
	if (info) {
		kref_init(&info->refcount);
		info->pid = p->lead_thread->pid;
		info->tgid = p->lead_thread->tgid;
		get_task_comm(info->task_name, p->lead_thread);
		get_task_comm(info->process_name, p->lead_thread);
	}
	kfd_unref_process(p);
	return info;
}

void amdgpu_vm_put_task_info(struct amdgpu_task_info *task_info)
{
	kfree(task_info);
}

/* Never called with one KFD node per GPU, but referred to. */
int amdgpu_xcp_query_partition_mode(struct amdgpu_xcp_mgr *xcp_mgr, u32 flags)
{
	return AMDGPU_SPX_PARTITION_MODE;
}

int amdgpu_xcp_get_inst_details(struct amdgpu_xcp *xcp, enum AMDGPU_XCP_IP_BLOCK ip,
				uint32_t *inst_mask)
{
	return -EINVAL;
}

// SPDX-License-Identifier: GPL-2.0
/*
 * What kind of GPU is simulated: IP versions, sizes, caches.
 *
 * kgd2kfd_probe() selects everything by the GC IP version; ROCm's thunk matches the PCI device id
 * with the gfx version it reads from the topology, so the two must belong together.
 */
#include "sim_engine.h"

struct sim_shape {
	uint gfx;		/* value of sim_gfx */
	u32 gc_version;
	u32 sdma_version;
	enum amd_asic_type asic_type;
	u32 family;
	u16 pci_device;
	u8 pci_revision;	/* selects the marketing name in libdrm's table */
	u8 rev_id;
	u8 first_vmid;		/* vm_manager.first_kfd_vmid */
	u8 sdma_per_xcc;
	u8 wave_size;
	bool multi_xcc;
	bool xgmi;
	bool mes;		/* scheduled by MES instead of HWS */
};

static const struct sim_shape shapes[] = {
	{	/* MI210 */
		.gfx = 90402, .gc_version = IP_VERSION(9, 4, 2), .sdma_version = IP_VERSION(4, 4, 0),
		.asic_type = CHIP_ALDEBARAN, .family = AMDGPU_FAMILY_AI,
		.pci_device = 0x740f, .pci_revision = 2,
		.first_vmid = 3, .sdma_per_xcc = 5, .wave_size = 64, .xgmi = true,
	}, {	/* MI300X; revision 1 makes kgd2kfd_probe() report gfx942 */
		.gfx = 90403, .gc_version = IP_VERSION(9, 4, 3), .sdma_version = IP_VERSION(4, 4, 2),
		.asic_type = CHIP_IP_DISCOVERY, .family = AMDGPU_FAMILY_AI,
		.pci_device = 0x74a1, .rev_id = 1,
		.first_vmid = 3, .sdma_per_xcc = 2, .wave_size = 64, .xgmi = true, .multi_xcc = true,
	}, {	/* RX 6800 XT */
		.gfx = 100300, .gc_version = IP_VERSION(10, 3, 0), .sdma_version = IP_VERSION(5, 2, 0),
		.asic_type = CHIP_SIENNA_CICHLID, .family = AMDGPU_FAMILY_NV,
		.pci_device = 0x73bf, .pci_revision = 0xc1,
		.first_vmid = 8, .sdma_per_xcc = 4, .wave_size = 32,
	}, {	/* RX 7900 XTX */
		.gfx = 110000, .gc_version = IP_VERSION(11, 0, 0), .sdma_version = IP_VERSION(6, 0, 0),
		.asic_type = CHIP_IP_DISCOVERY, .family = AMDGPU_FAMILY_GC_11_0_0,
		.pci_device = 0x744c, .pci_revision = 0xc8,
		.first_vmid = 8, .sdma_per_xcc = 2, .wave_size = 32, .mes = true,
	}, {	/* RX 9060 XT */
		.gfx = 120000, .gc_version = IP_VERSION(12, 0, 0), .sdma_version = IP_VERSION(7, 0, 0),
		.asic_type = CHIP_IP_DISCOVERY, .family = AMDGPU_FAMILY_GC_12_0_0,
		.pci_device = 0x7590, .pci_revision = 0xc0,
		.first_vmid = 8, .sdma_per_xcc = 2, .wave_size = 32, .mes = true,
	},
};

/* 6.12 amdgpu_device.c; kfd_topology_add_device() makes the node's name of it, in lower case */
const char *amdgpu_asic_name[CHIP_LAST + 1] = {
	[CHIP_ALDEBARAN] = "ALDEBARAN",
	[CHIP_SIENNA_CICHLID] = "SIENNA_CICHLID",
	[CHIP_IP_DISCOVERY] = "IP DISCOVERY",
};

static const struct sim_shape *sim_shape_find(void)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(shapes); i++)
		if (shapes[i].gfx == sim_gfx)
			return &shapes[i];
	return NULL;
}

int sim_shape_check(void)
{
	const struct sim_shape *shape = sim_shape_find();

	if (!shape) {
		pr_err("sim: sim_gfx=%u is not simulated\n", sim_gfx);
		return -EINVAL;
	}
	if (sim_xccs > 1 && !shape->multi_xcc) {
		pr_err("sim: sim_gfx=%u has one XCC\n", sim_gfx);
		return -EINVAL;
	}
	return 0;
}

void sim_shape_fill_pci(struct pci_dev *pdev)
{
	pdev->device = sim_shape_find()->pci_device;
	pdev->revision = sim_shape_find()->pci_revision;
}

/* Decides how 9.4.3 divides its last level cache (kfd_topology.c fill_in_l2_l3_pcache). */
static enum amdgpu_memory_partition sim_memory_partition(struct amdgpu_device *adev)
{
	return AMDGPU_NPS1_PARTITION_MODE;
}

static const struct amdgpu_gmc_funcs sim_gmc_funcs = {
	.query_mem_partition_mode = sim_memory_partition,
};

/* Read for the CPU link of 9.4.3 (kfd_crat.c kfd_fill_gpu_direct_io_link_to_cpu). */
static enum amdgpu_pkg_type sim_pkg_type(struct amdgpu_device *adev)
{
	return AMDGPU_PKG_TYPE_OAM;
}

static const struct amdgpu_smuio_funcs sim_smuio_funcs = {
	.get_pkg_type = sim_pkg_type,
};

static void sim_shape_fill_gfx(struct sim_gpu *gpu, const struct sim_shape *shape)
{
	struct amdgpu_device *adev = &gpu->adev;
	struct amdgpu_gfx_config *config = &adev->gfx.config;
	struct amdgpu_cu_info *cu = &adev->gfx.cu_info;
	int xcc, se;

	adev->gfx.xcc_mask = (1U << gpu->num_xcc) - 1;
	adev->gfx.num_xcc_per_xcp = gpu->num_xcc;
	adev->gfx.mec.num_mec = 1;
	adev->gfx.mec.num_pipe_per_mec = SIM_PIPES;
	adev->gfx.mec.num_queue_per_pipe = SIM_QUEUES_PER_PIPE;
	/* above every version that amdkfd and ROCm compare with (debugger, GWS, atomics) */
	adev->gfx.mec_fw_version = 700;
	adev->gfx.mec2_fw_version = 700;

	config->max_shader_engines = SIM_NUM_SE;
	config->max_sh_per_se = 1;
	config->max_cu_per_sh = SIM_CU_PER_SE;
	config->gb_addr_config = 0x2a114042;
	/*
	 * KiB. All set or none: a size with a zero sharing count makes the cache loop of
	 * kfd_fill_cache_non_crat_info() endless.
	 */
	config->gc_tcp_size_per_cu = 32;
	config->gc_l1_instruction_cache_size_per_sqc = 64;
	config->gc_l1_data_cache_size_per_sqc = 16;
	config->gc_num_cu_per_sqc = 2;
	config->gc_tcc_size = 4096;
	config->gc_tcp_cache_line_size = 128;
	config->gc_instruction_cache_line_size = 64;
	config->gc_scalar_data_cache_line_size = 64;
	config->gc_tcc_cache_line_size = 128;
	config->gc_num_sqc_per_wgp = 1;
	config->gc_num_tcp_per_wpg = 2;
	config->gc_tcp_l1_size = 32;

	cu->simd_per_cu = shape->wave_size == 64 ? 4 : 2;
	cu->max_waves_per_simd = shape->wave_size == 64 ? 8 : 16;
	cu->wave_front_size = shape->wave_size;
	cu->max_scratch_slots_per_cu = 32;
	cu->lds_size = 64;
	cu->number = gpu->num_xcc * SIM_NUM_SE * SIM_CU_PER_SE;
	for (xcc = 0; xcc < gpu->num_xcc; xcc++)
		for (se = 0; se < SIM_NUM_SE; se++)
			cu->bitmap[xcc][se][0] = (1U << SIM_CU_PER_SE) - 1;
}

static void sim_shape_fill_memory(struct sim_gpu *gpu, const struct sim_shape *shape)
{
	struct amdgpu_device *adev = &gpu->adev;

	adev->vm_manager.max_pfn = 1ULL << 36;
	adev->gds.gws_size = 64;
	adev->gmc.gmc_funcs = &sim_gmc_funcs;
	adev->gmc.real_vram_size = 16ULL << 30;
	/* all of it CPU visible: amdkfd then offers public VRAM */
	adev->gmc.visible_vram_size = adev->gmc.real_vram_size;
	adev->gmc.vram_width = 8192;
	adev->gmc.vram_type = AMDGPU_VRAM_TYPE_HBM;
	adev->gmc.xgmi.supported = shape->xgmi;
	if (shape->xgmi && sim_gpus > 1) {
		adev->gmc.xgmi.hive_id = 0x51d0000000000001ULL;
		adev->gmc.xgmi.num_physical_nodes = sim_gpus;
		adev->gmc.xgmi.physical_node_id = gpu->index;
	}
}

/* Slots of pipes 0-3, queues 2..7 as on hardware, where amdgpu keeps 0 and 1; then those two. */
static void sim_shape_fill_slots(struct sim_gpu *gpu)
{
	unsigned int left = sim_slots;
	unsigned int i, pipe;

	for (i = 0; i < SIM_QUEUES_PER_PIPE; i++) {
		unsigned int queue = (i + 2) % SIM_QUEUES_PER_PIPE;

		for (pipe = 0; pipe < SIM_PIPES && left; pipe++, left--)
			__set_bit(pipe * SIM_QUEUES_PER_PIPE + queue, gpu->cp_queue_bitmap);
	}
}

static const struct amdgpu_mes_funcs sim_mes_funcs = {
	.add_hw_queue = sim_engine_mes_add,
	.remove_hw_queue = sim_engine_mes_remove,
};

void sim_shape_fill(struct sim_gpu *gpu)
{
	const struct sim_shape *shape = sim_shape_find();
	struct amdgpu_device *adev = &gpu->adev;
	int i;

	gpu->num_xcc = sim_xccs;
	gpu->vmid_bitmap = 0xffff & ~((1U << shape->first_vmid) - 1);
	adev->vm_manager.first_kfd_vmid = shape->first_vmid;

	adev->asic_type = shape->asic_type;
	adev->family = shape->family;
	adev->rev_id = shape->rev_id;
	adev->external_rev_id = shape->rev_id;
	adev->unique_id = 0x51d0000000000100ULL + gpu->index;
	adev->have_atomics_support = true;
	for (i = 0; i < HWIP_MAX_INSTANCE; i++) {
		adev->ip_versions[GC_HWIP][i] = shape->gc_version;
		adev->ip_versions[SDMA0_HWIP][i] = shape->sdma_version;
	}
	adev->smuio.funcs = &sim_smuio_funcs;
	if (shape->mes) {
		adev->enable_mes = true;
		adev->mes.funcs = &sim_mes_funcs;
		/* new enough for everything amdkfd asks of it */
		adev->mes.sched_version = 14 << AMDGPU_MES_API_VERSION_SHIFT | 70;
	}

	sim_shape_fill_gfx(gpu, shape);
	sim_shape_fill_memory(gpu, shape);
	sim_shape_fill_slots(gpu);

	/* aqua_vanjaram_doorbell_index_init() */
	adev->sdma.num_instances = shape->sdma_per_xcc * gpu->num_xcc;
	adev->doorbell_index.first_non_cp = AMDGPU_DOORBELL_LAYOUT1_FIRST_NON_CP;
	adev->doorbell_index.last_non_cp = AMDGPU_DOORBELL_LAYOUT1_LAST_NON_CP;
	for (i = 0; i < adev->sdma.num_instances; i++) {
		adev->sdma.instance[i].fw_version = 700;
		adev->doorbell_index.sdma_engine[i] =
			AMDGPU_DOORBELL_LAYOUT1_sDMA_ENGINE_START + i * 10;
	}
}

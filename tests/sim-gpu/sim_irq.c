// SPDX-License-Identifier: GPL-2.0
/*
 * Interrupts: entries of the interrupt ring in the SOC15 layout (amdkfd/soc15_int.h), delivered
 * as amdgpu_irq_dispatch() does, through kgd2kfd_interrupt().
 */
#include "sim_engine.h"
#include "soc15_int.h"

/* VM fault ring id bits, event_interrupt_wq_v9() */
#define SIM_FAULT_PROT_VALID	0x08
#define SIM_FAULT_PROT_READ	0x10
#define SIM_FAULT_PROT_WRITE	0x20

static bool sim_is_gfx11(struct sim_engine *e)
{
	return amdgpu_ip_version(&e->gpu->adev, GC_HWIP, 0) >= IP_VERSION(11, 0, 0);
}

static void sim_irq(struct sim_engine *e, struct sim_slot *s, u32 client, u32 source, u32 ring,
		    u32 ctx0, u32 ctx1)
{
	u32 entry[8] = {
		[0] = client | source << 8 | ring << 16 | (s->vmid & 0xf) << 24,
		[3] = s->pasid & 0xffff,	/* node 0 */
		[4] = ctx0,
		[5] = ctx1,
	};
	struct kfd_dev *kfd = e->gpu->adev.kfd.dev;

	/* Entries without pasid are a bug to amdkfd. */
	if (!kfd || !s->pasid)
		return;
	e->stats.interrupts++;
	kgd2kfd_interrupt(kfd, entry);
}

void sim_irq_eop(struct sim_engine *e, struct sim_slot *s, u32 context_id)
{
	sim_irq(e, s, SOC15_IH_CLIENTID_GRBM_CP, SOC15_INTSRC_CP_END_OF_PIPE, 0, context_id, 0);
}

void sim_irq_sdma_trap(struct sim_engine *e, struct sim_slot *s, u32 context_id)
{
	static const u8 client[] = {
		SOC15_IH_CLIENTID_SDMA0, SOC15_IH_CLIENTID_SDMA1, SOC15_IH_CLIENTID_SDMA2,
		SOC15_IH_CLIENTID_SDMA3, SOC15_IH_CLIENTID_SDMA4, SOC15_IH_CLIENTID_SDMA5,
		SOC15_IH_CLIENTID_SDMA6, SOC15_IH_CLIENTID_SDMA7,
	};

	if (sim_is_gfx11(e))
		sim_irq(e, s, SOC15_IH_CLIENTID_SE0SH /* = SOC21 GFX */, SOC21_INTSRC_SDMA_TRAP,
			0, context_id, 0);
	else
		sim_irq(e, s, client[s->pipe % ARRAY_SIZE(client)], SOC15_INTSRC_SDMA_TRAP,
			0, context_id, 0);
}

void sim_irq_vm_fault(struct sim_engine *e, struct sim_slot *s, u64 va, bool write)
{
	u64 page = va >> PAGE_SHIFT;
	u32 ring = SIM_FAULT_PROT_VALID | (write ? SIM_FAULT_PROT_WRITE : SIM_FAULT_PROT_READ);

	/* The memory hub's client works for all generations (UTCL2 is encoded differently). */
	sim_irq(e, s, SOC15_IH_CLIENTID_VMC, SOC15_INTSRC_VMC_FAULT, ring,
		lower_32_bits(page), upper_32_bits(page) & 0xf);
}

void sim_irq_bad_packet(struct sim_engine *e, struct sim_slot *s)
{
	/* doorbell id within the process and exception code, event_interrupt_wq_v9() */
	u32 ctx = (s->doorbell >> 1 & 0x3ff) | EC_QUEUE_PACKET_UNSUPPORTED << 10;

	if (s->kind != SIM_SDMA)
		sim_irq(e, s, SOC15_IH_CLIENTID_GRBM_CP, SOC15_INTSRC_CP_BAD_OPCODE, 0, ctx, 0);
}

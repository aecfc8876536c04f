// SPDX-License-Identifier: GPL-2.0
/*
 * Register dumps for debugfs kfd/hqds: the same registers at the same byte addresses and in the
 * same order as kgd_gfx_v9_hqd_dump() and kgd_gfx_v9_4_3_hqd_sdma_dump() of amdgpu print them.
 */
#include <linux/slab.h>

#include "sim_engine.h"
#include "v9_structs.h"
#include "gc/gc_9_0_offset.h"
#include "sdma/sdma_4_4_2_offset.h"
#include "sdma/sdma_4_4_2_sh_mask.h"

/* Dword address of register 0 of the GC block of an XCC: two XCCs share an active die. */
#define SIM_GC_BASE(inst)	(0x2000 + ((inst) / 2) * 0x40000 + ((inst) % 2) * 0x30000)
/* Dword address of register 0 of an SDMA block, the same dies, one engine per position */
#define SIM_SDMA_BASE(engine)	(0x1260 + ((engine) / 4) * 0x40000 + ((engine) % 4) * 0x10000)

static_assert(mmCP_HQD_PQ_WPTR_HI - mmCP_MQD_BASE_ADDR + 1 == SIM_HQD_REGS);

int sim_regs_dump_hqd(struct sim_engine *e, u32 pipe, u32 queue, u32 inst,
		      u32 (**dump)[2], u32 *n_regs)
{
	u32 base = SIM_GC_BASE(inst) + mmCP_MQD_BASE_ADDR;
	const u32 *regs;
	u32 i;

	if (inst >= e->gpu->num_xcc || queue >= SIM_QUEUES_PER_PIPE)
		return -EINVAL;
	*dump = kmalloc_array(SIM_HQD_REGS, sizeof(**dump), GFP_KERNEL);
	if (!*dump)
		return -ENOMEM;

	mutex_lock(&e->lock);
	if (pipe < SIM_PIPES) {
		struct sim_slot *s = &e->cp[pipe * SIM_QUEUES_PER_PIPE + queue];

		if (s->used)
			sim_slot_sync_regs(e, s);
		regs = s->regs[inst];
	} else {
		/* the HIQ: pipe 0 of MEC 2 is pipe 4 (KFD_CIK_HIQ_PIPE) */
		u32 *r = e->hiq.regs[inst];

		if (e->hiq.loaded) {
			r[SIM_REG_PQ_RPTR] = e->hiq.rptr % e->hiq.ring_dw;
			r[SIM_REG_WPTR_LO] = lower_32_bits(e->hiq.rptr);
			r[SIM_REG_WPTR_HI] = upper_32_bits(e->hiq.rptr);
		}
		regs = r;
	}
	for (i = 0; i < SIM_HQD_REGS; i++) {
		(*dump)[i][0] = (base + i) << 2;
		(*dump)[i][1] = regs[i];
	}
	mutex_unlock(&e->lock);
	*n_regs = SIM_HQD_REGS;
	return 0;
}

/* Value of an RLC register, by its offset from SDMA_RLC0_RB_CNTL; 0 for those not modelled. */
static u32 sim_sdma_reg(struct sim_slot *s, u32 reg)
{
	const struct v9_sdma_mqd *m = s->mqd;

	switch (reg) {
	case regSDMA_RLC0_RB_CNTL:
		return s->used ? m->sdmax_rlcx_rb_cntl | SDMA_RLC0_RB_CNTL__RB_ENABLE_MASK : 0x0406002a;
	case regSDMA_RLC0_CONTEXT_STATUS:
		return s->used && s->rptr != s->wptr ? 0 : SDMA_RLC0_CONTEXT_STATUS__IDLE_MASK;
	}
	if (!s->used)
		return 0;
	switch (reg) {
	case regSDMA_RLC0_RB_BASE:
		return m->sdmax_rlcx_rb_base;
	case regSDMA_RLC0_RB_BASE_HI:
		return m->sdmax_rlcx_rb_base_hi;
	case regSDMA_RLC0_RB_RPTR:
		return lower_32_bits(s->rptr);
	case regSDMA_RLC0_RB_RPTR_HI:
		return upper_32_bits(s->rptr);
	case regSDMA_RLC0_RB_WPTR:
		return lower_32_bits(s->wptr);
	case regSDMA_RLC0_RB_WPTR_HI:
		return upper_32_bits(s->wptr);
	case regSDMA_RLC0_RB_RPTR_ADDR_HI:
		return upper_32_bits(s->rptr_addr);
	case regSDMA_RLC0_RB_RPTR_ADDR_LO:
		return lower_32_bits(s->rptr_addr);
	case regSDMA_RLC0_DOORBELL:
		return SDMA_RLC0_DOORBELL__ENABLE_MASK;
	case regSDMA_RLC0_DOORBELL_OFFSET:
		return m->sdmax_rlcx_doorbell_offset;
	case regSDMA_RLC0_DUMMY_REG:
		return m->sdmax_rlcx_dummy_reg;
	}
	return 0;
}

int sim_regs_dump_sdma(struct sim_engine *e, u32 engine, u32 rlc,
		       u32 (**dump)[2], u32 *n_regs)
{
	static const struct { u16 first, last; } range[] = {
		{ regSDMA_RLC0_RB_CNTL, regSDMA_RLC0_DOORBELL },
		{ regSDMA_RLC0_STATUS, regSDMA_RLC0_CSA_ADDR_HI },
		{ regSDMA_RLC0_IB_SUB_REMAIN, regSDMA_RLC0_MINOR_PTR_UPDATE },
		{ regSDMA_RLC0_MIDCMD_DATA0, regSDMA_RLC0_MIDCMD_CNTL },
	};
	u32 base, n = 0, r, reg;
	struct sim_slot *s;

	if (engine >= sim_sdma_engines(e) || rlc >= SIM_SDMA_RLCS)
		return -EINVAL;
	for (r = 0; r < ARRAY_SIZE(range); r++)
		n += range[r].last - range[r].first + 1;
	*dump = kmalloc_array(n, sizeof(**dump), GFP_KERNEL);
	if (!*dump)
		return -ENOMEM;

	base = SIM_SDMA_BASE(engine) + rlc * (regSDMA_RLC1_RB_CNTL - regSDMA_RLC0_RB_CNTL);
	s = &e->sdma[engine * SIM_SDMA_RLCS + rlc];
	n = 0;
	mutex_lock(&e->lock);
	for (r = 0; r < ARRAY_SIZE(range); r++)
		for (reg = range[r].first; reg <= range[r].last; reg++) {
			(*dump)[n][0] = (base + reg) << 2;
			(*dump)[n++][1] = sim_sdma_reg(s, reg);
		}
	mutex_unlock(&e->lock);
	*n_regs = n;
	return 0;
}

// SPDX-License-Identifier: GPL-2.0
/*
 * PM4 compute queues: type 3 packets in a ring of dwords. Enough for user space that writes to
 * memory, signals and waits; everything else is skipped by its length. No packet takes GPU time.
 */
#include "sim_engine.h"
#include "kfd_pm4_opcodes.h"

#define PM4_TYPE(h)	((h) >> 30)
#define PM4_COUNT(h)	(((h) >> 16) & 0x3fff)
#define PM4_OP(h)	(((h) >> 8) & 0xff)
#define PM4_BODY_DW	32	/* of a packet, looked at */
#define PM4_IB_PACKETS	256	/* of an indirect buffer, more is cut off */

/* Results of a packet: done, not yet (wait), or an access failed and the slot knows. */
enum pm4_result { PM4_DONE, PM4_WAIT, PM4_FAILED };

/* A packet source: the ring, or an indirect buffer. */
struct pm4_source {
	u64 base;
	u64 mask_dw;	/* of a ring; all ones for a buffer */
	u64 pos, end;	/* dwords */
};

static int pm4_fetch(struct sim_engine *e, struct sim_slot *s, const struct pm4_source *src,
		     u64 pos, u32 *dst, u32 n)
{
	while (n) {
		u64 at = pos & src->mask_dw;
		u32 part = min_t(u64, n, src->mask_dw - at + 1);
		int r;

		if (!part)	/* mask of all ones: no wrap */
			part = n;
		r = sim_umem_read(e, s, src->base + at * 4, dst, part * 4);
		if (r)
			return r;
		pos += part;
		dst += part;
		n -= part;
	}
	return 0;
}

static u64 pm4_addr(u32 lo, u32 hi)
{
	return ((u64)hi << 32 | lo) & ~3ull;
}

static enum pm4_result pm4_write_data(struct sim_engine *e, struct sim_slot *s, const u32 *p, u32 len)
{
	u32 dst = p[1] >> 8 & 0xf;

	/* memory (5) or through L2 (2); registers are not there */
	if (len < 5 || (dst != 5 && dst != 2))
		return PM4_DONE;
	return sim_umem_write(e, s, pm4_addr(p[2], p[3]), p + 4,
			      (min_t(u32, len, PM4_BODY_DW) - 4) * 4) ? PM4_FAILED : PM4_DONE;
}

static enum pm4_result pm4_release_mem(struct sim_engine *e, struct sim_slot *s, const u32 *p, u32 len)
{
	u64 data;
	u32 bytes = 0;

	if (len < 7)
		return PM4_DONE;
	data = (u64)p[6] << 32 | p[5];
	switch (p[2] >> 29) {	/* data_sel */
	case 1:
		bytes = 4;
		break;
	case 2:
		bytes = 8;
		break;
	case 3:			/* GPU clock */
		data = sim_gpu_clock();
		bytes = 8;
		break;
	}
	if (bytes && sim_umem_write(e, s, pm4_addr(p[3], p[4]), &data, bytes))
		return PM4_FAILED;
	if ((p[2] >> 24 & 7) && len >= 8)	/* int_sel */
		sim_irq_eop(e, s, p[7]);
	return PM4_DONE;
}

static enum pm4_result pm4_wait_reg_mem(struct sim_engine *e, struct sim_slot *s, const u32 *p, u32 len)
{
	u32 value, ref, mask;
	bool met;

	if (len < 6 || !(p[1] & BIT(4)))	/* registers: never waits */
		return PM4_DONE;
	if (sim_umem_read(e, s, pm4_addr(p[2], p[3]), &value, sizeof(value)))
		return PM4_FAILED;
	ref = p[4];
	mask = p[5];
	value &= mask;
	switch (p[1] & 7) {
	case 1: met = value < ref; break;
	case 2: met = value <= ref; break;
	case 3: met = value == ref; break;
	case 4: met = value != ref; break;
	case 5: met = value >= ref; break;
	case 6: met = value > ref; break;
	default: met = true;
	}
	return met ? PM4_DONE : PM4_WAIT;
}

static enum pm4_result pm4_run_source(struct sim_engine *e, struct sim_slot *s,
				      struct pm4_source *src, int *budget, bool ring);

/* Executed as a whole: a wait inside repeats the buffer, so it must come before any effect. */
static enum pm4_result pm4_indirect_buffer(struct sim_engine *e, struct sim_slot *s,
					   const u32 *p, u32 len)
{
	struct pm4_source ib = { .mask_dw = U64_MAX };
	int budget = PM4_IB_PACKETS;

	if (len < 4)
		return PM4_DONE;
	ib.base = pm4_addr(p[1], p[2]);
	ib.end = p[3] & 0xfffff;
	return pm4_run_source(e, s, &ib, &budget, false);
}

static enum pm4_result pm4_packet(struct sim_engine *e, struct sim_slot *s, const u32 *p, u32 len,
				  bool ring)
{
	switch (PM4_OP(p[0])) {
	case IT_WRITE_DATA:
		return pm4_write_data(e, s, p, len);
	case IT_RELEASE_MEM:
		return pm4_release_mem(e, s, p, len);
	case IT_WAIT_REG_MEM:
		return pm4_wait_reg_mem(e, s, p, len);
	case IT_INDIRECT_BUFFER:
		/* not nested: a buffer could call itself */
		return ring ? pm4_indirect_buffer(e, s, p, len) : PM4_DONE;
	default:
		return PM4_DONE;
	}
}

static enum pm4_result pm4_run_source(struct sim_engine *e, struct sim_slot *s,
				      struct pm4_source *src, int *budget, bool ring)
{
	while (src->pos < src->end && *budget > 0) {
		u32 p[PM4_BODY_DW] = {};
		enum pm4_result r;
		u32 len;

		--*budget;
		if (pm4_fetch(e, s, src, src->pos, p, 1))
			return PM4_FAILED;
		if (PM4_TYPE(p[0]) == PM4_TYPE_2 || p[0] == 0 ||
		    (PM4_OP(p[0]) == IT_NOP && PM4_COUNT(p[0]) == 0x3fff)) {
			src->pos++;	/* one-dword fillers */
			continue;
		}
		if (PM4_TYPE(p[0]) != PM4_TYPE_3) {
			sim_bad_packet(e, s);
			return PM4_FAILED;
		}
		len = PM4_COUNT(p[0]) + 2;
		if (src->end - src->pos < len) {
			/* its rest is not there yet, or, in a buffer, never will be */
			if (ring)
				return PM4_WAIT;
			return PM4_DONE;
		}
		if (pm4_fetch(e, s, src, src->pos + 1, p + 1, min_t(u32, len, PM4_BODY_DW) - 1))
			return PM4_FAILED;
		r = pm4_packet(e, s, p, len, ring);
		if (r != PM4_DONE)
			return r;
		src->pos += len;
		if (ring)
			e->stats.pm4_packets++;
	}
	return PM4_DONE;
}

void sim_pm4_run(struct sim_engine *e, struct sim_slot *s, u64 at_ns, int *budget)
{
	u64 ring_dw = s->ring_bytes / 4;
	struct pm4_source ring = {
		.base = s->ring,
		.mask_dw = ring_dw - 1,
		.pos = s->rptr,
	};
	enum pm4_result r;
	u64 wptr;
	u32 report;

	--*budget;
	if (sim_umem_read(e, s, s->wptr_addr, &wptr, sizeof(wptr)))
		return;
	/* A count that never wraps, or, from simple clients, an offset into the ring. */
	if (wptr - s->rptr > ring_dw)
		wptr = s->rptr + ((wptr - s->rptr) & (ring_dw - 1));
	s->wptr = wptr;
	ring.end = wptr;

	r = pm4_run_source(e, s, &ring, budget, true);
	s->rptr = ring.pos;
	report = s->rptr & (ring_dw - 1);
	if (s->rptr == s->wptr)
		s->pending = false;
	if (s->rptr != s->reported && s->stop == SIM_RUNNING &&
	    !sim_umem_write(e, s, s->rptr_addr, &report, sizeof(report)))
		s->reported = s->rptr;
	if (r == PM4_WAIT)
		sim_stall(s);
}

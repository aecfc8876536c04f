// SPDX-License-Identifier: GPL-2.0
/*
 * SDMA user queues: the packets that the ROCm runtime and simple clients use, in the encoding of
 * SDMA 4 to 6. Copies really copy; no packet takes GPU time.
 *
 * Pointers count bytes and never wrap; the doorbell carries the write pointer. A long copy is
 * done a page at a time within the budget of the turn, sim_slot.progress says how far it is, and
 * that survives preemption.
 */
#include "sim_engine.h"

enum {
	SDMA_NOP = 0,
	SDMA_COPY = 1,
	SDMA_WRITE = 2,
	SDMA_FENCE = 5,
	SDMA_TRAP = 6,
	SDMA_POLL_REGMEM = 8,
	SDMA_ATOMIC = 10,
	SDMA_CONST_FILL = 11,
	SDMA_TIMESTAMP = 13,
	SDMA_GCR = 17,
};

#define SDMA_ATOMIC_CMPSWAP64	40
#define SDMA_ATOMIC_ADD64	47
#define SDMA_HEADER_DW		9	/* longest packet without payload */
#define SDMA_COPY_BROADCAST	BIT(27)
#define SDMA_PREFAULT_BYTES	(512 * 1024)

/* Packet done; more of it to do; condition not met; access failed and the slot knows. */
enum sdma_result { SDMA_DONE, SDMA_MORE, SDMA_WAIT, SDMA_FAILED };

static int sdma_fetch(struct sim_engine *e, struct sim_slot *s, u64 pos, void *dst, u32 len)
{
	while (len) {
		u64 at = pos & (s->ring_bytes - 1);
		u32 part = min_t(u64, len, s->ring_bytes - at);
		int r = sim_umem_read(e, s, s->ring + at, dst, part);

		if (r)
			return r;
		pos += part;
		dst += part;
		len -= part;
	}
	return 0;
}

static u64 sdma_u64(const u32 *p)
{
	return (u64)p[1] << 32 | p[0];
}

/* Length in dwords by header and, for writes, count; 0 = not decodable. */
static u32 sdma_length(const u32 *p)
{
	u32 sub = p[0] >> 8 & 0xff;

	switch (p[0] & 0xff) {
	case SDMA_NOP:
		return 1 + (p[0] >> 16 & 0x3fff);
	case SDMA_COPY:
		if (sub)
			return 0;	/* tiled and sub-window copies: not modelled */
		return p[0] & SDMA_COPY_BROADCAST ? 9 : 7;
	case SDMA_WRITE:
		return sub ? 0 : 5 + (p[3] & 0xfffff);
	case SDMA_FENCE:
		return 4;
	case SDMA_TRAP:
		return 2;
	case SDMA_POLL_REGMEM:
		return 6;
	case SDMA_ATOMIC:
		return 8;
	case SDMA_CONST_FILL:
		return 5;
	case SDMA_TIMESTAMP:
		return 3;
	case SDMA_GCR:
		return 5;
	default:
		return 0;
	}
}

/* One page of the packet's bytes, by a function that moves them. */
static enum sdma_result sdma_chunk(struct sim_engine *e, struct sim_slot *s, u64 total, int *budget,
				   int (*move)(struct sim_engine *, struct sim_slot *, const u32 *,
					       u64 offset, u32 len), const u32 *p)
{
	while (s->progress < total) {
		u32 len = min_t(u64, total - s->progress, PAGE_SIZE);

		if (*budget <= 0)
			return SDMA_MORE;
		--*budget;
		/* bring in more than a page at a time when it turns out not to be resident */
		s->prefault = min_t(u64, total - s->progress, SDMA_PREFAULT_BYTES);
		if (move(e, s, p, s->progress, len))
			return SDMA_FAILED;
		s->progress += len;
	}
	s->prefault = 0;
	return SDMA_DONE;
}

static int sdma_copy(struct sim_engine *e, struct sim_slot *s, const u32 *p, u64 offset, u32 len)
{
	int r = sim_umem_read(e, s, sdma_u64(p + 3) + offset, e->bounce, len);

	if (!r)
		r = sim_umem_write(e, s, sdma_u64(p + 5) + offset, e->bounce, len);
	if (!r && p[0] & SDMA_COPY_BROADCAST)
		r = sim_umem_write(e, s, sdma_u64(p + 7) + offset, e->bounce, len);
	return r;
}

static int sdma_fill(struct sim_engine *e, struct sim_slot *s, const u32 *p, u64 offset, u32 len)
{
	u32 size = p[0] >> 30;	/* 0 = byte, 1 = word, 2 = dword */

	if (size == 0)
		memset(e->bounce, p[3], len);
	else if (size == 1)
		memset16(e->bounce, p[3], DIV_ROUND_UP(len, 2));
	else
		memset32(e->bounce, p[3], DIV_ROUND_UP(len, 4));
	return sim_umem_write(e, s, sdma_u64(p + 1) + offset, e->bounce, len);
}

/* The payload of a linear write starts at dword 4 of the packet. */
static int sdma_payload(struct sim_engine *e, struct sim_slot *s, const u32 *p, u64 offset, u32 len)
{
	int r = sdma_fetch(e, s, s->rptr + 16 + offset, e->bounce, len);

	return r ?: sim_umem_write(e, s, sdma_u64(p + 1) + offset, e->bounce, len);
}

static enum sdma_result sdma_poll(struct sim_engine *e, struct sim_slot *s, const u32 *p)
{
	u32 value, ref = p[3], mask = p[4];
	bool met;

	/* bit 31: memory. Polling a register is how the runtime flushes HDP: nothing to do. */
	if (!(p[0] & BIT(31)))
		return SDMA_DONE;
	if (sim_umem_read(e, s, sdma_u64(p + 1), &value, sizeof(value)))
		return SDMA_FAILED;
	value &= mask;
	switch (p[0] >> 28 & 7) {
	case 1: met = value < ref; break;
	case 2: met = value <= ref; break;
	case 3: met = value == ref; break;
	case 4: met = value != ref; break;
	case 5: met = value >= ref; break;
	case 6: met = value > ref; break;
	default: met = true;
	}
	return met ? SDMA_DONE : SDMA_WAIT;
}

static enum sdma_result sdma_atomic(struct sim_engine *e, struct sim_slot *s, const u32 *p)
{
	u64 addr = sdma_u64(p + 1), old;
	int r;

	switch (p[0] >> 25 & 0x7f) {
	case SDMA_ATOMIC_ADD64:
		r = sim_umem_add64(e, s, addr, (s64)sdma_u64(p + 3), &old);
		break;
	case SDMA_ATOMIC_CMPSWAP64:
		r = sim_umem_cmpxchg64(e, s, addr, sdma_u64(p + 5), sdma_u64(p + 3), &old);
		break;
	default:
		sim_bad_packet(e, s);
		return SDMA_FAILED;
	}
	return r ? SDMA_FAILED : SDMA_DONE;
}

static enum sdma_result sdma_packet(struct sim_engine *e, struct sim_slot *s, const u32 *p,
				    int *budget)
{
	u64 clock;

	switch (p[0] & 0xff) {
	case SDMA_COPY:
		return sdma_chunk(e, s, (p[1] & 0x3fffffff) + 1ull, budget, sdma_copy, p);
	case SDMA_WRITE:
		return sdma_chunk(e, s, ((p[3] & 0xfffff) + 1ull) * 4, budget, sdma_payload, p);
	case SDMA_CONST_FILL:
		/* the count is that of the last byte or of the last element, in bytes */
		return sdma_chunk(e, s, p[0] >> 30 == 2 ? round_down((p[4] & 0x3fffffff) + 4, 4) :
				  (p[4] & 0x3fffffff) + 1ull, budget, sdma_fill, p);
	case SDMA_FENCE:
		return sim_umem_write(e, s, sdma_u64(p + 1) & ~3ull, p + 3, 4) ?
		       SDMA_FAILED : SDMA_DONE;
	case SDMA_TRAP:
		sim_irq_sdma_trap(e, s, p[1] & 0xfffffff);
		return SDMA_DONE;
	case SDMA_POLL_REGMEM:
		return sdma_poll(e, s, p);
	case SDMA_ATOMIC:
		return sdma_atomic(e, s, p);
	case SDMA_TIMESTAMP:
		/* sub-opcodes 1 and 2 read the clock into memory, 0 would set it */
		if (!(p[0] >> 8 & 0xff))
			return SDMA_DONE;
		clock = sim_gpu_clock();
		return sim_umem_write(e, s, sdma_u64(p + 1) & ~7ull, &clock, 8) ?
		       SDMA_FAILED : SDMA_DONE;
	default:	/* NOP, GCR */
		return SDMA_DONE;
	}
}

/* Executes the packet at rptr; true if there may be another. */
static bool sdma_one(struct sim_engine *e, struct sim_slot *s, int *budget)
{
	u32 p[SDMA_HEADER_DW] = {};
	u64 left = s->wptr - s->rptr;
	u32 bytes;

	if (sdma_fetch(e, s, s->rptr, p, min_t(u64, left, sizeof(p)) & ~3u))
		return false;
	bytes = sdma_length(p) * 4;
	if (!bytes || bytes > s->ring_bytes) {
		sim_bad_packet(e, s);
		return false;
	}
	if (bytes > left) {
		/* more of it must follow */
		s->pending = false;
		return false;
	}
	switch (sdma_packet(e, s, p, budget)) {
	case SDMA_DONE:
		s->rptr += bytes;
		s->progress = 0;
		e->stats.sdma_packets++;
		return true;
	case SDMA_WAIT:
		sim_stall(s);
		return false;
	case SDMA_MORE:
	case SDMA_FAILED:
		break;
	}
	return false;
}

void sim_sdma_run(struct sim_engine *e, struct sim_slot *s, u64 at_ns, int *budget)
{
	u64 wptr;

	--*budget;
	if (s->read_wptr) {
		if (sim_umem_read(e, s, s->wptr_addr, &wptr, sizeof(wptr)))
			return;
		s->read_wptr = false;
		if ((s64)(wptr - s->wptr) > 0)
			s->wptr = wptr;
	}
	if (s->wptr - s->rptr > s->ring_bytes || s->wptr & 3) {
		sim_bad_packet(e, s);
		return;
	}
	while (s->rptr != s->wptr && *budget > 0) {
		--*budget;
		if (!sdma_one(e, s, budget))
			break;
	}
	if (s->rptr == s->wptr)
		s->pending = false;
	if (s->rptr != s->reported && s->stop == SIM_RUNNING &&
	    !sim_umem_write(e, s, s->rptr_addr, &s->rptr, sizeof(s->rptr)))
		s->reported = s->rptr;
}

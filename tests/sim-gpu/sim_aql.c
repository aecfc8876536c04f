// SPDX-License-Identifier: GPL-2.0
/*
 * AQL packet processor (HSA Platform System Architecture, architected queuing language).
 *
 * Packets of a queue are processed one at a time and in order, which honours the barrier bit of
 * every header. A kernel dispatch executes no shader: it takes as much GPU time as its reserved
 * quadword at byte 48 says in nanoseconds, or sim_dispatch_us if that is 0.
 *
 * Completion order: packet header becomes INVALID, read index, signal value, event mailbox,
 * interrupt. sim_slot.step counts what is written, so that an access that has to wait for a
 * page repeats nothing.
 */
#include "sim_engine.h"

#define AQL_PACKET_BYTES	64
#define AQL_TYPE(header)	((header) & 0xff)

enum {
	AQL_VENDOR = 0,
	AQL_INVALID = 1,
	AQL_KERNEL_DISPATCH = 2,
	AQL_BARRIER_AND = 3,
	AQL_AGENT_DISPATCH = 4,
	AQL_BARRIER_OR = 5,
};

struct aql_packet {
	u16 header;
	u16 setup;
	u32 dw1;
	union {
		u64 dep_signal[5];	/* barrier packets */
		struct {
			u64 body[5];
			u64 duration_ns;	/* reserved2 of a kernel dispatch */
		};
	};
	u64 signal;			/* at 56 */
};
static_assert(sizeof(struct aql_packet) == AQL_PACKET_BYTES);
static_assert(offsetof(struct aql_packet, duration_ns) == 48);

/* amd_signal_t of the runtime */
#define SIGNAL_VALUE		8
#define SIGNAL_MAILBOX		16
#define SIGNAL_EVENT_ID		24
#define SIGNAL_START		32

enum { STEP_BEGIN, STEP_SIGNAL, STEP_HEADER, STEP_INDEX, STEP_VALUE, STEP_MAILBOX };

static u64 aql_address(struct sim_slot *s, u64 index)
{
	return s->ring + (index * AQL_PACKET_BYTES & (s->ring_bytes - 1));
}

/* What happens to the signal, as far as it can be repeated without harm. */
static int aql_read_signal(struct sim_engine *e, struct sim_slot *s)
{
	u64 ts[2] = { div_u64(s->start_ns, 10), div_u64(s->end_ns, 10) };
	struct {
		u64 mailbox;
		u32 event_id;
		u32 reserved;
	} ev;
	int r;

	r = sim_umem_read(e, s, aql_address(s, s->rptr) + offsetof(struct aql_packet, signal),
			  &s->signal, sizeof(s->signal));
	if (r || !s->signal)
		return r;
	r = sim_umem_write(e, s, s->signal + SIGNAL_START, ts, sizeof(ts));
	if (!r)
		r = sim_umem_read(e, s, s->signal + SIGNAL_MAILBOX, &ev, sizeof(ev));
	if (!r) {
		s->mailbox = ev.mailbox;
		s->event_id = ev.event_id;
	}
	return r;
}

/* true: the packet at rptr is completed and rptr has moved on */
static bool aql_complete(struct sim_engine *e, struct sim_slot *s)
{
	u16 header = AQL_INVALID;
	u64 index = s->rptr + 1, event, old;

	switch (s->step) {
	case STEP_BEGIN:
		if (aql_read_signal(e, s))
			return false;
		s->step = STEP_SIGNAL;
		fallthrough;
	case STEP_SIGNAL:
		if (sim_umem_write(e, s, aql_address(s, s->rptr), &header, sizeof(header)))
			return false;
		s->step = STEP_HEADER;
		fallthrough;
	case STEP_HEADER:
		if (sim_umem_write(e, s, s->rptr_addr, &index, sizeof(index)))
			return false;
		s->step = STEP_INDEX;
		fallthrough;
	case STEP_INDEX:
		if (!s->signal)
			break;
		if (sim_umem_add64(e, s, s->signal + SIGNAL_VALUE, -1, &old))
			return false;
		s->step = STEP_VALUE;
		fallthrough;
	case STEP_VALUE:
		if (!s->mailbox)
			break;
		event = s->event_id;
		if (sim_umem_write(e, s, s->mailbox, &event, sizeof(event)))
			return false;
		s->step = STEP_MAILBOX;
		fallthrough;
	case STEP_MAILBOX:
		sim_irq_eop(e, s, s->event_id);
	}

	s->rptr = index;
	s->step = STEP_BEGIN;
	s->finishing = false;
	e->stats.aql_packets++;
	return true;
}

/* 1: satisfied, 0: not yet, < 0: error */
static int aql_barrier(struct sim_engine *e, struct sim_slot *s, const struct aql_packet *p)
{
	bool any = false, all = true, some = false;
	int i;

	for (i = 0; i < ARRAY_SIZE(p->dep_signal); i++) {
		u64 value;
		int r;

		if (!p->dep_signal[i])
			continue;
		some = true;
		r = sim_umem_read(e, s, p->dep_signal[i] + SIGNAL_VALUE, &value, sizeof(value));
		if (r)
			return r;
		if (value)
			all = false;
		else
			any = true;
	}
	if (AQL_TYPE(p->header) == AQL_BARRIER_OR)
		return any || !some;
	return all;
}

static void aql_finish_at(struct sim_slot *s, u64 at_ns)
{
	s->start_ns = at_ns;
	s->end_ns = at_ns;
	s->finishing = true;
}

/* Starts the packet at rptr. false: nothing more to do for now. */
static bool aql_start(struct sim_engine *e, struct sim_slot *s, u64 at_ns)
{
	struct aql_packet p;
	u64 ns;

	if (sim_umem_read(e, s, aql_address(s, s->rptr), &p, sizeof(p)))
		return false;

	switch (AQL_TYPE(p.header)) {
	case AQL_INVALID:
		/* reserved but not written yet by its producer */
		sim_stall(s);
		return false;
	case AQL_KERNEL_DISPATCH:
		e->stats.aql_dispatches++;
		s->dispatches++;
		ns = p.duration_ns ?: sim_dispatch_us * (u64)NSEC_PER_USEC;
		if (!ns) {
			aql_finish_at(s, at_ns);
			return true;
		}
		s->start_ns = at_ns;
		s->work = min_t(u64, ns, BIT_ULL(50)) << 10;
		s->busy = true;
		s->pending = false;	/* until a doorbell or its end */
		return false;
	case AQL_BARRIER_AND:
	case AQL_BARRIER_OR:
		switch (aql_barrier(e, s, &p)) {
		case 0:
			sim_stall(s);
			return false;
		case 1:
			e->stats.aql_barriers++;
			aql_finish_at(s, at_ns);
			return true;
		}
		return false;
	case AQL_VENDOR:
	case AQL_AGENT_DISPATCH:
		aql_finish_at(s, at_ns);
		return true;
	default:
		sim_bad_packet(e, s);
		return false;
	}
}

/* false: nothing new, or the pointer cannot be read now */
static bool aql_read_wptr(struct sim_engine *e, struct sim_slot *s)
{
	u64 packets = s->ring_bytes / AQL_PACKET_BYTES;
	u64 wptr;

	if (sim_umem_read(e, s, s->wptr_addr, &wptr, sizeof(wptr)))
		return false;
	s->pending = false;
	if ((s64)(wptr - s->rptr) <= 0) {
		s->wptr = s->rptr;
		return false;
	}
	/* more than the ring holds: nonsense, or a producer that got ahead */
	s->wptr = min(wptr, s->rptr + packets);
	s->pending = !s->busy;
	return true;
}

void sim_aql_peek(struct sim_engine *e, struct sim_slot *s)
{
	aql_read_wptr(e, s);
}

void sim_aql_run(struct sim_engine *e, struct sim_slot *s, u64 at_ns, int *budget)
{
	while (*budget > 0) {
		--*budget;
		if (s->finishing && !aql_complete(e, s))
			return;
		if (s->rptr >= s->wptr && !aql_read_wptr(e, s))
			return;
		if (!aql_start(e, s, at_ns))
			return;
	}
}

// SPDX-License-Identifier: GPL-2.0
/*
 * Execution of user queues.
 *
 * Doorbells are ordinary memory that user space writes to without any trap, so they are polled.
 * After looking at one, the engine puts SIM_DOORBELL_IDLE there, which tells a ring of 0 (the
 * first packet of an AQL queue) from "not rung".
 *
 * Only kernel dispatches take GPU time. All dispatches in progress share the GPU equally
 * (processor sharing): with n of them each advances at sim_rate / 100 / n. The thread runs only
 * now and then, so it replays what happened since its last turn: up to the next completion,
 * start of the packets behind it, up to the next completion, ...
 */
#include "sim_engine.h"

#define SIM_WORK_SHIFT		10	/* sim_slot.work is in 1/1024 ns */
#define SIM_TURN_PACKETS	64	/* per turn of the thread */
#define SIM_SETTLE_PACKETS	24	/* before a preemption, which must not wait long for it */
#define SIM_POLL_MIN_NS		(100 * NSEC_PER_USEC)
#define SIM_POLL_BUSY_NS	(250 * NSEC_PER_USEC)
#define SIM_POLL_MAX_NS		(1 * NSEC_PER_MSEC)
#define SIM_STALL_MIN_NS	(50 * NSEC_PER_USEC)
#define SIM_IDLE_NS		(50 * NSEC_PER_MSEC)
/* Furthest the execution may lag behind; more is lost GPU time. */
#define SIM_LAG_NS		(200 * NSEC_PER_MSEC)
#define SIM_STEP_NS		(20 * NSEC_PER_MSEC)
#define SIM_MAX_RATE		10000u

void sim_stall(struct sim_slot *s)
{
	s->retry_step_ns = clamp_t(u32, s->retry_step_ns * 2, SIM_STALL_MIN_NS, SIM_POLL_MAX_NS);
	s->retry_ns = sim_now() + s->retry_step_ns;
}

void sim_bad_packet(struct sim_engine *e, struct sim_slot *s)
{
	e->stats.bad_packets++;
	s->stop = SIM_BAD_PACKET;
	sim_irq_bad_packet(e, s);
}

static void sim_take_doorbell(struct sim_engine *e, struct sim_slot *s, u64 now_ns)
{
	u64 *doorbell = (u64 *)&e->gpu->doorbell[s->doorbell];
	u64 value;

	if (READ_ONCE(*doorbell) == SIM_DOORBELL_IDLE)
		return;
	/* A full barrier: write pointers in memory are read after this. */
	value = xchg(doorbell, SIM_DOORBELL_IDLE);
	s->pending = true;
	s->retry_ns = 0;
	s->retry_step_ns = 0;
	if (s->kind == SIM_SDMA) {
		/* The doorbell of an SDMA queue carries the write pointer in bytes. */
		if ((s64)(value - s->wptr) > 0)
			s->wptr = value;
		s->read_wptr = s->wptr_addr != 0;
	}
	e->last_work_ns = now_ns;
}

static void sim_run(struct sim_engine *e, struct sim_slot *s, u64 at_ns, int *budget)
{
	u64 rptr = s->rptr, progress = s->progress;

	switch (s->kind) {
	case SIM_AQL:
		sim_aql_run(e, s, at_ns, budget);
		break;
	case SIM_PM4:
		sim_pm4_run(e, s, at_ns, budget);
		break;
	case SIM_SDMA:
		sim_sdma_run(e, s, at_ns, budget);
		break;
	}
	if (s->rptr != rptr || s->progress != progress || s->busy) {
		/* not stalled: a stall that follows starts with short retries again */
		s->retry_step_ns = 0;
		e->last_work_ns = sim_now();
	}
}

static void sim_run_all(struct sim_engine *e, u64 now_ns, int *budget, bool polite)
{
	struct sim_slot *s;

	sim_for_each_slot(e, s) {
		if (*budget <= 0 || (polite && sim_hiq_waiting(e)))
			return;
		if (!sim_runnable(s) || !s->pending || now_ns < s->retry_ns)
			continue;
		if (!s->busy)
			sim_run(e, s, e->gpu_ns, budget);
		else
			sim_aql_peek(e, s);
	}
}

struct sim_load {
	u32 n;			/* dispatches in progress */
	u64 min_work;		/* of the one that completes first */
};

static struct sim_load sim_load_now(struct sim_engine *e)
{
	struct sim_load load = { .min_work = U64_MAX };
	struct sim_slot *s;

	sim_for_each_slot(e, s)
		if (s->busy && sim_runnable(s)) {
			load.n++;
			load.min_work = min(load.min_work, s->work);
		}
	return load;
}

static u32 sim_rate_now(void)
{
	return min(READ_ONCE(sim_rate), SIM_MAX_RATE);
}

/* Work each of n dispatches gets done in ns. Fits: ns <= 20 ms, rate <= 10000. */
static u64 sim_share(u64 ns, u32 n, u32 rate)
{
	return div_u64((ns << SIM_WORK_SHIFT) * rate, 100 * n);
}

/* Time in which each of n dispatches gets this work done, capped. */
static u64 sim_share_time(u64 work, u32 n, u32 rate)
{
	if (work > U64_MAX / 100 / SIM_MAX_CP_SLOTS)
		return S64_MAX;
	return DIV64_U64_ROUND_UP(work * 100 * n, (u64)rate << SIM_WORK_SHIFT);
}

/*
 * Replays the time from gpu_ns to until_ns. With a budget, completed packets are followed by
 * those behind them; without, completions are only noted, which needs no user memory. polite:
 * stop when the HIQ has packets, the rest is replayed in the next turn.
 */
static void sim_replay(struct sim_engine *e, u64 until_ns, int *budget, bool polite)
{
	u32 rate = sim_rate_now();

	if (until_ns > e->gpu_ns + SIM_LAG_NS)
		e->gpu_ns = until_ns - SIM_LAG_NS;

	while (e->gpu_ns < until_ns) {
		struct sim_load load = sim_load_now(e);
		u64 ns = min_t(u64, until_ns - e->gpu_ns, SIM_STEP_NS);
		struct sim_slot *s;
		u64 share;

		if (!load.n || !rate) {
			e->gpu_ns = until_ns;
			return;
		}
		share = sim_share(ns, load.n, rate);
		if (share >= load.min_work) {
			/* advance to the first completion only */
			share = load.min_work;
			ns = min(ns, sim_share_time(share, load.n, rate));
		}
		e->gpu_ns += ns;
		sim_for_each_slot(e, s) {
			if (!s->busy || !sim_runnable(s))
				continue;
			s->work -= min(share, s->work);
			if (s->work)
				continue;
			s->busy = false;
			s->finishing = true;
			s->end_ns = e->gpu_ns;
			s->pending = true;
			s->retry_ns = 0;
			if (budget && *budget > 0)
				sim_run(e, s, e->gpu_ns, budget);
		}
		if (budget && (*budget <= 0 || (polite && sim_hiq_waiting(e))))
			return;
	}
}

void sim_exec_progress(struct sim_engine *e, u64 now_ns)
{
	if (e->mapped)
		sim_replay(e, now_ns, NULL, false);
	else
		e->gpu_ns = now_ns;
}

void sim_exec_settle(struct sim_engine *e, u64 now_ns)
{
	int budget = SIM_SETTLE_PACKETS;

	if (!e->mapped)
		return;
	sim_replay(e, now_ns, &budget, false);
	sim_run_all(e, now_ns, &budget, false);
	sim_umem_leave(e);
}

/* Polls slower the longer nothing happened, so that an idle guest stays quick. */
static u64 sim_poll_interval(struct sim_engine *e, u64 now_ns)
{
	return clamp_t(u64, div_u64(now_ns - min(now_ns, e->last_work_ns), 500),
		       SIM_POLL_MIN_NS, SIM_POLL_MAX_NS);
}

u64 sim_exec(struct sim_engine *e, u64 now_ns)
{
	int budget = SIM_TURN_PACKETS;
	struct sim_load load;
	struct sim_slot *s;
	u64 next;
	u32 rate;

	if (!e->mapped) {
		e->gpu_ns = now_ns;
		return now_ns + SIM_IDLE_NS;
	}

	sim_for_each_slot(e, s)
		if (sim_runnable(s))
			sim_take_doorbell(e, s, now_ns);
	/* Whoever comes first gets most of the budget: a different one each time. */
	list_rotate_left(&e->slots);
	sim_replay(e, now_ns, &budget, true);
	sim_run_all(e, now_ns, &budget, true);

	next = now_ns + sim_poll_interval(e, now_ns);
	load = sim_load_now(e);
	rate = sim_rate_now();
	if (load.n)
		next = min(next, now_ns + SIM_POLL_BUSY_NS);
	if (load.n && rate)
		next = min(next, e->gpu_ns + sim_share_time(load.min_work, load.n, rate));
	sim_for_each_slot(e, s)
		if (sim_runnable(s) && s->pending && !s->busy)
			next = min(next, max(s->retry_ns, now_ns));
	return next;
}

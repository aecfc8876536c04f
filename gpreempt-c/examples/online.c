/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * An online service: tells the daemon of each request, so that offline jobs make room, and shows what is on the GPUs meanwhile.
 *
 *	cc online.c $(pkg-config --cflags --libs gpreempt) -o online
 *	./online [REQUESTS]
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include <gpreempt.h>

static int failed(const char *what, int code)
{
	fprintf(stderr, "%s: %s: %s\n", what, gpreempt_strerror(code), gpreempt_last_error());
	return 1;
}

/* What a service does for a request. */
static void work(void)
{
	struct timespec time = { 0, 20 * 1000 * 1000 };

	nanosleep(&time, NULL);
}

static int request(gpreempt_t *gpreempt)
{
	/* The work is not begun before offline queues are off the GPU, or will not be. */
	gpreempt_hint options = { .struct_size = sizeof(options), .flags = GPREEMPT_HINT_WAIT };
	uint64_t id, latency_ns;
	int code;

	code = gpreempt_hint_begin(gpreempt, &options, &id);
	if (code)
		return failed("begin a hint", code);
	work();
	code = gpreempt_hint_end(gpreempt, id, &latency_ns);
	if (code)
		return failed("end a hint", code);
	printf("request %" PRIu64 ": %.3f ms\n", id, latency_ns / 1e6);
	return 0;
}

static int show(gpreempt_t *gpreempt)
{
	static const char *const states[] = { "unknown", "mapped", "unmapped" };
	gpreempt_queue_info queues[256];
	size_t i, n = sizeof(queues) / sizeof(queues[0]);
	uint32_t gpu = 0;
	int code;

	code = gpreempt_list_queues(gpreempt, 0, queues, &n);
	if (code && code != GPREEMPT_ENOSPC)
		return failed("list queues", code);
	for (i = 0; i < n && i < sizeof(queues) / sizeof(queues[0]); i++) {
		const gpreempt_queue_info *queue = &queues[i];

		printf("queue %" PRIu32 " of %s[%" PRId32 "] on GPU %" PRIu32 ": %s %s\n", queue->queue_id,
		       queue->comm, queue->pid, queue->gpu_id,
		       queue->queue_type == GPREEMPT_QUEUE_SDMA ? "sdma" : "compute", states[queue->state]);
		if (queue->gpu_id != gpu) {
			gpreempt_hqd_status status = { .struct_size = sizeof(status) };

			gpu = queue->gpu_id;
			code = gpreempt_get_hqd_status(gpreempt, gpu, &status);
			if (code)
				return failed("ask for slots", code);
			printf("GPU %" PRIu32 ": %" PRIu32 " slots, %" PRIu32 " used, %" PRIu32 " reserved\n", gpu,
			       status.slots_total, status.slots_used, status.slots_reserved);
		}
	}
	return 0;
}

int main(int argc, char **argv)
{
	int requests = argc > 1 ? atoi(argv[1]) : 1;
	gpreempt_t *gpreempt;
	int code, bad = 0;

	code = gpreempt_open(NULL, &gpreempt);
	if (code)
		return failed("open libgpreempt", code);
	while (requests-- > 0 && !bad)
		bad = request(gpreempt);
	if (!bad)
		bad = show(gpreempt);
	gpreempt_close(gpreempt);
	return bad;
}

/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Stops all queues of a process for a while, on a driver with the patches of this project.
 *
 *	./hold PID MILLISECONDS LEASE_MS [RENEWALS]
 *
 * Without renewals they run again when the lease ends, whatever this program does.
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

static void wait_ms(long ms)
{
	struct timespec time = { ms / 1000, ms % 1000 * 1000 * 1000 };

	nanosleep(&time, NULL);
}

int main(int argc, char **argv)
{
	gpreempt_queue queue = { .gpu_id = GPREEMPT_ALL_GPUS, .queue_id = GPREEMPT_ALL_QUEUES };
	gpreempt_result result = { 0 };
	gpreempt_t *gpreempt;
	long ms, renewals, i;
	int code;

	if (argc < 4) {
		fprintf(stderr, "usage: hold PID MILLISECONDS LEASE_MS [RENEWALS]\n");
		return 2;
	}
	queue.pid = atoi(argv[1]);
	ms = atol(argv[2]);
	renewals = argc > 4 ? atol(argv[4]) : 0;
	code = gpreempt_open(NULL, &gpreempt);
	if (code)
		return failed("open libgpreempt", code);
	code = gpreempt_batch_unmap_queues(gpreempt, &queue, 1, (uint32_t)atol(argv[3]), &result);
	if (code) {
		failed("stop queues", code);
		gpreempt_close(gpreempt);
		return 1;
	}
	printf("held %" PRIu32 " queues, %" PRIu32 " changed\n", result.queues, result.changed);
	fflush(stdout);
	for (i = 0; i < renewals && !code; i++) {
		wait_ms(ms / (renewals + 1));
		code = gpreempt_renew(gpreempt);
	}
	if (code)
		failed("renew the lease", code);
	wait_ms(ms / (renewals + 1));
	/* Also what nobody did is tidy: closing the handle lets everything go, too. */
	code = gpreempt_fast_remap_queues(gpreempt, &queue, 1, &result);
	if (code)
		failed("restart queues", code);
	printf("let go %" PRIu32 " queues, %" PRIu32 " changed\n", result.queues, result.changed);
	gpreempt_close(gpreempt);
	return code != 0;
}

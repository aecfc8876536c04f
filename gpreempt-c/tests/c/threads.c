/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Several threads use one handle at once. Each gives hints, lists queues, and has an error of its own. */
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include <gpreempt.h>

#define THREADS 8
#define ROUNDS 50

static gpreempt_t *gpreempt;

static void *run(void *argument)
{
	int round, number = (int)(size_t)argument;

	for (round = 0; round < ROUNDS; round++) {
		gpreempt_hint wrong = { .struct_size = sizeof(wrong), .flags = 1u << (8 + number) };
		uint64_t id = 0, latency_ns = 0;
		char expected[32];
		size_t n = 0;

		if (gpreempt_hint_begin(gpreempt, NULL, &id) || !id)
			return "begin";
		if (gpreempt_hint_begin(gpreempt, &wrong, &latency_ns) != GPREEMPT_EINVAL)
			return "a wrong flag";
		if (gpreempt_list_queues(gpreempt, 0, NULL, &n))
			return "list";
		/* Neither the other threads' errors nor calls that succeed take its place. */
		snprintf(expected, sizeof(expected), "%#x", wrong.flags);
		if (!strstr(gpreempt_last_error(), expected))
			return "the error of another thread";
		if (gpreempt_hint_end(gpreempt, id, &latency_ns) || !latency_ns)
			return "end";
		if (gpreempt_fast_remap_queues(gpreempt, NULL, 0, NULL) || gpreempt_renew(gpreempt))
			return "nothing that is held";
	}
	return NULL;
}

int main(void)
{
	pthread_t threads[THREADS];
	int i, bad = 0;

	if (gpreempt_open(NULL, &gpreempt))
		return 1;
	for (i = 0; i < THREADS; i++)
		if (pthread_create(&threads[i], NULL, run, (void *)(size_t)i))
			return 1;
	for (i = 0; i < THREADS; i++) {
		void *wrong = NULL;

		pthread_join(threads[i], &wrong);
		if (wrong) {
			fprintf(stderr, "thread %d: %s: %s\n", i, (char *)wrong, gpreempt_last_error());
			bad = 1;
		}
	}
	gpreempt_close(gpreempt);
	if (!bad)
		printf("%d hints of %d threads\n", THREADS * ROUNDS, THREADS);
	return bad;
}

/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * What the examples do not do: holds single queues, some of which are not there, and reserves slots.
 *
 *	queues PID GPU_ID
 *
 * The process has at least two queues. Prints a line and waits for one after each step.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include <gpreempt.h>

#define CHECK(what)                                                                                    \
	do {                                                                                           \
		if (!(what)) {                                                                         \
			fprintf(stderr, "line %d: " #what ": %s\n", __LINE__, gpreempt_last_error()); \
			exit(1);                                                                       \
		}                                                                                      \
	} while (0)

static gpreempt_t *gpreempt;

static void step(const char *what)
{
	puts(what);
	fflush(stdout);
	CHECK(getchar() != EOF);
}

static void hold(int32_t pid, uint32_t gpu)
{
	gpreempt_queue queues[] = {
		{ .pid = pid, .gpu_id = gpu, .queue_id = 0 },
		{ .pid = pid, .gpu_id = gpu, .queue_id = 1000 },
		/* On which GPU that is the library finds out. */
		{ .pid = pid, .gpu_id = GPREEMPT_ALL_GPUS, .queue_id = 1 },
		{ .pid = 1, .gpu_id = GPREEMPT_ALL_GPUS, .queue_id = GPREEMPT_ALL_QUEUES },
	};
	gpreempt_result results[4];

	CHECK(gpreempt_batch_unmap_queues(gpreempt, queues, 4, 600000, results) == GPREEMPT_EPARTIAL);
	CHECK(!results[0].code && results[0].changed == 1);
	CHECK(results[1].code == GPREEMPT_ENOENT && !results[1].queues);
	CHECK(!results[2].code && results[2].changed == 1);
	CHECK(results[3].code == GPREEMPT_ESRCH);
	step("two queues are held");

	/* What is not held, or not there, is passed over. */
	CHECK(!gpreempt_fast_remap_queues(gpreempt, queues, 4, results));
	CHECK(results[0].changed == 1 && results[2].changed == 1);
	step("none is held");

	/* All that it has on this GPU. */
	queues[0].queue_id = GPREEMPT_ALL_QUEUES;
	CHECK(!gpreempt_batch_unmap_queues(gpreempt, queues, 1, 600000, results));
	step("all are held");
	CHECK(!gpreempt_fast_remap_queues(gpreempt, NULL, 0, NULL));

	/* As a whole it is let go as a whole. */
	queues[0].gpu_id = GPREEMPT_ALL_GPUS;
	CHECK(!gpreempt_batch_unmap_queues(gpreempt, queues, 1, 600000, results));
	CHECK(gpreempt_fast_remap_queues(gpreempt, &queues[2], 1, results) == GPREEMPT_EINVAL);
	step("all are held");
	CHECK(!gpreempt_fast_remap_queues(gpreempt, queues, 1, results));
	step("none is held");
}

static void reserve(int32_t pid, uint32_t gpu)
{
	gpreempt_hqd_status status = { .struct_size = sizeof(status) };
	gpreempt_reservation asked = {
		.struct_size = sizeof(asked),
		.gpu_id = gpu,
		.offline = &pid,
		.offline_count = 1,
	};
	gpreempt_result result;
	int32_t nobody = 1;

	CHECK(!gpreempt_get_hqd_status(gpreempt, gpu, &status));
	CHECK(status.struct_size == sizeof(status) && status.gpu_id == gpu);
	CHECK(status.slots_total > 1 && !status.slots_reserved && !status.reserved_by);
	CHECK(status.slots_used + status.slots_free == status.slots_total);

	/* One must be left. */
	asked.slots = status.slots_total;
	CHECK(gpreempt_set_hqd_reservation(gpreempt, &asked, &result) == GPREEMPT_EINVAL);
	asked.slots = status.slots_total - 1;
	asked.offline = &nobody;
	CHECK(gpreempt_set_hqd_reservation(gpreempt, &asked, &result) == GPREEMPT_ESRCH);
	CHECK(result.code == GPREEMPT_ESRCH);
	asked.offline = &pid;
	CHECK(!gpreempt_set_hqd_reservation(gpreempt, &asked, &result) && !result.code);
	CHECK(!gpreempt_get_hqd_status(gpreempt, gpu, &status));
	CHECK(status.slots_reserved == asked.slots && status.reserved_by && status.queues_parked);
	step("one slot is left");

	asked.slots = 0;
	CHECK(!gpreempt_set_hqd_reservation(gpreempt, &asked, NULL));
	CHECK(!gpreempt_get_hqd_status(gpreempt, gpu, &status));
	CHECK(!status.slots_reserved && !status.queues_parked);
	step("none is reserved");
}

static void list(int32_t pid, uint32_t gpu)
{
	gpreempt_queue_info queues[2];
	size_t n = 0;

	CHECK(!gpreempt_list_queues(gpreempt, pid, NULL, &n) && n > 2);
	n = 2;
	CHECK(gpreempt_list_queues(gpreempt, pid, queues, &n) == GPREEMPT_ENOSPC && n > 2);
	CHECK(queues[1].pid == pid && queues[1].gpu_id == gpu && queues[1].queue_id == 1);
	CHECK(queues[1].state == GPREEMPT_STATE_MAPPED && queues[1].ring_bytes);
}

int main(int argc, char **argv)
{
	int32_t pid;
	uint32_t gpu;

	if (argc != 3)
		return 2;
	pid = atoi(argv[1]);
	gpu = (uint32_t)strtoul(argv[2], NULL, 10);
	CHECK(!gpreempt_open(NULL, &gpreempt));
	list(pid, gpu);
	hold(pid, gpu);
	reserve(pid, gpu);
	gpreempt_close(gpreempt);
	return 0;
}

// SPDX-License-Identifier: GPL-2.0
/*
 * debugfs simgpu/: what is mapped now and what has happened so far, for tests.
 *
 *	simgpu/leaks		live objects
 *	simgpu/<gpu>/slots	one line per mapped queue
 *	simgpu/<gpu>/stats	counters
 */
#include <linux/debugfs.h>
#include <linux/seq_file.h>

#include "sim_engine.h"

static struct dentry *sim_debugfs_top;

static const char *const sim_kind_name[] = {
	[SIM_AQL] = "aql", [SIM_PM4] = "pm4", [SIM_SDMA] = "sdma",
};

static void sim_slot_show(struct seq_file *m, struct sim_gpu *gpu, const struct sim_slot *s)
{
	if (!s->used)
		return;
	seq_printf(m, "slot=%s:%u.%u xccs=%d pasid=%u vmid=%u doorbell=0x%x mqd=0x%llx ring=0x%llx rptr=%llu wptr=%llu kind=%s\n",
		   s->kind == SIM_SDMA ? "sdma" : "cp", s->pipe, s->queue,
		   s->kind == SIM_SDMA ? 1 : gpu->num_xcc, s->pasid, s->vmid, s->doorbell,
		   s->mqd_addr, s->ring, s->rptr, s->wptr, sim_kind_name[s->kind]);
}

static int sim_slots_show(struct seq_file *m, void *unused)
{
	struct sim_gpu *gpu = m->private;
	struct sim_engine *e = gpu->engine;
	int i;

	if (!e)
		return 0;
	mutex_lock(&e->lock);
	for (i = 0; i < ARRAY_SIZE(e->cp); i++)
		sim_slot_show(m, gpu, &e->cp[i]);
	for (i = 0; i < ARRAY_SIZE(e->sdma); i++)
		sim_slot_show(m, gpu, &e->sdma[i]);
	mutex_unlock(&e->lock);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(sim_slots);

static int sim_stats_show(struct seq_file *m, void *unused)
{
	struct sim_gpu *gpu = m->private;
	struct sim_engine *e = gpu->engine;
	struct sim_stats st;
	bool over;
	u32 mapped;

	if (!e)
		return 0;
	mutex_lock(&e->lock);
	st = e->stats;
	over = e->rl.chained || e->rl.rotating;
	mapped = e->mapped;
	mutex_unlock(&e->lock);

#define STAT(name)	seq_printf(m, #name " %llu\n", st.name)
	STAT(run_lists);
	STAT(map_process);
	STAT(map_queues);
	STAT(unmap_packets);
	STAT(query_status);
	STAT(set_resources);
	STAT(bad_packets);
	STAT(rotations);
	seq_printf(m, "oversubscribed %d\n", over);
	seq_printf(m, "mapped_now %u\n", mapped);
	seq_printf(m, "slots_total %u\n", bitmap_weight(gpu->cp_queue_bitmap, SIM_MAX_CP_SLOTS));
	STAT(aql_packets);
	STAT(aql_barriers);
	STAT(aql_dispatches);
	STAT(sdma_packets);
	STAT(pm4_packets);
	STAT(interrupts);
	STAT(resets);
	STAT(hangs);
	STAT(refused);
	STAT(vm_faults);
#undef STAT
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(sim_stats);

static int sim_leaks_show(struct seq_file *m, void *unused)
{
	struct sim_leaks now;

	sim_leaks(&now);
	seq_printf(m, "bo %ld\nmem %ld\nfiles %ld\n", now.bo, now.mem, now.files);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(sim_leaks);

void sim_debugfs_init(void)
{
	sim_debugfs_top = debugfs_create_dir("simgpu", NULL);
	debugfs_create_file("leaks", 0444, sim_debugfs_top, NULL, &sim_leaks_fops);
	sim_evict_debugfs(sim_debugfs_top);
}

void sim_debugfs_gpu(struct sim_gpu *gpu)
{
	char name[16];

	snprintf(name, sizeof(name), "%d", gpu->index);
	gpu->debugfs = debugfs_create_dir(name, sim_debugfs_top);
	debugfs_create_file("slots", 0444, gpu->debugfs, gpu, &sim_slots_fops);
	debugfs_create_file("stats", 0444, gpu->debugfs, gpu, &sim_stats_fops);
}

void sim_debugfs_fini(void)
{
	debugfs_remove(sim_debugfs_top);
	sim_debugfs_top = NULL;
}

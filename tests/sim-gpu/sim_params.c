// SPDX-License-Identifier: GPL-2.0
/*
 * Module parameters: those of the simulation, and those of amdgpu that amdkfd reads.
 *
 * The second group has the names, types, defaults and modes of 6.12 amdgpu_drv.c, so that
 * /sys/module/amdgpu/parameters/ looks to a tool as it does with the stock driver.
 */
#include <linux/module.h>

#include "sim.h"

#define SIM_PARAM(name, mode, desc)			\
	module_param(name, uint, mode);			\
	MODULE_PARM_DESC(name, desc)

uint sim_gpus = 1;
SIM_PARAM(sim_gpus, 0444, "number of simulated GPUs (1-8, default 1)");
uint sim_xccs = 1;
SIM_PARAM(sim_xccs, 0444, "XCCs per GPU, all in one partition (1-8, default 1)");
uint sim_gfx = 90403;
SIM_PARAM(sim_gfx, 0444, "graphics IP version as MMmmss (90402, default 90403, 100300, 110000, 120000)");
uint sim_slots = 24;
SIM_PARAM(sim_slots, 0444, "compute HQD slots per XCC (1-32, default 24)");

uint sim_unmap_us = 50;
SIM_PARAM(sim_unmap_us, 0644, "time to unmap one queue in us (default 50)");
uint sim_save_us;
SIM_PARAM(sim_save_us, 0644, "additional time to save the waves of a busy queue in us (default 0)");
uint sim_restore_us;
SIM_PARAM(sim_restore_us, 0644, "additional time to restore the waves of a queue in us (default 0)");
uint sim_map_us;
SIM_PARAM(sim_map_us, 0644, "time to map one queue in us (default 0)");
uint sim_quantum_ms = 10;
SIM_PARAM(sim_quantum_ms, 0644, "time slice of an over-subscribed run list in ms (default 10)");
uint sim_dispatch_us = 100;
SIM_PARAM(sim_dispatch_us, 0644, "work of a dispatch packet that names none in us (default 100)");
uint sim_rate = 100;
SIM_PARAM(sim_rate, 0644, "percent of a ns of dispatch work done per ns (default 100)");
uint sim_hang;
SIM_PARAM(sim_hang, 0644, "non-zero: the hardware scheduler answers nothing (default 0)");
uint sim_refuse;
SIM_PARAM(sim_refuse, 0644, "doorbell dword offset whose queue refuses preemption (default 0 = none)");

/* ---- what amdkfd reads, 6.12 amdgpu_drv.c ---- */

int sched_policy = KFD_SCHED_POLICY_HWS;
module_param(sched_policy, int, 0444);
MODULE_PARM_DESC(sched_policy,
		 "Scheduling policy (0 = HWS (Default), 1 = HWS without over-subscription, 2 = Non-HWS (Used for debugging only)");

int hws_max_conc_proc = -1;
module_param(hws_max_conc_proc, int, 0444);
MODULE_PARM_DESC(hws_max_conc_proc,
		 "Max # processes HWS can execute concurrently when sched_policy=0 (0 = no concurrency, #VMIDs for KFD = Maximum(default))");

int cwsr_enable = 1;
module_param(cwsr_enable, int, 0444);
MODULE_PARM_DESC(cwsr_enable, "CWSR enable (0 = Off, 1 = On (Default))");

int max_num_of_queues_per_device = KFD_MAX_NUM_OF_QUEUES_PER_DEVICE_DEFAULT;
module_param(max_num_of_queues_per_device, int, 0444);
MODULE_PARM_DESC(max_num_of_queues_per_device,
		 "Maximum number of supported queues per device (1 = Minimum, 4096 = default)");

int send_sigterm;
module_param(send_sigterm, int, 0444);
MODULE_PARM_DESC(send_sigterm,
		 "Send sigterm to HSA process on unhandled exception (0 = disable, 1 = enable)");

int halt_if_hws_hang;
module_param(halt_if_hws_hang, int, 0644);
MODULE_PARM_DESC(halt_if_hws_hang, "Halt if HWS hang is detected (0 = off (default), 1 = on)");

bool hws_gws_support;
module_param(hws_gws_support, bool, 0444);
MODULE_PARM_DESC(hws_gws_support,
		 "Assume MEC2 FW supports GWS barriers (false = rely on FW version check (Default), true = force supported)");

int queue_preemption_timeout_ms = 9000;
module_param(queue_preemption_timeout_ms, int, 0644);
MODULE_PARM_DESC(queue_preemption_timeout_ms,
		 "queue preemption timeout in ms (1 = Minimum, 9000 = default)");

bool debug_evictions;
module_param(debug_evictions, bool, 0644);
MODULE_PARM_DESC(debug_evictions, "enable eviction debug messages (false = default)");

int amdgpu_no_queue_eviction_on_vm_fault;
module_param_named(no_queue_eviction_on_vm_fault, amdgpu_no_queue_eviction_on_vm_fault, int, 0444);
MODULE_PARM_DESC(no_queue_eviction_on_vm_fault,
		 "No queue eviction on VM fault (0 = queue eviction, 1 = no queue eviction)");

int amdgpu_use_xgmi_p2p = 1;
module_param_named(use_xgmi_p2p, amdgpu_use_xgmi_p2p, int, 0444);
MODULE_PARM_DESC(use_xgmi_p2p, "Enable XGMI P2P interface (0 = disable; 1 = enable (default))");

int amdgpu_exp_hw_support;
module_param_named(exp_hw_support, amdgpu_exp_hw_support, int, 0444);
MODULE_PARM_DESC(exp_hw_support, "experimental hw support (1 = enable, 0 = disable (default))");

uint amdgpu_sdma_phase_quantum = 32;
module_param_named(sdma_phase_quantum, amdgpu_sdma_phase_quantum, uint, 0444);
MODULE_PARM_DESC(sdma_phase_quantum,
		 "SDMA context switch phase quantum (x 1K GPU clock cycles, 0 = no change (default 32))");

int amdgpu_emu_mode;
module_param_named(emu_mode, amdgpu_emu_mode, int, 0444);
MODULE_PARM_DESC(emu_mode, "Emulation mode, (1 = enable, 0 = disable)");

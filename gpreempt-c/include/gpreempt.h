/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * libgpreempt: stop and restart the compute queues of other processes on AMD GPUs, and tell the daemon of online work.
 *
 * Generated from gpreempt-c/src by cbindgen; do not edit. docs/library.md is the guide.
 */

#ifndef GPREEMPT_H
#define GPREEMPT_H

#include <stddef.h>
#include <stdint.h>

// Version of the interface that this header describes: the number of the SONAME in the upper half, additions counted in the
// lower half. gpreempt_abi_version() tells that of the library that was loaded.
#define GPREEMPT_ABI_VERSION 1

// Done.
#define GPREEMPT_OK 0

// A permission is missing.
#define GPREEMPT_EPERM -1

// There is no such queue, GPU or hint.
#define GPREEMPT_ENOENT -2

// There is no such process, or it does not use a GPU for computing.
#define GPREEMPT_ESRCH -3

// A call into the driver, or to the daemon, failed.
#define GPREEMPT_EIO -5

// Somebody else holds it.
#define GPREEMPT_EBUSY -16

// An argument cannot be used.
#define GPREEMPT_EINVAL -22

// The array is too short for what there is.
#define GPREEMPT_ENOSPC -28

// The GPU did not answer in time and is reset: every GPU process of the host is lost.
#define GPREEMPT_ETIME -62

// The driver, the kernel or the GPU cannot do that.
#define GPREEMPT_ENOTSUP -95

// No daemon listens on the socket.
#define GPREEMPT_ENODAEMON -111

// Some were done and some were not: look at the results.
#define GPREEMPT_EPARTIAL -1000

// A fault of the library itself.
#define GPREEMPT_EINTERNAL -1001

// gpreempt_queue.queue_id: every queue of the process, also those that it creates later.
#define GPREEMPT_ALL_QUEUES 4294967295

// gpreempt_queue.gpu_id: every GPU.
#define GPREEMPT_ALL_GPUS 0

// A number that is not known.
#define GPREEMPT_UNKNOWN 4294967295

// Longest lease, in milliseconds: an hour.
#define GPREEMPT_MAX_LEASE_MS 3600000

// gpreempt_hint.flags: gpreempt_hint_begin() returns only when offline queues have been stopped, or it is known that they will
// not be.
#define GPREEMPT_HINT_WAIT 1

// gpreempt_hint.flags: the hint outlives this process. Else it ends with it.
#define GPREEMPT_HINT_OUTLIVES 2

// gpreempt_queue_info.queue_type: compute.
#define GPREEMPT_QUEUE_COMPUTE 0

// gpreempt_queue_info.queue_type: copies.
#define GPREEMPT_QUEUE_SDMA 1

// gpreempt_queue_info.state: nothing says whether it is in the runlist; that takes root and debugfs.
#define GPREEMPT_STATE_UNKNOWN 0

// gpreempt_queue_info.state: in the runlist, which does not mean that it runs.
#define GPREEMPT_STATE_MAPPED 1

// gpreempt_queue_info.state: not in the runlist.
#define GPREEMPT_STATE_UNMAPPED 2

// An open library. All its functions may be called by several threads at once; it is for the process that opened it, and not
// for children which that forks.
typedef struct gpreempt_t gpreempt_t;

// Queues of another process.
typedef struct gpreempt_queue {
  // The process, as this process sees it.
  int32_t pid;
  // The GPU's gpu_id, as in /sys/class/kfd/kfd/topology, or GPREEMPT_ALL_GPUS.
  uint32_t gpu_id;
  // Id of the queue in its process, or GPREEMPT_ALL_QUEUES.
  uint32_t queue_id;
  // 0.
  uint32_t reserved;
} gpreempt_queue;

// What became of one element of an array of queues or processes.
typedef struct gpreempt_result {
  // GPREEMPT_OK, or why not.
  int32_t code;
  // Queues of it that are now stopped, or now let go.
  uint32_t queues;
  // Of these, queues that this call changed; the others were so before.
  uint32_t changed;
  // 0.
  uint32_t reserved;
} gpreempt_result;

// What to keep free of offline processes.
typedef struct gpreempt_reservation {
  // sizeof(gpreempt_reservation).
  uint32_t struct_size;
  // The GPU.
  uint32_t gpu_id;
  // So many slots; 0 = see percent. Both 0 end the reservation of this handle.
  uint32_t slots;
  // So many hundredths of all slots, rounded up: 1 to 99.
  uint32_t percent;
  // How often parked queues take turns, in milliseconds; 0 = 1000.
  uint32_t rotate_ms;
  // How many there are in offline.
  uint32_t offline_count;
  // The offline processes, all others are online. They replace those named before.
  const int32_t *offline;
} gpreempt_reservation;

// Compute slots (HQDs) of a GPU. With the hardware scheduler nobody knows which queue is on which slot, nor when: what is told
// is what the driver submitted.
typedef struct gpreempt_hqd_status {
  // In: sizeof(gpreempt_hqd_status). Out: how much of it was filled.
  uint32_t struct_size;
  // Out: the GPU.
  uint32_t gpu_id;
  // Slots that the scheduler may use on each XCC.
  uint32_t slots_total;
  // Of these, taken by queues in the runlist, or GPREEMPT_UNKNOWN (that takes a patched driver, or root and debugfs).
  uint32_t slots_used;
  // slots_total - slots_used, or GPREEMPT_UNKNOWN.
  uint32_t slots_free;
  // Slots that offline processes leave free; 0 where the driver has no reservations.
  uint32_t slots_reserved;
  // Compute queues in the runlist, or GPREEMPT_UNKNOWN. More than slots_total take turns.
  uint32_t queues_mapped;
  // Queues that are parked by the reservation.
  uint32_t queues_parked;
  // The process that reserved; 0 = nobody.
  int32_t reserved_by;
  // 1 if the runlist is time-sliced, 0 if not, or GPREEMPT_UNKNOWN.
  uint32_t oversubscribed;
} gpreempt_hqd_status;

// A queue, as gpreempt_list_queues() tells it.
typedef struct gpreempt_queue_info {
  // Its process, as the host numbers it.
  int32_t pid;
  // Its GPU.
  uint32_t gpu_id;
  // Its id in the process.
  uint32_t queue_id;
  // GPREEMPT_QUEUE_COMPUTE and others.
  uint32_t queue_type;
  // GPREEMPT_STATE_MAPPED and others.
  uint32_t state;
  // 0 to 15, or GPREEMPT_UNKNOWN.
  uint32_t priority;
  // Size of its ring in bytes.
  uint64_t ring_bytes;
  // Packets that wait in it, or UINT64_MAX where that is not known.
  uint64_t pending;
  // Name of the process: at most 15 bytes and a NUL.
  char comm[16];
  // 0.
  uint64_t reserved[4];
} gpreempt_queue_info;

// Options of gpreempt_hint_begin().
typedef struct gpreempt_hint {
  // sizeof(gpreempt_hint).
  uint32_t struct_size;
  // GPREEMPT_HINT_WAIT, GPREEMPT_HINT_OUTLIVES.
  uint32_t flags;
  // When the work begins, in milliseconds from now; 0 = it has begun.
  uint32_t lead_ms;
  // The hint ends by itself after so many milliseconds, at most an hour; 0 = as the daemon is configured.
  uint32_t expires_ms;
} gpreempt_hint;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// Opens the library. `socket` is where the daemon listens; NULL = $GPREEMPT_SOCKET, else /run/gpreempt/gpreempt.sock. Neither the
// daemon nor the driver is touched before the first call that needs it.
//
// Returns 0, GPREEMPT_EINVAL, or GPREEMPT_EIO when descriptors have run out.
//
// The caller promises:
// `socket` is NULL or ends with a NUL; `out` can be written.
int32_t gpreempt_open(const char *socket,
                      struct gpreempt_t **out);

// Closes the library: what it holds is let go, and its reservation ends. NULL does nothing. No other call with the handle may be
// going on, or come later.
//
// The caller promises:
// `handle` is NULL, or came from gpreempt_open() and was not closed.
void gpreempt_close(struct gpreempt_t *handle);

// Stops queues of other processes, all in one call into the driver. They run again when gpreempt_fast_remap_queues() lets them
// go, when the lease ends, when the handle is closed, and when this process ends, whichever comes first; the kernel sees to
// that. It takes a driver with the patches of this project, and the right to open /dev/kfd; queues of other users take
// CAP_SYS_NICE.
//
// `lease_ms`, 1 to GPREEMPT_MAX_LEASE_MS milliseconds, counts from this call or from gpreempt_renew(), for everything that the
// handle holds: the last call decides. With GPREEMPT_ALL_QUEUES and a GPU, the queues that the process has there now are meant;
// with GPREEMPT_ALL_GPUS also those that it creates later. `results` is NULL or has `n` elements.
//
// Returns 0 if all are stopped. Else GPREEMPT_EPARTIAL if some are, GPREEMPT_ETIME if a GPU did not answer, or why the first
// was not.
//
// The caller promises:
// `handle` came from gpreempt_open(); `queues` can be read and `results` written for `n` elements.
int32_t gpreempt_batch_unmap_queues(struct gpreempt_t *handle,
                                    const struct gpreempt_queue *queues,
                                    size_t n,
                                    uint32_t lease_ms,
                                    struct gpreempt_result *results);

// Lets queues go that this handle holds; `n` = 0: all of them. What it does not hold, or what has ended, is passed over. A process
// that is held as a whole is let go as a whole. `results` is NULL or has `n` elements.
//
// Returns 0, or as gpreempt_batch_unmap_queues().
//
// The caller promises:
// As gpreempt_batch_unmap_queues().
int32_t gpreempt_fast_remap_queues(struct gpreempt_t *handle,
                                   const struct gpreempt_queue *queues,
                                   size_t n,
                                   struct gpreempt_result *results);

// Begins the lease of all that the handle holds anew; three times a lease is a good pace.
//
// Returns 0, or GPREEMPT_EIO when the hold was lost, because the lease had ended or somebody forced it: nothing is held then.
//
// The caller promises:
// `handle` came from gpreempt_open().
int32_t gpreempt_renew(struct gpreempt_t *handle);

// Keeps compute slots of a GPU free of offline processes, in place of what this handle had reserved there; with slots and percent 0
// ends that. It ends with the handle and with this process. It takes a patched driver and CAP_SYS_NICE. If any process is
// refused, nothing is reserved. `results` is NULL or has `offline_count` elements.
//
// Returns 0, GPREEMPT_EBUSY if somebody else has reserved slots of the GPU, or another code.
//
// The caller promises:
// `handle` came from gpreempt_open(); `reservation` can be read as far as its struct_size says, its `offline` and `results` for
// `offline_count` elements.
int32_t gpreempt_set_hqd_reservation(struct gpreempt_t *handle,
                                     const struct gpreempt_reservation *reservation,
                                     struct gpreempt_result *results);

// Tells the compute slots of a GPU. `status->struct_size` must be set.
//
// The caller promises:
// `handle` came from gpreempt_open(); `status` can be written as far as its struct_size says.
int32_t gpreempt_get_hqd_status(struct gpreempt_t *handle, uint32_t gpu_id, struct gpreempt_hqd_status *status);

// Lists queues of a process, or of all for `pid` 0. In: `*n` elements fit into `out`. Out: `*n` is how many queues there are.
// With `out` NULL only their number is told. /dev/kfd is not opened.
//
// Returns 0, or GPREEMPT_ENOSPC if `out` is too short: it has the first of them then.
//
// The caller promises:
// `handle` came from gpreempt_open(); `n` can be read and written, `out` written for `*n` elements.
int32_t gpreempt_list_queues(struct gpreempt_t *handle,
                             int32_t pid,
                             struct gpreempt_queue_info *out,
                             size_t *n);

// Tells the daemon that online work comes or has begun: offline queues are stopped for it, as the daemon's policy says. It is one
// round trip on a connection that stays open. `options` is NULL, or says when the work begins and whether to wait. `*id` names
// the hint for gpreempt_hint_end(). The hint ends with this process, or when its time is over.
//
// Returns 0, GPREEMPT_ENODAEMON, GPREEMPT_EPERM if the daemon does not take hints from this user, or another code.
//
// The caller promises:
// `handle` came from gpreempt_open(); `options` is NULL or can be read as far as its struct_size says; `id` can be written.
int32_t gpreempt_hint_begin(struct gpreempt_t *handle,
                            const struct gpreempt_hint *options,
                            uint64_t *id);

// Ends a hint. `latency_ns` is NULL, or gets how long the work took, from its begin to now, in nanoseconds.
//
// Returns 0, GPREEMPT_ENOENT if it has ended already, or as gpreempt_hint_begin().
//
// The caller promises:
// `handle` came from gpreempt_open(); `latency_ns` is NULL or can be written.
int32_t gpreempt_hint_end(struct gpreempt_t *handle, uint64_t id, uint64_t *latency_ns);

// A few words for a code. Never NULL, valid for ever.
const char *gpreempt_strerror(int32_t code);

// What went wrong in the last call of this thread that failed, in a sentence with what can be done. Never NULL; valid until this
// thread's next call of the library.
const char *gpreempt_last_error(void);

// GPREEMPT_ABI_VERSION of the library that was loaded.
uint32_t gpreempt_abi_version(void);

// Version of the library, as `0.1.0`. Never NULL, valid for ever.
const char *gpreempt_version(void);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* GPREEMPT_H */

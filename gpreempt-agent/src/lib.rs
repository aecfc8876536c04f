// SPDX-License-Identifier: MIT OR Apache-2.0
//! Preloaded into a job by `gpreempt run`. Takes the place of `ioctl`, so that it knows the queues that the process has; stops
//! and restarts them by the process's own `AMDKFD_IOC_UPDATE_QUEUE`, with a percentage of 0 and then what the process wanted,
//! when the daemon says so. That takes no right that the process does not have.
//!
//! Nothing of this outlives the process. What is stopped is a lease: it runs again when the daemon says so, is gone, or says
//! nothing for the lease's time. A process that never creates a queue gets neither thread nor connection.
//!
//! ```text
//! the process --ioctl--> calls (CREATE, UPDATE, DESTROY_QUEUE) --> queues <-- link <--orders-- the daemon
//!                              |                                     |
//!                              +---------> the driver <--------------+
//! ```

mod calls;
mod kfd;
mod link;
mod lock;
mod queues;

use std::os::raw::{c_int, c_ulong, c_void};

/// What the process calls in place of the C library's. The third argument is a pointer or a number, in a register either way:
/// on x86-64 a function with `...` finds it where this one does.
///
/// # Safety
/// As ioctl(2).
#[no_mangle]
pub unsafe extern "C" fn ioctl(fd: c_int, request: c_ulong, argument: *mut c_void) -> c_int {
    // What an unwind would do to the caller is undefined; the call itself must be made whatever happens here.
    if let Some(result) = calls::of_queues(fd, request, argument) {
        return result;
    }
    // SAFETY: the caller's own arguments.
    unsafe { kfd::next_ioctl(fd, request, argument) }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! The functions of the header. Each checks its arguments, calls the handle, and turns errors into codes and panics into one.

use std::ffi::c_char;
use std::panic::{catch_unwind, AssertUnwindSafe};

use crate::abi::*;
use crate::error::{self, Error, Result};
use crate::handle::Handle;
use crate::holds::Done;
use crate::{queues, raw};

/// An open library. All its functions may be called by several threads at once; it is for the process that opened it, and not
/// for children which that forks.
#[derive(Debug)]
pub struct gpreempt_t {
    _private: [u8; 0],
}

/// Runs a call: its code, and its sentence kept for gpreempt_last_error().
fn run(call: impl FnOnce() -> Result<()>) -> i32 {
    let error = match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(())) => return GPREEMPT_OK,
        Ok(Err(error)) => error,
        Err(_) => Error::new(
            GPREEMPT_EINTERNAL,
            "libgpreempt has a fault; what it printed on stderr tells where",
        ),
    };
    error::keep(&error.message);
    error.code
}

/// The handle behind a pointer.
///
/// # Safety
/// It is null, or came from [`gpreempt_open`] and was not closed.
unsafe fn handle<'a>(pointer: *const gpreempt_t) -> Result<&'a Handle> {
    let pointer = pointer.cast::<Handle>();
    if pointer.is_null() || !pointer.is_aligned() {
        return Err(Error::invalid("handle is none: gpreempt_open() makes one"));
    }
    // SAFETY: as the caller promises; it is only borrowed mutably, by gpreempt_close, when no call is going on.
    let handle = unsafe { &*pointer };
    handle.check()?;
    Ok(handle)
}

/// Opens the library. `socket` is where the daemon listens; NULL = $GPREEMPT_SOCKET, else /run/gpreempt/gpreempt.sock. Neither the
/// daemon nor the driver is touched before the first call that needs it.
///
/// Returns 0, GPREEMPT_EINVAL, or GPREEMPT_EIO when descriptors have run out.
///
/// # Safety
/// `socket` is NULL or ends with a NUL; `out` can be written.
#[no_mangle]
pub unsafe extern "C" fn gpreempt_open(socket: *const c_char, out: *mut *mut gpreempt_t) -> i32 {
    run(|| {
        raw::check_out(out, "out")?;
        // SAFETY: as the caller promises.
        let socket = unsafe { raw::path(socket) };
        let handle = Box::new(Handle::new(socket)?);
        // SAFETY: as the caller promises.
        unsafe { raw::write(out, Box::into_raw(handle).cast(), "out") }
    })
}

/// Closes the library: what it holds is let go, and its reservation ends. NULL does nothing. No other call with the handle may be
/// going on, or come later.
///
/// # Safety
/// `handle` is NULL, or came from gpreempt_open() and was not closed.
#[no_mangle]
pub unsafe extern "C" fn gpreempt_close(handle: *mut gpreempt_t) {
    let pointer = handle.cast::<Handle>();
    if pointer.is_null() || !pointer.is_aligned() {
        return;
    }
    run(|| {
        // SAFETY: as the caller promises, it came from Box::into_raw and nobody else has it.
        let handle = unsafe { Box::from_raw(pointer) };
        match handle.is_ours() {
            true => drop(handle),
            // A forked child's copy: its descriptors and what they hold are the parent's.
            false => std::mem::forget(handle),
        }
        Ok(())
    });
}

/// Stops queues of other processes, all in one call into the driver. They run again when gpreempt_fast_remap_queues() lets them
/// go, when the lease ends, when the handle is closed, and when this process ends, whichever comes first; the kernel sees to
/// that. It takes a driver with the patches of this project, and the right to open /dev/kfd; queues of other users take
/// CAP_SYS_NICE.
///
/// `lease_ms`, 1 to GPREEMPT_MAX_LEASE_MS milliseconds, counts from this call or from gpreempt_renew(), for everything that the
/// handle holds: the last call decides. With GPREEMPT_ALL_QUEUES and a GPU, the queues that the process has there now are meant;
/// with GPREEMPT_ALL_GPUS also those that it creates later. `results` is NULL or has `n` elements.
///
/// Returns 0 if all are stopped. Else GPREEMPT_EPARTIAL if some are, GPREEMPT_ETIME if a GPU did not answer, or why the first
/// was not.
///
/// # Safety
/// `handle` came from gpreempt_open(); `queues` can be read and `results` written for `n` elements.
#[no_mangle]
pub unsafe extern "C" fn gpreempt_batch_unmap_queues(
    handle: *mut gpreempt_t,
    queues: *const gpreempt_queue,
    n: usize,
    lease_ms: u32,
    results: *mut gpreempt_result,
) -> i32 {
    run(|| {
        // SAFETY: as the caller promises.
        let handle = unsafe { self::handle(handle) }?;
        // SAFETY: as the caller promises.
        let asked = unsafe { raw::read_array(queues, n, "queues") }?;
        raw::check_optional(results, n, "results")?;
        if asked.is_empty() {
            return Err(Error::invalid("n is 0: no queue is named"));
        }
        let done = handle.holds().hold(&asked, lease_ms)?;
        // SAFETY: as the caller promises.
        unsafe { finish(done, results) }
    })
}

/// Lets queues go that this handle holds; `n` = 0: all of them. What it does not hold, or what has ended, is passed over. A process
/// that is held as a whole is let go as a whole. `results` is NULL or has `n` elements.
///
/// Returns 0, or as gpreempt_batch_unmap_queues().
///
/// # Safety
/// As gpreempt_batch_unmap_queues().
#[no_mangle]
pub unsafe extern "C" fn gpreempt_fast_remap_queues(
    handle: *mut gpreempt_t,
    queues: *const gpreempt_queue,
    n: usize,
    results: *mut gpreempt_result,
) -> i32 {
    run(|| {
        // SAFETY: as the caller promises.
        let handle = unsafe { self::handle(handle) }?;
        // SAFETY: as the caller promises.
        let asked = unsafe { raw::read_array(queues, n, "queues") }?;
        raw::check_optional(results, n, "results")?;
        let mut holds = handle.holds();
        let done = match asked.is_empty() {
            true => holds.release_all()?,
            false => holds.release(&asked)?,
        };
        // SAFETY: as the caller promises.
        unsafe { finish(done, results) }
    })
}

/// Begins the lease of all that the handle holds anew; three times a lease is a good pace.
///
/// Returns 0, or GPREEMPT_EIO when the hold was lost, because the lease had ended or somebody forced it: nothing is held then.
///
/// # Safety
/// `handle` came from gpreempt_open().
#[no_mangle]
pub unsafe extern "C" fn gpreempt_renew(handle: *mut gpreempt_t) -> i32 {
    // SAFETY: as the caller promises.
    run(|| unsafe { self::handle(handle) }?.holds().renew())
}

/// Keeps compute slots of a GPU free of offline processes, in place of what this handle had reserved there; with slots and percent 0
/// ends that. It ends with the handle and with this process. It takes a patched driver and CAP_SYS_NICE. If any process is
/// refused, nothing is reserved. `results` is NULL or has `offline_count` elements.
///
/// Returns 0, GPREEMPT_EBUSY if somebody else has reserved slots of the GPU, or another code.
///
/// # Safety
/// `handle` came from gpreempt_open(); `reservation` can be read as far as its struct_size says, its `offline` and `results` for
/// `offline_count` elements.
#[no_mangle]
pub unsafe extern "C" fn gpreempt_set_hqd_reservation(
    handle: *mut gpreempt_t,
    reservation: *const gpreempt_reservation,
    results: *mut gpreempt_result,
) -> i32 {
    const NONE: gpreempt_reservation = gpreempt_reservation {
        struct_size: 0,
        gpu_id: 0,
        slots: 0,
        percent: 0,
        rotate_ms: 0,
        offline_count: 0,
        offline: std::ptr::null(),
    };
    run(|| {
        // SAFETY: as the caller promises.
        let handle = unsafe { self::handle(handle) }?;
        // SAFETY: as the caller promises; any bytes are numbers and a pointer.
        let asked = unsafe { raw::read_versioned(reservation, NONE, "reservation") }?;
        let count = asked.offline_count as usize;
        // SAFETY: as the caller promises.
        let offline = unsafe { raw::read_array(asked.offline, count, "offline processes") }?;
        raw::check_optional(results, count, "results")?;
        let (each, done) = handle.slots().reserve(&asked, &offline);
        // SAFETY: as the caller promises.
        unsafe { raw::write_array(results, &each, "results") }?;
        done
    })
}

/// Tells the compute slots of a GPU. `status->struct_size` must be set.
///
/// # Safety
/// `handle` came from gpreempt_open(); `status` can be written as far as its struct_size says.
#[no_mangle]
pub unsafe extern "C" fn gpreempt_get_hqd_status(
    handle: *mut gpreempt_t,
    gpu_id: u32,
    status: *mut gpreempt_hqd_status,
) -> i32 {
    run(|| {
        // SAFETY: as the caller promises.
        let handle = unsafe { self::handle(handle) }?;
        raw::check_out(status, "status")?;
        let now = handle.slots().status(gpu_id)?;
        // SAFETY: as the caller promises.
        unsafe { raw::write_versioned(status, now, "status") }
    })
}

/// Lists queues of a process, or of all for `pid` 0. In: `*n` elements fit into `out`. Out: `*n` is how many queues there are.
/// With `out` NULL only their number is told. /dev/kfd is not opened.
///
/// Returns 0, or GPREEMPT_ENOSPC if `out` is too short: it has the first of them then.
///
/// # Safety
/// `handle` came from gpreempt_open(); `n` can be read and written, `out` written for `*n` elements.
#[no_mangle]
pub unsafe extern "C" fn gpreempt_list_queues(
    handle: *mut gpreempt_t,
    pid: i32,
    out: *mut gpreempt_queue_info,
    n: *mut usize,
) -> i32 {
    run(|| {
        // SAFETY: as the caller promises.
        let handle = unsafe { self::handle(handle) }?;
        // SAFETY: as the caller promises.
        let room = unsafe { raw::read(n, "n") }?;
        raw::check_optional(out, room, "out")?;
        let pid = u32::try_from(pid)
            .map_err(|_| Error::invalid(format!("pid is {pid}: no process has that")))?;
        let there = queues::list(&handle.root, pid);
        let told = &there[..there.len().min(room)];
        // SAFETY: as the caller promises.
        unsafe { raw::write_array(out, told, "out") }?;
        // SAFETY: as the caller promises.
        unsafe { raw::write(n, there.len(), "n") }?;
        match out.is_null() || told.len() == there.len() {
            true => Ok(()),
            false => Err(Error::new(
                GPREEMPT_ENOSPC,
                format!("there are {} queues, and {room} fit", there.len()),
            )),
        }
    })
}

/// Tells the daemon that online work comes or has begun: offline queues are stopped for it, as the daemon's policy says. It is one
/// round trip on a connection that stays open. `options` is NULL, or says when the work begins and whether to wait. `*id` names
/// the hint for gpreempt_hint_end(). The hint ends with this process, or when its time is over.
///
/// Returns 0, GPREEMPT_ENODAEMON, GPREEMPT_EPERM if the daemon does not take hints from this user, or another code.
///
/// # Safety
/// `handle` came from gpreempt_open(); `options` is NULL or can be read as far as its struct_size says; `id` can be written.
#[no_mangle]
pub unsafe extern "C" fn gpreempt_hint_begin(
    handle: *mut gpreempt_t,
    options: *const gpreempt_hint,
    id: *mut u64,
) -> i32 {
    run(|| {
        // SAFETY: as the caller promises.
        let handle = unsafe { self::handle(handle) }?;
        raw::check_out(id, "id")?;
        let options = match options.is_null() {
            true => gpreempt_hint::default(),
            // SAFETY: as the caller promises; any bytes are numbers.
            false => unsafe { raw::read_versioned(options, gpreempt_hint::default(), "options") }?,
        };
        let begun = handle.hints().begin(&options)?;
        // SAFETY: as the caller promises.
        unsafe { raw::write(id, begun, "id") }
    })
}

/// Ends a hint. `latency_ns` is NULL, or gets how long the work took, from its begin to now, in nanoseconds.
///
/// Returns 0, GPREEMPT_ENOENT if it has ended already, or as gpreempt_hint_begin().
///
/// # Safety
/// `handle` came from gpreempt_open(); `latency_ns` is NULL or can be written.
#[no_mangle]
pub unsafe extern "C" fn gpreempt_hint_end(
    handle: *mut gpreempt_t,
    id: u64,
    latency_ns: *mut u64,
) -> i32 {
    run(|| {
        // SAFETY: as the caller promises.
        let handle = unsafe { self::handle(handle) }?;
        raw::check_optional(latency_ns, 1, "latency_ns")?;
        let took = handle.hints().end(id)?;
        // SAFETY: as the caller promises.
        unsafe { raw::write(latency_ns, took, "latency_ns") }
    })
}

/// A few words for a code. Never NULL, valid for ever.
#[no_mangle]
pub extern "C" fn gpreempt_strerror(code: i32) -> *const c_char {
    error::words(code).as_ptr()
}

/// What went wrong in the last call of this thread that failed, in a sentence with what can be done. Never NULL; valid until this
/// thread's next call of the library.
#[no_mangle]
pub extern "C" fn gpreempt_last_error() -> *const c_char {
    error::last()
}

/// GPREEMPT_ABI_VERSION of the library that was loaded.
#[no_mangle]
pub extern "C" fn gpreempt_abi_version() -> u32 {
    GPREEMPT_ABI_VERSION
}

/// Version of the library, as `0.1.0`. Never NULL, valid for ever.
#[no_mangle]
pub extern "C" fn gpreempt_version() -> *const c_char {
    const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");
    VERSION.as_ptr().cast()
}

/// Tells the caller what became of each element, and of the call.
///
/// # Safety
/// `results` is null or writable for as many elements as there are results.
unsafe fn finish(done: Done, results: *mut gpreempt_result) -> Result<()> {
    // SAFETY: as the caller promises.
    unsafe { raw::write_array(results, &done.results, "results") }?;
    done.error.map_or(Ok(()), Err)
}

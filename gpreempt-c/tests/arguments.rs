// SPDX-License-Identifier: MIT OR Apache-2.0
//! Arguments that cannot be used are errors, whatever they are; nothing is done then.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use std::ffi::CStr;
use std::ptr::{null, null_mut};

use gpreempt_c::abi::*;
use gpreempt_c::calls::*;

/// A library whose daemon is nowhere.
struct Open(*mut gpreempt_t);

impl Open {
    fn new() -> Self {
        let mut handle = null_mut();
        // SAFETY: a text with a NUL, and a place for the handle.
        let code = unsafe { gpreempt_open(c"/nonexistent/socket".as_ptr(), &mut handle) };
        assert_eq!(code, GPREEMPT_OK);
        Self(handle)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        // SAFETY: it came from gpreempt_open and nobody else has it.
        unsafe { gpreempt_close(self.0) }
    }
}

fn last_error() -> String {
    // SAFETY: it is a text with a NUL, and no other call of this thread comes before it is copied.
    let text = unsafe { CStr::from_ptr(gpreempt_last_error()) };
    text.to_str().unwrap().to_owned()
}

#[track_caller]
fn refused(code: i32, expected: i32, word: &str) {
    assert_eq!(code, expected, "{}", last_error());
    assert!(last_error().contains(word), "{}", last_error());
}

fn queue(pid: i32) -> gpreempt_queue {
    gpreempt_queue {
        pid,
        gpu_id: GPREEMPT_ALL_GPUS,
        queue_id: GPREEMPT_ALL_QUEUES,
        reserved: 0,
    }
}

/// A pointer that is aligned for nothing.
fn crooked<T>() -> *mut T {
    std::ptr::without_provenance_mut(1)
}

#[test]
fn a_handle_must_be_one() {
    let mut id = 0;
    // SAFETY: none of these pointers is followed.
    unsafe {
        refused(
            gpreempt_open(null(), null_mut()),
            GPREEMPT_EINVAL,
            "out is NULL",
        );
        refused(
            gpreempt_open(null(), crooked()),
            GPREEMPT_EINVAL,
            "misaligned",
        );
        refused(
            gpreempt_hint_begin(null_mut(), null(), &mut id),
            GPREEMPT_EINVAL,
            "handle",
        );
        refused(gpreempt_renew(crooked()), GPREEMPT_EINVAL, "handle");
        gpreempt_close(null_mut());
        gpreempt_close(crooked());
    }
}

#[test]
fn arrays_must_be_readable_and_of_a_sensible_length() {
    let open = Open::new();
    let one = queue(1);
    // SAFETY: pointers that are followed are those of living values.
    unsafe {
        let hold = |queues, n, lease_ms, results| {
            gpreempt_batch_unmap_queues(open.0, queues, n, lease_ms, results)
        };
        refused(
            hold(null(), 1, 100, null_mut()),
            GPREEMPT_EINVAL,
            "queues is NULL",
        );
        refused(
            hold(crooked(), 1, 100, null_mut()),
            GPREEMPT_EINVAL,
            "misaligned",
        );
        refused(
            hold(&one, usize::MAX, 100, null_mut()),
            GPREEMPT_EINVAL,
            "absurd",
        );
        refused(hold(&one, 0, 100, null_mut()), GPREEMPT_EINVAL, "no queue");
        refused(hold(&one, 1, 100, crooked()), GPREEMPT_EINVAL, "results");
        refused(hold(&one, 1, 0, null_mut()), GPREEMPT_EINVAL, "lease_ms");
        refused(
            hold(&one, 1, u32::MAX, null_mut()),
            GPREEMPT_EINVAL,
            "lease_ms",
        );
        for pid in [0, -1, i32::MIN, i32::try_from(std::process::id()).unwrap()] {
            refused(
                hold(&queue(pid), 1, 100, null_mut()),
                GPREEMPT_EINVAL,
                "queues[0]",
            );
        }
        let dirty = gpreempt_queue { reserved: 1, ..one };
        refused(
            hold(&dirty, 1, 100, null_mut()),
            GPREEMPT_EINVAL,
            "reserved",
        );
    }
}

#[test]
fn without_a_driver_nothing_can_be_held_or_reserved() {
    if std::path::Path::new("/sys/class/kfd").exists() {
        return;
    }
    let open = Open::new();
    let one = queue(1);
    let mut status = gpreempt_hqd_status {
        struct_size: size_of::<gpreempt_hqd_status>() as u32,
        gpu_id: 0,
        slots_total: 0,
        slots_used: 0,
        slots_free: 0,
        slots_reserved: 0,
        queues_mapped: 0,
        queues_parked: 0,
        reserved_by: 0,
        oversubscribed: 0,
    };
    let mut n = 0;
    // SAFETY: all point at living values.
    unsafe {
        let code = gpreempt_batch_unmap_queues(open.0, &one, 1, 100, null_mut());
        refused(code, GPREEMPT_ENOTSUP, "");
        refused(
            gpreempt_get_hqd_status(open.0, 7, &mut status),
            GPREEMPT_ENOENT,
            "no GPU",
        );
        assert_eq!(
            gpreempt_list_queues(open.0, 0, null_mut(), &mut n),
            GPREEMPT_OK
        );
        assert_eq!(n, 0);
        assert_eq!(
            gpreempt_fast_remap_queues(open.0, null(), 0, null_mut()),
            GPREEMPT_OK
        );
        assert_eq!(
            gpreempt_fast_remap_queues(open.0, &one, 1, null_mut()),
            GPREEMPT_OK
        );
        assert_eq!(gpreempt_renew(open.0), GPREEMPT_OK);
    }
}

#[test]
fn structs_say_their_size() {
    let open = Open::new();
    let mut id = 0;
    let mut begin = |options: &[u32]| {
        // SAFETY: an array of words, at least as long as its first one says.
        unsafe { gpreempt_hint_begin(open.0, options.as_ptr().cast(), &mut id) }
    };
    refused(begin(&[0, 0, 0, 0]), GPREEMPT_EINVAL, "struct_size");
    refused(begin(&[u32::MAX, 0, 0, 0]), GPREEMPT_EINVAL, "struct_size");
    // Of an older version, this one, and a newer one that uses nothing new.
    for options in [&[8, 0][..], &[16, 0, 0, 0], &[24, 0, 0, 0, 0, 0]] {
        refused(begin(options), GPREEMPT_ENODAEMON, "gpreempt serve");
    }
    refused(
        begin(&[24, 0, 0, 0, 0, 5]),
        GPREEMPT_EINVAL,
        "does not know",
    );
    refused(begin(&[16, 0x80, 0, 0]), GPREEMPT_EINVAL, "0x80");
}

#[test]
fn places_for_answers_must_be_there() {
    let open = Open::new();
    let mut n = 1;
    // SAFETY: pointers that are followed are those of living values.
    unsafe {
        refused(
            gpreempt_hint_begin(open.0, null(), null_mut()),
            GPREEMPT_EINVAL,
            "id is NULL",
        );
        refused(
            gpreempt_hint_end(open.0, 1, crooked()),
            GPREEMPT_EINVAL,
            "latency_ns",
        );
        refused(
            gpreempt_list_queues(open.0, 0, null_mut(), null_mut()),
            GPREEMPT_EINVAL,
            "n is NULL",
        );
        refused(
            gpreempt_list_queues(open.0, 0, crooked(), &mut n),
            GPREEMPT_EINVAL,
            "out",
        );
        refused(
            gpreempt_list_queues(open.0, -1, null_mut(), &mut n),
            GPREEMPT_EINVAL,
            "pid",
        );
        refused(
            gpreempt_get_hqd_status(open.0, 1, null_mut()),
            GPREEMPT_EINVAL,
            "status",
        );
        let none = gpreempt_set_hqd_reservation(open.0, null(), null_mut());
        refused(none, GPREEMPT_EINVAL, "reservation is NULL");
    }
}

#[test]
fn every_code_has_words() {
    let mut words = std::collections::BTreeSet::new();
    let codes = [
        GPREEMPT_OK,
        GPREEMPT_EPERM,
        GPREEMPT_ENOENT,
        GPREEMPT_ESRCH,
        GPREEMPT_EIO,
        GPREEMPT_EBUSY,
        GPREEMPT_EINVAL,
        GPREEMPT_ENOSPC,
        GPREEMPT_ETIME,
        GPREEMPT_ENOTSUP,
        GPREEMPT_ENODAEMON,
        GPREEMPT_EPARTIAL,
        GPREEMPT_EINTERNAL,
        12345,
    ];
    for code in codes {
        // SAFETY: a text with a NUL that stays.
        words.insert(unsafe { CStr::from_ptr(gpreempt_strerror(code)) });
    }
    assert_eq!(words.len(), codes.len());
    assert_eq!(gpreempt_abi_version(), GPREEMPT_ABI_VERSION);
    // SAFETY: likewise.
    let version = unsafe { CStr::from_ptr(gpreempt_version()) };
    assert_eq!(version.to_str().unwrap(), env!("CARGO_PKG_VERSION"));
}

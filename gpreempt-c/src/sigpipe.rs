// SPDX-License-Identifier: MIT OR Apache-2.0
//! A daemon that has gone must not end the program that uses this library: writing to a connection that the other side has
//! closed raises SIGPIPE, which a Rust program ignores and a C program dies of.

use std::mem::MaybeUninit;

use nix::sys::signal::{SigSet, SigmaskHow, Signal};

/// Runs `call` in this thread without SIGPIPE, and leaves signal mask and pending signals as they were.
pub(crate) fn without<T>(call: impl FnOnce() -> T) -> T {
    let pipe = SigSet::from_iter([Signal::SIGPIPE]);
    let pending = is_pending();
    let before = pipe.thread_swap_mask(SigmaskHow::SIG_BLOCK).ok();
    let result = call();
    if !pending && is_pending() {
        take(&pipe);
    }
    if let Some(before) = before {
        // Fails only for arguments that are no masks.
        let _ = before.thread_set_mask();
    }
    result
}

fn is_pending() -> bool {
    let mut set = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: sigpending fills the set that it is given, and zeros are a set, too.
    unsafe {
        libc::sigpending(set.as_mut_ptr()) == 0
            && libc::sigismember(set.as_ptr(), libc::SIGPIPE) == 1
    }
}

/// Takes a pending signal off, without waiting for one.
fn take(set: &SigSet) {
    let now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: both point at values that live through the call; where the signal's details go may be null.
    unsafe { libc::sigtimedwait(set.as_ref(), std::ptr::null_mut(), &now) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_connection_raises_nothing() {
        // Rust's test program ignores SIGPIPE; a C program does not. Blocked in this thread it shows all the same.
        let pipe = SigSet::from_iter([Signal::SIGPIPE]);
        let raise = || {
            // SAFETY: a signal to this thread, which blocks it here.
            unsafe { libc::pthread_kill(libc::pthread_self(), libc::SIGPIPE) };
        };
        pipe.thread_block().unwrap();
        without(raise);
        assert!(!is_pending());
        pipe.thread_unblock().unwrap();
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! A mutex that a process can be forked under. The standard library's cannot be unlocked in a child, where the thread that holds
//! it is not; whoever forks takes this one before and gives it back on both sides.

use std::cell::UnsafeCell;
use std::ops::{Deref, DerefMut};

/// Guards what is in it. Never poisoned: what a panic leaves behind is looked at by the next who comes.
pub(crate) struct Lock<T> {
    raw: UnsafeCell<libc::pthread_mutex_t>,
    value: UnsafeCell<T>,
}

// SAFETY: one thread at a time reaches the value.
unsafe impl<T: Send> Sync for Lock<T> {}

/// Until it is dropped.
pub(crate) struct Held<'a, T>(&'a Lock<T>);

impl<T> Lock<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self {
            raw: UnsafeCell::new(libc::PTHREAD_MUTEX_INITIALIZER),
            value: UnsafeCell::new(value),
        }
    }

    pub(crate) fn lock(&'static self) -> Held<'static, T> {
        self.acquire();
        Held(self)
    }

    /// For those who fork: without a guard, which would be of one process only.
    pub(crate) fn acquire(&'static self) {
        // SAFETY: initialised, at a fixed place.
        unsafe { libc::pthread_mutex_lock(self.raw.get()) };
    }

    /// # Safety
    /// After `acquire`, by the same thread or its copy in a child.
    pub(crate) unsafe fn release(&'static self) {
        // SAFETY: the caller's promise.
        unsafe { libc::pthread_mutex_unlock(self.raw.get()) };
    }
}

impl<T> Deref for Held<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: it is locked.
        unsafe { &*self.0.value.get() }
    }
}

impl<T> DerefMut for Held<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: it is locked, and this guard is borrowed alone.
        unsafe { &mut *self.0.value.get() }
    }
}

impl<T> Drop for Held<'_, T> {
    fn drop(&mut self) {
        // SAFETY: locked by this thread.
        unsafe { libc::pthread_mutex_unlock(self.0.raw.get()) };
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the process's own calls do to what is known of its queues, and what they are changed to while these are stopped.

use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::os::raw::{c_int, c_ulong, c_void};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Once;

use crate::kfd::{self, Create, QueueCall, Update};
use crate::link;
use crate::lock::{Held, Lock};
use crate::queues::{Done, Hold, Queues};

/// Room for an argument struct, which may grow with the kernel.
const WORDS: usize = 32;

/// Of the process; a child that is forked begins with nothing.
pub(crate) struct State {
    queues: Queues,
    /// The device, for calls of our own.
    kfd: Option<OwnedFd>,
    /// The thread that listens to the daemon is there.
    follows: bool,
    /// Its connection: a child must close its copy.
    socket: Option<link::Socket>,
}

static STATE: Lock<State> = Lock::new(State {
    queues: Queues::new(),
    kfd: None,
    follows: false,
    socket: None,
});

/// Makes a call of the process that concerns a queue. `None`: it does not, or must be made as it is.
pub(crate) fn of_queues(fd: c_int, request: c_ulong, argument: *mut c_void) -> Option<c_int> {
    let call = QueueCall::of(request)?;
    if argument.is_null() || !kfd::is_kfd(fd) {
        return None;
    }
    let mut state = STATE.lock();
    // A panic of ours is no reason for the process to die. Should it come after the call was made, making it again fails.
    let made = catch_unwind(AssertUnwindSafe(|| match call {
        QueueCall::Create => state.create(fd, request, argument),
        QueueCall::Destroy => state.destroy(fd, request, argument),
        QueueCall::Update => state.update(fd, request, argument),
    }));
    drop_quietly(state);
    made.ok()
}

/// Unlocking must not change what the call left in errno.
fn drop_quietly(state: Held<'static, State>) {
    // SAFETY: errno of this thread.
    let errno = unsafe { *libc::__errno_location() };
    drop(state);
    // SAFETY: likewise.
    unsafe { *libc::__errno_location() = errno };
}

impl State {
    fn create(&mut self, fd: c_int, request: c_ulong, argument: *mut c_void) -> c_int {
        self.follow();
        if !self.queues.holds_any() {
            // SAFETY: the process's own call.
            let result = unsafe { kfd::next_ioctl(fd, request, argument) };
            if result == 0 {
                // SAFETY: the driver has read and written it.
                self.created(fd, unsafe { argument.cast::<Create>().read_unaligned() });
            }
            return result;
        }
        let mut args = Arguments::read(argument, request);
        let mut asked: Create = args.get();
        if self.queues.begins_stopped(asked.queue_type) {
            let mut stopped = asked;
            stopped.queue_percentage &= !kfd::PERCENT;
            args.set(stopped);
        }
        // SAFETY: as large as the request says.
        let result = unsafe { kfd::next_ioctl(fd, request, args.pointer()) };
        let mut answered: Create = args.get();
        answered.queue_percentage = asked.queue_percentage;
        args.set(answered);
        args.write(argument, request);
        if result == 0 {
            asked.queue_id = answered.queue_id;
            self.created(fd, asked);
        }
        result
    }

    fn created(&mut self, fd: RawFd, args: Create) {
        let wanted = Update {
            ring_base_address: args.ring_base_address,
            queue_id: args.queue_id,
            ring_size: args.ring_size,
            queue_percentage: args.queue_percentage,
            queue_priority: args.queue_priority,
        };
        self.queues.created(wanted, args.queue_type);
        if self.kfd.is_none() {
            self.kfd = kfd::duplicate(fd);
        }
    }

    fn destroy(&mut self, fd: c_int, request: c_ulong, argument: *mut c_void) -> c_int {
        // SAFETY: the process's own call.
        let result = unsafe { kfd::next_ioctl(fd, request, argument) };
        if result == 0 {
            // SAFETY: the driver has read it: `queue_id` is the first member.
            self.queues
                .destroyed(unsafe { argument.cast::<u32>().read_unaligned() });
        }
        result
    }

    fn update(&mut self, fd: c_int, request: c_ulong, argument: *mut c_void) -> c_int {
        if !self.queues.holds_any() {
            // SAFETY: the process's own call.
            let result = unsafe { kfd::next_ioctl(fd, request, argument) };
            if result == 0 {
                // SAFETY: the driver has read it.
                self.queues
                    .updated(unsafe { argument.cast::<Update>().read_unaligned() });
            }
            return result;
        }
        let mut args = Arguments::read(argument, request);
        let wanted: Update = args.get();
        args.set(self.queues.allowed(wanted));
        // SAFETY: as large as the request says.
        let result = unsafe { kfd::next_ioctl(fd, request, args.pointer()) };
        if result == 0 {
            self.queues.updated(wanted);
        }
        result
    }

    /// Connects, the first time that this process makes a queue.
    fn follow(&mut self) {
        if !self.follows {
            static FORKS: Once = Once::new();
            FORKS.call_once(|| {
                // SAFETY: functions of this library, which is never unloaded.
                unsafe { libc::pthread_atfork(Some(before_fork), Some(in_parent), Some(in_child)) };
            });
            self.follows = link::start(&mut self.socket);
        }
    }

    /// The device, by whatever descriptor: programs that become daemons close all, also ours.
    fn device(&mut self) -> Result<&OwnedFd, i32> {
        if let Some(lost) = self.kfd.take_if(|device| !kfd::is_kfd(device.as_raw_fd())) {
            // The number is somebody else's now.
            std::mem::forget(lost);
        }
        if self.kfd.is_none() {
            let device = std::fs::File::options()
                .read(true)
                .write(true)
                .open("/dev/kfd")
                .map_err(|error| error.raw_os_error().unwrap_or(libc::EIO))?;
            self.kfd = Some(device.into());
        }
        self.kfd.as_ref().ok_or(libc::EIO)
    }
}

/// Stops all queues.
pub(crate) fn stop(hold: Hold) -> Done {
    change(|queues, change| queues.stop(hold, change))
}

/// Restarts them.
pub(crate) fn go() -> Done {
    change(Queues::go)
}

fn change(act: impl FnOnce(&mut Queues, crate::queues::Change<'_>) -> Done) -> Done {
    let mut state = STATE.lock();
    // The calls below borrow the rest of the state.
    let mut queues = std::mem::take(&mut state.queues);
    let done = catch_unwind(AssertUnwindSafe(|| {
        act(&mut queues, &mut |args| kfd::update(state.device()?, args))
    }));
    state.queues = queues;
    done.unwrap_or(Done {
        errno: libc::EIO,
        ..Done::default()
    })
}

/// Whether anything is stopped.
pub(crate) fn holds_any() -> bool {
    STATE.lock().queues.holds_any()
}

/// Whether the process has queues.
pub(crate) fn has_queues() -> bool {
    !STATE.lock().queues.is_empty()
}

/// The connection that there is now.
pub(crate) fn connected(socket: Option<link::Socket>) {
    STATE.lock().socket = socket;
}

extern "C" fn before_fork() {
    STATE.acquire();
}

extern "C" fn in_parent() {
    // SAFETY: `before_fork` took it.
    unsafe { STATE.release() };
}

extern "C" fn in_child() {
    // SAFETY: this thread is the copy of the one that took it.
    unsafe { STATE.release() };
    let mut state = STATE.lock();
    if let Some(socket) = state.socket.take() {
        socket.close();
    }
    // The child has another address space, and with that queues of its own: none.
    state.queues = Queues::new();
    state.kfd = None;
    state.follows = false;
}

/// A copy of the arguments of a call.
struct Arguments([u64; WORDS]);

impl Arguments {
    fn size(request: c_ulong) -> usize {
        ((request >> 16 & 0x3fff) as usize).min(WORDS * 8)
    }

    /// The process vouches for its pointer, as it does in any function of the C library.
    fn read(from: *mut c_void, request: c_ulong) -> Self {
        let mut words = [0; WORDS];
        // SAFETY: the request says how large it is.
        unsafe {
            std::ptr::copy_nonoverlapping(
                from.cast::<u8>(),
                words.as_mut_ptr().cast::<u8>(),
                Self::size(request),
            );
        }
        Self(words)
    }

    fn write(&self, to: *mut c_void, request: c_ulong) {
        // SAFETY: likewise.
        unsafe {
            std::ptr::copy_nonoverlapping(
                self.0.as_ptr().cast::<u8>(),
                to.cast::<u8>(),
                Self::size(request),
            );
        }
    }

    fn pointer(&mut self) -> *mut c_void {
        self.0.as_mut_ptr().cast()
    }

    fn get<T: Copy>(&self) -> T {
        const { assert!(size_of::<T>() <= WORDS * 8 && align_of::<T>() <= 8) };
        // SAFETY: in bounds, aligned, and only used for structs of integers.
        unsafe { self.0.as_ptr().cast::<T>().read() }
    }

    fn set<T: Copy>(&mut self, value: T) {
        const { assert!(size_of::<T>() <= WORDS * 8 && align_of::<T>() <= 8) };
        // SAFETY: likewise.
        unsafe { self.0.as_mut_ptr().cast::<T>().write(value) };
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! A thread for each traced process. The driver takes calls about another process only from the very thread that traces it,
//! so that thread makes them all; meanwhile it hands the process its signals.
//!
//! One thread a process, not one for all: in the checkpoint interface, a descriptor of `/dev/kfd` that a child inherited stands
//! for its parent, and the driver accepts it from whoever traces the parent. Here that is another thread, so that it is refused.
//!
//! ```text
//! owner --job--> tracer thread --ptrace, ioctl--> process
//!                  ^        ^
//!   waiter thread -+        +-- the session's own descriptor
//! ```
//! Changes of a tracee come without a descriptor to poll. So a second thread waits for them without taking them
//! (WNOWAIT), and wakes the first. No other thread of the program may wait for a process as long as it is traced, not even for a
//! child of its own: wait(2) would take stops from the tracer, and the process would stand still.

use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{mpsc, Arc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::ptrace::{wait_untaken, Change, Stop, Tracee};
use super::{why, Refusal};
use crate::event::Pid;
use crate::kfd::{process, Root};

/// How long a process may take to stop for being detached: it may be in a call of the driver that no signal interrupts. After
/// that the thread ends, which detaches it too.
const DETACH_WITHIN: Duration = Duration::from_secs(2);

/// What is done with a traced process. Made, used and dropped on the tracer thread; dropping it undoes what it did.
pub(crate) trait Session: 'static {
    /// A descriptor that becomes readable when there is something to do.
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// The descriptor is readable.
    fn readable(&mut self) {}

    /// The process ended or replaced its program: there is nothing left to undo.
    fn gone(&mut self);
}

type Job<S> = Box<dyn FnOnce(Option<&mut S>) + Send>;

/// A traced process, as its owner sees it. Dropping it drops the session and detaches.
pub(crate) struct Tracer<S: Session> {
    jobs: Option<mpsc::Sender<Job<S>>>,
    wake: Arc<EventFd>,
    gone: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// A process that is being attached.
pub(crate) struct Starting<S: Session> {
    tracer: Tracer<S>,
    result: mpsc::Receiver<Result<(), Refusal>>,
}

/// What a job will answer.
pub(crate) struct Answer<R>(mpsc::Receiver<R>);

impl<R> Answer<R> {
    /// Waits for it. `None` if the tracer thread is no more.
    pub(crate) fn wait(self) -> Option<R> {
        self.0.recv().ok()
    }
}

impl<S: Session> Starting<S> {
    /// Waits until it is attached.
    ///
    /// # Errors
    /// Why it is not; nothing is left behind then.
    pub(crate) fn wait(self) -> Result<Tracer<S>, Refusal> {
        match self.result.recv() {
            Ok(result) => result.map(|()| self.tracer),
            Err(_) => Err(why::thread_ended()),
        }
    }
}

impl<S: Session> Tracer<S> {
    /// Begins to trace the process that has this pid since `start_ticks`, and then opens its session.
    pub(crate) fn start(
        root: &Root,
        pid: Pid,
        start_ticks: u64,
        open: impl FnOnce() -> Result<S, Refusal> + Send + 'static,
    ) -> Result<Starting<S>, Refusal> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let wake = EventFd::from_flags(flags).map_err(|errno| why::resources("eventfd", errno))?;
        let wake = Arc::new(wake);
        let gone = Arc::new(AtomicBool::new(false));
        let (jobs, inbox) = mpsc::channel();
        let (started, result) = mpsc::channel();
        let thread = thread::Builder::new().name(format!("trace-{pid}")).spawn({
            let (root, wake, gone) = (root.clone(), Arc::clone(&wake), Arc::clone(&gone));
            move || {
                let opened =
                    attach(&root, pid, start_ticks, &wake).and_then(|traced| match open() {
                        Ok(session) => Ok((traced, session)),
                        Err(refusal) => {
                            traced.leave();
                            Err(refusal)
                        }
                    });
                match opened {
                    Ok((traced, session)) => {
                        let _ = started.send(Ok(()));
                        run(traced, session, &inbox, &gone);
                    }
                    Err(refusal) => {
                        let _ = started.send(Err(refusal));
                    }
                }
            }
        });
        let thread = thread.map_err(|error| {
            let errno = Errno::from_raw(error.raw_os_error().unwrap_or(libc::EAGAIN));
            why::resources("clone", errno)
        })?;
        let tracer = Self {
            jobs: Some(jobs),
            wake,
            gone,
            thread: Some(thread),
        };
        Ok(Starting { tracer, result })
    }

    /// Whether the process ended or replaced its program.
    pub(crate) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// Has the tracer thread do something, with `None` for a process that is gone. Jobs are done in their order.
    pub(crate) fn ask<R: Send + 'static>(
        &self,
        job: impl FnOnce(Option<&mut S>) -> R + Send + 'static,
    ) -> Answer<R> {
        let (answer, receiver) = mpsc::channel();
        if let Some(jobs) = &self.jobs {
            // If the thread is no more, the job is dropped, and with it the sender of the answer.
            let _ = jobs.send(Box::new(move |session| {
                let _ = answer.send(job(session));
            }));
            let _ = self.wake.write(1);
        }
        Answer(receiver)
    }

    /// Begins what dropping does, without waiting for it: several processes are let go at once.
    pub(crate) fn begin_end(&mut self) {
        self.jobs = None;
        let _ = self.wake.write(1);
    }
}

impl<S: Session> Drop for Tracer<S> {
    fn drop(&mut self) {
        self.begin_end();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A seized process with its waiter thread.
struct Traced {
    tracee: Tracee,
    wake: Arc<EventFd>,
    /// The waiter has seen a change and waits until it is taken.
    seen: Arc<AtomicBool>,
    taken: mpsc::Sender<()>,
}

fn attach(root: &Root, pid: Pid, started: u64, wake: &Arc<EventFd>) -> Result<Traced, Refusal> {
    if let Some(tracer) = process::tracer(root, pid) {
        return Err(why::traced(root, pid, tracer));
    }
    let tracee = Tracee::seize(pid).map_err(|errno| why::not_traceable(root, pid, errno))?;
    let seen = Arc::new(AtomicBool::new(false));
    let (taken, acknowledged) = mpsc::channel();
    let waiter = thread::Builder::new().name(format!("wait-{pid}")).spawn({
        let (wake, seen) = (Arc::clone(wake), Arc::clone(&seen));
        move || wait_for_changes(pid, &wake, &seen, &acknowledged)
    });
    if let Err(error) = waiter {
        // The end of this thread, which is near, detaches.
        let errno = Errno::from_raw(error.raw_os_error().unwrap_or(libc::EAGAIN));
        return Err(why::resources("clone", errno));
    }
    let traced = Traced {
        tracee,
        wake: Arc::clone(wake),
        seen,
        taken,
    };
    // From here on the pid cannot come to mean another process: a tracee stays a zombie until its tracer looks.
    if process::start_ticks(root, pid) == Some(started) {
        Ok(traced)
    } else {
        traced.leave();
        Err(why::other_process(pid))
    }
}

fn wait_for_changes(pid: Pid, wake: &EventFd, seen: &AtomicBool, taken: &mpsc::Receiver<()>) {
    loop {
        let lost = wait_untaken(pid).is_err();
        seen.store(true, Ordering::Release);
        let _ = wake.write(1);
        // The sender is dropped when there is nothing to wait for any more.
        if lost || taken.recv().is_err() {
            return;
        }
    }
}

impl Traced {
    /// Gives the tracee back what stopped it. False: it is gone.
    fn serve(&self) -> bool {
        // Taken before the changes are: a change that comes later is seen anew.
        let seen = self.seen.swap(false, Ordering::AcqRel);
        while let Some(change) = self.tracee.poll() {
            match change {
                Change::Stopped(Stop::Exec) | Change::Ended | Change::Lost => return false,
                Change::Stopped(stop) => self.tracee.give_back(stop),
            }
        }
        if seen {
            let _ = self.taken.send(());
        }
        true
    }

    /// Waits for a change, a job, or the session's descriptor. Whether it was the latter.
    fn wait(&self, descriptor: Option<BorrowedFd<'_>>, timeout: PollTimeout) -> bool {
        let mut fds = vec![PollFd::new(self.wake.as_fd(), PollFlags::POLLIN)];
        fds.extend(descriptor.map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        // EINTR is as good as a wake-up: the caller looks at everything.
        let _ = poll(&mut fds, timeout);
        let _ = self.wake.read();
        fds.get(1).and_then(PollFd::any).unwrap_or(false)
    }

    /// Detaches, with the signal that stopped the tracee last.
    fn leave(self) {
        if self.tracee.interrupt().is_err() {
            return;
        }
        let until = Instant::now() + DETACH_WITHIN;
        while Instant::now() < until {
            match self.tracee.poll() {
                Some(Change::Stopped(stop)) => return self.tracee.detach(stop),
                Some(Change::Ended | Change::Lost) => return,
                None => {
                    if self.seen.swap(false, Ordering::AcqRel) {
                        let _ = self.taken.send(());
                    }
                    self.wait(None, PollTimeout::from(20_u8));
                }
            }
        }
    }
}

fn run<S: Session>(
    traced: Traced,
    mut session: S,
    inbox: &mpsc::Receiver<Job<S>>,
    gone: &AtomicBool,
) {
    loop {
        if !traced.serve() {
            session.gone();
            gone.store(true, Ordering::Release);
            drop(session);
            // After an exec the tracee is stopped at its first instruction; everything else needs no detaching.
            traced.tracee.detach(Stop::Exec);
            drop(traced.taken);
            while let Ok(job) = inbox.recv() {
                job(None);
            }
            return;
        }
        match inbox.try_recv() {
            Ok(job) => {
                job(Some(&mut session));
                continue;
            }
            Err(mpsc::TryRecvError::Disconnected) => {
                drop(session);
                return traced.leave();
            }
            Err(mpsc::TryRecvError::Empty) => {}
        }
        if traced.wait(session.descriptor(), PollTimeout::NONE) {
            session.readable();
        }
    }
}

#[cfg(test)]
mod tests;

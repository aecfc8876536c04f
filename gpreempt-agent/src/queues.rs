// SPDX-License-Identifier: MIT OR Apache-2.0
//! The queues of the process: what it wants of each, and which of them are stopped. Pure but for the call that changes a queue,
//! which is passed in.

use std::collections::BTreeMap;

use crate::kfd::{Update, PERCENT, SDMA_TYPES};

/// A queue.
#[derive(Clone, Copy, Debug)]
struct Queue {
    /// What the process made it last.
    wanted: Update,
    sdma: bool,
    /// Its percentage is 0 because we made it so.
    stopped: bool,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Queues {
    all: BTreeMap<u32, Queue>,
    hold: Option<Hold>,
}

/// Queues are stopped, also new ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hold {
    pub(crate) no_sdma: bool,
}

/// What an order came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Done {
    /// Queues that are as they were ordered to be.
    pub(crate) queues: u32,
    /// Of these, queues that were changed.
    pub(crate) changed: u32,
    /// The first error.
    pub(crate) errno: i32,
}

/// Changes a queue; the error number if that fails.
pub(crate) type Change<'a> = &'a mut dyn FnMut(&Update) -> Result<(), i32>;

impl Queue {
    fn is_held(&self, hold: Hold) -> bool {
        !(hold.no_sdma && self.sdma)
    }

    fn percentage(&self) -> u32 {
        self.wanted.queue_percentage & PERCENT
    }
}

/// The same queue with no share of the GPU.
pub(crate) fn stopped(of: Update) -> Update {
    Update {
        queue_percentage: of.queue_percentage & !PERCENT,
        ..of
    }
}

/// The driver's answer for a queue that is not there (`pqm_update_queue_properties`, Linux 6.12).
const GONE: i32 = libc::EFAULT;

impl Queues {
    /// None, as in a process that was just forked.
    pub(crate) const fn new() -> Self {
        Self {
            all: BTreeMap::new(),
            hold: None,
        }
    }

    /// Whether a queue of this type must begin stopped.
    pub(crate) fn begins_stopped(&self, queue_type: u32) -> bool {
        let sdma = SDMA_TYPES.contains(&queue_type);
        self.hold.is_some_and(|hold| !(hold.no_sdma && sdma))
    }

    /// A queue was made; `wanted` is what the process asked for.
    pub(crate) fn created(&mut self, wanted: Update, queue_type: u32) {
        let queue = Queue {
            wanted,
            sdma: SDMA_TYPES.contains(&queue_type),
            stopped: self.begins_stopped(queue_type),
        };
        self.all.insert(wanted.queue_id, queue);
    }

    pub(crate) fn destroyed(&mut self, queue_id: u32) {
        self.all.remove(&queue_id);
    }

    /// What the driver is to be told when the process updates a queue.
    pub(crate) fn allowed(&self, wanted: Update) -> Update {
        match self.all.get(&wanted.queue_id) {
            Some(queue) if queue.stopped => stopped(wanted),
            _ => wanted,
        }
    }

    /// The driver did that.
    pub(crate) fn updated(&mut self, wanted: Update) {
        if let Some(queue) = self.all.get_mut(&wanted.queue_id) {
            queue.wanted = wanted;
        }
    }

    /// Whether anything is, or may be, stopped.
    pub(crate) fn holds_any(&self) -> bool {
        self.hold.is_some() || self.all.values().any(|queue| queue.stopped)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Stops everything. If one queue cannot be stopped, the others run again.
    pub(crate) fn stop(&mut self, hold: Hold, change: Change<'_>) -> Done {
        let before = self.hold;
        self.hold = Some(hold);
        let mut done = Done::default();
        let mut now: Vec<u32> = Vec::new();
        let mut gone: Vec<u32> = Vec::new();
        for (id, queue) in &mut self.all {
            if !queue.is_held(hold) {
                continue;
            }
            if !queue.stopped && queue.percentage() != 0 {
                match change(&stopped(queue.wanted)) {
                    Ok(()) => {
                        now.push(*id);
                        done.changed += 1;
                    }
                    Err(GONE) => {
                        gone.push(*id);
                        continue;
                    }
                    Err(errno) => {
                        done.errno = errno;
                        break;
                    }
                }
            }
            // One that the process itself has stopped must not begin behind our back.
            queue.stopped = true;
            done.queues += 1;
        }
        for id in gone {
            self.all.remove(&id);
        }
        if done.errno != 0 {
            match before {
                // It was held, and stays so as far as it was.
                Some(_) => self.hold = before,
                None => {
                    self.go(change);
                }
            }
            done.queues = 0;
            done.changed = 0;
        }
        done
    }

    /// Restarts everything that is stopped. What could not be restarted stays marked, to be tried again.
    pub(crate) fn go(&mut self, change: Change<'_>) -> Done {
        self.hold = None;
        let mut done = Done::default();
        let mut gone = Vec::new();
        for (id, queue) in &mut self.all {
            if queue.stopped && queue.percentage() != 0 {
                match change(&queue.wanted) {
                    Ok(()) => done.changed += 1,
                    Err(GONE) => {
                        gone.push(*id);
                        continue;
                    }
                    Err(errno) => {
                        if done.errno == 0 {
                            done.errno = errno;
                        }
                        continue;
                    }
                }
            }
            queue.stopped = false;
            done.queues += 1;
        }
        for id in gone {
            self.all.remove(&id);
        }
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMPUTE: u32 = 2;
    const SDMA: u32 = 1;

    fn queue(queue_id: u32, queue_percentage: u32) -> Update {
        Update {
            ring_base_address: 0x1000,
            queue_id,
            ring_size: 4096,
            queue_percentage,
            queue_priority: 7,
        }
    }

    fn with(queues: &[(u32, u32)]) -> Queues {
        let mut all = Queues::new();
        for (id, kind) in queues {
            all.created(queue(*id, 100), *kind);
        }
        all
    }

    const ALL: Hold = Hold { no_sdma: false };

    /// Records what the driver was told.
    fn log(into: &mut Vec<(u32, u32)>) -> impl FnMut(&Update) -> Result<(), i32> + '_ {
        |args| {
            into.push((args.queue_id, args.queue_percentage));
            Ok(())
        }
    }

    #[test]
    fn what_is_stopped_comes_back_as_it_was() {
        let mut all = with(&[(0, COMPUTE), (1, COMPUTE), (2, SDMA)]);
        let mut told = Vec::new();
        let done = all.stop(ALL, &mut log(&mut told));
        assert_eq!((done.queues, done.changed, done.errno), (3, 3, 0));
        assert_eq!(told, [(0, 0), (1, 0), (2, 0)]);
        told.clear();
        let again = all.stop(ALL, &mut log(&mut told));
        assert_eq!((again.queues, again.changed), (3, 0));
        let done = all.go(&mut log(&mut told));
        assert_eq!((done.queues, done.changed), (3, 3));
        assert_eq!(told, [(0, 100), (1, 100), (2, 100)]);
        assert!(!all.holds_any());
    }

    #[test]
    fn copy_queues_can_be_left_alone() {
        let mut all = with(&[(0, COMPUTE), (1, SDMA)]);
        let mut told = Vec::new();
        let hold = Hold { no_sdma: true };
        assert_eq!(all.stop(hold, &mut log(&mut told)).queues, 1);
        assert_eq!(told, [(0, 0)]);
        assert!(all.begins_stopped(COMPUTE) && !all.begins_stopped(SDMA));
    }

    #[test]
    fn new_queues_begin_stopped_and_then_run_as_wanted() {
        let mut all = with(&[]);
        all.stop(ALL, &mut |_| unreachable!());
        assert!(all.begins_stopped(COMPUTE));
        all.created(queue(5, 0x0300 | 60), COMPUTE);
        let mut told = Vec::new();
        all.go(&mut log(&mut told));
        assert_eq!(told, [(5, 0x0300 | 60)]);
    }

    #[test]
    fn an_update_of_a_stopped_queue_counts_later() {
        let mut all = with(&[(0, COMPUTE)]);
        all.stop(ALL, &mut |_| Ok(()));
        let wanted = Update {
            queue_priority: 15,
            ..queue(0, 0x0100 | 80)
        };
        let told = all.allowed(wanted);
        assert_eq!((told.queue_percentage, told.queue_priority), (0x0100, 15));
        all.updated(wanted);
        let mut told = Vec::new();
        all.go(&mut log(&mut told));
        assert_eq!(told, [(0, 0x0100 | 80)]);
        assert_eq!(all.allowed(wanted), wanted);
    }

    #[test]
    fn a_queue_that_the_process_stopped_itself_stays_so() {
        let mut all = with(&[(0, COMPUTE)]);
        all.updated(queue(0, 0));
        let mut told = Vec::new();
        assert_eq!(all.stop(ALL, &mut log(&mut told)).queues, 1);
        assert_eq!(all.allowed(queue(0, 100)).queue_percentage, 0);
        all.go(&mut log(&mut told));
        assert_eq!(told, []);
    }

    #[test]
    fn a_queue_that_cannot_be_stopped_leaves_all_running() {
        let mut all = with(&[(0, COMPUTE), (1, COMPUTE), (2, COMPUTE)]);
        let mut running = BTreeMap::from([(0, true), (1, true), (2, true)]);
        let done = all.stop(ALL, &mut |args| {
            if args.queue_id == 1 && args.queue_percentage == 0 {
                return Err(libc::ETIME);
            }
            running.insert(args.queue_id, args.queue_percentage > 0);
            Ok(())
        });
        assert_eq!(done.errno, libc::ETIME);
        assert!(running.values().all(|runs| *runs), "{running:?}");
        assert!(!all.holds_any());
    }

    #[test]
    fn what_cannot_be_restarted_is_tried_again() {
        let mut all = with(&[(0, COMPUTE), (1, COMPUTE)]);
        all.stop(ALL, &mut |_| Ok(()));
        let done = all.go(&mut |args| match args.queue_id {
            0 => Err(libc::EBUSY),
            _ => Ok(()),
        });
        assert_eq!((done.queues, done.errno), (1, libc::EBUSY));
        assert!(all.holds_any());
        let mut told = Vec::new();
        all.go(&mut log(&mut told));
        assert_eq!(told, [(0, 100)]);
        assert!(!all.holds_any());
    }

    #[test]
    fn queues_that_are_gone_are_forgotten() {
        let mut all = with(&[(0, COMPUTE), (1, COMPUTE)]);
        all.destroyed(0);
        let done = all.stop(ALL, &mut |_| Err(GONE));
        assert_eq!((done.queues, done.errno), (0, 0));
        assert!(all.is_empty());
    }
}

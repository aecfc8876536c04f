// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a patched driver holds: queues by process, node and who holds them. The driver tells how many, not which.

use foldhash::HashMap;

use crate::event::{GpuId, Hold, HoldCause, Pid};

/// What is held of one process on one node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Queues that an owner holds.
    pub queues: u32,
    /// Who; the last one if it changed.
    pub owner_pid: Option<Pid>,
    /// Queues that a reservation parks.
    pub parked: u32,
    /// Since when there are any of the former; `None` where there are none.
    pub since_ns: Option<u64>,
}

/// A hold and a parking by a reservation are two things: a queue can be under both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    pid: Pid,
    gpu_id: GpuId,
    by_reservation: bool,
}

#[derive(Clone, Copy, Debug)]
struct State {
    queues: u32,
    owner_pid: Option<Pid>,
    since_ns: u64,
}

#[derive(Debug, Default)]
pub(super) struct Holds(HashMap<Key, State>);

impl Holds {
    fn key(pid: Pid, hold: &Hold) -> Key {
        Key {
            pid,
            gpu_id: hold.gpu_id,
            by_reservation: hold.cause == HoldCause::Reservation,
        }
    }

    pub(super) fn hold(&mut self, pid: Pid, hold: &Hold, ts_ns: u64) {
        let state = self.0.entry(Self::key(pid, hold)).or_insert(State {
            queues: 0,
            owner_pid: None,
            since_ns: ts_ns,
        });
        state.queues = state.queues.saturating_add(hold.count);
        state.owner_pid = hold.owner_pid;
    }

    /// Returns how long queues had been held, when this releases the last of them.
    pub(super) fn release(&mut self, pid: Pid, hold: &Hold, ts_ns: u64) -> Option<u64> {
        let key = Self::key(pid, hold);
        let state = self.0.get_mut(&key)?;
        state.queues = state.queues.saturating_sub(hold.count);
        if state.queues > 0 {
            return None;
        }
        let since_ns = state.since_ns;
        self.0.remove(&key);
        Some(ts_ns.saturating_sub(since_ns))
    }

    /// A held queue that is destroyed is not released: no more can be held than there are.
    pub(super) fn at_most(&mut self, pid: Pid, gpu_id: GpuId, queues: usize) {
        let queues = u32::try_from(queues).unwrap_or(u32::MAX);
        self.0.retain(|key, state| {
            if key.pid == pid && key.gpu_id == gpu_id {
                state.queues = state.queues.min(queues);
            }
            state.queues > 0
        });
    }

    pub(super) fn any(&self, pid: Pid, gpu_id: GpuId) -> bool {
        [false, true].into_iter().any(|by_reservation| {
            self.0.contains_key(&Key {
                pid,
                gpu_id,
                by_reservation,
            })
        })
    }

    pub(super) fn get(&self, pid: Pid, gpu_id: GpuId) -> Held {
        let state = |by_reservation| {
            self.0.get(&Key {
                pid,
                gpu_id,
                by_reservation,
            })
        };
        Held {
            queues: state(false).map_or(0, |state| state.queues),
            owner_pid: state(false).and_then(|state| state.owner_pid),
            parked: state(true).map_or(0, |state| state.queues),
            since_ns: state(false).map(|state| state.since_ns),
        }
    }

    pub(super) fn forget(&mut self, pid: Pid) {
        self.0.retain(|key, _| key.pid != pid);
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PID: Pid = Pid(7);
    const GPU: GpuId = GpuId(0x52a1);

    fn hold(count: u32, cause: HoldCause) -> Hold {
        Hold {
            gpu_id: GPU,
            count,
            owner_pid: Some(Pid(300)),
            cause,
            lock_wait_ns: 0,
            hw_ns: 0,
        }
    }

    #[test]
    fn held_from_the_first_to_the_last() {
        let mut holds = Holds::default();
        holds.hold(PID, &hold(2, HoldCause::Ioctl), 100);
        holds.hold(PID, &hold(1, HoldCause::Inherit), 150);
        assert_eq!(
            holds.get(PID, GPU),
            Held {
                queues: 3,
                owner_pid: Some(Pid(300)),
                parked: 0,
                since_ns: Some(100)
            }
        );
        assert_eq!(holds.release(PID, &hold(1, HoldCause::Ioctl), 200), None);
        assert_eq!(
            holds.release(PID, &hold(2, HoldCause::Lease), 400),
            Some(300)
        );
        assert_eq!(holds.get(PID, GPU), Held::default());
        assert_eq!(holds.release(PID, &hold(2, HoldCause::Lease), 500), None);
    }

    #[test]
    fn a_reservation_is_a_thing_of_its_own() {
        let mut holds = Holds::default();
        holds.hold(PID, &hold(2, HoldCause::Reservation), 100);
        holds.hold(PID, &hold(1, HoldCause::Ioctl), 200);
        assert_eq!(holds.get(PID, GPU).parked, 2);
        assert_eq!(
            holds.release(PID, &hold(1, HoldCause::FdClose), 250),
            Some(50)
        );
        assert_eq!(holds.get(PID, GPU).parked, 2);
    }

    #[test]
    fn destroyed_queues_are_not_held() {
        let mut holds = Holds::default();
        holds.hold(PID, &hold(3, HoldCause::Ioctl), 100);
        holds.at_most(PID, GPU, 1);
        assert_eq!(holds.get(PID, GPU).queues, 1);
        assert_eq!(
            holds.release(PID, &hold(1, HoldCause::Ioctl), 300),
            Some(200)
        );
        holds.hold(PID, &hold(3, HoldCause::Ioctl), 400);
        holds.at_most(PID, GPU, 0);
        assert!(!holds.any(PID, GPU));
    }
}

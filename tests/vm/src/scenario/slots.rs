// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who has the compute slots of the hardware, looked at now and then as `gpreempt queues --hqds` does.

use std::sync::mpsc::{channel, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use gpreempt::event::Pid;
use gpreempt::inspect;
use gpreempt::kfd::snapshot::{self, Want};
use gpreempt::kfd::Root;
use serde::Serialize;

/// No multiple of the time between two requests, so that a look meets every part of it.
const EVERY: Duration = Duration::from_millis(37);

/// One look.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Look {
    /// Slots that the scheduler may use.
    total: u32,
    /// Slots with a queue of the service.
    online: u32,
    /// Slots with a queue of anybody else.
    offline: u32,
    /// Slots whose queue has packets.
    busy: u32,
}

impl Look {
    pub(crate) fn has_offline(&self) -> bool {
        self.offline > 0
    }
}

/// A thread that looks.
pub(crate) struct Watcher {
    stop: Sender<()>,
    thread: JoinHandle<Vec<Look>>,
}

impl Watcher {
    /// Begins to look. The service is this process.
    pub(crate) fn start(online: u32) -> Self {
        let (stop, told) = channel();
        let thread = std::thread::spawn(move || {
            let root = Root::real();
            let mut looks = Vec::new();
            while told.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
                looks.extend(look(&root, Pid(online)));
            }
            looks
        });
        Self { stop, thread }
    }

    /// Everything that was seen.
    pub(crate) fn stop(self) -> anyhow::Result<Vec<Look>> {
        drop(self.stop);
        let looks = self.thread.join().ok().context("the thread panicked")?;
        anyhow::ensure!(!looks.is_empty(), "no look at the slots succeeded");
        Ok(looks)
    }
}

/// `None` when the driver was changing what is looked at.
fn look(root: &Root, online: Pid) -> Option<Look> {
    let seen = inspect::look(root, Want { hqds: true });
    let gpu = seen.gpus.first()?;
    gpu.slots_used?;
    let mut look = Look {
        total: gpu.slots_total,
        ..Look::default()
    };
    let on_slot = |queue: &&snapshot::Queue| !queue.queue_type.is_sdma() && !queue.slots.is_empty();
    for queue in seen.queues.iter().filter(on_slot) {
        match queue.pid == online {
            true => look.online += 1,
            false => look.offline += 1,
        }
        look.busy += u32::from(queue.depth().is_some_and(|depth| depth > 0));
    }
    Some(look)
}

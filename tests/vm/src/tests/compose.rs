// SPDX-License-Identifier: MIT OR Apache-2.0
//! Holds beside everything else that stops queues: a queue runs if and only if nobody stops it, in whatever order who
//! stops and goes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use gpreempt::control::BackendKind;
use gpreempt::kfd::uapi::gpreempt::state;
use nix::sys::signal::Signal;
use workload::pace::Random;

use super::List;
use crate::check::ensure_eq;
use crate::controller::{Command, Controller, Spec};
use crate::gpu::Job;
use crate::guest;
use crate::preemption::{self, Preemption};
use crate::scene;

pub(super) const TESTS: List = &[
    (&["patched"], "hold_and_update", update),
    (&["patched"], "what_else_keeps_queues_off_is_told", kept_off),
    (&["patched"], "hold_and_eviction_by_ttm", ttm),
    (&["patched"], "hold_and_eviction_of_own_memory", userptr),
    (&["patched"], "hold_and_debugger", debugger),
    (&["patched"], "hold_and_checkpoint", checkpoint),
    (&["patched"], "four_hundred_random_steps", random_steps),
];

fn update() -> anyhow::Result<()> {
    scene::clean(|| {
        let mut job = Job::offline(2)?;
        let mut controller = Controller::start()?;
        let one = [Spec::queue(job.pid(), 0)];
        // Hold first, go first and last.
        controller.hold(&one)?;
        job.load.command("update 0 0")?;
        controller.release(&one)?;
        job.expect_mapped([1], "released at 0 %")?;
        job.load.command("update 0 100")?;
        job.expect_running("released and at 100 %")?;
        controller.hold(&one)?;
        job.load.command("update 0 0")?;
        job.load.command("update 0 100")?;
        job.expect_mapped([1], "held at 100 % again")?;
        controller.release(&one)?;
        job.expect_running("released")?;
        // Update first, go last and first.
        job.load.command("update 0 0")?;
        ensure_eq!(controller.hold(&one)?.num_changed, 1, "changed at 0 %");
        controller.release(&one)?;
        job.expect_mapped([1], "released at 0 %")?;
        controller.hold(&one)?;
        job.load.command("update 0 100")?;
        job.expect_mapped([1], "held at 100 %")?;
        controller.release(&one)?;
        job.expect_running("released at last")?;
        job.goes_on()
    })
}

/// The owner takes its queues off meanwhile: they are released, and not waited for.
fn kept_off() -> anyhow::Result<()> {
    scene::clean(|| {
        let mut job = Job::offline(2)?;
        let preemption = Preemption::hold(BackendKind::Patched, &[job.pid()])?;
        for queue in [0, 1] {
            job.load.command(&format!("update {queue} 0"))?;
        }
        preemption.signal(Signal::SIGTERM)?;
        let ended = preemption.finish()?.expect(128 + Signal::SIGTERM as i32)?;
        let target = preemption::target_of(ended.one("resumed")?, job.pid())?;
        ensure_eq!(target.text("status")?, "kept_off", "status");
        ensure_eq!(
            target.text("message")?,
            "its owner has set it to 0 %",
            "message"
        );
        job.expect_held("released at 0 %")?;
        for queue in [0, 1] {
            job.load.command(&format!("update {queue} 100"))?;
        }
        job.expect_running("at 100 %")?;
        job.goes_on()
    })
}

/// Evicts a process as TTM does. Returns while it is evicted.
pub(super) fn evict(controller: &mut Controller, job: &Job) -> anyhow::Result<()> {
    // The driver restores the process after 100 ms, which a busy host may pass over: then it is evicted once more.
    let mut looks = 0;
    guest::eventually_every(Duration::from_millis(2), "the eviction", || {
        if looks % 200 == 0 {
            guest::evict(job.pid())?;
        }
        looks += 1;
        let look = controller.look(Spec::all(job.pid()))?;
        Ok((look.state & state::EVICTED != 0).then_some(()))
    })
}

/// Waits until the driver has restored it.
pub(super) fn restored(controller: &mut Controller, job: &Job) -> anyhow::Result<()> {
    guest::eventually("the restore", || {
        let look = controller.look(Spec::all(job.pid()))?;
        Ok((look.state & state::EVICTED == 0).then_some(()))
    })
}

fn ttm() -> anyhow::Result<()> {
    scene::clean(|| {
        let (mut job, mut online) = (Job::busy(&["--profile", "model"])?, Job::online()?);
        let mut controller = Controller::start()?;
        let all = [Spec::all(job.pid())];
        // Held before, during and after.
        controller.hold(&all)?;
        evict(&mut controller, &job)?;
        job.expect_held("and evicted")?;
        restored(&mut controller, &job)?;
        job.expect_held("and restored")?;
        job.stands_still(&job.ids()?, &mut online, 20)?;
        controller.release(&all)?;
        job.expect_running("released after the restore")?;
        // Held during the eviction, released after it.
        evict(&mut controller, &job)?;
        let held = controller.hold(&all)?;
        ensure_eq!(held.num_changed, 3, "changed while evicted");
        restored(&mut controller, &job)?;
        job.expect_held("since its eviction")?;
        controller.release(&all)?;
        job.expect_running("released")?;
        // Held before, released during the eviction: the restore brings the queues back.
        controller.hold(&all)?;
        evict(&mut controller, &job)?;
        controller.release(&all)?;
        restored(&mut controller, &job)?;
        job.wait_running("queues after the restore")?;
        job.goes_on()
    })
}

fn userptr() -> anyhow::Result<()> {
    scene::clean(|| {
        let mut job = Job::offline(3)?;
        let mut controller = Controller::start()?;
        let all = [Spec::all(job.pid())];
        // That a disturbed process is stopped at all: otherwise this tests nothing.
        let unmaps = crate::gpu::Unmaps::from_here(0)?;
        job.load.command("disturb")?;
        guest::eventually("an eviction", || Ok((unmaps.count()? >= 1).then_some(())))?;
        job.wait_running("queues after the first eviction")?;
        for round in 0..20 {
            controller.hold(&all)?;
            job.load.command("disturb")?;
            job.expect_held("and evicted")?;
            if round % 2 == 0 {
                restored(&mut controller, &job)?;
                job.expect_held("and restored")?;
            }
            controller.release(&all)?;
            job.wait_running("queues after restore and release")?;
        }
        job.goes_on()
    })
}

fn debugger() -> anyhow::Result<()> {
    scene::clean(|| {
        let mut job = Job::offline(2)?;
        let (mut controller, mut tracer) = (Controller::start()?, Controller::start()?);
        let all = [Spec::all(job.pid())];
        let suspend = Command::Suspend { queues: vec![0, 1] };
        let resume = Command::Resume { queues: vec![0, 1] };
        controller.hold(&all)?;
        tracer.order(&Command::Attach { pid: job.pid() })?;
        job.expect_held("while a debugger attaches")?;
        tracer.order(&suspend)?;
        let look = controller.look(all[0])?;
        ensure_eq!(look.state, state::HELD | state::SUSPENDED, "state");
        controller.release(&all)?;
        job.expect_held("released, suspended")?;
        tracer.order(&resume)?;
        job.expect_running("released and resumed")?;
        // The other way round.
        tracer.order(&suspend)?;
        controller.hold(&all)?;
        tracer.order(&resume)?;
        job.expect_held("resumed, held")?;
        controller.release(&all)?;
        job.expect_running("resumed and released")?;
        // The debugger goes, by itself and by death.
        controller.hold(&all)?;
        tracer.order(&suspend)?;
        tracer.order(&Command::Detach)?;
        job.expect_held("after the debugger detached")?;
        tracer.order(&Command::Attach { pid: job.pid() })?;
        tracer.order(&suspend)?;
        tracer.kill()?;
        let when = "the death of the debugger";
        guest::eventually(when, || {
            let look = controller.look(all[0])?;
            Ok((look.state & state::SUSPENDED == 0).then_some(()))
        })?;
        job.expect_held("after the death of the debugger")?;
        controller.release(&all)?;
        job.wait_running("queues at last")?;
        job.goes_on()
    })
}

fn checkpoint() -> anyhow::Result<()> {
    scene::clean(|| {
        let mut job = Job::offline(2)?;
        let (mut controller, mut tracer) = (Controller::start()?, Controller::start()?);
        let all = [Spec::all(job.pid())];
        tracer.order(&Command::Attach { pid: job.pid() })?;
        controller.hold(&all)?;
        tracer.order(&Command::Pause)?;
        let look = controller.look(all[0])?;
        ensure_eq!(look.state, state::HELD | state::EVICTED, "state");
        controller.release(&all)?;
        job.expect_held("released, paused")?;
        tracer.order(&Command::Unpause)?;
        job.expect_running("released, no longer paused")?;
        tracer.order(&Command::Pause)?;
        ensure_eq!(
            controller.hold(&all)?.num_changed,
            2,
            "changed while paused"
        );
        tracer.order(&Command::Unpause)?;
        job.expect_held("no longer paused, held")?;
        controller.release(&all)?;
        job.expect_running("released at last")?;
        tracer.order(&Command::Detach)?;
        job.goes_on()
    })
}

/// What the model knows of a queue.
#[derive(Default, Clone)]
struct Queue {
    held: bool,
    off: bool,
    suspended: bool,
}

/// A process with its model.
struct Model {
    job: Job,
    queues: BTreeMap<u64, Queue>,
    inherit: bool,
    paused: bool,
    tracer: Controller,
}

impl Model {
    fn start() -> anyhow::Result<Self> {
        let job = Job::offline(3)?;
        let mut tracer = Controller::start()?;
        tracer.order(&Command::Attach { pid: job.pid() })?;
        let ids = job.ids()?;
        Ok(Self {
            queues: ids.into_iter().map(|id| (id, Queue::default())).collect(),
            inherit: false,
            paused: false,
            job,
            tracer,
        })
    }

    fn should_run(&self) -> BTreeSet<u64> {
        let runs = |queue: &Queue| !(self.paused || queue.held || queue.off || queue.suspended);
        let running = self.queues.iter().filter(|(_, queue)| runs(queue));
        running.map(|(id, _)| *id).collect()
    }

    fn pick(&self, random: &mut Random) -> Option<u64> {
        let index = random.below(self.queues.len().max(1) as u64) as usize;
        self.queues.keys().nth(index).copied()
    }

    /// Does something at random and to the model what should come of it. Returns what it was.
    fn step(&mut self, random: &mut Random, controller: &mut Controller) -> anyhow::Result<String> {
        let pid = self.job.pid();
        let Some(id) = self.pick(random) else {
            return self.create();
        };
        let queue = self.queues.get(&id).cloned().unwrap_or_default();
        let update = |model: &mut Self, change: fn(&mut Queue)| {
            model.queues.get_mut(&id).map(change);
        };
        Ok(match random.below(14) {
            0 | 1 => {
                controller.hold(&[Spec::queue(pid, id as u32)])?;
                update(self, |queue| queue.held = true);
                format!("hold {id}")
            }
            2 => {
                let inherit = random.below(2) == 0;
                let all = Spec::all(pid);
                controller.hold(&[if inherit { all.inherit() } else { all }])?;
                self.queues.values_mut().for_each(|queue| queue.held = true);
                self.inherit |= inherit;
                format!("hold all, inherit: {inherit}")
            }
            3 | 4 => {
                controller.release(&[Spec::queue(pid, id as u32)])?;
                update(self, |queue| queue.held = false);
                format!("release {id}")
            }
            5 => {
                controller.release(&[Spec::all(pid)])?;
                self.queues
                    .values_mut()
                    .for_each(|queue| queue.held = false);
                self.inherit = false;
                "release all".into()
            }
            6 | 7 => {
                let percent = if queue.off { 100 } else { 0 };
                self.job.load.command(&format!("update {id} {percent}"))?;
                update(self, |queue| queue.off = !queue.off);
                format!("update {id} {percent}")
            }
            8 | 9 if queue.suspended => {
                self.tracer.order(&Command::Resume {
                    queues: vec![id as u32],
                })?;
                update(self, |queue| queue.suspended = false);
                format!("resume {id}")
            }
            8 | 9 => {
                self.tracer.order(&Command::Suspend {
                    queues: vec![id as u32],
                })?;
                update(self, |queue| queue.suspended = true);
                format!("suspend {id}")
            }
            10 => {
                self.paused = !self.paused;
                self.tracer.order(if self.paused {
                    &Command::Pause
                } else {
                    &Command::Unpause
                })?;
                format!("paused: {}", self.paused)
            }
            11 => {
                guest::evict(pid)?;
                "evict".into()
            }
            12 => {
                self.job.load.command("disturb")?;
                "disturb".into()
            }
            // A debugger's suspended queue cannot be destroyed before it is resumed: its process waits.
            _ if self.queues.len() < 5 || queue.suspended => return self.create(),
            _ => {
                self.job.load.command(&format!("destroy {id}"))?;
                self.queues.remove(&id);
                format!("destroy {id}")
            }
        })
    }

    fn create(&mut self) -> anyhow::Result<String> {
        let ack = self.job.load.command("create compute")?;
        let id = ack.data["queue"]["queue_id"].as_u64().unwrap_or_default();
        let held = self.inherit;
        self.queues.insert(
            id,
            Queue {
                held,
                ..Queue::default()
            },
        );
        Ok(format!("create {id}"))
    }

    fn check(&self, steps: &[String]) -> anyhow::Result<()> {
        let should = self.should_run();
        // Evictions come and go by themselves, so a queue that should run may be stopped for a while. One that should
        // not run must never be seen.
        guest::eventually_every(Duration::from_millis(5), "the runlist", || {
            let mapped = self.job.mapped()?;
            anyhow::ensure!(
                mapped.is_subset(&should),
                "queues {mapped:?} of process {} are in the runlist, only {should:?} should; last steps: {:?}",
                self.job.pid(),
                &steps[steps.len().saturating_sub(12)..]
            );
            Ok((mapped == should).then_some(()))
        })
        .map_err(|error| {
            anyhow::anyhow!(
                "{error:#}: {:?} of process {}, not {should:?}; last steps: {:?}",
                self.job.mapped(),
                self.job.pid(),
                &steps[steps.len().saturating_sub(12)..]
            )
        })
    }
}

fn random_steps() -> anyhow::Result<()> {
    scene::clean(|| {
        let mut models = [Model::start()?, Model::start()?];
        let mut controller = Controller::start()?;
        let mut random = Random::new(400);
        let mut steps = Vec::new();
        for _ in 0..400 {
            let which = random.below(2) as usize;
            let step = models[which].step(&mut random, &mut controller)?;
            steps.push(format!("{which}: {step}"));
            for model in &models {
                model.check(&steps)?;
            }
        }
        // Everybody goes, in yet another order.
        drop(controller);
        for model in &mut models {
            for (id, queue) in model.queues.clone() {
                if queue.off {
                    model.job.load.command(&format!("update {id} 100"))?;
                }
            }
            if model.paused {
                model.tracer.order(&Command::Unpause)?;
            }
            model.tracer.order(&Command::Detach)?;
            model.job.wait_running("queues that nobody stops")?;
            model.job.goes_on()?;
        }
        Ok(())
    })
}

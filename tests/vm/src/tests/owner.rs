// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who holds, and that every way in which a holder can end gives the queues back.

use std::time::Duration;

use gpreempt::kfd::uapi::gpreempt::{state, FORCE};
use nix::errno::Errno;
use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;
use workload::pace::Random;

use super::List;
use crate::check::ensure_eq;
use crate::controller::{Answer, Call, Command, Controller, Spec};
use crate::gpu::{Job, Unmaps};
use crate::scene;

pub(super) const TESTS: List = &[
    (&["patched"], "close_releases", close),
    (&["patched"], "the_last_descriptor_releases", duplicate),
    (&["patched"], "two_files_are_two_owners", two_files),
    (&["patched"], "exit_releases", exit),
    (&["patched"], "sigkill_releases_at_any_moment", sigkill),
    (&["patched"], "a_surviving_child_holds_nothing", fork),
    (&["patched"], "exec_releases", exec),
    (&["patched"], "a_passed_file_is_of_no_use", passed_file),
    (&["patched"], "a_passed_file_keeps_the_hold", kept_file),
    (&["patched"], "two_controllers_and_force", force),
];

fn close() -> anyhow::Result<()> {
    scene::clean(|| {
        let mut job = Job::offline(2)?;
        let mut controller = Controller::start()?;
        controller.hold(&[Spec::all(job.pid())])?;
        job.expect_held("after the hold")?;
        let unmaps = Unmaps::from_here(0)?;
        controller.close(0)?;
        // close(2) returns when the file is released.
        job.wait_running("queues after the close")?;
        anyhow::ensure!(
            unmaps.count()? <= 1,
            "{} UNMAP_QUEUES packets for one close",
            unmaps.count()?
        );
        job.goes_on()?;
        // A closed file leaves nothing that a new one could be taken for.
        controller.open(0)?;
        ensure_eq!(
            controller.release(&[Spec::all(job.pid())])?.num_changed,
            0,
            "queues to release after the close"
        );
        Ok(())
    })
}

fn duplicate() -> anyhow::Result<()> {
    scene::clean(|| {
        let (mut job, mut online) = (Job::offline(2)?, Job::online()?);
        let mut controller = Controller::start()?;
        controller.hold(&[Spec::all(job.pid())])?;
        controller.order(&Command::Duplicate { slot: 0, to: 1 })?;
        controller.close(0)?;
        job.expect_held("after one of two descriptors was closed")?;
        job.stands_still(&job.ids()?, &mut online, 20)?;
        // The file is the same, so it is the same owner.
        let again = controller.call(Call {
            slot: 1,
            entries: vec![Spec::all(job.pid())],
            ..Call::default()
        })?;
        ensure_eq!(
            (again.num_changed, again.entries[0].state),
            (0, state::HELD),
            "changed, state through the other descriptor"
        );
        controller.close(1)?;
        job.wait_running("queues after the last close")?;
        job.goes_on()
    })
}

fn two_files() -> anyhow::Result<()> {
    scene::clean(|| {
        let job = Job::offline(2)?;
        let mut controller = Controller::start()?;
        controller.open(1)?;
        controller.hold(&[Spec::queue(job.pid(), 0)])?;
        let reply = controller.call(Call {
            slot: 1,
            entries: vec![Spec::queue(job.pid(), 0), Spec::queue(job.pid(), 1)],
            ..Call::default()
        })?;
        ensure_eq!(
            reply.entries[0].errno(),
            Errno::EBUSY,
            "the other file's queue"
        );
        ensure_eq!(reply.entries[1].n_changed, 1, "the free queue");
        job.expect_held("each by one file")?;
        controller.close(0)?;
        job.expect_mapped([0], "after the first file")?;
        controller.close(1)?;
        job.wait_running("both queues")
    })
}

fn exit() -> anyhow::Result<()> {
    scene::clean(|| {
        let mut job = Job::offline(2)?;
        let mut controller = Controller::start()?;
        controller.hold(&[Spec::all(job.pid()).inherit()])?;
        // The end of its standard input ends it.
        drop(controller);
        job.wait_running("queues after the exit")?;
        job.load.command("create compute")?;
        job.expect_running("with a queue created after the exit")?;
        job.goes_on()
    })
}

/// Fifty controllers that hold and release without end, each killed at another moment.
fn sigkill() -> anyhow::Result<()> {
    const KILLS: u64 = 50;
    scene::clean(|| {
        let mut jobs = [Job::offline(3)?, Job::busy(&["--profile", "model"])?];
        let mut random = Random::new(50);
        let entries: Vec<Spec> = jobs
            .iter()
            .map(|job| Spec::all(job.pid()).inherit())
            .collect();
        let mut killed_holding = 0;
        for seed in 0..KILLS {
            let mut controller = Controller::start()?;
            controller.send(&Command::Spin {
                entries: entries.clone(),
                seed,
            })?;
            // The moment is what varies: not a wait for anything.
            std::thread::sleep(Duration::from_micros(random.below(30_000)));
            killed_holding += u32::from(jobs[0].mapped()?.is_empty());
            controller.kill()?;
            for job in &jobs {
                job.wait_running("queues after a kill")?;
            }
        }
        anyhow::ensure!(
            killed_holding > 0,
            "none of {KILLS} controllers held anything when it was looked at"
        );
        for job in &mut jobs {
            job.load.command("create compute")?;
            job.expect_running("with a queue created after the kills")?;
            job.goes_on()?;
        }
        Ok(())
    })
}

fn fork() -> anyhow::Result<()> {
    scene::clean(|| {
        let mut job = Job::offline(2)?;
        let mut controller = Controller::start()?;
        controller.hold(&[Spec::all(job.pid()).inherit()])?;
        let release = Call {
            entries: vec![Spec::all(job.pid())],
            release: true,
            ..Call::default()
        };
        let Answer::Forked { pid, errno } = controller.order(&Command::Fork(release))? else {
            anyhow::bail!("no child");
        };
        let child = Child(Pid::from_raw(pid.cast_signed()));
        ensure_eq!(Errno::from_raw(errno), Errno::EBADF, "a call of the child");
        job.expect_held("after the child's call")?;
        controller.kill()?;
        job.wait_running("queues after the owner, while its child has the file open")?;
        ensure_eq!(kill(child.0, None), Ok(()), "the child is alive");
        job.load.command("create compute")?;
        job.expect_running("with a queue created then")?;
        job.goes_on()
    })
}

/// A process that is nobody's child any more.
struct Child(Pid);

impl Drop for Child {
    fn drop(&mut self) {
        let _ = kill(self.0, Signal::SIGKILL);
    }
}

fn exec() -> anyhow::Result<()> {
    scene::clean(|| {
        let mut job = Job::offline(2)?;
        let mut controller = Controller::start()?;
        controller.hold(&[Spec::all(job.pid())])?;
        controller.send(&Command::Exec)?;
        job.wait_running("queues after exec")?;
        let call = Call {
            entries: vec![Spec::all(job.pid())],
            ..Call::default()
        };
        let result = controller.try_call(call)?.map(|reply| reply.num_changed);
        ensure_eq!(
            result,
            Err(Errno::EBADF),
            "a call of the new program on the old file"
        );
        job.expect_running("after that call")?;
        // Its own file is another: what it holds by that is its own, and does not end with the old file.
        controller.open(1)?;
        let held = controller.call(Call {
            slot: 1,
            entries: vec![Spec::all(job.pid())],
            ..Call::default()
        })?;
        ensure_eq!(held.num_changed, 2, "changed by the new program's file");
        controller.close(0)?;
        job.expect_held("by the new program, after the old file was closed")?;
        controller.kill()?;
        job.wait_running("queues after the new program")?;
        job.goes_on()
    })
}

/// Passes file 0 of `from` to `to` as its file 9.
fn pass(from: &mut Controller, to: &mut Controller) -> anyhow::Result<()> {
    let path = format!("/tmp/gpreempt-test-{}", to.pid());
    to.order(&Command::ReceiveFile {
        slot: 9,
        path: path.clone(),
    })?;
    from.order(&Command::SendFile {
        slot: 0,
        path: path.clone(),
    })?;
    to.answer()?;
    std::fs::remove_file(path)?;
    Ok(())
}

fn passed_file() -> anyhow::Result<()> {
    scene::clean(|| {
        let mut job = Job::offline(2)?;
        let (mut owner, mut receiver) = (Controller::start()?, Controller::start()?);
        owner.hold(&[Spec::all(job.pid())])?;
        pass(&mut owner, &mut receiver)?;
        for release in [false, true] {
            let result = receiver.try_call(Call {
                slot: 9,
                release,
                entries: vec![Spec::all(job.pid())],
                flags: if release { FORCE } else { 0 },
                ..Call::default()
            })?;
            let result = result.map(|reply| reply.num_changed);
            ensure_eq!(result, Err(Errno::EBADF), "a call on a passed file");
        }
        job.expect_held("after the receiver's calls")?;
        // The owner's end counts, although the file stays open.
        owner.kill()?;
        job.wait_running("queues after the owner")?;
        job.goes_on()?;
        receiver.close(9)
    })
}

fn kept_file() -> anyhow::Result<()> {
    scene::clean(|| {
        let job = Job::offline(2)?;
        let (mut owner, mut receiver) = (Controller::start()?, Controller::start()?);
        owner.hold(&[Spec::all(job.pid())])?;
        pass(&mut owner, &mut receiver)?;
        owner.close(0)?;
        job.expect_held("while the receiver has the file open")?;
        receiver.close(9)?;
        job.wait_running("queues after the last descriptor")
    })
}

fn force() -> anyhow::Result<()> {
    scene::clean(|| {
        let mut job = Job::offline(2)?;
        let (mut first, mut second) = (Controller::start()?, Controller::start()?);
        let all = [Spec::all(job.pid())];
        first.hold(&all)?;
        for release in [false, true] {
            let unmaps = Unmaps::from_here(0)?;
            let reply = second.call(Call {
                release,
                entries: all.to_vec(),
                ..Call::default()
            })?;
            let entry = reply.entries[0];
            ensure_eq!(entry.errno(), Errno::EBUSY, "status, release: {release}");
            ensure_eq!(entry.state, state::HELD_OTHER, "state");
            ensure_eq!(
                (entry.n_matched, entry.n_changed),
                (2, 0),
                "matched, changed"
            );
            ensure_eq!(unmaps.count()?, 0, "UNMAP_QUEUES packets");
        }
        let forced = Call {
            release: true,
            entries: all.to_vec(),
            flags: FORCE,
            ..Call::default()
        };
        let reply = second.call(forced.clone())?;
        ensure_eq!(
            (reply.num_changed, reply.num_failed),
            (2, 0),
            "changed, failed"
        );
        job.expect_running("after a forced release")?;
        ensure_eq!(
            first.release(&all)?.num_changed,
            0,
            "what the first still holds"
        );
        // Nothing of the first one's is left to be released by its end.
        second.hold(&all)?;
        first.kill()?;
        job.expect_held("by the second, after the end of the first")?;
        // A mark for queues to come is released as well.
        let mut third = Controller::start()?;
        second.hold(&[all[0].inherit()])?;
        third.call(forced)?;
        job.load.command("create compute")?;
        job.expect_running("with a queue created after a forced release")?;
        second.release(&all)?;
        job.goes_on()
    })
}

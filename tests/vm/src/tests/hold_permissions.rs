// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who may hold whose queues. Parts of these tests run as other users.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use gpreempt::kfd::uapi::gpreempt::{FORCE, RESERVE_CLEAR, RESERVE_QUERY, RESERVE_SET};
use nix::errno::Errno;

use super::List;
use crate::check::ensure_eq;
use crate::controller::{Call, Controller, Reservation, Spec};
use crate::gpu::{busy, Job, Unmaps};
use crate::load::Load;
use crate::scene;

pub(super) const TESTS: List = &[
    (&["patched"], "users_hold_their_own", own),
    (&["patched"], "users_do_not_hold_others", foreign),
    (&["patched"], "root_holds_all", root),
    (&["patched"], "force_is_for_the_administrator", force),
    (
        &["patched"],
        "reservations_are_for_the_administrator",
        reservation,
    ),
];

const ALICE: u32 = 1001;
const BOB: u32 = 1002;

/// The devices, open to everybody for the length of a test.
struct OpenDevices(Vec<(PathBuf, Permissions)>);

impl OpenDevices {
    fn new() -> anyhow::Result<Self> {
        let mut paths = vec![PathBuf::from("/dev/kfd")];
        for entry in fs::read_dir("/dev/dri").context("/dev/dri")? {
            paths.push(entry?.path());
        }
        let mut before = Vec::new();
        for path in paths {
            before.push((path.clone(), fs::metadata(&path)?.permissions()));
            open(&path)?;
        }
        Ok(Self(before))
    }
}

fn open(path: &Path) -> anyhow::Result<()> {
    fs::set_permissions(path, Permissions::from_mode(0o666))
        .with_context(|| format!("chmod {}", path.display()))
}

impl Drop for OpenDevices {
    fn drop(&mut self) {
        for (path, permissions) in self.0.drain(..) {
            if let Err(error) = fs::set_permissions(&path, permissions) {
                eprintln!("vm-tests: chmod {}: {error}", path.display());
            }
        }
    }
}

fn job_of(uid: u32) -> anyhow::Result<Job> {
    Job::new(Load::start_as(
        uid,
        &busy(&["--profile", "simple", "--queues", "2"]),
    )?)
}

fn own() -> anyhow::Result<()> {
    let _devices = OpenDevices::new()?;
    scene::clean(|| {
        let mut job = job_of(ALICE)?;
        let mut alice = Controller::start_as(ALICE)?;
        alice.hold(&[Spec::all(job.pid()).inherit()])?;
        job.expect_held("by its own user")?;
        alice.release(&[Spec::all(job.pid())])?;
        // Itself, always.
        let own = alice.pid();
        alice.hold(&[Spec::all(own)])?;
        job.goes_on()?;
        // The end of an unprivileged owner releases as any other's.
        alice.hold(&[Spec::all(job.pid())])?;
        alice.kill()?;
        job.wait_running("queues after their holder")
    })
}

/// That a user is refused, and nothing happens.
fn refused(user: &mut Controller, entries: &[Spec]) -> anyhow::Result<()> {
    let unmaps = Unmaps::from_here(0)?;
    for release in [false, true] {
        let reply = user.call(Call {
            entries: entries.to_vec(),
            release,
            ..Call::default()
        })?;
        for entry in &reply.entries {
            ensure_eq!(entry.errno(), Errno::EPERM, "status, release: {release}");
            // Nor is anything told of what somebody else has.
            ensure_eq!(
                (entry.n_matched, entry.n_changed, entry.state),
                (0, 0, 0),
                "matched, changed, state"
            );
        }
        ensure_eq!(reply.num_failed as usize, entries.len(), "failed");
    }
    ensure_eq!(unmaps.count()?, 0, "UNMAP_QUEUES packets");
    Ok(())
}

fn foreign() -> anyhow::Result<()> {
    let _devices = OpenDevices::new()?;
    scene::clean(|| {
        let (alices, roots) = (job_of(ALICE)?, Job::offline(2)?);
        let mut bob = Controller::start_as(BOB)?;
        refused(&mut bob, &[Spec::all(alices.pid())])?;
        refused(&mut bob, &[Spec::all(alices.pid()).inherit()])?;
        refused(
            &mut bob,
            &[Spec::queue(alices.pid(), 0), Spec::queue(alices.pid(), 1)],
        )?;
        refused(&mut bob, &[Spec::all(roots.pid())])?;
        refused(&mut bob, &[Spec::all(roots.pid()), Spec::all(alices.pid())])?;
        let look = bob.look(Spec::all(alices.pid()))?;
        ensure_eq!(look.errno(), Errno::EPERM, "a look at another's queues");
        alices.expect_running("at last")?;
        roots.expect_running("at last")?;
        // One foreign entry does not spoil an own one.
        let bobs = job_of(BOB)?;
        let reply = bob.call(Call {
            entries: vec![Spec::all(alices.pid()), Spec::all(bobs.pid())],
            ..Call::default()
        })?;
        ensure_eq!(
            (reply.num_failed, reply.num_changed),
            (1, 2),
            "failed, changed"
        );
        bobs.expect_held("its own")?;
        alices.expect_running("beside it")
    })
}

fn root() -> anyhow::Result<()> {
    let _devices = OpenDevices::new()?;
    scene::clean(|| {
        let mut alices = job_of(ALICE)?;
        let (mut root, mut alice) = (Controller::start()?, Controller::start_as(ALICE)?);
        root.hold(&[Spec::all(alices.pid())])?;
        alices.expect_held("by root")?;
        // It is her process, but not her hold.
        let reply = alice.call(Call {
            entries: vec![Spec::all(alices.pid())],
            release: true,
            ..Call::default()
        })?;
        ensure_eq!(reply.entries[0].errno(), Errno::EBUSY, "status");
        alices.expect_held("by root, whatever its user says")?;
        root.release(&[Spec::all(alices.pid())])?;
        alices.goes_on()
    })
}

fn force() -> anyhow::Result<()> {
    let _devices = OpenDevices::new()?;
    scene::clean(|| {
        let alices = job_of(ALICE)?;
        let (mut root, mut alice) = (Controller::start()?, Controller::start_as(ALICE)?);
        let forced = Call {
            entries: vec![Spec::all(alices.pid())],
            flags: FORCE,
            release: true,
            ..Call::default()
        };
        root.hold(&[Spec::all(alices.pid())])?;
        let result = alice
            .try_call(forced.clone())?
            .map(|reply| reply.num_changed);
        ensure_eq!(result, Err(Errno::EPERM), "FORCE by a user");
        alices.expect_held("after a refused FORCE")?;
        root.release(&[Spec::all(alices.pid())])?;
        alice.hold(&[Spec::all(alices.pid())])?;
        ensure_eq!(root.call(forced)?.num_changed, 2, "changed by root's FORCE");
        alices.expect_running("after root's FORCE")
    })
}

fn reservation() -> anyhow::Result<()> {
    let _devices = OpenDevices::new()?;
    scene::clean(|| {
        let alices = job_of(ALICE)?;
        let (mut root, mut alice) = (Controller::start()?, Controller::start_as(ALICE)?);
        let gpu_id = alices.load.gpu_id()? as u32;
        let call = |op, flags| Reservation {
            op,
            gpu_id,
            flags,
            slots_reserved: if op == RESERVE_SET { 23 } else { 0 },
            entries: if op == RESERVE_SET {
                vec![Spec::process(alices.pid())]
            } else {
                Vec::new()
            },
            ..Reservation::default()
        };
        let denied = |alice: &mut Controller, op, flags| -> anyhow::Result<()> {
            let result = alice.try_reserve(call(op, flags))?;
            let result = result.map(|reply| reply.slots_reserved);
            ensure_eq!(result, Err(Errno::EPERM), "op {op} by a user");
            Ok(())
        };
        denied(&mut alice, RESERVE_SET, 0)?;
        denied(&mut alice, RESERVE_CLEAR, 0)?;
        alices.expect_running("after refused reservations")?;
        root.reserve(call(RESERVE_SET, 0))?;
        denied(&mut alice, RESERVE_CLEAR, 0)?;
        denied(&mut alice, RESERVE_CLEAR, FORCE)?;
        // Asking is free, and says who.
        let reply = alice.reserve(call(RESERVE_QUERY, 0))?;
        ensure_eq!(
            (reply.slots_reserved, reply.owner_pid),
            (23, root.pid()),
            "reserved, owner as a user sees them"
        );
        ensure_eq!(
            alices.mapped()?.len(),
            1,
            "queues in the runlist under the reservation"
        );
        root.reserve(call(RESERVE_CLEAR, 0))?;
        alices.expect_running("after the reservation")
    })
}

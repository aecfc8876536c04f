// SPDX-License-Identifier: MIT OR Apache-2.0
//! Structs that lie where they cannot be written, or are of another length than this version's.

use gpreempt::kfd::uapi::gpreempt::{request, BatchArgs};
use nix::errno::Errno;
use zerocopy::FromBytes;

use super::malformed::{batch_bytes, entry_bytes, number, ENTRY_BYTES};
use super::List;
use crate::check::ensure_eq;
use crate::controller::{At, Controller, RawCall, Spec};
use crate::gpu::{Job, Unmaps};
use crate::scene;

pub(super) const TESTS: List = &[
    (&["patched"], "unwritable_entries_hold_nothing", unwritable),
    (&["patched"], "entries_may_grow", growing),
    (&["patched"], "arguments_may_grow", arguments),
];

/// Entries that cannot be written back: the caller gets EFAULT, so nothing may have happened.
fn unwritable() -> anyhow::Result<()> {
    scene::clean(|| {
        let mut job = Job::offline(4)?;
        let mut controller = Controller::start()?;
        let unmaps = Unmaps::from_here(0)?;
        let four: Vec<u8> = (0..4)
            .flat_map(|id| entry_bytes(Spec::queue(job.pid(), id)))
            .collect();
        let places = [
            At::ReadOnly,
            At::TailReadOnly(ENTRY_BYTES),
            // The results of the last entry, then only its last field.
            At::TailReadOnly(16),
            At::TailReadOnly(4),
        ];
        for release in [false, true] {
            for at in places {
                let result = controller.raw(RawCall {
                    number: number(release),
                    args: batch_bytes(4, ENTRY_BYTES, |_| {}),
                    entries: four.clone(),
                    at,
                })?;
                ensure_eq!(
                    result.err(),
                    Some(Errno::EFAULT),
                    "entries {at:?}, release: {release}"
                );
                if release {
                    job.expect_held("after a release that failed")?;
                } else {
                    job.expect_running("after a hold that failed")?;
                }
            }
            if !release {
                controller.hold(&[Spec::all(job.pid())])?;
            }
        }
        ensure_eq!(unmaps.count()?, 1, "UNMAP_QUEUES packets of the only hold");
        controller.release(&[Spec::all(job.pid())])?;
        job.goes_on()
    })
}

fn growing() -> anyhow::Result<()> {
    scene::clean(|| {
        let job = Job::offline(2)?;
        let mut controller = Controller::start()?;
        for (bytes, tail, wanted) in [
            (48, 0, Ok(())),
            (64, 0, Ok(())),
            (48, 1, Err(Errno::E2BIG)),
            (4096, 0, Ok(())),
            (4096, 0xff, Err(Errno::E2BIG)),
        ] {
            let mut entries = Vec::new();
            for id in 0..2 {
                let mut entry = entry_bytes(Spec::queue(job.pid(), id));
                entry.resize(bytes, 0);
                // The second entry's last byte: each is to be looked at.
                if id == 1 {
                    entry[bytes - 1] = tail;
                }
                entries.extend(entry);
            }
            let result = controller.raw(RawCall {
                number: request::BATCH_UNMAP_QUEUES,
                args: batch_bytes(2, bytes, |_| {}),
                entries,
                at: At::Writable,
            })?;
            ensure_eq!(
                result.as_ref().map(drop).map_err(|errno| *errno),
                wanted,
                "entries of {bytes} bytes that end with {tail}"
            );
            if let Ok(left) = result {
                let (answer, _) = BatchArgs::read_from_prefix(&left.args)
                    .map_err(|error| anyhow::anyhow!("arguments: {error:?}"))?;
                ensure_eq!(
                    (answer.num_changed, answer.num_failed),
                    (2, 0),
                    "changed, failed"
                );
                for entry in left.entries.chunks(bytes) {
                    ensure_eq!(entry[24..28], [0; 4], "status");
                    ensure_eq!(entry[36..40], 1_u32.to_ne_bytes(), "n_changed");
                }
                job.expect_held("by longer entries")?;
                controller.release(&[Spec::all(job.pid())])?;
            } else {
                job.expect_running("after entries that were refused")?;
            }
        }
        Ok(())
    })
}

/// The ioctl number says how long the argument struct is: shorter ones end with zeroes, longer ones with what only a
/// later driver knows.
fn arguments() -> anyhow::Result<()> {
    scene::clean(|| {
        let job = Job::offline(1)?;
        let mut controller = Controller::start()?;
        let sized =
            |bytes: usize| request::BATCH_UNMAP_QUEUES & !(0x3fff << 16) | (bytes as u64) << 16;
        for bytes in [0, 8, 79, 80, 88, 200, 4000] {
            let mut args = batch_bytes(1, ENTRY_BYTES, |_| {});
            args.resize(bytes, 0);
            let result = controller.raw(RawCall {
                number: sized(bytes),
                args,
                entries: entry_bytes(Spec::all(job.pid())),
                at: At::Writable,
            })?;
            // What was held must be exactly what the answer says.
            match result {
                Ok(_) if bytes >= 80 => {
                    job.expect_held("by longer arguments")?;
                    controller.release(&[Spec::all(job.pid())])?;
                }
                Ok(_) => {
                    controller.release(&[Spec::all(job.pid())])?;
                }
                Err(errno) => {
                    anyhow::ensure!(bytes != 80, "the true size is refused: {errno}");
                    job.expect_running("after arguments that were refused")?;
                }
            }
        }
        Ok(())
    })
}

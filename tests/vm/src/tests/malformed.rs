// SPDX-License-Identifier: MIT OR Apache-2.0
//! Calls that are wrong, one by one: each is refused as the header says, and none leaves anything held.

use gpreempt::kfd::uapi::gpreempt::{
    request, BatchArgs, Entry, ReserveArgs, ALL_GPUS, DRY_RUN, FORCE, INHERIT, MAX_ENTRIES, MAX_MS,
    RESERVE_CLEAR, RESERVE_QUERY, RESERVE_SET,
};
use nix::errno::Errno;
use zerocopy::IntoBytes;

use super::List;
use crate::check::ensure_eq;
use crate::controller::{At, Call, Controller, RawCall, Reservation, Spec};
use crate::gpu::{Job, Unmaps};
use crate::scene;

pub(super) const TESTS: List = &[
    (&["patched"], "malformed_batches_are_refused", batches),
    (&["patched"], "malformed_entries_are_refused", entries),
    (
        &["patched"],
        "malformed_reservations_are_refused",
        reservations,
    ),
    (&["patched"], "unknown_numbers_are_refused", numbers),
];

pub(super) const ENTRY_BYTES: usize = size_of::<Entry>();

/// Argument bytes of a batch over `count` entries of `entry_size` bytes.
pub(super) fn batch_bytes(
    count: usize,
    entry_size: usize,
    change: impl FnOnce(&mut BatchArgs),
) -> Vec<u8> {
    let mut args = BatchArgs {
        num_entries: count as u32,
        entry_size: entry_size as u32,
        ..BatchArgs::default()
    };
    change(&mut args);
    args.as_bytes().to_vec()
}

pub(super) fn entry_bytes(spec: Spec) -> Vec<u8> {
    spec.entry().as_bytes().to_vec()
}

pub(super) fn number(release: bool) -> u64 {
    if release {
        request::FAST_REMAP
    } else {
        request::BATCH_UNMAP_QUEUES
    }
}

fn batches() -> anyhow::Result<()> {
    scene::clean(|| {
        let job = Job::offline(2)?;
        let mut controller = Controller::start()?;
        let all = entry_bytes(Spec::all(job.pid()));
        let unmaps = Unmaps::from_here(0)?;
        type Change = fn(&mut BatchArgs);
        // What is changed, whether in a release, and what comes of it.
        let wrong: [(&str, bool, Change, Errno); 14] = [
            (
                "unknown flag",
                false,
                |args| args.flags = 1 << 2,
                Errno::EINVAL,
            ),
            (
                "highest flag",
                true,
                |args| args.flags = 1 << 31,
                Errno::EINVAL,
            ),
            (
                "FORCE to hold",
                false,
                |args| args.flags = FORCE,
                Errno::EINVAL,
            ),
            ("pad", false, |args| args.pad = 1, Errno::EINVAL),
            (
                "reserved",
                false,
                |args| args.reserved = 1 << 63,
                Errno::EINVAL,
            ),
            ("reserved", true, |args| args.reserved = 1, Errno::EINVAL),
            (
                "lease beyond an hour",
                false,
                |args| args.lease_ms = MAX_MS + 1,
                Errno::EINVAL,
            ),
            (
                "lease to release",
                true,
                |args| args.lease_ms = 1,
                Errno::EINVAL,
            ),
            (
                "grace to release",
                true,
                |args| args.grace_period = 1,
                Errno::EINVAL,
            ),
            (
                "short entries",
                false,
                |args| args.entry_size = 39,
                Errno::EINVAL,
            ),
            (
                "no entry size",
                false,
                |args| args.entry_size = 0,
                Errno::EINVAL,
            ),
            (
                "short entries",
                true,
                |args| args.entry_size = 39,
                Errno::EINVAL,
            ),
            (
                "too many",
                false,
                |args| args.num_entries = MAX_ENTRIES as u32 + 1,
                Errno::EINVAL,
            ),
            (
                "far too many",
                true,
                |args| args.num_entries = u32::MAX,
                Errno::EINVAL,
            ),
        ];
        for (what, release, change, errno) in wrong {
            let result = controller.raw(RawCall {
                number: number(release),
                args: batch_bytes(1, ENTRY_BYTES, change),
                entries: all.clone(),
                at: At::Writable,
            })?;
            ensure_eq!(result.err(), Some(errno), "{what}, release: {release}");
            job.expect_running(what)?;
        }
        for address in [0, 8, u64::MAX - 4095, 0xffff_8880_0000_0000, 1 << 62] {
            for release in [false, true] {
                let result = controller.raw(RawCall {
                    number: number(release),
                    args: batch_bytes(1, ENTRY_BYTES, |_| {}),
                    entries: all.clone(),
                    at: At::Address(address),
                })?;
                ensure_eq!(result.err(), Some(Errno::EFAULT), "entries at {address:#x}");
            }
        }
        job.expect_running("after bad addresses")?;
        ensure_eq!(unmaps.count()?, 0, "UNMAP_QUEUES packets");
        // The longest lease, and as many entries as may be, are fine.
        let held = controller.hold_for(&[Spec::all(job.pid())], MAX_MS)?;
        ensure_eq!(held.num_changed, 2, "changed with the longest lease");
        let most = vec![Spec::all(job.pid()); MAX_ENTRIES];
        ensure_eq!(
            controller.release(&most)?.num_changed,
            2,
            "changed by most entries"
        );
        job.expect_running("at last")
    })
}

fn entries() -> anyhow::Result<()> {
    scene::clean(|| {
        let job = Job::offline(2)?;
        let mut controller = Controller::start()?;
        let (pid, gpu_id) = (job.pid(), job.load.gpu_id()? as u32);
        let all = Spec::all(pid);
        let someone = |pid| Spec { pid, ..all };
        let start_ticks = start_ticks(pid)?;
        let own = controller.pid();
        let wrong = [
            ("unknown flag", all.flags(1 << 2), Errno::EINVAL),
            ("highest flag", all.flags(1 << 31), Errno::EINVAL),
            (
                "inherit for one queue",
                Spec::queue(pid, 0).flags(INHERIT),
                Errno::EINVAL,
            ),
            ("pid 0", someone(0), Errno::ESRCH),
            ("pid -1", someone(-1), Errno::ESRCH),
            ("lowest pid", someone(i32::MIN), Errno::ESRCH),
            ("highest pid", someone(i32::MAX), Errno::ESRCH),
            ("no KFD process", someone(1), Errno::ENXIO),
            ("no such queue", Spec::queue(pid, 2), Errno::ENOENT),
            (
                "no such queue at all",
                Spec::queue(pid, u32::MAX - 1),
                Errno::ENOENT,
            ),
            ("no such GPU", all.on(gpu_id ^ 1), Errno::ENOENT),
            (
                "a queue of no such GPU",
                Spec::queue(pid, 0).on(u32::MAX),
                Errno::ENOENT,
            ),
            ("started later", all.started(start_ticks + 1), Errno::ESRCH),
            (
                "started earlier",
                all.started(start_ticks - 1),
                Errno::ESRCH,
            ),
            ("started at no time", all.started(u64::MAX), Errno::ESRCH),
        ];
        let unmaps = Unmaps::from_here(0)?;
        for (what, entry, errno) in wrong {
            for release in [false, true] {
                let reply = controller.call(Call {
                    entries: vec![entry],
                    release,
                    ..Call::default()
                })?;
                ensure_eq!(
                    reply.entries[0].errno(),
                    errno,
                    "{what}, release: {release}"
                );
                ensure_eq!(
                    (reply.num_failed, reply.num_changed),
                    (1, 0),
                    "{what}: failed, changed"
                );
            }
            job.expect_running(what)?;
        }
        ensure_eq!(unmaps.count()?, 0, "UNMAP_QUEUES packets");
        // The right time and itself are fine.
        controller.hold(&[all.started(start_ticks).on(gpu_id), Spec::all(own)])?;
        job.expect_held("named with its start and GPU")?;
        ensure_eq!(ALL_GPUS, 0, "a GPU id of 0 is every GPU");
        controller.release(&[all.started(start_ticks)])?;
        job.expect_running("at last")
    })
}

/// Field 22 of `/proc/PID/stat`.
fn start_ticks(pid: u32) -> anyhow::Result<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name, in parentheses, may hold anything.
    let after = stat.rsplit(')').next().unwrap_or_default();
    let field = after.split_whitespace().nth(22 - 3);
    Ok(field
        .ok_or_else(|| anyhow::anyhow!("no start time: {stat}"))?
        .parse()?)
}

fn reservations() -> anyhow::Result<()> {
    scene::clean(|| {
        let job = Job::offline(2)?;
        let mut controller = Controller::start()?;
        let gpu_id = job.load.gpu_id()? as u32;
        let set = Reservation {
            op: RESERVE_SET,
            gpu_id,
            slots_reserved: 23,
            entries: vec![Spec::process(job.pid())],
            ..Reservation::default()
        };
        let query = Reservation {
            op: RESERVE_QUERY,
            gpu_id,
            ..Reservation::default()
        };
        let total = controller.reserve(query.clone())?.slots_total;
        let with = |change: fn(&mut Reservation)| {
            let mut wrong = set.clone();
            change(&mut wrong);
            wrong
        };
        let mut all_slots = set.clone();
        all_slots.slots_reserved = total;
        let wrong = [
            ("every slot", all_slots, Errno::EINVAL),
            (
                "more than every slot",
                with(|wrong| wrong.slots_reserved = u32::MAX),
                Errno::EINVAL,
            ),
            ("unknown op", with(|wrong| wrong.op = 3), Errno::EINVAL),
            (
                "highest op",
                with(|wrong| wrong.op = u32::MAX),
                Errno::EINVAL,
            ),
            (
                "FORCE to set",
                with(|wrong| wrong.flags = FORCE),
                Errno::EINVAL,
            ),
            (
                "unknown flag",
                with(|wrong| wrong.flags = DRY_RUN),
                Errno::EINVAL,
            ),
            (
                "long rotation",
                with(|wrong| wrong.rotate_ms = MAX_MS + 1),
                Errno::EINVAL,
            ),
        ];
        for (what, call, errno) in wrong {
            let result = controller
                .try_reserve(call)?
                .map(|reply| reply.slots_reserved);
            ensure_eq!(result, Err(errno), "{what}");
        }
        // The header leaves the errno of an unknown GPU open.
        for op in [RESERVE_QUERY, RESERVE_SET, RESERVE_CLEAR] {
            for wrong in [gpu_id ^ 1, 0] {
                let result = controller.try_reserve(Reservation {
                    op,
                    gpu_id: wrong,
                    ..set.clone()
                })?;
                anyhow::ensure!(
                    matches!(result, Err(Errno::ENOENT | Errno::ENODEV | Errno::EINVAL)),
                    "op {op} of GPU {wrong}: {result:?}"
                );
            }
        }
        // One bad entry, and nothing is set.
        let mut mixed = set.clone();
        mixed.entries.push(Spec::process(0x3fff_fff0));
        let reply = controller.reserve(mixed)?;
        ensure_eq!(reply.num_failed, 1, "failed entries");
        ensure_eq!(reply.entries[1].errno(), Errno::ESRCH, "status");
        for entry in [
            Spec::all(job.pid()),
            Spec::process(job.pid()).on(gpu_id),
            Spec::process(job.pid()).inherit(),
        ] {
            let reply = controller.reserve(Reservation {
                entries: vec![entry],
                ..set.clone()
            })?;
            ensure_eq!(
                reply.entries[0].errno(),
                Errno::EINVAL,
                "status of {entry:?}"
            );
        }
        let reply = controller.reserve(query.clone())?;
        ensure_eq!(
            (reply.slots_reserved, reply.owner_pid, reply.queues_capped),
            (0, 0, 0),
            "reserved, owner, capped after refused calls"
        );
        for args in [
            reserve_bytes(gpu_id, |args| args.reserved = 1),
            reserve_bytes(gpu_id, |args| args.entry_size = 39),
            reserve_bytes(gpu_id, |args| args.num_entries = MAX_ENTRIES as u32 + 1),
        ] {
            let result = controller.raw(RawCall {
                number: request::SET_HQD_RESERVATION,
                args,
                entries: entry_bytes(Spec::process(job.pid())),
                at: At::Writable,
            })?;
            ensure_eq!(result.err(), Some(Errno::EINVAL), "a malformed struct");
        }
        for at in [At::Address(8), At::ReadOnly] {
            let result = controller.raw(RawCall {
                number: request::SET_HQD_RESERVATION,
                args: reserve_bytes(gpu_id, |_| {}),
                entries: entry_bytes(Spec::process(job.pid())),
                at,
            })?;
            ensure_eq!(result.err(), Some(Errno::EFAULT), "entries at {at:?}");
        }
        let reply = controller.reserve(query)?;
        ensure_eq!(reply.owner_pid, 0, "owner after malformed calls");
        job.expect_running("after malformed calls")
    })
}

/// Argument bytes that set a reservation for one process.
fn reserve_bytes(gpu_id: u32, change: impl FnOnce(&mut ReserveArgs)) -> Vec<u8> {
    let mut args = ReserveArgs {
        gpu_id,
        op: RESERVE_SET,
        slots_reserved: 23,
        num_entries: 1,
        entry_size: ENTRY_BYTES as u32,
        ..ReserveArgs::default()
    };
    change(&mut args);
    args.as_bytes().to_vec()
}

fn numbers() -> anyhow::Result<()> {
    scene::clean(|| {
        let mut controller = Controller::start()?;
        for number in [0xe3, 0xe4, 0xe7, 0xef, 0xff, 0x27, 0x7f, 0xdf] {
            let result = controller.raw(RawCall {
                number: 3 << 30 | 80 << 16 | 0x4b << 8 | number,
                args: batch_bytes(0, 0, |_| {}),
                entries: Vec::new(),
                at: At::Writable,
            })?;
            ensure_eq!(result.err(), Some(Errno::ENOTTY), "number {number:#x}");
        }
        Ok(())
    })
}

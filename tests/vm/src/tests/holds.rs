// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a patched driver holds and releases, as `watch` tells it and as `control` observes it. And that the stock driver has
//! none of it.

use std::fs;
use std::os::fd::AsRawFd;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Context;
use gpreempt::control::criu::Criu;
use gpreempt::control::debug_trap::DebugTrap;
use gpreempt::control::observe::{Action, CallKind, How, Observation, Observer, Want};
use gpreempt::control::select::{self, Only, Selector};
use gpreempt::control::{Backend, HoldOptions, Target};
use gpreempt::event::{Cause, Pid};
use gpreempt::kfd::uapi::{self, gpreempt as abi};
use gpreempt::kfd::Root;
use nix::sys::signal::{kill, Signal};
use nix::sys::wait::waitpid;
use nix::unistd::{fork, pipe, read, write, ForkResult};

use super::{doctor, List};
use crate::check::ensure_eq;
use crate::guest;
use crate::load::{self, Load};
use crate::record::Record;
use crate::watch::{Seen, Watch};

const PATCHED: &[&str] = &["patched"];

pub(super) const TESTS: List = &[
    (PATCHED, "the_owners_calls_are_seen", by_ioctl),
    (PATCHED, "a_lease_ends_in_a_worker_for_its_owner", by_lease),
    (PATCHED, "closing_the_file_releases", by_close),
    (PATCHED, "the_owners_death_releases", by_death),
    (PATCHED, "force_names_who_forced", by_force),
    (
        PATCHED,
        "new_queues_of_a_held_process_are_held",
        by_inheritance,
    ),
    (PATCHED, "a_reservation_parks_and_lets_go", by_reservation),
    (PATCHED, "holds_are_seen_by_kprobes", by_kprobe),
    (PATCHED, "holds_are_seen_by_a_profile", by_profile),
    (PATCHED, "doctor_knows_a_patched_driver", doctor_knows),
    (PATCHED, "what_stopped_and_runs_again_is_observed", observed),
    (
        PATCHED,
        "the_runlist_shows_what_stopped",
        observed_in_runlist,
    ),
    (
        PATCHED,
        "observing_is_cheap_and_beside_a_watch",
        observed_often,
    ),
    (
        &["patched-multi"],
        "every_node_of_a_hold_is_told_and_observed",
        on_every_node,
    ),
    (&["basic"], "the_stock_driver_has_no_holds", stock),
    (
        &["basic"],
        "the_stock_drivers_means_are_observed",
        observed_on_stock,
    ),
];

/// The test itself opens /dev/kfd, and so becomes the owner of what it holds.
fn device() -> anyhow::Result<abi::Device> {
    let file = uapi::open(&Root::real()).context("open /dev/kfd")?;
    Ok(abi::Device::new(file))
}

/// Every queue of a process.
fn all_of(pid: u32, flags: u32) -> abi::Entry {
    abi::Entry {
        pid: pid.cast_signed(),
        gpu_id: abi::ALL_GPUS,
        queue_id: abi::ALL_QUEUES,
        flags,
        ..abi::Entry::default()
    }
}

fn lease(lease_ms: u32) -> abi::BatchArgs {
    abi::BatchArgs {
        lease_ms,
        ..abi::BatchArgs::default()
    }
}

/// Holds, and demands that the driver did so.
fn hold(device: &abi::Device, pid: u32, args: abi::BatchArgs, flags: u32) -> anyhow::Result<u32> {
    let mut entries = [all_of(pid, flags)];
    let done = device.hold(args, &mut entries).context("hold")?;
    ensure_eq!(entries[0].status, 0, "status of the hold");
    Ok(done.num_changed)
}

fn release(device: &abi::Device, pid: u32, flags: u32) -> anyhow::Result<u32> {
    let args = abi::BatchArgs {
        flags,
        ..abi::BatchArgs::default()
    };
    let mut entries = [all_of(pid, 0)];
    let done = device.release(args, &mut entries).context("release")?;
    ensure_eq!(entries[0].status, 0, "status of the release");
    Ok(done.num_changed)
}

fn own_pid() -> u32 {
    std::process::id()
}

/// Waits for the record of this kind about a process.
fn told(watch: &Watch, kind: &str, pid: u32) -> anyhow::Result<Record> {
    watch.wait_for(kind, |record| record.kind == kind && record.is_of(pid))
}

/// What every record of a hold or release says.
fn check_record(record: &Record, owner: u32, cause: &str, count: u64) -> anyhow::Result<()> {
    let what = &record.kind;
    ensure_eq!(
        record.number("owner_pid")?,
        u64::from(owner),
        "owner of {what}"
    );
    ensure_eq!(
        record.text("owner_comm")?,
        "vm-tests",
        "name of the owner of {what}"
    );
    ensure_eq!(
        record.text("comm")?,
        "kfd-load",
        "name of the process of {what}"
    );
    ensure_eq!(record.text("cause")?, cause, "cause of {what}");
    ensure_eq!(record.number("count")?, count, "queues of {what}");
    ensure_eq!(record.signed("status")?, 0, "status of {what}");
    let (total, lock, hw) = (
        record.number("total_ns")?,
        record.number("lock_wait_ns")?,
        record.number("hw_ns")?,
    );
    anyhow::ensure!(
        total >= lock + hw,
        "parts exceed the whole: {}",
        record.data
    );
    Ok(())
}

/// Changes of runlists with this cause for a hold of this owner.
fn runlists<'a>(seen: &'a Seen, kind: &str, cause: &str, owner: u32) -> Vec<&'a Record> {
    seen.records
        .iter()
        .filter(|record| {
            record.kind == kind
                && record.data["cause"] == cause
                && record.try_number("cause_pid") == Some(u64::from(owner))
        })
        .collect()
}

/// One hold and one release of three queues that run, seen from both sides.
fn hold_and_release(args: &[&str]) -> anyhow::Result<()> {
    let watch = Watch::start(args)?;
    let load = Load::start(&["--profile", "simple", "--queues", "3"])?;
    let pid = load.pid();
    let device = device()?;
    ensure_eq!(hold(&device, pid, lease(0), 0)?, 3, "queues held");
    ensure_eq!(hold(&device, pid, lease(0), 0)?, 0, "queues held once more");
    let held = told(&watch, "queues_held", pid)?;
    std::thread::sleep(Duration::from_millis(20));
    ensure_eq!(release(&device, pid, 0)?, 3, "queues released");
    let released = told(&watch, "queues_released", pid)?;
    load.stop()?;
    watch.wait_for_exit_of(pid)?;
    let seen = watch.stop_lossless()?;

    check_record(&held, own_pid(), "ioctl", 3)?;
    anyhow::ensure!(
        held.number("lock_wait_ns")? > 0,
        "no lock wait: {}",
        held.data
    );
    anyhow::ensure!(held.number("hw_ns")? > 0, "no hardware time: {}", held.data);
    check_record(&released, own_pid(), "ioctl", 3)?;
    let held_ns = released.number("held_ns")?;
    anyhow::ensure!(held_ns >= 20_000_000, "held for only {held_ns} ns");
    ensure_eq!(seen.kind("queues_held").len(), 1, "queues_held records");
    ensure_eq!(
        seen.kind("queues_released").len(),
        1,
        "queues_released records"
    );

    let unmaps = runlists(&seen, "runlist_unmapped", "hold", own_pid());
    ensure_eq!(
        unmaps.len(),
        1,
        "unmaps by the hold: one, and none by the second"
    );
    ensure_eq!(unmaps[0].text("cause_comm")?, "vm-tests", "cause_comm");
    for part in ["lock_wait_ns", "fence_ns"] {
        anyhow::ensure!(
            unmaps[0].number(part)? > 0,
            "{part} is 0: {}",
            unmaps[0].data
        );
    }
    let fence = unmaps[0].number("fence_ns")?;
    let hw = held.number("hw_ns")?;
    // The driver's measure begins before and ends after what the probes measure.
    anyhow::ensure!(
        fence <= hw,
        "the probes saw a fence of {fence} ns, the driver measured {hw} ns"
    );
    let maps = runlists(&seen, "runlist_mapped", "release", own_pid());
    ensure_eq!(maps.len(), 1, "maps by the release");
    ensure_eq!(maps[0].number("queues")?, 3, "queues mapped by the release");
    Ok(())
}

fn by_ioctl() -> anyhow::Result<()> {
    hold_and_release(&[])
}

fn by_kprobe() -> anyhow::Result<()> {
    hold_and_release(&["--attach", "kprobe"])
}

/// A driver without BTF: with a profile of its own, and with one that knows nothing of holds.
fn by_profile() -> anyhow::Result<()> {
    const WHOLE: &str = "/tmp/patched.toml";
    const OLD: &str = "/tmp/old.toml";
    let output = Command::new("gpreempt")
        .args(["doctor", "--extract-offsets", "/lib/modules/amdgpu.ko"])
        .output()
        .context("start gpreempt doctor")?;
    anyhow::ensure!(output.status.success(), "doctor: {}", output.status);
    let text = String::from_utf8(output.stdout).context("the profile is not UTF-8")?;
    fs::write(WHOLE, &text).context(WHOLE)?;
    hold_and_release(&["--offsets", WHOLE])?;

    let lines = text.lines().filter(|line| !line.starts_with("hold_"));
    let old: String = lines.map(|line| format!("{line}\n")).collect();
    anyhow::ensure!(
        old.len() < text.len(),
        "the profile has no offsets of holds: {text}"
    );
    fs::write(OLD, old).context(OLD)?;
    let watch = Watch::start(&["--offsets", OLD])?;
    let startup = watch.wait_for("startup", |record| record.kind == "startup")?;
    watch.stop_lossless()?;
    ensure_eq!(startup.number("probes_missed")?, 2, "probes_missed");
    for probe in startup.list("probes")? {
        if probe.text("function")?.starts_with("kfd_gpreempt_") {
            ensure_eq!(probe.data["applies"].as_bool(), Some(true), "applies");
            let reason = probe.text("reason")?;
            anyhow::ensure!(reason.contains("extract the profile again"), "{reason}");
        }
    }
    Ok(())
}

fn doctor_knows() -> anyhow::Result<()> {
    let (records, output) = doctor::examine(&mut Command::new("gpreempt"))?;
    ensure_eq!(output.status.code(), Some(0), "exit code");
    doctor::can_watch(&records)?;
    for name in ["patched", "debug-trap", "criu", "observe", "probes"] {
        ensure_eq!(
            doctor::check(&records, name)?.text("status")?,
            "ok",
            "{name}"
        );
    }
    Ok(())
}

fn by_lease() -> anyhow::Result<()> {
    let watch = Watch::start(&[])?;
    let load = Load::start(&["--profile", "simple", "--queues", "2"])?;
    let pid = load.pid();
    let device = device()?;
    hold(&device, pid, lease(100), 0)?;
    let held = told(&watch, "queues_held", pid)?;
    let released = told(&watch, "queues_released", pid)?;
    load.stop()?;
    let seen = watch.stop_lossless()?;
    check_record(&released, own_pid(), "lease", 2)?;
    // The lease runs from the call, `held_ns` from the hardware's answer to it.
    let lasted = released.number("held_ns")? + held.number("total_ns")?;
    anyhow::ensure!(
        lasted >= 90_000_000,
        "the lease of 100 ms ended after {lasted} ns"
    );
    // A worker of the kernel did it, on behalf of the owner.
    let maps = runlists(&seen, "runlist_mapped", "release", own_pid());
    ensure_eq!(maps.len(), 1, "maps by the end of the lease");
    Ok(())
}

fn by_close() -> anyhow::Result<()> {
    let watch = Watch::start(&[])?;
    let load = Load::start(&["--profile", "simple", "--queues", "2"])?;
    let pid = load.pid();
    let device = device()?;
    hold(&device, pid, lease(0), 0)?;
    drop(device);
    let released = told(&watch, "queues_released", pid)?;
    load.stop()?;
    let seen = watch.stop_lossless()?;
    check_record(&released, own_pid(), "fd_close", 2)?;
    ensure_eq!(
        runlists(&seen, "runlist_mapped", "release", own_pid()).len(),
        1,
        "maps by closing"
    );
    Ok(())
}

/// A process that holds every queue of another one until it is killed.
struct Holder(nix::unistd::Pid);

impl Holder {
    fn start(pid: u32) -> anyhow::Result<Self> {
        let (done, tell) = pipe().context("pipe")?;
        // SAFETY: the child uses this process's memory as it was, allocates (which glibc allows after a fork) and ends
        // without running anything of the test's.
        match unsafe { fork() }.context("fork")? {
            ForkResult::Parent { child } => {
                let holder = Self(child);
                drop(tell);
                let mut answer = [0];
                let told = read(&done, &mut answer).context("the holder's answer")?;
                anyhow::ensure!(told == 1 && answer == *b"y", "the holder could not hold");
                Ok(holder)
            }
            ForkResult::Child => {
                let held =
                    device().and_then(|device| Ok((hold(&device, pid, lease(0), 0)?, device)));
                let _ = write(&tell, if held.is_ok() { b"y" } else { b"n" });
                loop {
                    // With the device open. The parent has the other end of `done`'s pipe closed: nothing ever comes.
                    std::thread::park();
                    let _ = (&held, done.as_raw_fd());
                }
            }
        }
    }

    fn pid(&self) -> u32 {
        self.0.as_raw().cast_unsigned()
    }

    fn kill(&self) -> anyhow::Result<()> {
        kill(self.0, Signal::SIGKILL).context("kill the holder")
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = kill(self.0, Signal::SIGKILL);
        let _ = waitpid(self.0, None);
    }
}

fn by_death() -> anyhow::Result<()> {
    let watch = Watch::start(&[])?;
    let load = Load::start(&["--profile", "simple", "--queues", "2"])?;
    let pid = load.pid();
    let holder = Holder::start(pid)?;
    let owner = holder.pid();
    let held = told(&watch, "queues_held", pid)?;
    holder.kill()?;
    let released = told(&watch, "queues_released", pid)?;
    load.stop()?;
    let seen = watch.stop_lossless()?;
    check_record(&held, owner, "ioctl", 2)?;
    check_record(&released, owner, "owner_exit", 2)?;
    ensure_eq!(
        runlists(&seen, "runlist_mapped", "release", owner).len(),
        1,
        "maps by the owner's death"
    );
    Ok(())
}

fn by_force() -> anyhow::Result<()> {
    let watch = Watch::start(&[])?;
    let load = Load::start(&["--profile", "simple", "--queues", "2"])?;
    let pid = load.pid();
    let holder = Holder::start(pid)?;
    ensure_eq!(
        release(&device()?, pid, abi::FORCE)?,
        2,
        "queues released by force"
    );
    let released = told(&watch, "queues_released", pid)?;
    drop(holder);
    load.stop()?;
    let seen = watch.stop_lossless()?;
    check_record(&released, own_pid(), "force", 2)?;
    ensure_eq!(
        seen.kind("queues_released").len(),
        1,
        "queues_released records: the holder's death has nothing left to release"
    );
    Ok(())
}

fn by_inheritance() -> anyhow::Result<()> {
    let watch = Watch::start(&[])?;
    let mut load = Load::start(&["--profile", "simple", "--queues", "1"])?;
    let pid = load.pid();
    let device = device()?;
    hold(&device, pid, lease(0), abi::INHERIT)?;
    load.command("create compute")?;
    let inherited = watch.wait_for("queues_held of a new queue", |record| {
        record.kind == "queues_held" && record.is_of(pid) && record.data["cause"] == "inherit"
    })?;
    ensure_eq!(release(&device, pid, 0)?, 2, "queues released");
    let released = told(&watch, "queues_released", pid)?;
    load.stop()?;
    watch.stop_lossless()?;
    check_record(&inherited, own_pid(), "inherit", 1)?;
    check_record(&released, own_pid(), "ioctl", 2)?;
    released.number("held_ns")?;
    Ok(())
}

fn by_reservation() -> anyhow::Result<()> {
    let watch = Watch::start(&[])?;
    let load = Load::start(&["--profile", "simple", "--queues", "4"])?;
    let pid = load.pid();
    let gpu_id = u32::try_from(load.gpu_id()?)?;
    let device = device()?;
    let args = abi::ReserveArgs {
        gpu_id,
        op: abi::RESERVE_QUERY,
        ..abi::ReserveArgs::default()
    };
    let total = device
        .reservation(args, &mut [])
        .context("query")?
        .slots_total;
    let set = abi::ReserveArgs {
        op: abi::RESERVE_SET,
        slots_reserved: total - 3,
        // Long enough for no turn to be taken meanwhile.
        rotate_ms: 60_000,
        ..args
    };
    let mut offline = [abi::Entry {
        pid: pid.cast_signed(),
        ..abi::Entry::default()
    }];
    device.reservation(set, &mut offline).context("reserve")?;
    let parked = told(&watch, "queues_held", pid)?;
    let clear = abi::ReserveArgs {
        op: abi::RESERVE_CLEAR,
        ..args
    };
    device.reservation(clear, &mut []).context("clear")?;
    let back = told(&watch, "queues_released", pid)?;
    load.stop()?;
    let seen = watch.stop_lossless()?;
    check_record(&parked, own_pid(), "reservation", 1)?;
    check_record(&back, own_pid(), "reservation", 1)?;
    let maps = runlists(&seen, "runlist_mapped", "reserve", own_pid());
    let queues: Vec<u64> = maps
        .iter()
        .map(|map| map.number("queues"))
        .collect::<anyhow::Result<_>>()?;
    ensure_eq!(
        queues,
        [3, 4],
        "queues mapped by the reservation and its end"
    );
    Ok(())
}

/// A load as a target of control: all its queues.
fn target(load: &Load) -> anyhow::Result<Target> {
    let whole = [Selector::Pid(Pid(load.pid()))];
    let targets = select::resolve(&Root::real(), &whole, Only::default())?;
    targets.into_iter().next().context("the load is no target")
}

const WITHIN: Duration = Duration::from_secs(5);
/// For what is not to be seen.
const SHORTLY: Duration = Duration::from_millis(50);

fn confirmed(seen: &Observation, how: How) -> anyhow::Result<()> {
    anyhow::ensure!(
        seen.confirmed && seen.missing.is_empty(),
        "not seen: {seen:?}"
    );
    ensure_eq!(seen.how, how, "evidence: {seen:?}");
    Ok(())
}

fn observed() -> anyhow::Result<()> {
    let load = Load::start(&["--profile", "simple", "--queues", "3"])?;
    let (pid, targets) = (load.pid(), [target(&load)?]);
    let device = device()?;
    let (mut observer, why) = Observer::open(&Root::real(), Want::Auto);
    ensure_eq!(observer.how(), How::Events, "evidence: {why}");

    observer.begin();
    let nothing = observer.confirm(Action::Stopped, &targets, SHORTLY);
    anyhow::ensure!(
        !nothing.confirmed && nothing.calls.is_empty(),
        "seen too much: {nothing:?}"
    );
    ensure_eq!(nothing.missing.len(), 3, "queues that did not stop");

    observer.begin();
    hold(&device, pid, lease(0), 0)?;
    let stopped = observer.confirm(Action::Stopped, &targets, WITHIN);
    confirmed(&stopped, How::Events)?;
    anyhow::ensure!(
        stopped.hw_ns.is_some_and(|ns| ns > 0),
        "no hardware time: {stopped:?}"
    );
    anyhow::ensure!(
        stopped.lock_wait_ns.is_some_and(|ns| ns > 0),
        "no lock wait: {stopped:?}"
    );
    let unmap = stopped.calls.first().context("no calls")?;
    ensure_eq!(
        (unmap.kind, unmap.cause),
        (CallKind::Unmapped, Cause::Hold),
        "the call"
    );
    ensure_eq!(unmap.gpu_id, targets[0].queues[0].gpu_id, "its node");

    // Nothing to be taken off: the runlist is the judge.
    observer.begin();
    hold(&device, pid, lease(0), 0)?;
    let again = observer.confirm(Action::Stopped, &targets, WITHIN);
    confirmed(&again, How::Runlist)?;
    anyhow::ensure!(again.calls.is_empty(), "calls without a change: {again:?}");

    observer.begin();
    let early = observer.confirm(Action::Running, &targets, SHORTLY);
    anyhow::ensure!(!early.confirmed, "running while held: {early:?}");
    observer.begin();
    release(&device, pid, 0)?;
    let running = observer.confirm(Action::Running, &targets, WITHIN);
    confirmed(&running, How::Events)?;
    ensure_eq!(
        running
            .calls
            .iter()
            .filter(|call| call.kind == CallKind::Mapped)
            .count(),
        1,
        "maps"
    );
    load.stop()?;
    let gone = observer.confirm(Action::Running, &targets, WITHIN);
    anyhow::ensure!(gone.confirmed, "a process that ended is missed: {gone:?}");
    Ok(())
}

fn observed_in_runlist() -> anyhow::Result<()> {
    let load = Load::start(&["--profile", "simple", "--queues", "3"])?;
    let online = Load::start(&["--profile", "model"])?;
    let (pid, targets) = (load.pid(), [target(&load)?]);
    let device = device()?;
    let (mut observer, why) = Observer::open(&Root::real(), Want::Runlist);
    ensure_eq!(observer.how(), How::Runlist, "evidence: {why}");
    for _ in 0..3 {
        observer.begin();
        let early = observer.confirm(Action::Stopped, &targets, SHORTLY);
        anyhow::ensure!(
            !early.confirmed && early.missing.len() == 3,
            "seen too much: {early:?}"
        );
        hold(&device, pid, lease(0), 0)?;
        confirmed(
            &observer.confirm(Action::Stopped, &targets, WITHIN),
            How::Runlist,
        )?;
        observer.begin();
        let early = observer.confirm(Action::Running, &targets, SHORTLY);
        anyhow::ensure!(!early.confirmed, "running while held: {early:?}");
        release(&device, pid, 0)?;
        confirmed(
            &observer.confirm(Action::Running, &targets, WITHIN),
            How::Runlist,
        )?;
    }
    load.stop()?;
    online.stop()?;
    Ok(())
}

fn observed_often() -> anyhow::Result<()> {
    const CYCLES: u32 = 300;
    let watch = Watch::start(&["--kind", "queues_held,queues_released"])?;
    let load = Load::start(&["--profile", "simple", "--queues", "2"])?;
    let (pid, targets) = (load.pid(), [target(&load)?]);
    let device = device()?;
    let (mut observer, why) = Observer::open(&Root::real(), Want::Events);
    ensure_eq!(observer.how(), How::Events, "evidence: {why}");
    let mut spent = Duration::ZERO;
    for cycle in 0..CYCLES {
        for action in [Action::Stopped, Action::Running] {
            let started = Instant::now();
            observer.begin();
            spent += started.elapsed();
            match action {
                Action::Stopped => hold(&device, pid, lease(0), 0)?,
                Action::Running => release(&device, pid, 0)?,
            };
            let started = Instant::now();
            let seen = observer.confirm(action, &targets, WITHIN);
            spent += started.elapsed();
            confirmed(&seen, How::Events).with_context(|| format!("cycle {cycle}"))?;
        }
    }
    // Emulated, on a busy host: far more than it takes, far less than reading debugfs would.
    let each = spent / (2 * CYCLES);
    anyhow::ensure!(
        each < Duration::from_millis(5),
        "observing took {each:?} each time"
    );
    drop(observer);
    load.stop()?;
    let seen = watch.stop_lossless()?;
    let cycles = usize::try_from(CYCLES)?;
    ensure_eq!(
        seen.kind("queues_held").len(),
        cycles,
        "queues_held records"
    );
    ensure_eq!(
        seen.kind("queues_released").len(),
        cycles,
        "queues_released records"
    );
    Ok(())
}

/// Nodes beyond the first are served by workers of the kernel.
fn on_every_node() -> anyhow::Result<()> {
    let gpus = guest_gpus()?;
    anyhow::ensure!(gpus > 1, "this test needs several GPUs");
    let watch = Watch::start(&[])?;
    let load = Load::start_on(
        gpus,
        &[
            "--profile",
            "simple",
            "--queues",
            "2",
            "--gpus",
            &gpus.to_string(),
        ],
    )?;
    let (pid, targets) = (load.pid(), [target(&load)?]);
    let device = device()?;
    let (mut observer, why) = Observer::open(&Root::real(), Want::Events);
    ensure_eq!(observer.how(), How::Events, "evidence: {why}");
    observer.begin();
    hold(&device, pid, lease(0), 0)?;
    let stopped = observer.confirm(Action::Stopped, &targets, WITHIN);
    confirmed(&stopped, How::Events)?;
    observer.begin();
    release(&device, pid, 0)?;
    confirmed(
        &observer.confirm(Action::Running, &targets, WITHIN),
        How::Events,
    )?;
    load.stop()?;
    watch.wait_for_exit_of(pid)?;
    let seen = watch.stop_lossless()?;
    let distinct = |records: Vec<&Record>| -> anyhow::Result<usize> {
        let ids: std::collections::BTreeSet<u64> = records
            .iter()
            .map(|record| record.number("gpu_id"))
            .collect::<anyhow::Result<_>>()?;
        Ok(ids.len())
    };
    for (kind, records) in [
        ("queues_held", seen.of("queues_held", pid)),
        ("queues_released", seen.of("queues_released", pid)),
        (
            "runlist_unmapped",
            runlists(&seen, "runlist_unmapped", "hold", own_pid()),
        ),
        (
            "runlist_mapped",
            runlists(&seen, "runlist_mapped", "release", own_pid()),
        ),
    ] {
        ensure_eq!(records.len(), gpus, "{kind} records");
        ensure_eq!(distinct(records)?, gpus, "nodes of {kind} records");
    }
    for record in seen.of("queues_held", pid) {
        check_record(record, own_pid(), "ioctl", 2)?;
    }
    Ok(())
}

fn guest_gpus() -> anyhow::Result<usize> {
    Ok(gpreempt::kfd::topology::read(&Root::real()).len())
}

/// Suspend and resume by a debugger, pause and unpause by a checkpoint: of the process they are for, and of no other.
fn observed_on_stock() -> anyhow::Result<()> {
    let load = Load::start(&["--profile", "simple", "--queues", "3"])?;
    let other = Load::start(&["--profile", "simple", "--queues", "1"])?;
    let (targets, others) = ([target(&load)?], [target(&other)?]);
    let (mut observer, why) = Observer::open(&Root::real(), Want::Events);
    ensure_eq!(observer.how(), How::Events, "evidence: {why}");
    let options = HoldOptions {
        gpu: None,
        no_sdma: false,
        lease: Duration::from_secs(60),
    };
    let backends: [(Box<dyn Backend>, Cause); 2] = [
        (Box::new(DebugTrap::new()?), Cause::Suspend),
        (Box::new(Criu::new()?), Cause::Evict),
    ];
    for (mut backend, cause) in backends {
        let what = backend.kind();
        for _ in 0..5 {
            observer.begin();
            let outcome = backend.preempt(&targets, &options)?;
            anyhow::ensure!(outcome.complete(), "{what}: {outcome:?}");
            let stopped = observer.confirm(Action::Stopped, &targets, WITHIN);
            confirmed(&stopped, How::Events).with_context(|| format!("stop by {what}"))?;
            anyhow::ensure!(
                stopped.hw_ns.is_some_and(|ns| ns > 0),
                "{what}: no hardware time: {stopped:?}"
            );
            anyhow::ensure!(
                stopped.calls.iter().any(|call| call.cause == cause),
                "{what}: other causes: {stopped:?}"
            );
            let unharmed = observer.confirm(Action::Stopped, &others, SHORTLY);
            anyhow::ensure!(
                !unharmed.confirmed,
                "{what}: the other stopped: {unharmed:?}"
            );

            observer.begin();
            let outcome = backend.resume(&targets)?;
            anyhow::ensure!(outcome.complete(), "{what}: {outcome:?}");
            let running = observer.confirm(Action::Running, &targets, WITHIN);
            confirmed(&running, How::Events).with_context(|| format!("restart by {what}"))?;
        }
    }
    load.stop()?;
    other.stop()?;
    Ok(())
}

fn stock() -> anyhow::Result<()> {
    let watch = Watch::start(&[])?;
    let startup = watch.wait_for("startup", |record| record.kind == "startup")?;
    let load = Load::start(&["--profile", "simple", "--queues", "2"])?;
    let pid = load.pid();
    load::run(&["suspend", "--pid", &pid.to_string(), "--ms", "20"])?;
    guest::evict(pid)?;
    told(&watch, "process_restored", pid)?;
    let (records, _) = doctor::examine(&mut Command::new("gpreempt"))?;
    let patched = doctor::check(&records, "patched")?;
    ensure_eq!(
        patched.text("status")?,
        "info",
        "that the driver is not patched"
    );
    anyhow::ensure!(
        patched.data["fix"].is_string(),
        "no advice: {}",
        patched.data
    );
    load.stop()?;
    let seen = watch.stop_lossless()?;
    anyhow::ensure!(
        !seen.of("queues_suspended", pid).is_empty(),
        "no queues_suspended"
    );
    anyhow::ensure!(
        !seen.of("process_evicted", pid).is_empty(),
        "no process_evicted"
    );
    for kind in ["queues_held", "queues_released"] {
        ensure_eq!(seen.kind(kind).len(), 0, "{kind} records");
    }
    // What it does not have is not missed.
    ensure_eq!(startup.number("probes_missed")?, 0, "probes_missed");
    let probes = startup.list("probes")?;
    let not_here: Vec<_> = probes
        .iter()
        .filter(|probe| probe.data["applies"] == false)
        .collect();
    ensure_eq!(not_here.len(), 2, "probes of a patched driver");
    for probe in not_here {
        anyhow::ensure!(
            probe.text("reason")?.contains("not patched"),
            "no reason: {}",
            probe.data
        );
    }
    Ok(())
}

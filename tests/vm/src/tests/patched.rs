// SPDX-License-Identifier: MIT OR Apache-2.0
//! The patched driver as such: it says that it is patched, as user space is to find out, and it comes and goes.
//! `cargo xtask patch check` runs those whose name begins with `driver_`.

use std::fs;

use anyhow::Context;
use gpreempt::kfd::uapi;
use gpreempt::kfd::uapi::gpreempt::{self as abi, BatchArgs, Device};
use gpreempt::kfd::Root;

use super::List;
use crate::check::ensure_eq;
use crate::guest;
use crate::load;

pub(super) const TESTS: List = &[
    (
        &["patched"],
        "driver_says_its_abi_version_in_a_parameter",
        parameter,
    ),
    (&["patched"], "driver_answers_the_empty_batch", empty_batch),
    (&["patched"], "driver_runs_unpatched_jobs", jobs),
    (&["patched"], "driver_unloads_and_loads_again", reload),
    (
        &["basic"],
        "unmodified_driver_refuses_the_empty_batch",
        refused,
    ),
];

/// What tells a patched driver from others without opening it.
const PARAMETER: &str = "/sys/module/amdgpu/parameters/gpreempt_abi";

fn parameter() -> anyhow::Result<()> {
    let text = fs::read_to_string(PARAMETER).with_context(|| format!("read {PARAMETER}"))?;
    ensure_eq!(text.trim(), abi::ABI_VERSION.to_string(), "{PARAMETER}");
    anyhow::ensure!(
        fs::write(PARAMETER, "7").is_err(),
        "{PARAMETER} can be written"
    );
    Ok(())
}

/// A batch without entries changes nothing and says the version.
fn empty_batch() -> anyhow::Result<()> {
    let device = Device::new(uapi::open(&Root::real()).context("/dev/kfd")?);
    let answer = device.hold(BatchArgs::default(), &mut [])?;
    ensure_eq!(answer.abi_version, abi::ABI_VERSION, "abi_version");
    ensure_eq!(answer.num_changed, 0, "num_changed");
    ensure_eq!(answer.num_failed, 0, "num_failed");
    ensure_eq!(answer.num_nodes, 0, "num_nodes");
    Ok(())
}

/// A driver without the patches knows no such call.
fn refused() -> anyhow::Result<()> {
    anyhow::ensure!(
        fs::metadata(PARAMETER).is_err(),
        "the unmodified driver has {PARAMETER}"
    );
    let device = Device::new(uapi::open(&Root::real()).context("/dev/kfd")?);
    let refusal = device.hold(BatchArgs::default(), &mut []).err();
    ensure_eq!(refusal, Some(nix::errno::Errno::ENOTTY), "refusal");
    Ok(())
}

/// Who does not know the new calls notices nothing of them.
fn jobs() -> anyhow::Result<()> {
    for profile in ["simple", "model", "llm-worker"] {
        load::run(&["--profile", profile, "--seconds", "1"])?;
    }
    guest::wait_for_no_process()?;
    ensure_eq!(guest::stat(0, "mapped_now")?, 0, "mapped queues");
    ensure_eq!(
        guest::stat(0, "bad_packets")?,
        0,
        "packets that the simulated scheduler did not understand"
    );
    Ok(())
}

fn reload() -> anyhow::Result<()> {
    guest::unload_driver()?;
    guest::load_driver()?;
    parameter()?;
    empty_batch()
}

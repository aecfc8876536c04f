// SPDX-License-Identifier: MIT OR Apache-2.0
//! The distribution's own driver, unmodified, without a GPU: what can be attached to is attached to.

use std::process::Command;

use anyhow::Context;

use super::{doctor, List};
use crate::check::ensure_eq;
use crate::guest;
use crate::load;
use crate::record::Record;
use crate::watch::{shell_code, Watch};

const ALL: &[&str] = &["stock-6.1", "stock-6.12", "stock-7.3"];

pub(super) const TESTS: List = &[
    (ALL, "probes_attach", probes_attach),
    (
        &["stock-6.1", "stock-6.12"],
        "a_rejected_create_is_seen",
        rejected,
    ),
    (&["stock-7.3"], "a_refused_open_is_no_process", refused_open),
    (ALL, "a_load_without_gpu_says_so", load_without_gpu),
    (ALL, "doctor_knows_this_driver", doctor_knows),
    (&["stock-6.1"], "what_6_1_lacks_is_named", missing_on_6_1),
    (
        &["stock-6.12", "stock-7.3"],
        "debugger_probes_attach",
        debugger_probes,
    ),
];

fn probes(startup: &Record) -> anyhow::Result<Vec<Record>> {
    let probes = startup.list("probes")?;
    anyhow::ensure!(!probes.is_empty(), "startup lists no probes");
    Ok(probes)
}

fn startup() -> anyhow::Result<Record> {
    let watch = Watch::start(&[])?;
    let startup = watch.wait_for("startup", |record| record.kind == "startup")?;
    watch.stop_lossless()?;
    Ok(startup)
}

fn probes_attach() -> anyhow::Result<()> {
    let startup = startup()?;
    ensure_eq!(startup.text("module")?, "amdgpu", "module");
    let mut attached = 0;
    for probe in probes(&startup)? {
        let name = probe.text("function")?.to_owned();
        if probe.data["attached"] == true {
            attached += 1;
            let symbol = probe.text("symbol")?;
            let plain = symbol.split('.').next().unwrap_or_default();
            anyhow::ensure!(!plain.is_empty(), "{name} is attached to no symbol");
        } else {
            anyhow::ensure!(
                probe.data["required"] == false,
                "{name} is required and not attached: {}",
                probe.data
            );
            anyhow::ensure!(
                !probe.text("reason")?.is_empty(),
                "{name} is not attached without a reason"
            );
            anyhow::ensure!(
                !probe.text("lost_without")?.is_empty(),
                "{name}: what is lost is not said"
            );
        }
    }
    ensure_eq!(
        startup.number("probes_attached")?,
        attached,
        "probes_attached"
    );
    anyhow::ensure!(attached >= 10, "only {attached} probes are attached");
    ensure_eq!(startup.list("gpus")?.len(), 0, "GPUs");
    guest::check_kernel_log()
}

fn rejected() -> anyhow::Result<()> {
    let watch = Watch::start(&[])?;
    let lines = load::run(&["reject", "--count", "5"])?;
    let errno = lines[0].text("errno")?.to_owned();
    let pid = u32::try_from(lines[0].number("pid")?)?;
    watch.wait_for_exit_of(pid)?;
    let seen = watch.stop_lossless()?;
    let rejected = seen.of("queue_rejected", pid);
    ensure_eq!(rejected.len(), 5, "queue_rejected records");
    for record in rejected {
        ensure_eq!(record.text("op")?, "create", "op");
        ensure_eq!(record.text("errno")?, errno, "errno");
        anyhow::ensure!(record.number("total_ns")? > 0, "total_ns is 0");
    }
    ensure_eq!(
        seen.of("process_attached", pid).len(),
        1,
        "process_attached records"
    );
    Ok(())
}

/// Without a GPU, `kfd_create_process()` of 7.3 refuses every process.
fn refused_open() -> anyhow::Result<()> {
    let watch = Watch::start(&[])?;
    let output = Command::new("kfd-load")
        .arg("reject")
        .output()
        .context("start kfd-load")?;
    ensure_eq!(
        shell_code(output.status),
        69,
        "exit code of kfd-load reject"
    );
    let seen = watch.stop_lossless()?;
    let kinds: Vec<&str> = seen
        .records
        .iter()
        .map(|record| record.kind.as_str())
        .collect();
    ensure_eq!(kinds, ["startup", "summary"], "records");
    Ok(())
}

fn load_without_gpu() -> anyhow::Result<()> {
    let output = Command::new("kfd-load")
        .output()
        .context("start kfd-load")?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure_eq!(shell_code(output.status), 69, "exit code; stderr: {errors}");
    anyhow::ensure!(errors.contains("no GPU"), "it does not say why: {errors}");
    Ok(())
}

fn doctor_knows() -> anyhow::Result<()> {
    let (records, output) = doctor::examine(&mut Command::new("gpreempt"))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure_eq!(shell_code(output.status), 0, "exit code; stderr: {errors}");
    doctor::can_watch(&records)?;
    ensure_eq!(
        doctor::check(&records, "driver")?.text("status")?,
        "ok",
        "driver"
    );
    // There is none, and that is no reason not to watch.
    ensure_eq!(
        doctor::check(&records, "gpus")?.text("status")?,
        "warn",
        "gpus"
    );
    Ok(())
}

fn find<'a>(probes: &'a [Record], function: &str) -> anyhow::Result<&'a Record> {
    probes
        .iter()
        .find(|probe| probe.data["function"] == function)
        .with_context(|| format!("{function} is not among the probes"))
}

fn missing_on_6_1() -> anyhow::Result<()> {
    let probes = probes(&startup()?)?;
    for function in ["suspend_queues", "resume_queues"] {
        ensure_eq!(
            find(&probes, function)?.data["attached"].as_bool(),
            Some(false),
            "{function} attached"
        );
    }
    Ok(())
}

fn debugger_probes() -> anyhow::Result<()> {
    let probes = probes(&startup()?)?;
    for function in ["suspend_queues", "resume_queues"] {
        ensure_eq!(
            find(&probes, function)?.data["attached"].as_bool(),
            Some(true),
            "{function} attached"
        );
    }
    Ok(())
}

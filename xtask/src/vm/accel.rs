// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whether hardware virtualization works here. That `/dev/kvm` exists proves little: nested inside another
//! hypervisor it may freeze or abort. So a kernel is booted once with it, and the verdict kept until the host
//! boots again.

use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::project::Project;
use crate::setup::tools::Tools;
use crate::ui;

/// A kernel with KVM gets there in about a second.
const DEADLINE: Duration = Duration::from_secs(15);

/// What a kernel without a root file system says when it has booted to the end.
const MARKER: &str = "Unable to mount root fs";

/// How a guest's instructions are executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Accel {
    Kvm,
    Tcg,
}

impl Accel {
    /// Arguments for QEMU.
    pub(crate) fn arguments(self, icount: bool) -> &'static [&'static str] {
        match self {
            _ if icount => &[
                "-accel",
                "tcg,thread=single",
                "-icount",
                "shift=0,sleep=off",
                "-cpu",
                "max",
            ],
            Self::Kvm => &["-accel", "kvm", "-cpu", "host"],
            Self::Tcg => &["-accel", "tcg,thread=multi", "-cpu", "max"],
        }
    }
}

/// The accelerator to use: `GPREEMPT_ACCEL` (`kvm` or `tcg`), the kept verdict, or that of a trial.
pub(crate) fn choose(project: &Project, tools: &Tools, kernel: &Path) -> Result<Accel> {
    match std::env::var("GPREEMPT_ACCEL").as_deref() {
        Ok("kvm") => return Ok(Accel::Kvm),
        Ok("tcg") => return Ok(Accel::Tcg),
        Ok(other) => anyhow::bail!("GPREEMPT_ACCEL is {other:?}; it may be kvm or tcg"),
        Err(_) => {}
    }
    if fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .is_err()
    {
        return Ok(Accel::Tcg);
    }
    let boot_id =
        fs::read_to_string("/proc/sys/kernel/random/boot_id").context("read the host's boot id")?;
    let kept = project.cache.join("accel");
    if let Some(verdict) = fs::read_to_string(&kept)
        .ok()
        .and_then(|text| parse_verdict(&text, boot_id.trim()))
    {
        return Ok(verdict);
    }
    let works = try_kvm(tools, kernel)?;
    let (accel, word) = if works {
        (Accel::Kvm, "kvm")
    } else {
        (Accel::Tcg, "tcg")
    };
    ui::note(if works {
        "guests run with KVM"
    } else {
        "KVM does not work here: guests run emulated (TCG), which is slower"
    });
    fs::write(&kept, format!("{} {word}\n", boot_id.trim()))
        .with_context(|| format!("write {}", kept.display()))?;
    Ok(accel)
}

fn parse_verdict(text: &str, boot_id: &str) -> Option<Accel> {
    match text.trim().split_once(' ')? {
        (id, "kvm") if id == boot_id => Some(Accel::Kvm),
        (id, "tcg") if id == boot_id => Some(Accel::Tcg),
        _ => None,
    }
}

/// Boots a kernel with KVM until it misses its root file system.
fn try_kvm(tools: &Tools, kernel: &Path) -> Result<bool> {
    let dir = tempfile::tempdir().context("create a directory for the trial")?;
    let console = dir.path().join("console");
    let mut child = tools
        .command("qemu-system-x86_64")?
        .args(tools.qemu_data())
        .args([
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
            "-machine",
            "q35",
            "-m",
            "512",
        ])
        .args(Accel::Kvm.arguments(false))
        .arg("-kernel")
        .arg(kernel)
        .args(["-append", "console=ttyS0 panic=-1", "-serial"])
        .arg(format!("file:{}", console.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("start QEMU")?;
    let started = Instant::now();
    let works = loop {
        if super::console::read(&console).contains(MARKER) {
            break true;
        }
        let gone = child.try_wait().context("wait for QEMU")?.is_some();
        if gone || started.elapsed() > DEADLINE {
            // The marker may have come between the two looks.
            break super::console::read(&console).contains(MARKER);
        }
        thread::sleep(Duration::from_millis(50));
    };
    end(&mut child);
    Ok(works)
}

/// Kills QEMU without waiting for ever: one that froze in the kernel may not die.
fn end(child: &mut Child) {
    let _ = child.kill();
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(5) {
        if matches!(child.try_wait(), Ok(Some(_)) | Err(_)) {
            return;
        }
        thread::sleep(Duration::from_millis(20));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_holds_for_its_boot_only() {
        assert_eq!(parse_verdict("abc kvm\n", "abc"), Some(Accel::Kvm));
        assert_eq!(parse_verdict("abc tcg\n", "abc"), Some(Accel::Tcg));
        assert_eq!(parse_verdict("abc kvm\n", "def"), None);
        assert_eq!(parse_verdict("", "abc"), None);
        assert_eq!(parse_verdict("abc maybe", "abc"), None);
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! A Debian that boots in a guest: its packages' files, and what their scripts would have made. Its systemd runs the agent as a service.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::cpio::Cpio;
use super::initramfs::{pack_tree, read, replace, MERGED};
use crate::project::Project;
use crate::setup::digest;

/// What PID 1 becomes when it has loaded the driver.
pub(super) const INIT: [&str; 3] = [
    "/usr/lib/systemd/systemd",
    "--log-level=notice",
    "--show-status=no",
];

/// What takes time at boot and is of no use in a guest: nobody logs in, nothing is stored.
const MASKED: &[&str] = &[
    "getty.target",
    "remote-fs.target",
    "systemd-ask-password-wall.path",
    "systemd-journal-flush.service",
    "modprobe@.service",
    "systemd-logind.service",
    "systemd-modules-load.service",
    "systemd-random-seed.service",
    "systemd-remount-fs.service",
    "systemd-sysctl.service",
    "systemd-tmpfiles-clean.timer",
    "systemd-update-utmp.service",
    "systemd-update-utmp-runlevel.service",
    "systemd-user-sessions.service",
    "sys-kernel-config.mount",
    "sys-fs-fuse-connections.mount",
    "dev-hugepages.mount",
    "dev-mqueue.mount",
];

/// The agent, in a guest whose PID 1 is systemd.
const AGENT_UNIT: &str = "\
[Unit]
Description=Runs the host's commands
After=multi-user.target
SuccessAction=poweroff-immediate
FailureAction=poweroff-immediate

[Service]
ExecStart=/init agent
KillMode=process

[Install]
WantedBy=multi-user.target
";

/// A Debian that boots: what its packages' scripts would have made is made here.
pub(super) fn segment(project: &Project, root: &Path) -> Result<PathBuf> {
    // What is written below is part of it.
    let key = digest::of_parts([include_bytes!("system.rs").as_slice()]);
    let archive = root.with_extension(format!("{}.cpio", &key[..8]));
    if archive.is_file() {
        return Ok(archive);
    }
    project.need_room(400_000_000)?;
    let mut cpio = Cpio::new(Vec::new());
    cpio.directory("usr")?;
    for name in MERGED {
        // Before anything is put into it.
        cpio.directory(&format!("usr/{name}"))?;
        cpio.link(name, &format!("usr/{name}"))?;
    }
    pack_tree(&mut cpio, root, root)?;
    let users = root.join("usr/share/base-passwd");
    cpio.file("etc/passwd", 0o644, &read(&users.join("passwd.master"))?)?;
    let mut groups = read(&users.join("group.master"))?;
    // What udev's package makes.
    groups.extend_from_slice(b"render:x:106:\n");
    cpio.file("etc/group", 0o644, &groups)?;
    // A first boot would ask who it is.
    cpio.file(
        "etc/machine-id",
        0o444,
        b"0123456789abcdef0123456789abcdef\n",
    )?;
    cpio.directory("etc/systemd/system/multi-user.target.wants")?;
    cpio.link(
        "etc/systemd/system/default.target",
        "/usr/lib/systemd/system/multi-user.target",
    )?;
    for unit in MASKED {
        cpio.link(&format!("etc/systemd/system/{unit}"), "/dev/null")?;
    }
    cpio.file(
        "etc/systemd/system/guest-agent.service",
        0o644,
        AGENT_UNIT.as_bytes(),
    )?;
    cpio.link(
        "etc/systemd/system/multi-user.target.wants/guest-agent.service",
        "../guest-agent.service",
    )?;
    replace(&archive, &cpio.finish()?)?;
    Ok(archive)
}

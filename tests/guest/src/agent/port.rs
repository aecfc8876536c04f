// SPDX-License-Identifier: MIT OR Apache-2.0
//! The virtio-serial port. Without udev there is no `/dev/virtio-ports/<name>`: sysfs knows the name.

use std::fs::{self, File, OpenOptions};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use guest::plan::PORT_NAME;

/// The name of a port arrives in a message of its own, some time after the device.
const DEADLINE: Duration = Duration::from_secs(10);

/// Opens the channel to the host.
pub(crate) fn open() -> Result<File> {
    let started = Instant::now();
    let path = loop {
        if let Some(path) = find() {
            break path;
        }
        anyhow::ensure!(
            started.elapsed() < DEADLINE,
            "no virtio port named {PORT_NAME} in /sys/class/virtio-ports: is virtio_console loaded?"
        );
        thread::sleep(Duration::from_millis(5));
    };
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .with_context(|| format!("open {}", path.display()))
}

fn find() -> Option<PathBuf> {
    let ports = fs::read_dir("/sys/class/virtio-ports").ok()?;
    let port = ports.flatten().find(|port| {
        fs::read_to_string(port.path().join("name")).is_ok_and(|name| name.trim() == PORT_NAME)
    })?;
    let path = PathBuf::from("/dev").join(port.file_name());
    path.exists().then_some(path)
}

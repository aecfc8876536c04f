// SPDX-License-Identifier: MIT OR Apache-2.0
//! The module that carries amdkfd, seen from sysfs: presence, version, parameters.

use super::Root;

/// Presence and version of the amdgpu module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// Version if it has one (out-of-tree builds do), else srcversion.
    pub version: Option<String>,
}

/// The amdgpu module, if amdkfd is there.
#[must_use]
pub fn loaded(root: &Root) -> Option<Module> {
    // /sys/class/kfd appears in kfd_chardev_init: amdgpu without it was built without amdkfd.
    if !root.exists("/sys/class/kfd/kfd") {
        return None;
    }
    let version = ["version", "srcversion"]
        .iter()
        .find_map(|file| root.text(&format!("/sys/module/amdgpu/{file}")).ok())
        .filter(|version| !version.is_empty());
    Some(Module { version })
}

/// A parameter of the module, as sysfs shows it.
#[must_use]
pub fn parameter(root: &Root, name: &str) -> Option<String> {
    root.text(&format!("/sys/module/amdgpu/parameters/{name}")).ok()
}

/// Whether this kernel could load amdgpu: its module file is installed.
#[must_use]
pub fn installed(root: &Root) -> Option<String> {
    let kernel = root.text("/proc/sys/kernel/osrelease").ok()?;
    let dep = root.text(&format!("/lib/modules/{kernel}/modules.dep")).ok()?;
    dep.lines().find_map(|line| {
        let path = line.split(':').next()?;
        let file = path.rsplit('/').next()?;
        (file.split('.').next() == Some("amdgpu")).then(|| format!("/lib/modules/{kernel}/{path}"))
    })
}

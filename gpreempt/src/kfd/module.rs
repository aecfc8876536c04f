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
    root.text(&format!("/sys/module/amdgpu/parameters/{name}"))
        .ok()
}

/// Whether the driver schedules without the hardware's scheduler (`KFD_SCHED_POLICY_NO_HWS` is 2): there are no runlists then.
#[must_use]
pub fn is_without_hws(root: &Root) -> bool {
    parameter(root, "sched_policy").as_deref() == Some("2")
}

/// Whether the GPUs are simulated: only that driver has this parameter.
#[must_use]
pub fn is_simulated(root: &Root) -> bool {
    parameter(root, "sim_gpus").is_some()
}

/// Processes that the scheduler takes at once, no more than that: the parameter `hws_max_conc_proc`. By default (-1) the number of
/// VMIDs decides, which no file tells; where it is less than the parameter it decides too (`kgd2kfd_device_init`, Linux 6.12).
#[must_use]
pub fn max_processes(root: &Root) -> Option<u32> {
    let set: i64 = parameter(root, "hws_max_conc_proc")?.parse().ok()?;
    u32::try_from(set).ok().map(|set| set.max(1))
}

/// Whether this kernel could load amdgpu: its module file is installed.
#[must_use]
pub fn installed(root: &Root) -> Option<String> {
    let kernel = root.text("/proc/sys/kernel/osrelease").ok()?;
    let dep = root
        .text(&format!("/lib/modules/{kernel}/modules.dep"))
        .ok()?;
    dep.lines().find_map(|line| {
        let path = line.split(':').next()?;
        let file = path.rsplit('/').next()?;
        (file.split('.').next() == Some("amdgpu")).then(|| format!("/lib/modules/{kernel}/{path}"))
    })
}

/// Why there is no driver, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Absent {
    /// Why.
    pub why: String,
    /// What to do.
    pub fix: String,
}

/// Says why amdkfd is not there.
#[must_use]
pub fn absent(root: &Root) -> Absent {
    let kernel = root
        .text("/proc/sys/kernel/osrelease")
        .unwrap_or_else(|_| "this kernel".to_owned());
    let (why, fix) = if root.exists("/sys/module/amdgpu") {
        (
            "amdgpu is loaded without amdkfd, its compute part".to_owned(),
            "use a kernel with CONFIG_HSA_AMD".to_owned(),
        )
    } else if let Some(path) = installed(root) {
        (
            format!("the amdgpu driver is installed but not loaded ({path})"),
            "`modprobe amdgpu`".to_owned(),
        )
    } else {
        (
            format!("no amdgpu driver is loaded, and none is installed for {kernel}"),
            "install it".to_owned(),
        )
    };
    Absent { why, fix }
}

/// Names of amdgpu's symbols in the text of `/proc/kallsyms`.
pub fn symbols(kallsyms: &str) -> impl Iterator<Item = &str> {
    kallsyms.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace().skip(2);
        let name = words.next()?;
        (words.next() == Some("[amdgpu]")).then_some(name)
    })
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! What PID 1 has to do in a guest before it serves commands. Written by the host, read at boot.

use serde::{Deserialize, Serialize};

/// Where the plan lies in the initramfs.
pub const PLAN_PATH: &str = "/etc/guest.json";

/// What PID 1 noticed, a line each, for an agent that is started by somebody else.
pub const PROBLEMS_PATH: &str = "/run/guest-problems";

/// Name of the virtio-serial port that carries the [frames](crate::frame).
pub const PORT_NAME: &str = "gpreempt.channel";

/// The directory of the decompressed kernel modules, each as `<name>.ko`.
pub const MODULE_DIR: &str = "/lib/modules";

/// Everything PID 1 does beyond mounting the usual file systems.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootPlan {
    /// Modules to load, in this order.
    pub modules: Vec<Module>,
    /// Programs that run beside the commands of the host, started when the modules are loaded.
    pub background: Vec<Background>,
    /// The program that becomes PID 1 afterwards, with its arguments: an init system, which starts the agent as a service of its own.
    #[serde(default)]
    pub then: Vec<String>,
}

/// A kernel module to load.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Module {
    /// File name without directory and `.ko`.
    pub name: String,
    /// Module parameters, blank separated `key=value` pairs.
    pub params: String,
}

/// A program that runs beside the commands of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Background {
    /// What it is called: its output goes to `/var/log/<name>.log`.
    pub name: String,
    /// Program and arguments.
    pub argv: Vec<String>,
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! Restarts processes by the means by which they were stopped.

use nix::errno::Errno;

use super::serve::{Healer, Healing, Watched};
use crate::control::{criu, debug_trap, why, BackendKind, ControlError};
use crate::kfd::{process, Root};

/// On the running system.
#[derive(Debug)]
pub struct System(Root);

impl System {
    /// On the running system.
    #[must_use]
    pub fn new() -> Self {
        Self(Root::real())
    }
}

impl Default for System {
    fn default() -> Self {
        Self::new()
    }
}

impl Healer for System {
    fn heal(&mut self, target: &Watched, controller_lives: bool) -> Healing {
        let root = &self.0;
        if !process::is_alive(root, target.pid, target.start_ticks) {
            return Healing::Done(None);
        }
        match target.backend {
            // The driver releases when the controller's address space goes.
            BackendKind::Patched if controller_lives => {
                Healing::Later("held by the controller".to_owned())
            }
            // Likewise a job that no longer hears from the controller.
            BackendKind::Patched | BackendKind::Agent | BackendKind::DryRun => Healing::Done(None),
            BackendKind::DebugTrap | BackendKind::Criu => {
                if let Some(tracer) = process::tracer(root, target.pid) {
                    let tracer = why::tracer_name(root, tracer);
                    return Healing::Later(format!("traced by {tracer}"));
                }
                if target.backend == BackendKind::Criu {
                    unpause(root, target)
                } else {
                    undebug(target)
                }
            }
        }
    }
}

fn unpause(root: &Root, target: &Watched) -> Healing {
    match criu::heal(root, target.pid, target.start_ticks) {
        Ok(true) => Healing::Done(Some("its queues run again".to_owned())),
        Ok(false) => Healing::Done(None),
        Err(refusal) => match refusal.errno {
            // It ended, it is none of the driver's any more, or never had a GPU.
            Some(Errno::ESRCH | Errno::ENOENT | Errno::ENODEV | Errno::EBADF)
                if refusal.call != "pidfd_open" =>
            {
                Healing::Done(None)
            }
            _ => Healing::Later(refusal.to_string()),
        },
    }
}

/// The driver ends debugging with the controller's address space, or the controller has ended it. This is for what they leave: a
/// tracer thread that died alone, an address space that somebody else keeps for a while (reading `/proc/PID/mem` does), and a process
/// that waits for an answer. Where nothing is left the driver logs that nobody debugs the process.
fn undebug(target: &Watched) -> Healing {
    match debug_trap::debug_disable(target.pid) {
        // From Linux 7.3 on only the debugger may: the controller, who still lives then.
        Err(ControlError::NoPermission { .. }) => {
            Healing::Later("its debugger has not ended yet".to_owned())
        }
        disabled => {
            let answered = debug_trap::blocked_in_runtime_enable(target.pid) > 0;
            let restarted = disabled.is_ok_and(|was_debugged| was_debugged) || answered;
            Healing::Done(restarted.then(|| "it goes on without its debugger".to_owned()))
        }
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! Being asked to stop, and not outliving the parent.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::libc;
use nix::sys::signal::{sigaction, SaFlags, SigAction, SigHandler, SigSet, Signal};

use crate::failure::CallError;

static STOP: AtomicBool = AtomicBool::new(false);

extern "C" fn note_stop(_signal: libc::c_int) {
    STOP.store(true, Ordering::Relaxed);
}

/// Makes SIGINT and SIGTERM set a flag and interrupt waits (no `SA_RESTART`).
pub fn catch_signals() -> Result<(), CallError> {
    let action = SigAction::new(
        SigHandler::Handler(note_stop),
        SaFlags::empty(),
        SigSet::empty(),
    );
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        // SAFETY: the handler only stores to an atomic.
        unsafe { sigaction(signal, &action) }
            .map_err(|errno| CallError::new("sigaction", errno))?;
    }
    Ok(())
}

/// Whether SIGINT or SIGTERM came.
pub fn requested() -> bool {
    STOP.load(Ordering::Relaxed)
}

/// Makes the kernel kill the child when the thread that spawns it ends, so that nothing keeps queues after a test died.
pub fn die_with_parent(command: &mut Command) -> &mut Command {
    let parent = std::process::id();
    // SAFETY: prctl and getppid are async-signal-safe, and nothing is allocated.
    unsafe {
        command.pre_exec(move || {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                return Err(io::Error::last_os_error());
            }
            // The parent may have died before the call above.
            if libc::getppid() as u32 != parent {
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
            Ok(())
        })
    }
}

/// Sets this process's name (`comm`) to any bytes but NUL; the kernel keeps the first 15.
pub fn set_name(name: &[u8]) -> anyhow::Result<()> {
    let name = std::ffi::CString::new(name)?;
    nix::sys::prctl::set_name(&name).map_err(|errno| CallError::new("prctl", errno))?;
    Ok(())
}

/// Leaves a file open in the program that replaces this one by `exec`.
pub fn keep_open_over_exec(file: &std::fs::File) -> Result<(), CallError> {
    use nix::fcntl::{fcntl, FcntlArg, FdFlag};
    fcntl(file, FcntlArg::F_SETFD(FdFlag::empty()))
        .map(drop)
        .map_err(|errno| CallError::new("fcntl", errno))
}

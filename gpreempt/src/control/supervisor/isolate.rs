// SPDX-License-Identifier: MIT OR Apache-2.0
//! Makes the supervisor a process that nothing meant for others reaches.

use std::ffi::c_int;

/// Signals by which people and service managers end, stop or question a whole group of processes. SIGKILL and SIGSTOP cannot be
/// ignored: who sends these to the supervisor means it.
const IGNORED: &[c_int] = &[
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGTERM,
    libc::SIGPIPE,
    libc::SIGALRM,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGTSTP,
    libc::SIGTTIN,
    libc::SIGTTOU,
];

/// Own session, so that no terminal and no process group reaches it; no signals; no descriptors but 0 to 2; no directory; not the
/// one that is killed when memory runs out, if this program may say so. To be called before anything is opened.
pub(super) fn isolate() {
    // SAFETY: plain system calls on integers and constant strings. Descriptors above 2 were inherited, nothing here owns them.
    unsafe {
        for signal in IGNORED {
            libc::signal(*signal, libc::SIG_IGN);
        }
        // Fails only for a leader of a group, which is out of reach of the controller's group just as well.
        libc::setsid();
        libc::chdir(c"/".as_ptr());
        libc::prctl(libc::PR_SET_NAME, c"gpreempt-guard".as_ptr());
        libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, 0_u32);
    }
    // Wants CAP_SYS_RESOURCE.
    let _ = std::fs::write("/proc/self/oom_score_adj", "-900");
}

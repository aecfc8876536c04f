// SPDX-License-Identifier: MIT OR Apache-2.0
//! `gpreempt preempt`, `resume` and `reserve` under a test's control, and what they say that they did.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::Context;
use gpreempt::control::BackendKind;
use nix::sys::signal::Signal;

use crate::json_child::{tail, JsonChild};
use crate::record::Record;
use crate::watch::shell_code;

/// A list of tests, each once for every backend: `patched` on the patched driver, the others on the unmodified one.
macro_rules! for_each_backend {
    ($($name:literal: $run:path),+ $(,)?) => {
        &[$(
            (&["patched"], concat!($name, "_by_patched"), || $run(gpreempt::control::BackendKind::Patched)),
            (&["control"], concat!($name, "_by_debug_trap"), || $run(gpreempt::control::BackendKind::DebugTrap)),
            (&["control"], concat!($name, "_by_criu"), || $run(gpreempt::control::BackendKind::Criu)),
        )+]
    };
}
pub(crate) use for_each_backend;

/// Longer than any test takes: for holds that the test itself ends.
pub(crate) const UNTIL_TOLD: [&str; 2] = ["--for", "600"];

/// A running verb that prints records.
pub(crate) struct Preemption {
    child: JsonChild,
}

/// How one ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) records: Vec<Record>,
    pub(crate) errors: String,
}

impl Preemption {
    /// Starts `gpreempt preempt --backend KIND --format json` with more `args`. Success is seen in the runlist unless they say
    /// otherwise: attaching probes takes a second under emulation.
    pub(crate) fn start(kind: BackendKind, args: &[&str]) -> anyhow::Result<Self> {
        let mut how = vec!["--backend", kind.name()];
        if !args.contains(&"--observe") {
            how.extend(["--observe", "runlist"]);
        }
        Self::verb("preempt", &[&how, args].concat())
    }

    /// Starts one of the verbs with `--format json` and more `args`.
    pub(crate) fn verb(verb: &str, args: &[&str]) -> anyhow::Result<Self> {
        Self::spawn(Command::new("gpreempt"), verb, args)
    }

    /// Same as another user.
    pub(crate) fn verb_as(uid: u32, verb: &str, args: &[&str]) -> anyhow::Result<Self> {
        let mut command = Command::new("gpreempt");
        command.uid(uid).gid(uid);
        Self::spawn(command, verb, args)
    }

    /// Starts `preempt` as leader of a process group, as a shell does.
    pub(crate) fn in_own_group(kind: BackendKind, args: &[&str]) -> anyhow::Result<Self> {
        let mut command = Command::new("gpreempt");
        command.process_group(0);
        Self::spawn(
            command,
            "preempt",
            &[&["--backend", kind.name()], args].concat(),
        )
    }

    fn spawn(mut command: Command, verb: &str, args: &[&str]) -> anyhow::Result<Self> {
        // Options stand before the command that is to run.
        command.args([verb, "--format", "json"]).args(args);
        Ok(Self {
            child: JsonChild::start(command)?,
        })
    }

    /// Starts a hold of the processes with these pids that the test ends, and waits until they are held.
    pub(crate) fn hold(kind: BackendKind, pids: &[u32]) -> anyhow::Result<Self> {
        Self::hold_with(kind, pids, &[])
    }

    /// Same with more `args`.
    pub(crate) fn hold_with(
        kind: BackendKind,
        pids: &[u32],
        args: &[&str],
    ) -> anyhow::Result<Self> {
        let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
        let mut all = Vec::from(UNTIL_TOLD);
        for pid in &pids {
            all.extend(["--pid", pid]);
        }
        all.extend(args);
        let preemption = Self::start(kind, &all)?;
        let record = preemption.preempted()?;
        for target in record.list("targets")? {
            anyhow::ensure!(
                target.text("status")? == "held",
                "not held: {}",
                target.data
            );
        }
        Ok(preemption)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// Waits for the first record of this kind.
    pub(crate) fn wait_for(&self, kind: &str) -> anyhow::Result<Record> {
        self.child.wait_for(kind, |records| {
            records.iter().find(|record| record.kind == kind).cloned()
        })
    }

    /// Waits until it says that queues are stopped.
    pub(crate) fn preempted(&self) -> anyhow::Result<Record> {
        self.wait_for("preempted")
    }

    /// Whether it has said that they run again.
    pub(crate) fn has_resumed(&self) -> bool {
        let records = self.child.records();
        records.iter().any(|record| record.kind == "resumed")
    }

    pub(crate) fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        self.child.signal(signal)
    }

    /// Ends it as Ctrl-C does. Checks that it says so.
    pub(crate) fn release(self) -> anyhow::Result<Ended> {
        self.signal(Signal::SIGINT)?;
        let ended = self.finish()?.expect(128 + Signal::SIGINT as i32)?;
        let resumed = ended.one("resumed")?;
        anyhow::ensure!(
            resumed.text("cause")? == "signal",
            "cause {} after a signal",
            resumed.data["cause"]
        );
        for target in resumed.list("targets")? {
            anyhow::ensure!(
                target.text("status")? == "released",
                "not released: {}",
                target.data
            );
        }
        Ok(ended)
    }

    /// Kills it. Waits until it is gone.
    pub(crate) fn kill(mut self) -> anyhow::Result<Ended> {
        // ESRCH is impossible: nobody waited for it yet.
        self.child.signal(Signal::SIGKILL)?;
        self.end()
    }

    /// Waits for its end.
    pub(crate) fn finish(mut self) -> anyhow::Result<Ended> {
        self.end()
    }

    fn end(&mut self) -> anyhow::Result<Ended> {
        let status = self.child.wait_exit()?;
        Ok(Ended {
            code: shell_code(status),
            records: self.child.records(),
            errors: self.child.errors(),
        })
    }
}

impl Ended {
    /// Demands this exit code.
    pub(crate) fn expect(self, code: i32) -> anyhow::Result<Self> {
        anyhow::ensure!(
            self.code == code,
            "exit code {} instead of {code}; records {:?}; stderr: {:?}",
            self.code,
            self.records,
            tail(&self.errors)
        );
        Ok(self)
    }

    /// The only record of this kind.
    pub(crate) fn one(&self, kind: &str) -> anyhow::Result<&Record> {
        let mut of_kind = self.records.iter().filter(|record| record.kind == kind);
        let first = of_kind.next().with_context(|| {
            format!(
                "no {kind} record; {:?}; stderr: {:?}",
                self.records,
                tail(&self.errors)
            )
        })?;
        anyhow::ensure!(of_kind.next().is_none(), "several {kind} records");
        Ok(first)
    }

    /// Demands that standard error has all these words.
    pub(crate) fn says(self, words: &[&str]) -> anyhow::Result<Self> {
        for word in words {
            anyhow::ensure!(
                self.errors.contains(word),
                "stderr does not say {word:?}: {:?}",
                tail(&self.errors)
            );
        }
        Ok(self)
    }
}

/// Runs a verb to its end.
pub(crate) fn run(verb: &str, args: &[&str]) -> anyhow::Result<Ended> {
    Preemption::verb(verb, args)?.finish()
}

/// Runs `preempt` by these means to its end.
pub(crate) fn preempt(kind: BackendKind, args: &[&str]) -> anyhow::Result<Ended> {
    Preemption::start(kind, args)?.finish()
}

/// The entry of a `preempted` or `resumed` record about one process as a whole.
pub(crate) fn target_of(record: &Record, pid: u32) -> anyhow::Result<Record> {
    record
        .list("targets")?
        .into_iter()
        .find(|target| target.is_of(pid))
        .with_context(|| format!("process {pid} is not among the targets: {}", record.data))
}

/// What became of one process.
pub(crate) fn status_of(record: &Record, pid: u32) -> anyhow::Result<String> {
    Ok(target_of(record, pid)?.text("status")?.to_owned())
}

/// The supervisor processes there are.
pub(crate) fn supervisors() -> anyhow::Result<Vec<u32>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").context("read /proc")? {
        let name = entry.context("read /proc")?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // It may have ended meanwhile. A zombie's is empty.
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        if line.split(|byte| *byte == 0).nth(1) == Some(b"supervise".as_slice()) {
            found.push(pid);
        }
    }
    Ok(found)
}

/// A user without any privilege.
pub(crate) const USER: u32 = 1000;

/// Another one.
pub(crate) const OTHER_USER: u32 = 1001;

/// Lets every user open the GPU's devices, as membership of the group `render` does on a real machine. Dropping it takes that
/// back.
pub(crate) struct OpenToAll;

impl OpenToAll {
    const DEVICES: [&str; 2] = ["/dev/kfd", "/dev/dri/renderD128"];

    pub(crate) fn new() -> anyhow::Result<Self> {
        Self::set(0o666)?;
        Ok(Self)
    }

    fn set(mode: u32) -> anyhow::Result<()> {
        for device in Self::DEVICES {
            std::fs::set_permissions(device, std::fs::Permissions::from_mode(mode))
                .with_context(|| format!("chmod {device}"))?;
        }
        Ok(())
    }
}

impl Drop for OpenToAll {
    fn drop(&mut self) {
        if let Err(error) = Self::set(0o600) {
            eprintln!("vm-tests: {error:#}");
        }
    }
}

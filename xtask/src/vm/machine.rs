// SPDX-License-Identifier: MIT OR Apache-2.0
//! A running guest: QEMU, its console log, its channel, and the time it may take.

use std::fs;
use std::io::{ErrorKind, Read};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use guest::frame::{Ready, ToGuest, ToHost};
use guest::plan::PORT_NAME;
use nix::sys::signal::Signal;

use super::config::Guest;
use super::console::{self, Finding};
use super::{accel, initramfs};
use crate::project::Project;
use crate::setup::tools::Tools;
use crate::ui;

/// A guest that is not ready by then never will be: emulated, the slowest (stock driver) takes half a minute.
const BOOT_DEADLINE: Duration = Duration::from_secs(240);

/// How long a guest may take to power off before it is killed.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(10);

/// Console logs kept in the build output.
const KEPT_LOGS: usize = 40;

/// What every guest's kernel is told. `quiet`: printing through an emulated serial port would take most of the
/// boot; PID 1 turns the messages on.
const KERNEL_ARGUMENTS: &str =
    "console=ttyS0 quiet loglevel=4 panic=-1 mitigations=off audit=0 tsc=reliable";

/// The guest is gone: that says nothing about the command that ran in it.
#[derive(Debug, thiserror::Error)]
#[error("VM lost: {why}\n  console log: {log}\n  last lines:\n{tail}", log = log.display())]
pub(crate) struct Lost {
    why: String,
    log: PathBuf,
    tail: String,
    /// PID 1 had begun.
    started: bool,
}

/// A guest that serves commands.
pub(crate) struct Machine {
    qemu: Child,
    channel: UnixStream,
    log: PathBuf,
    deadline: Instant,
    ready: Ready,
    // Holds the initramfs and the channel's socket.
    _dir: tempfile::TempDir,
}

impl Machine {
    /// Boots the guest, and once more if its kernel dies before it runs a program. After `deadline` it is ended, whatever it does.
    pub(crate) fn boot(
        project: &Project,
        tools: &Tools,
        guest: &Guest,
        deadline: Duration,
    ) -> Result<Self> {
        match Self::boot_once(project, tools, guest, deadline) {
            Err(error)
                if error
                    .downcast_ref::<Lost>()
                    .is_some_and(|lost| !lost.started) =>
            {
                ui::warn(&format!(
                    "the guest's kernel died before it ran a program, which emulation brings about now and then: once more. {error}"
                ));
                Self::boot_once(project, tools, guest, deadline)
            }
            other => other,
        }
    }

    fn boot_once(
        project: &Project,
        tools: &Tools,
        guest: &Guest,
        deadline: Duration,
    ) -> Result<Self> {
        let kernel = guest.kernel.image()?;
        let accel = accel::choose(project, tools, &kernel)?;
        let dir = tempfile::Builder::new()
            .prefix("gpreempt-vm-")
            .tempdir()
            .context("create a directory for the guest")?;
        let initrd = dir.path().join("initramfs.cpio");
        initramfs::write(project, tools, guest, &initrd)?;
        let socket = dir.path().join("channel");
        let listener = UnixListener::bind(&socket)
            .with_context(|| format!("listen on {}", socket.display()))?;
        listener.set_nonblocking(true).context("listen for QEMU")?;
        let log = new_log(project, &guest.label)?;

        let mut command = tools.command("qemu-system-x86_64")?;
        command
            .args(tools.qemu_data())
            .args(accel.arguments(guest.hardware.icount))
            .args(arguments(guest, &kernel, &initrd, &socket, &log));
        let started = Instant::now();
        let mut qemu = spawn(&mut command, &log)?;
        let boot_deadline = started + BOOT_DEADLINE.min(deadline);
        let channel = match accept(&listener, &mut qemu, boot_deadline) {
            Ok(channel) => channel,
            Err(error) => {
                end(&mut qemu);
                return Err(lost(format!("{error:#}"), &log).into());
            }
        };
        match first_frame(&channel, boot_deadline) {
            Ok(ready) => Ok(Self {
                qemu,
                channel,
                log,
                deadline: started + deadline,
                ready,
                _dir: dir,
            }),
            Err(error) => {
                end(&mut qemu);
                Err(lost(format!("{error:#}"), &log).into())
            }
        }
    }

    /// What the guest said when it was ready.
    pub(crate) fn ready(&self) -> &Ready {
        &self.ready
    }

    /// The channel, for one more user.
    pub(super) fn channel(&self) -> Result<UnixStream> {
        self.channel.try_clone().context("duplicate the channel")
    }

    /// When the guest's time is over.
    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Ends the guest at once and says why and where its log is.
    pub(super) fn lose(&mut self, why: &str) -> Lost {
        // What the kernel says about its own end arrives a little later than the end of the channel.
        let patience = Instant::now() + Duration::from_millis(500);
        while Instant::now() < patience && matches!(self.qemu.try_wait(), Ok(None)) {
            thread::sleep(Duration::from_millis(10));
        }
        let why = match self.qemu.try_wait() {
            Ok(Some(status)) if !status.success() => format!("{why} (QEMU ended with {status})"),
            _ => why.to_owned(),
        };
        end(&mut self.qemu);
        lost(why, &self.log)
    }

    /// Powers the guest off and returns its kernel's complaints.
    pub(crate) fn shut_down(mut self) -> Vec<Finding> {
        let asked = ToGuest::Shutdown.write_to(&mut &self.channel).is_ok();
        let patience = Instant::now() + SHUTDOWN_DEADLINE;
        while asked && Instant::now() < patience && matches!(self.qemu.try_wait(), Ok(None)) {
            thread::sleep(Duration::from_millis(5));
        }
        end(&mut self.qemu);
        self.findings()
    }

    /// The kernel's complaints so far.
    pub(crate) fn findings(&self) -> Vec<Finding> {
        console::findings(&console::read(&self.log))
    }

    /// Where the console is logged.
    pub(crate) fn log(&self) -> &Path {
        &self.log
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        end(&mut self.qemu);
    }
}

fn arguments(
    guest: &Guest,
    kernel: &Path,
    initrd: &Path,
    socket: &Path,
    log: &Path,
) -> Vec<String> {
    let hardware = &guest.hardware;
    let cpus = if hardware.icount { 1 } else { hardware.cpus };
    let mut arguments: Vec<String> = [
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-no-reboot",
        "-machine",
        "q35",
    ]
    .map(str::to_owned)
    .into();
    let mut option = |name: &str, value: String| arguments.extend([name.to_owned(), value]);
    option("-m", hardware.memory_mb.to_string());
    option("-smp", cpus.to_string());
    option("-kernel", kernel.display().to_string());
    option("-initrd", initrd.display().to_string());
    option("-append", KERNEL_ARGUMENTS.to_owned());
    option("-serial", format!("file:{}", log.display()));
    option(
        "-chardev",
        format!("socket,id=channel,path={}", socket.display()),
    );
    option("-device", "virtio-serial-pci".to_owned());
    option(
        "-device",
        format!("virtserialport,chardev=channel,name={PORT_NAME}"),
    );
    arguments
}

/// Starts QEMU so that it neither outlives xtask nor gets the terminal's signals.
fn spawn(command: &mut Command, log: &Path) -> Result<Child> {
    let words = fs::File::create(log.with_extension("qemu.log")).context("create QEMU's log")?;
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(words)
        .process_group(0);
    let die_with_parent = || nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(Into::into);
    // SAFETY: the closure runs between fork and exec and makes one system call, which is safe there.
    unsafe { command.pre_exec(die_with_parent) };
    command.spawn().context("start QEMU")
}

/// Waits for QEMU to connect to the channel.
fn accept(listener: &UnixListener, qemu: &mut Child, deadline: Instant) -> Result<UnixStream> {
    loop {
        match listener.accept() {
            Ok((channel, _)) => {
                channel
                    .set_nonblocking(false)
                    .context("set up the channel")?;
                return Ok(channel);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error).context("accept QEMU's connection"),
        }
        if let Some(status) = qemu.try_wait().context("wait for QEMU")? {
            anyhow::bail!("QEMU did not start: {status}");
        }
        anyhow::ensure!(
            Instant::now() < deadline,
            "QEMU did not open the channel in time"
        );
        thread::sleep(Duration::from_millis(5));
    }
}

/// Waits for the guest to be ready.
fn first_frame(channel: &UnixStream, deadline: Instant) -> Result<Ready> {
    let mut channel = Timed { channel, deadline };
    let frame = ToHost::read_from(&mut channel);
    channel
        .channel
        .set_read_timeout(None)
        .context("set up the channel")?;
    match frame {
        Ok(Some(ToHost::Ready(ready))) => Ok(ready),
        Ok(Some(frame)) => anyhow::bail!("the guest began with {frame:?}"),
        Ok(None) => anyhow::bail!("the guest ended while it booted"),
        Err(error) if error.kind() == ErrorKind::TimedOut => {
            anyhow::bail!("the guest was not ready in time")
        }
        Err(error) => Err(error).context("the guest did not boot"),
    }
}

/// Reads that end at a deadline.
struct Timed<'a> {
    channel: &'a UnixStream,
    deadline: Instant,
}

impl Read for Timed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        self.channel.set_read_timeout(Some(left))?;
        self.channel
            .read(buffer)
            .map_err(|error| match error.kind() {
                ErrorKind::WouldBlock => ErrorKind::TimedOut.into(),
                _ => error,
            })
    }
}

fn lost(why: String, log: &Path) -> Lost {
    let text = console::read(log);
    let fatal = console::findings(&text)
        .into_iter()
        .find(|finding| finding.fatal);
    let why = fatal.map_or(why.clone(), |finding| format!("{} ({why})", finding.line));
    let words = console::read(&log.with_extension("qemu.log"));
    let lines = console::last_lines(&text, 15)
        .into_iter()
        .chain(console::last_lines(&words, 5));
    let tail: Vec<String> = lines.map(|line| format!("    {line}")).collect();
    Lost {
        why,
        log: log.to_path_buf(),
        started: text.contains(guest::STARTED),
        tail: tail.join("\n"),
    }
}

/// Kills QEMU without waiting for ever.
fn end(qemu: &mut Child) {
    if matches!(qemu.try_wait(), Ok(Some(_))) {
        return;
    }
    let _ = qemu.kill();
    let patience = Instant::now() + Duration::from_secs(5);
    while Instant::now() < patience && matches!(qemu.try_wait(), Ok(None)) {
        thread::sleep(Duration::from_millis(5));
    }
}

/// A new console log in the build output; old ones make room.
fn new_log(project: &Project, label: &str) -> Result<PathBuf> {
    let dir = project.target.join("vm");
    fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    let mut old: Vec<_> = fs::read_dir(&dir)
        .with_context(|| format!("read {}", dir.display()))?
        .flatten()
        .filter_map(|file| Some((file.metadata().ok()?.modified().ok()?, file.path())))
        .collect();
    old.sort();
    for (_, path) in old.iter().rev().skip(2 * KEPT_LOGS) {
        let _ = fs::remove_file(path);
    }
    let file = tempfile::Builder::new()
        .prefix(&format!("{label}-"))
        .suffix(".log")
        .tempfile_in(&dir);
    let (_, path) = file
        .context("create a console log")?
        .keep()
        .context("create a console log")?;
    Ok(path)
}

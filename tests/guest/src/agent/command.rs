// SPDX-License-Identifier: MIT OR Apache-2.0
//! One command of the host: its process, its input, its signals and its end.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;

use anyhow::{Context, Result};
use guest::frame::{Exec, Exit, ToGuest, ToHost};
use nix::sys::signal::{killpg, Signal};
use nix::unistd::Pid;

use super::output::{Stop, Stream};
use super::terminal::Terminal;
use super::Sender;
use crate::boot::SEARCH_PATH;

/// A command that was started.
pub(super) struct Running {
    group: Pid,
    /// `None` ends the input.
    input: mpsc::Sender<Option<Vec<u8>>>,
    terminal: Option<Terminal>,
    stdout: Stop,
    stderr: Option<Stop>,
}

/// The agent's ends of the command's streams.
struct Ends {
    stdin: OwnedFd,
    stdout: OwnedFd,
    stderr: Option<OwnedFd>,
}

impl Running {
    /// Starts the command and the threads that carry its streams.
    pub(super) fn start(exec: &Exec, sender: &Sender) -> Result<Self> {
        let (program, arguments) = exec.argv.split_first().context("the command is empty")?;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env_clear()
            .env("PATH", SEARCH_PATH)
            .env("HOME", "/root")
            .env("USER", "root")
            .env("SHELL", "/bin/sh")
            .envs(exec.env.iter().map(|(name, value)| (name, value)))
            .current_dir(&exec.cwd);

        let terminal = exec.tty.map(Terminal::open).transpose()?;
        let (child, ends) = match &terminal {
            Some(terminal) => spawn_on_terminal(&mut command, terminal),
            None => spawn_on_pipes(&mut command),
        }
        .with_context(|| format!("start {program}"))?;
        let group = Pid::from_raw(child.id().try_into().context("pid of the command")?);

        let (stdout, stdout_thread) = Stream::start(ends.stdout, ToHost::Stdout, sender.clone())?;
        let stderr = ends
            .stderr
            .map(|end| Stream::start(end, ToHost::Stderr, sender.clone()))
            .transpose()?;
        let (stderr, stderr_thread) = stderr.unzip();

        let (input, received) = mpsc::channel();
        let input_sender = sender.clone();
        let on_terminal = terminal.is_some();
        thread::spawn(move || {
            carry_input(
                File::from(ends.stdin),
                on_terminal,
                &received,
                &input_sender,
            )
        });

        let stops = [Some(stdout.clone()), stderr.clone()];
        let exit_sender = sender.clone();
        thread::spawn(move || {
            let exit = wait(child);
            // Everything the command wrote is in the pipes now; what a child it left behind writes later is not its own.
            stops.iter().flatten().for_each(Stop::finish);
            for thread in [Some(stdout_thread), stderr_thread].into_iter().flatten() {
                let _ = thread.join();
            }
            let _ = exit_sender.send(&ToHost::Exit(exit));
        });
        Ok(Self {
            group,
            input,
            terminal,
            stdout,
            stderr,
        })
    }

    /// Does what the host asks for while the command runs. Nothing here waits.
    pub(super) fn handle(&self, frame: ToGuest) {
        match frame {
            ToGuest::Stdin(bytes) => {
                let _ = self.input.send(Some(bytes));
            }
            ToGuest::StdinEof => {
                let _ = self.input.send(None);
            }
            ToGuest::Resize(size) => {
                if let Some(terminal) = &self.terminal {
                    terminal.resize(size);
                }
            }
            ToGuest::Signal(number) => {
                // It may have ended meanwhile; then there is nobody to tell.
                if let Ok(signal) = Signal::try_from(number) {
                    let _ = killpg(self.group, signal);
                }
            }
            ToGuest::CloseStdout => self.stdout.close(),
            ToGuest::CloseStderr => self.stderr.iter().for_each(Stop::close),
            ToGuest::Exec(_) | ToGuest::Shutdown => {}
        }
    }
}

fn spawn_on_terminal(command: &mut Command, terminal: &Terminal) -> Result<(Child, Ends)> {
    let child = terminal.spawn(command)?;
    let end = || {
        terminal
            .master()
            .try_clone()
            .context("duplicate the terminal")
    };
    Ok((
        child,
        Ends {
            stdin: end()?,
            stdout: end()?,
            stderr: None,
        },
    ))
}

fn spawn_on_pipes(command: &mut Command) -> Result<(Child, Ends)> {
    command
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let ends = Ends {
        stdin: child
            .stdin
            .take()
            .context("no pipe to the command's input")?
            .into(),
        stdout: child
            .stdout
            .take()
            .context("no pipe from the command's output")?
            .into(),
        stderr: Some(
            child
                .stderr
                .take()
                .context("no pipe from the command's error output")?
                .into(),
        ),
    };
    Ok((child, ends))
}

/// Writes input to the command as fast as it reads, and lets the host send more.
fn carry_input(
    file: File,
    on_terminal: bool,
    received: &Receiver<Option<Vec<u8>>>,
    sender: &Sender,
) {
    let mut file = Some(file);
    while let Ok(message) = received.recv() {
        match message {
            Some(bytes) => {
                // A command that closed its input gets no more, but the host must not wait for it.
                if file
                    .as_mut()
                    .is_some_and(|file| file.write_all(&bytes).is_err())
                {
                    file = None;
                }
                let _ = sender.send(&ToHost::StdinCredit(bytes.len() as u32));
            }
            None if on_terminal => {
                // A terminal has no end; its end-of-file character says the same.
                if let Some(file) = &mut file {
                    let _ = file.write_all(&[0x04]);
                }
            }
            None => file = None,
        }
    }
}

fn wait(mut child: Child) -> Exit {
    match child.wait() {
        Ok(status) => exit_of(status),
        Err(error) => Exit::NotStarted(format!("wait for the command: {error}")),
    }
}

fn exit_of(status: ExitStatus) -> Exit {
    match (status.code(), status.signal()) {
        (Some(code), _) => Exit::Code(code),
        (None, Some(signal)) => Exit::Signal(signal),
        (None, None) => Exit::NotStarted(format!(
            "the command ended with the unknown status {status}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_code_and_signal_are_told_apart() {
        assert_eq!(exit_of(ExitStatus::from_raw(3 << 8)), Exit::Code(3));
        assert_eq!(exit_of(ExitStatus::from_raw(15)), Exit::Signal(15));
    }
}

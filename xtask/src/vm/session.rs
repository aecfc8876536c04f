// SPDX-License-Identifier: MIT OR Apache-2.0
//! One command in a guest, with its streams, signals and end connected to this process.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use anyhow::Result;
use guest::frame::{Exec, Exit, ToGuest, ToHost, STDIN_WINDOW};
use nix::sys::signal::Signal;

use super::machine::Machine;
use super::signals::Directed;
use super::terminal::{self, Raw};
use crate::ui;

/// So many interrupts end a guest that does not react to them.
const IMPATIENCE: u32 = 3;

/// Variables of the host that change how programs print.
const PASSED_ON: &[&str] = &[
    "TERM",
    "COLORTERM",
    "NO_COLOR",
    "RUST_BACKTRACE",
    "RUST_LOG",
];

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    Code(i32),
    Signal(i32),
    /// The user lost patience and the guest was ended with it.
    Aborted,
}

impl Ending {
    /// As a shell would report it.
    pub(crate) fn exit_code(self) -> u8 {
        match self {
            Self::Code(code) => u8::try_from(code & 0xff).unwrap_or(1),
            Self::Signal(signal) => 128u8.saturating_add(u8::try_from(signal).unwrap_or(127)),
            Self::Aborted => 130,
        }
    }
}

/// A command to run and where its streams go.
pub(crate) struct Session {
    argv: Vec<String>,
    stdout: Box<dyn Write + Send>,
    stderr: Box<dyn Write + Send>,
    input: Input,
    tty: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Input {
    Nothing,
    Ours,
}

/// What the main thread waits for.
pub(super) enum Event {
    Exit(Exit),
    Gone(String),
    Signal(Signal),
}

impl Session {
    /// A command with the streams of this process, on a terminal if we are on one.
    pub(crate) fn interactive(argv: Vec<String>) -> Self {
        Self {
            argv,
            stdout: Box::new(std::io::stdout()),
            stderr: Box::new(std::io::stderr()),
            input: Input::Ours,
            tty: terminal::is_interactive(),
        }
    }

    /// A command without input whose output goes to these writers.
    pub(crate) fn captured(
        argv: Vec<String>,
        stdout: Box<dyn Write + Send>,
        stderr: Box<dyn Write + Send>,
    ) -> Self {
        Self {
            argv,
            stdout,
            stderr,
            input: Input::Nothing,
            tty: false,
        }
    }

    /// Runs the command to its end.
    ///
    /// # Errors
    /// [`super::Lost`] when the guest ended first, by itself or at its deadline.
    pub(crate) fn run(self, machine: &mut Machine) -> Result<Ending> {
        let (events, happened) = mpsc::channel();
        let _signals = Directed::to(events.clone())?;
        let exec = Exec {
            argv: self.argv.clone(),
            env: PASSED_ON
                .iter()
                .filter_map(|&name| Some((name.to_owned(), std::env::var(name).ok()?)))
                .collect(),
            cwd: "/root".to_owned(),
            tty: self.tty.then(terminal::size),
        };
        let to_guest = Outgoing(Arc::new(Mutex::new(machine.channel()?)));
        if to_guest.send(&ToGuest::Exec(exec)).is_err() {
            return Err(machine
                .lose("the guest was gone before the command started")
                .into());
        }
        // Restored when this function is left, whichever way.
        let raw = self.tty.then(Raw::enter).transpose()?;

        let credit = Credit::new(STDIN_WINDOW);
        let incoming = Incoming {
            channel: machine.channel()?,
            stdout: Some(self.stdout),
            stderr: Some(self.stderr),
            to_guest: to_guest.clone(),
            credit: credit.clone(),
        };
        thread::spawn(move || {
            let event = incoming.run();
            let _ = events.send(event);
        });
        match self.input {
            Input::Ours => {
                let to_guest = to_guest.clone();
                thread::spawn(move || send_input(&to_guest, &credit));
            }
            Input::Nothing => to_guest.send_or_forget(&ToGuest::StdinEof),
        }

        let result = wait(machine, &happened, &to_guest, self.tty);
        drop(raw);
        match result? {
            Outcome::Exit(Exit::Code(code)) => Ok(Ending::Code(code)),
            Outcome::Exit(Exit::Signal(signal)) => Ok(Ending::Signal(signal)),
            Outcome::Exit(Exit::NotStarted(why)) => {
                eprintln!("guest: {why}");
                Ok(Ending::Code(127))
            }
            Outcome::Aborted => Ok(Ending::Aborted),
        }
    }
}

enum Outcome {
    Exit(Exit),
    Aborted,
}

/// Waits for the end, and passes signals on meanwhile.
fn wait(
    machine: &mut Machine,
    happened: &mpsc::Receiver<Event>,
    to_guest: &Outgoing,
    tty: bool,
) -> Result<Outcome> {
    let mut interrupts = 0;
    loop {
        let left = machine.deadline().saturating_duration_since(Instant::now());
        match happened.recv_timeout(left) {
            Ok(Event::Exit(exit)) => return Ok(Outcome::Exit(exit)),
            Ok(Event::Gone(why)) => return Err(machine.lose(&why).into()),
            Ok(Event::Signal(Signal::SIGWINCH)) => {
                if tty {
                    to_guest.send_or_forget(&ToGuest::Resize(terminal::size()));
                }
            }
            Ok(Event::Signal(signal)) => {
                interrupts += 1;
                if interrupts >= IMPATIENCE {
                    ui::note("interrupted again: ending the guest");
                    machine.lose("ended by the user");
                    return Ok(Outcome::Aborted);
                }
                to_guest.send_or_forget(&ToGuest::Signal(signal as i32));
            }
            Err(RecvTimeoutError::Timeout) => {
                return Err(machine.lose("its deadline passed").into())
            }
            Err(RecvTimeoutError::Disconnected) => {
                return Err(machine
                    .lose("nobody listens to the channel any more")
                    .into())
            }
        }
    }
}

/// The channel's sending half.
#[derive(Clone)]
struct Outgoing(Arc<Mutex<UnixStream>>);

impl Outgoing {
    fn send(&self, frame: &ToGuest) -> std::io::Result<()> {
        let channel = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        frame.write_to(&mut &*channel)
    }

    /// For frames that a guest which is gone need not get: the thread that reads notices.
    fn send_or_forget(&self, frame: &ToGuest) {
        let _ = self.send(frame);
    }
}

/// The channel's receiving half. It writes the output itself, so that a reader who is slow slows the command
/// down and nothing piles up.
struct Incoming {
    channel: UnixStream,
    stdout: Option<Box<dyn Write + Send>>,
    stderr: Option<Box<dyn Write + Send>>,
    to_guest: Outgoing,
    credit: Credit,
}

impl Incoming {
    /// Carries frames until the command has ended.
    fn run(mut self) -> Event {
        loop {
            match ToHost::read_from(&mut self.channel) {
                Ok(Some(ToHost::Exit(exit))) => return Event::Exit(exit),
                Ok(Some(ToHost::Stdout(bytes))) => {
                    if !put(&mut self.stdout, &bytes) {
                        self.to_guest.send_or_forget(&ToGuest::CloseStdout);
                    }
                }
                Ok(Some(ToHost::Stderr(bytes))) => {
                    if !put(&mut self.stderr, &bytes) {
                        self.to_guest.send_or_forget(&ToGuest::CloseStderr);
                    }
                }
                Ok(Some(ToHost::StdinCredit(bytes))) => self.credit.add(bytes as usize),
                Ok(Some(ToHost::Log(text))) => ui::note(&format!("guest: {text}")),
                Ok(Some(ToHost::Ready(_))) => {
                    return Event::Gone("the guest started anew".to_owned())
                }
                Ok(None) => return Event::Gone("the guest ended".to_owned()),
                Err(error) => return Event::Gone(format!("the channel broke: {error}")),
            }
        }
    }
}

/// Writes output; false the moment its reader turns out to be gone.
fn put(out: &mut Option<Box<dyn Write + Send>>, bytes: &[u8]) -> bool {
    let Some(writer) = out else { return true };
    if writer
        .write_all(bytes)
        .and_then(|()| writer.flush())
        .is_ok()
    {
        return true;
    }
    *out = None;
    false
}

/// Sends our input to the guest, never more than it has room for.
fn send_input(to_guest: &Outgoing, credit: &Credit) {
    let mut stdin = std::io::stdin().lock();
    let mut buffer = vec![0; STDIN_WINDOW / 4];
    loop {
        let length = match stdin.read(&mut buffer) {
            Ok(0) => return to_guest.send_or_forget(&ToGuest::StdinEof),
            Ok(length) => length,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(_) => return to_guest.send_or_forget(&ToGuest::StdinEof),
        };
        credit.take(length);
        if to_guest
            .send(&ToGuest::Stdin(buffer[..length].to_vec()))
            .is_err()
        {
            return;
        }
    }
}

/// Bytes of input that may still be sent.
#[derive(Clone)]
struct Credit(Arc<(Mutex<usize>, Condvar)>);

impl Credit {
    fn new(bytes: usize) -> Self {
        Self(Arc::new((Mutex::new(bytes), Condvar::new())))
    }

    fn add(&self, bytes: usize) {
        *self.0 .0.lock().unwrap_or_else(PoisonError::into_inner) += bytes;
        self.0 .1.notify_all();
    }

    /// Waits until so many bytes may be sent.
    fn take(&self, bytes: usize) {
        let left = self.0 .0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut left = self
            .0
             .1
            .wait_while(left, |left| *left < bytes)
            .unwrap_or_else(PoisonError::into_inner);
        *left -= bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn endings_become_exit_codes_as_in_a_shell() {
        assert_eq!(Ending::Code(3).exit_code(), 3);
        assert_eq!(Ending::Code(77).exit_code(), 77);
        assert_eq!(Ending::Signal(15).exit_code(), 143);
        assert_eq!(Ending::Aborted.exit_code(), 130);
    }

    #[test]
    fn input_waits_for_credit() {
        let credit = Credit::new(10);
        credit.take(10);
        let other = credit.clone();
        let waiter = thread::spawn(move || other.take(5));
        thread::sleep(Duration::from_millis(20));
        assert!(!waiter.is_finished());
        credit.add(5);
        waiter.join().unwrap();
    }

    #[test]
    fn output_without_reader_is_reported_once() {
        struct Broken;
        impl Write for Broken {
            fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
                Err(std::io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let mut out: Option<Box<dyn Write + Send>> = Some(Box::new(Broken));
        assert!(!put(&mut out, b"x"));
        assert!(
            put(&mut out, b"x"),
            "what nobody reads is dropped without another word"
        );
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! A program that prints JSON lines: started, waited for, ended.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;

use crate::record::Record;

/// How long anything may take under emulation on a busy host. Only failures wait this long.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

#[derive(Default)]
struct State {
    records: Vec<Record>,
    /// A line that was no JSON.
    garbage: Option<String>,
    ended: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// The running program.
pub(crate) struct JsonChild {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    shared: Arc<Shared>,
    errors: Arc<Mutex<String>>,
    readers: Vec<JoinHandle<()>>,
}

impl JsonChild {
    /// Starts `command` with its output captured; it dies with the test.
    pub(crate) fn start(mut command: Command) -> anyhow::Result<Self> {
        let name = format!("{command:?}");
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = workload::stop::die_with_parent(&mut command)
            .spawn()
            .with_context(|| format!("start {name}"))?;
        let shared = Arc::new(Shared::default());
        let errors = Arc::new(Mutex::new(String::new()));
        let stdout = child.stdout.take().context("no stdout")?;
        let mut stderr = child.stderr.take().context("no stderr")?;
        let (out, err) = (Arc::clone(&shared), Arc::clone(&errors));
        let readers = vec![
            std::thread::spawn(move || {
                for line in BufReader::new(stdout).split(b'\n') {
                    let Ok(line) = line else { break };
                    let line = String::from_utf8_lossy(&line);
                    let mut state = out.lock();
                    match Record::parse(&line) {
                        Ok(record) => state.records.push(record),
                        Err(_) => state.garbage = Some(line.into_owned()),
                    }
                    out.changed.notify_all();
                }
                out.lock().ended = true;
                out.changed.notify_all();
            }),
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(count @ 1..) = stderr.read(&mut buffer) {
                    let mut text = err
                        .lock()
                        .unwrap_or_else(std::sync::PoisonError::into_inner);
                    text.push_str(&String::from_utf8_lossy(&buffer[..count]));
                }
            }),
        ];
        let stdin = child.stdin.take();
        Ok(Self {
            name,
            child,
            stdin,
            shared,
            errors,
            readers,
        })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything printed so far.
    pub(crate) fn records(&self) -> Vec<Record> {
        self.shared.lock().records.clone()
    }

    /// What it wrote to standard error so far.
    pub(crate) fn errors(&self) -> String {
        self.errors
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .clone()
    }

    /// Waits until `find` finds something in what was printed.
    ///
    /// # Errors
    /// If the program ended or the deadline passed without it; says what was printed last.
    pub(crate) fn wait_for<T>(
        &self,
        what: &str,
        mut find: impl FnMut(&[Record]) -> Option<T>,
    ) -> anyhow::Result<T> {
        let until = Instant::now() + DEADLINE;
        let mut state = self.shared.lock();
        loop {
            if let Some(line) = &state.garbage {
                anyhow::bail!(
                    "{} printed a line that is no JSON record: {line:?}",
                    self.name
                );
            }
            if let Some(found) = find(&state.records) {
                return Ok(found);
            }
            let left = until.saturating_duration_since(Instant::now());
            if state.ended || left.is_zero() {
                let why = if state.ended {
                    "it ended"
                } else {
                    "the deadline passed"
                };
                let last: Vec<String> = state
                    .records
                    .iter()
                    .rev()
                    .take(8)
                    .rev()
                    .map(describe)
                    .collect();
                let errors = self.errors();
                anyhow::bail!(
                    "waited for {what} from {}: {why}; last records: [{}]; stderr: {:?}",
                    self.name,
                    last.join(", "),
                    tail(&errors)
                );
            }
            state = self
                .shared
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .0;
        }
    }

    /// Writes a line to its standard input.
    pub(crate) fn send(&mut self, line: &str) -> anyhow::Result<()> {
        let stdin = self.stdin.as_mut().context("standard input is closed")?;
        writeln!(stdin, "{line}")
            .and_then(|()| stdin.flush())
            .with_context(|| format!("send {line:?} to {}", self.name))
    }

    pub(crate) fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal)
            .with_context(|| format!("{signal} to {}", self.name))
    }

    /// Waits for its end and for the last of its output.
    pub(crate) fn wait_exit(&mut self) -> anyhow::Result<ExitStatus> {
        let until = Instant::now() + DEADLINE;
        let status = loop {
            if let Some(status) = self.child.try_wait().context("wait")? {
                break status;
            }
            anyhow::ensure!(
                Instant::now() < until,
                "{} did not end; stderr: {:?}",
                self.name,
                tail(&self.errors())
            );
            std::thread::sleep(Duration::from_millis(10));
        };
        for reader in self.readers.drain(..) {
            reader
                .join()
                .map_err(|_| anyhow::anyhow!("reader panicked"))?;
        }
        if let Some(line) = &self.shared.lock().garbage {
            anyhow::bail!(
                "{} printed a line that is no JSON record: {line:?}",
                self.name
            );
        }
        Ok(status)
    }
}

impl Drop for JsonChild {
    fn drop(&mut self) {
        // Already ended in a test that passed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn describe(record: &Record) -> String {
    format!("{} {}", record.kind, tail(&record.data.to_string()))
}

/// The last part of a long text.
pub(crate) fn tail(text: &str) -> &str {
    const LONGEST: usize = 600;
    let mut start = text.len().saturating_sub(LONGEST);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    &text[start..]
}

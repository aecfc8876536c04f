// SPDX-License-Identifier: MIT OR Apache-2.0
//! `top` on a terminal: what it shows of a load, its keys, and the terminal after it.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::pty::{openpty, OpenptyResult, Winsize};
use nix::sys::signal::{kill, Signal};
use nix::sys::termios::{tcgetattr, LocalFlags, Termios};
use nix::unistd::Pid;

use super::List;
use crate::check::ensure_eq;
use crate::guest;
use crate::json_child::DEADLINE;
use crate::load::Load;
use crate::watch::shell_code;

pub(super) const TESTS: List = &[
    (&["basic"], "top_shows_queues_and_obeys_keys", shows),
    (
        &["basic"],
        "top_gives_the_terminal_back_on_a_signal",
        signal,
    ),
    (&["basic"], "top_tells_findings", tells_findings),
    (&["basic"], "top_of_a_user_shows_what_there_is", of_a_user),
];

const NOBODY: u32 = 65534;

/// How often the screen is drawn anew to be looked at.
const AGAIN: Duration = Duration::from_millis(500);

/// Moves the cursor home and clears: what follows is the whole screen.
const CLEAR: &str = "\u{1b}[2J";

/// A `gpreempt top` and its terminal.
struct Top {
    child: Child,
    pair: OpenptyResult,
    before: Termios,
    keys: File,
    output: Arc<Mutex<Vec<u8>>>,
}

impl Top {
    fn start(command: &mut Command) -> anyhow::Result<Self> {
        let size = Winsize {
            ws_row: 30,
            ws_col: 120,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let pair = openpty(Some(&size), None).context("open a pseudo-terminal")?;
        let before = tcgetattr(&pair.slave).context("read the terminal's settings")?;
        let slave = || anyhow::Ok(Stdio::from(pair.slave.try_clone()?));
        command
            .args(["top", "--interval", "250ms"])
            .env("TERM", "xterm")
            .env("NO_COLOR", "1")
            .stdin(slave()?)
            .stdout(slave()?)
            .stderr(slave()?);
        let child = workload::stop::die_with_parent(command)
            .spawn()
            .context("start gpreempt top")?;
        let output = Arc::new(Mutex::new(Vec::new()));
        let mut master = File::from(pair.master.try_clone()?);
        let keys = master.try_clone()?;
        let sink = Arc::clone(&output);
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = master.read(&mut buffer) {
                let mut output = sink.lock().unwrap_or_else(PoisonError::into_inner);
                output.extend_from_slice(&buffer[..count]);
            }
        });
        Ok(Self {
            child,
            pair,
            before,
            keys,
            output,
        })
    }

    fn output(&self) -> String {
        let output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&output).into_owned()
    }

    fn press(&mut self, keys: &str) -> anyhow::Result<()> {
        self.keys.write_all(keys.as_bytes()).context("press a key")
    }

    /// Waits until the screen, drawn anew each time, has all of these words.
    fn wait_for(&mut self, words: &[&str]) -> anyhow::Result<()> {
        let deadline = Instant::now() + DEADLINE;
        loop {
            // Ctrl-L: without it only what has changed is written.
            self.press("\u{c}")?;
            std::thread::sleep(AGAIN);
            let output = self.output();
            let screens: Vec<&str> = output.split(CLEAR).skip(1).collect();
            if screens
                .iter()
                .rev()
                .take(2)
                .any(|screen| words.iter().all(|word| screen.contains(word)))
            {
                return Ok(());
            }
            let ended = self.child.try_wait()?;
            anyhow::ensure!(
                ended.is_none() && Instant::now() < deadline,
                "no {words:?} on the screen; ended: {ended:?}; last: {:?}",
                screens.last().unwrap_or(&output.as_str())
            );
        }
    }

    fn wait_exit(&mut self) -> anyhow::Result<ExitStatus> {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            anyhow::ensure!(Instant::now() < deadline, "gpreempt top does not end");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits for its end with this code, and demands the terminal as it was.
    fn finish(mut self, code: i32) -> anyhow::Result<()> {
        let status = self.wait_exit()?;
        ensure_eq!(shell_code(status), code, "exit code; {:?}", self.output());
        let after = tcgetattr(&self.pair.slave).context("read the terminal's settings")?;
        anyhow::ensure!(after == self.before, "{:?} became {after:?}", self.before);
        let deadline = Instant::now() + DEADLINE;
        // The thread that reads the terminal may be a little behind.
        while !["\u{1b}[?1049l", "\u{1b}[?25h"]
            .iter()
            .all(|end| self.output().contains(end))
        {
            anyhow::ensure!(
                Instant::now() < deadline,
                "the screen was not given back: {:?}",
                self.output()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}

fn shows() -> anyhow::Result<()> {
    let load = Load::start(&["--profile", "model"])?;
    let process = format!("kfd-load[{}]", load.pid());
    let gpu = format!("{:x}:", load.gpu_id()?);
    let mut top = Top::start(&mut Command::new("gpreempt"))?;
    top.wait_for(&[&process, &gpu, "compute", "LATENCY", "events/s"])?;
    let raw = tcgetattr(&top.pair.slave).context("read the terminal's settings")?;
    anyhow::ensure!(
        !raw.local_flags.contains(LocalFlags::ICANON),
        "keys are not read one by one"
    );
    top.press("\r")?;
    top.wait_for(&[&process, "priority", "Hardware"])?;
    top.press("q?")?;
    top.wait_for(&["Keys", "Columns"])?;
    top.press("q/kfd\r")?;
    top.wait_for(&[&process])?;
    top.press("q")?;
    top.finish(0)?;
    load.stop()?;
    Ok(())
}

fn tells_findings() -> anyhow::Result<()> {
    let slots = guest::stat(0, "slots_total")?;
    let few = (slots - 1).to_string();
    let first = Load::start(&["--profile", "simple", "--queues", &few, "--rate", "1"])?;
    let mut top = Top::start(&mut Command::new("gpreempt"))?;
    // Blanks are moves of the cursor: single words.
    // What is lost is told when probes are attached.
    top.wait_for(&["lost", "used", &few])?;
    top.press("f")?;
    top.wait_for(&["Findings", "Scroll"])?;
    // The first of its queues fits.
    let second = Load::start(&["--profile", "simple", "--queues", "2", "--rate", "1"])?;
    let culprit = format!("kfd-load[{}]", second.pid());
    let told = ["WARN", "(f)", "OVERSUBSCRIBED", "oversubscribed"];
    top.wait_for(&[told.as_slice(), &["crossed", &culprit]].concat())?;
    // Slots take register reads, which keep no key waiting.
    top.press("s")?;
    top.wait_for(&["reading", "Scroll"])?;
    top.press("qq")?;
    top.finish(0)?;
    second.stop()?;
    first.stop().map(drop)
}

fn signal() -> anyhow::Result<()> {
    let mut top = Top::start(&mut Command::new("gpreempt"))?;
    top.wait_for(&["GPU", "queues"])?;
    let pid = Pid::from_raw(top.child.id().try_into()?);
    kill(pid, Signal::SIGTERM).context("end gpreempt top")?;
    top.finish(128 + 15)
}

fn of_a_user() -> anyhow::Result<()> {
    let load = Load::start(&["--profile", "simple"])?;
    let mut top = Top::start(Command::new("gpreempt").uid(NOBODY).gid(NOBODY))?;
    top.wait_for(&["pictures", &format!("{:x}", load.gpu_id()?)])?;
    top.press("q")?;
    top.finish(0)?;
    load.stop()?;
    Ok(())
}

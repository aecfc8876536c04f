// SPDX-License-Identifier: MIT OR Apache-2.0
//! Runs the host's commands, one at a time, and carries their streams over the channel.
//!
//! The thread that reads the channel never waits for anything else, so a signal reaches a command that
//! is stuck in its input or output.

mod command;
mod output;
mod port;
mod terminal;

use std::fs::{self, File};
use std::io::{self, BufReader};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use guest::frame::{Ready, ToGuest, ToHost};

use command::Running;

/// The channel's sending half, shared by the threads that have something to say.
#[derive(Clone)]
struct Sender(Arc<Mutex<File>>);

impl Sender {
    fn send(&self, frame: &ToHost) -> io::Result<()> {
        // A panic cannot leave half a frame behind that was not already lost, so poison means nothing here.
        let mut port = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        frame.write_to(&mut *port)
    }
}

/// Serves commands until the host shuts the guest down or goes away.
pub(crate) fn serve(problems: Vec<String>) -> Result<()> {
    let port = port::open()?;
    let sender = Sender(Arc::new(Mutex::new(
        port.try_clone().context("duplicate the channel")?,
    )));
    let mut frames = BufReader::new(port);
    sender
        .send(&ToHost::Ready(ready(problems)?))
        .context("tell the host that the guest is ready")?;

    let mut running: Option<Running> = None;
    while let Some(frame) = ToGuest::read_from(&mut frames).context("read the channel")? {
        match (frame, &running) {
            (ToGuest::Exec(exec), _) => match Running::start(&exec, &sender) {
                Ok(command) => running = Some(command),
                Err(error) => sender.send(&ToHost::Exit(guest::frame::Exit::NotStarted(
                    format!("{error:#}"),
                )))?,
            },
            (ToGuest::Shutdown, _) => {
                crate::power_off();
                return Ok(());
            }
            (frame, Some(command)) => command.handle(frame),
            // A signal or input that crossed with the exit of its command.
            (_, None) => {}
        }
    }
    Ok(())
}

fn ready(problems: Vec<String>) -> Result<Ready> {
    let uptime = fs::read_to_string("/proc/uptime").context("read /proc/uptime")?;
    let seconds: f64 = uptime
        .split(' ')
        .next()
        .unwrap_or_default()
        .parse()
        .context("parse /proc/uptime")?;
    let kernel =
        fs::read_to_string("/proc/sys/kernel/osrelease").context("read the kernel release")?;
    Ok(Ready {
        kernel: kernel.trim().to_owned(),
        uptime_ms: (seconds * 1000.0) as u64,
        problems,
    })
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! Wires the rooms: source to event to model to sinks, and decides when to start, re-attach and stop. Nothing else does.
//!
//! Order of a stop: a last drain of the ring, which is the end of what is watched; the loss counters; detach; flush the
//! sinks; the summary. Detaching first would delay the summary by the seconds that the kernel takes for dozens of probes.

mod capture;
mod host;
mod job;
mod recorded;
mod session;
mod signals;

use std::io;
use std::pin::pin;
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::anyhow;
use tokio::time::{Instant, MissedTickBehavior};

pub use capture::{Capture, CaptureHost};
pub use host::{Host, LiveHost, Read, ScriptHost, Source};
use job::Jobs;
pub use job::Words;
pub use recorded::{OnPicture, RecordedHost};
use session::Session;
use signals::Signals;

use crate::kfd;
use crate::sink::filter::Filter;
use crate::sink::record::{End, Summary};
use crate::sink::{Commands, Sink};
use crate::source::{Driver, LiveError};

/// How often the driver, the loss counters and the reader of stdout are looked at.
const LOOK_AROUND: Duration = Duration::from_secs(1);

/// How many times attaching to a driver that came back is tried, once per look around. The module can be seen before all
/// its symbols can be probed.
const ATTACH_TRIES: u32 = 10;

/// What to watch and for how long.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// What is shown.
    pub filter: Filter,
    /// Stop that long after the start.
    pub duration: Option<Duration>,
    /// Stop after so many shown events.
    pub count: Option<u64>,
    /// How often sinks are called, and the driver, the loss counters and the reader looked at: once a second if not given.
    pub tick: Option<Duration>,
    /// Wait for the driver if it is not there at the start.
    pub wait: bool,
    /// Start the commands of the first stage when everything is attached, each other stage when all of the stage before have
    /// ended, and stop after the last.
    pub stages: Vec<Vec<Words>>,
    /// What the commands write to stdout goes to stderr: stdout is ours.
    pub output_to_stderr: bool,
    /// Watch on for so long after each stage: what a process had goes after it.
    pub rest: Duration,
    /// Signals are somebody else's: only an error or `ended` of the host ends it.
    pub unsignalled: bool,
    /// Nothing is made of events: sinks get them by [`Sink::raw`] alone.
    pub raw: bool,
    /// Whether the reader of the output is gone, where that can be told without writing.
    pub reader_gone: Option<fn() -> bool>,
}

impl Options {
    /// The stages of one command; no words are none.
    #[must_use]
    pub fn one_command(words: Words) -> Vec<Vec<Words>> {
        match words.is_empty() {
            true => Vec::new(),
            false => vec![vec![words]],
        }
    }
}

/// Why a watch failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The driver is not there.
    #[error("{0}")]
    NoDriver(String),
    /// The source cannot be started.
    #[error(transparent)]
    Live(#[from] LiveError),
    /// A sink cannot be written to.
    #[error("cannot write {0}")]
    Sink(io::Error),
    /// The command cannot be started: 127 it is not there, 126 it cannot be executed.
    #[error("cannot run {name}: {error}")]
    Command {
        /// It.
        name: String,
        /// Why.
        error: io::Error,
    },
    /// Anything else.
    #[error(transparent)]
    Other(#[from] anyhow::Error),
}

/// How a watch ended.
#[derive(Debug)]
pub struct Outcome {
    /// What made it end; `None` = the reader of the output went away.
    pub end: Option<End>,
    /// Counts, if it ever started.
    pub summary: Option<Summary>,
    /// How the commands ended, if there were any: the first that failed, or the last.
    pub command: Option<ExitStatus>,
}

impl Outcome {
    /// Before it started.
    fn ended(end: End) -> Self {
        Self {
            end: Some(end),
            summary: None,
            command: None,
        }
    }

    /// The reader of the output went away.
    fn unread(command: Option<ExitStatus>) -> Self {
        Self {
            end: None,
            summary: None,
            command,
        }
    }
}

/// Watches until something ends it. Sinks get `startup` first and `summary` last; `say` gets messages for people.
///
/// # Errors
/// When it cannot start, when a driver that came back cannot be attached to, and when a sink cannot be written to.
pub async fn watch<H: Host>(
    host: &H,
    options: Options,
    sinks: &mut [Box<dyn Sink>],
    say: &mut dyn FnMut(&str),
) -> Result<Outcome, Error> {
    let handle_signals = || match options.unsignalled {
        true => Ok(Signals::none()),
        false => Signals::new().map_err(|e| anyhow!("cannot handle signals: {e}")),
    };
    // Until the probes are attached, which can take seconds, a signal ends the program at once: there is nothing to sum up.
    let mut signals = None;
    let mut driver = host.driver();
    if driver == Driver::Absent {
        let absent = kfd::module::absent(host.root());
        if !options.wait {
            return Err(Error::NoDriver(format!(
                "{}: {}, or start with --wait",
                absent.why, absent.fix
            )));
        }
        let signals = signals.insert(handle_signals()?);
        say(&format!("{}; waiting for it", absent.why));
        while driver == Driver::Absent {
            tokio::select! {
                end = signals.next() => return Ok(Outcome::ended(end)),
                () = tokio::time::sleep(LOOK_AROUND) => driver = host.driver(),
            }
        }
    }
    let mut source = host.attach()?;
    source.settle();
    let start_ns = host.now_ns();
    let mut signals = match signals {
        Some(signals) => signals,
        None => handle_signals()?,
    };
    let mut session = Session::new(host, &options, start_ns, sinks);
    let mut jobs = Jobs::new(&options.stages, options.output_to_stderr);
    let end = match session.begin(&mut source, host) {
        Ok(()) => {
            run(
                host,
                source,
                driver,
                &options,
                &mut session,
                &mut signals,
                &mut jobs,
                say,
            )
            .await
        }
        Err(e) => Err(Error::Sink(e)),
    };
    let command = jobs.wait().await;
    match end {
        Ok(end) => {
            let summary = session.finish(end, host.now_ns()).map_err(Error::Sink);
            match summary {
                Ok(summary) => Ok(Outcome {
                    end: Some(end),
                    summary: Some(summary),
                    command,
                }),
                Err(Error::Sink(e)) if e.kind() == io::ErrorKind::BrokenPipe => {
                    Ok(Outcome::unread(command))
                }
                Err(e) => Err(e),
            }
        }
        Err(Error::Sink(e)) if e.kind() == io::ErrorKind::BrokenPipe => {
            // A file beside the pipe still gets its last line.
            let _ = session.finish(End::Reader, host.now_ns());
            Ok(Outcome::unread(command))
        }
        Err(e) => {
            let _ = session.finish(End::Error, host.now_ns());
            Err(e)
        }
    }
}

#[allow(
    clippy::too_many_arguments,
    reason = "one caller, which has just made them all"
)]
async fn run<H: Host>(
    host: &H,
    source: H::Source,
    driver: Driver,
    options: &Options,
    session: &mut Session<'_>,
    signals: &mut Signals,
    jobs: &mut Jobs,
    say: &mut dyn FnMut(&str),
) -> Result<End, Error> {
    let mut link = Link {
        source: Some(source),
        driver,
        tries: 0,
        told: String::new(),
    };
    let for_ever = Duration::from_secs(u64::from(u32::MAX));
    let mut deadline = pin!(tokio::time::sleep(options.duration.unwrap_or(for_ever)));
    let every = options.tick.unwrap_or(LOOK_AROUND);
    let mut look = tokio::time::interval_at(Instant::now() + every, every);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // When a stage has rested.
    let mut rested = None;
    next_stage(jobs, session, host)?;
    let end = loop {
        session.flush().map_err(Error::Sink)?;
        if session.is_full() {
            break End::Count;
        }
        tokio::select! {
            biased;
            end = signals.next() => if !jobs.signal(end) { break end },
            ended = jobs.ended() => {
                session.commands(Commands::Ended(&ended?), host.now_ns()).map_err(Error::Sink)?;
                if !jobs.more() && options.rest.is_zero() {
                    break End::Command;
                }
                rested = Some(Instant::now() + options.rest);
            },
            () = until(rested), if rested.is_some() => {
                rested = None;
                if !next_stage(jobs, session, host)? {
                    break End::Command;
                }
            },
            () = &mut deadline, if options.duration.is_some() => break End::Duration,
            _ = look.tick() => {
                if options.reader_gone.is_some_and(|gone| gone()) {
                    return Err(Error::Sink(io::ErrorKind::BrokenPipe.into()));
                }
                session.tick().map_err(Error::Sink)?;
                link.look_around(host, session, say)?;
            }
            read = read(link.source.as_mut(), session) => match read? {
                Read::Records => {}
                Read::Other => link.look_around(host, session, say)?,
                Read::Ended => {
                    if !host.ended() {
                        link.look_around(host, session, say)?;
                    }
                    if host.ended() {
                        break End::Recording;
                    }
                }
            },
        }
    };
    link.detach(session).map_err(Error::Sink)?;
    Ok(end)
}

/// Starts the commands of the next stage. False if there is none.
fn next_stage<H: Host>(
    jobs: &mut Jobs,
    session: &mut Session<'_>,
    host: &H,
) -> Result<bool, Error> {
    let now_ns = host.now_ns();
    let Some(pids) = jobs.start()? else {
        return Ok(false);
    };
    session
        .commands(Commands::Started(&pids), now_ns)
        .map_err(Error::Sink)?;
    Ok(true)
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

async fn read<S: Source>(
    source: Option<&mut S>,
    session: &mut Session<'_>,
) -> anyhow::Result<Read> {
    match source {
        Some(source) => source.read(&mut |bytes| session.take(bytes)).await,
        None => std::future::pending().await,
    }
}

/// The connection to the driver, which may be unloaded and loaded at any time.
struct Link<S> {
    source: Option<S>,
    /// What the source is attached to.
    driver: Driver,
    tries: u32,
    told: String,
}

impl<S: Source> Link<S> {
    fn look_around<H: Host<Source = S>>(
        &mut self,
        host: &H,
        session: &mut Session<'_>,
        say: &mut dyn FnMut(&str),
    ) -> Result<(), Error> {
        let now = host.driver();
        if self.source.is_some() && now != self.driver {
            self.detach(session).map_err(Error::Sink)?;
            session.driver_gone(host).map_err(Error::Sink)?;
            say("the driver was unloaded: no events until it is loaded again; still watching");
            self.driver = Driver::Absent;
        }
        if let Some(source) = &self.source {
            source.verify()?;
            return session.counters(source, host).map_err(Error::Sink);
        }
        if now == Driver::Absent {
            self.tries = 0;
            return Ok(());
        }
        match host.attach() {
            Ok(mut source) => {
                source.settle();
                session
                    .driver_loaded(&mut source, host)
                    .map_err(Error::Sink)?;
                say("the driver is loaded: attached again");
                self.source = Some(source);
                self.driver = now;
                self.tries = 0;
                Ok(())
            }
            Err(e) => {
                self.tries += 1;
                if self.tries >= ATTACH_TRIES {
                    return Err(e.into());
                }
                let what = format!("the driver is loaded, but attaching failed, trying again: {e}");
                if what != self.told {
                    say(&what);
                    self.told = what;
                }
                Ok(())
            }
        }
    }

    /// Takes what is left in the ring, and the probes off.
    fn detach(&mut self, session: &mut Session<'_>) -> io::Result<()> {
        if let Some(mut source) = self.source.take() {
            source.drain(&mut |bytes| session.take(bytes));
            session.source_ended(&source)?;
        }
        session.flush()
    }
}

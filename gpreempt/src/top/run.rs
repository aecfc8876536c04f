// SPDX-License-Identifier: MIT OR Apache-2.0
//! Runs `top`: events are read by a thread of their own, as attaching probes takes a while and must not keep the screen from
//! being drawn; so are pictures taken. The screen is drawn once an interval and after a key, never for an event.

use std::cell::RefCell;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use nix::libc;
use nix::sys::signal::Signal as Number;
use ratatui::crossterm::event::Event;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{signal, Signal, SignalKind};
use tokio::sync::{mpsc, oneshot};
use tokio::time::MissedTickBehavior;

use super::feed::{Feed, Shared};
use super::keys;
use super::looker::{taken_by, Looker, Taken};
use super::pace::{Clock, PacedHost};
use super::state::{Effect, State, Status};
use super::terminal::{self, Screen};
use super::view::{self, Ink};
use crate::engine::{self, Host, LiveHost, RecordedHost};
use crate::inspect;
use crate::kfd::snapshot::{Snapshot, Want};
use crate::kfd::{module, Root};
use crate::sink::record::End;
use crate::sink::Sink;

/// How long the end of the program waits for probes to be taken off.
const PATIENCE: Duration = Duration::from_secs(2);

/// What a user chooses.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Between looks.
    pub interval: Duration,
    /// End after so long.
    pub duration: Option<Duration>,
    /// Colours.
    pub color: bool,
}

/// Why it could not run, or not on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Stdin and stdout are not a terminal that can be drawn on.
    #[error(
        "top needs a terminal; `gpreempt queues --watch` and `gpreempt watch` write to anything"
    )]
    NoTerminal,
    /// The terminal fails.
    #[error("the terminal: {0}")]
    Terminal(#[from] io::Error),
    /// A thread of ours did.
    #[error("reading events failed; that is a bug")]
    Panicked,
    /// The other one did.
    #[error("taking a picture of the queues failed; that is a bug")]
    LookPanicked,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The user wished so, or the time was over.
    Quit,
    /// A signal; or the terminal went away, which is a hangup.
    Signal(Number),
}

/// Shows the running machine; `host` makes the host, in the thread that reads events. Without events it shows pictures.
///
/// # Errors
/// See [`Error`].
pub fn live<F>(root: Root, host: F, options: Options) -> Result<Finish, Error>
where
    F: FnOnce(Root) -> LiveHost + Send + 'static,
{
    let reader = root.clone();
    let start = move |_: Shared| Ok(host(reader));
    run(Scene::Live(root), start, options)
}

/// Plays a recording, so many times as fast as it was.
///
/// # Errors
/// See [`Error`].
pub fn recorded(file: &Path, speed: f64, options: Options) -> Result<Finish, Error> {
    let clock = Clock::new(speed);
    let player = clock.clone();
    let file: PathBuf = file.to_owned();
    let start = move |feed: Shared| {
        let host = RecordedHost::open(&file, None)?;
        let pictured = host.pictured();
        let mut told = None;
        let tell = RefCell::new(move |picture: &Snapshot, feed: &mut Feed| {
            // Files of a name that was looked up are no new picture.
            if let Some(snapped) = pictured.get().filter(|now| told != Some(*now)) {
                told = Some(snapped);
                feed.history
                    .picture(picture.clone(), snapped.ts_ns, snapped.done_ns());
            }
        });
        let settled = move |root: &Root| {
            let picture = inspect::look(root, Want::default());
            let mut feed = feed.lock();
            (tell.borrow_mut())(&picture, &mut feed);
            feed.snapshot = Some(picture);
        };
        Ok(PacedHost::new(host, player, Rc::new(settled)))
    };
    run(Scene::Recorded { clock, speed }, start, options)
}

/// Where time and pictures come from.
enum Scene {
    Live(Root),
    Recorded { clock: Clock, speed: f64 },
}

impl Scene {
    fn now_ns(&self) -> u64 {
        match self {
            Self::Live(_) => LiveHost::clock(),
            Self::Recorded { clock, .. } => clock.now_ns(),
        }
    }

    fn state(&self) -> State {
        match self {
            Self::Live(_) => State::default(),
            Self::Recorded { speed, .. } => State::playing(*speed),
        }
    }
}

fn run<H, F>(scene: Scene, host: F, options: Options) -> Result<Finish, Error>
where
    H: Host,
    F: FnOnce(Shared) -> anyhow::Result<H> + Send + 'static,
{
    if !terminal::is_there() {
        return Err(Error::NoTerminal);
    }
    let feed = Shared::default();
    let is_live = matches!(scene, Scene::Live(_));
    runtime()?.block_on(async {
        // Signals first: from here on the terminal is given back whichever comes.
        let mut signals = Signals::new()?;
        let mut screen = Screen::enter()?;
        let mut reader = Reader::start(host, feed.clone(), is_live);
        let mut looker = match &scene {
            Scene::Live(root) => Some(Looker::start(taker(root.clone()))?),
            Scene::Recorded { .. } => None,
        };
        let finish = show(
            &scene,
            &feed,
            &mut screen,
            &mut signals,
            &mut reader,
            looker.as_mut(),
            options,
        )
        .await;
        drop(screen);
        if let Some(looker) = looker {
            looker.stop().await;
        }
        if feed.lock().status != Status::Attaching {
            reader.stop().await;
        }
        finish
    })
}

fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

/// Takes a picture of the running machine.
fn taker(root: Root) -> impl FnMut(bool) -> Taken + Send + 'static {
    move |slots| {
        let picture = inspect::look(&root, Want { hqds: slots });
        Taken {
            begun_ns: picture.ts_ns,
            done_ns: LiveHost::clock(),
            picture,
        }
    }
}

async fn show(
    scene: &Scene,
    feed: &Shared,
    screen: &mut Screen,
    signals: &mut Signals,
    reader: &mut Reader,
    mut looker: Option<&mut Looker>,
    options: Options,
) -> Result<Finish, Error> {
    let mut state = scene.state();
    let ink = Ink::new(options.color);
    let mut input = terminal::input();
    let mut looks = tokio::time::interval(options.interval);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let for_ever = Duration::from_secs(u64::from(u32::MAX));
    let mut deadline = std::pin::pin!(tokio::time::sleep(options.duration.unwrap_or(for_ever)));
    loop {
        tokio::select! {
            biased;
            caught = signals.next() => match caught {
                Caught::End(number) => return Ok(Finish::Signal(number)),
                Caught::Stop => screen.suspend()?,
                Caught::Continue => screen.retake()?,
            },
            () = &mut deadline => return Ok(Finish::Quit),
            event = input.recv() => {
                let Some(event) = event else {
                    return Ok(Finish::Signal(Number::SIGHUP));
                };
                for effect in taken(&mut state, event, &mut input) {
                    match effect {
                        Effect::Quit => return Ok(Finish::Quit),
                        Effect::Suspend => screen.suspend()?,
                        Effect::Redraw => screen.forget()?,
                        Effect::Slots => look(scene, feed, &mut state, looker.as_deref_mut()),
                        Effect::Play => {
                            if let (Scene::Recorded { clock, .. }, Some(playing)) = (scene, state.playing) {
                                clock.set(playing.speed, state.paused);
                            }
                        }
                    }
                }
            }
            // Only a panic ends it without a word.
            _ = reader.ended(), if !reader.has_ended => {
                if reader.panicked {
                    return Err(Error::Panicked);
                }
            }
            taken = taken_by(looker.as_deref_mut()) => {
                let taken = taken.ok_or(Error::LookPanicked)?;
                let mut feed = feed.lock();
                let picture = taken.picture.clone();
                feed.history.picture(picture, taken.begun_ns, taken.done_ns);
                state.look(scene.now_ns(), &feed, Some(taken.picture));
            }
            _ = looks.tick() => look(scene, feed, &mut state, looker.as_deref_mut()),
        }
        view::fit(&mut state, screen.area()?);
        screen.draw(|frame| view::draw(&state, ink, frame))?;
    }
}

/// A key, and those that were pressed meanwhile: one drawing is enough for all.
fn taken(
    state: &mut State,
    first: Event,
    input: &mut mpsc::UnboundedReceiver<Event>,
) -> Vec<Effect> {
    let mut effects = Vec::new();
    let mut next = Some(first);
    while let Some(event) = next {
        if let Event::Key(key) = event {
            let action = keys::action(state.mode, key);
            effects.extend(action.and_then(|action| state.act(action)));
        }
        next = input.try_recv().ok();
    }
    effects
}

/// Has a picture taken, or takes the one that a recording has come to.
fn look(scene: &Scene, feed: &Shared, state: &mut State, looker: Option<&mut Looker>) {
    if let Some(looker) = looker {
        looker.ask(state.slots);
        state.late_ns = looker
            .late()
            .map(|late| u64::try_from(late.as_nanos()).unwrap_or(u64::MAX));
        return;
    }
    if let (Scene::Recorded { clock, .. }, Some(playing)) = (scene, &mut state.playing) {
        playing.at_ns = clock.played_ns();
    }
    let mut feed = feed.lock();
    let picture = feed.snapshot.take();
    state.look(scene.now_ns(), &feed, picture);
}

/// The thread that reads events.
struct Reader {
    stop: Option<oneshot::Sender<()>>,
    done: oneshot::Receiver<()>,
    has_ended: bool,
    panicked: bool,
}

impl Reader {
    fn start<H, F>(host: F, feed: Shared, is_live: bool) -> Self
    where
        H: Host,
        F: FnOnce(Shared) -> anyhow::Result<H> + Send + 'static,
    {
        let (stop, stopped) = oneshot::channel();
        let (tell, done) = oneshot::channel();
        thread::spawn(move || {
            let ended = watch(host, &feed, stopped);
            {
                let mut feed = feed.lock();
                match (ended, is_live) {
                    (Ok(()), true) => {}
                    (Ok(()), false) => feed.status = Status::Ended,
                    (Err(error), true) => feed.status = Status::None(format!("{error:#}")),
                    (Err(error), false) => {
                        feed.status = Status::Ended;
                        feed.notice = Some(format!("{error:#}"));
                    }
                }
            }
            let _ = tell.send(());
        });
        Self {
            stop: Some(stop),
            done,
            has_ended: false,
            panicked: false,
        }
    }

    async fn ended(&mut self) {
        self.panicked = (&mut self.done).await.is_err();
        self.has_ended = true;
    }

    async fn stop(mut self) {
        drop(self.stop.take());
        if !self.has_ended {
            let _ = tokio::time::timeout(PATIENCE, &mut self.done).await;
        }
    }
}

fn watch<H, F>(host: F, feed: &Shared, stopped: oneshot::Receiver<()>) -> anyhow::Result<()>
where
    H: Host,
    F: FnOnce(Shared) -> anyhow::Result<H>,
{
    let host = host(feed.clone())?;
    feed.lock().processes_max = module::max_processes(host.root());
    let mut sinks: Vec<Box<dyn Sink>> = vec![Box::new(feed.clone())];
    let mut say = |message: &str| feed.lock().notice = Some(message.to_owned());
    let options = engine::Options::default();
    let outcome = runtime()?.block_on(async {
        tokio::select! {
            outcome = engine::watch(&host, options, &mut sinks, &mut say) => Some(outcome),
            _ = stopped => None,
        }
    });
    match outcome {
        Some(Err(error)) => Err(error.into()),
        Some(Ok(outcome)) if outcome.end == Some(End::Error) => {
            Err(anyhow::anyhow!("watching failed"))
        }
        _ => Ok(()),
    }
}

enum Caught {
    End(Number),
    Stop,
    Continue,
}

struct Signals {
    int: Signal,
    term: Signal,
    hup: Signal,
    tstp: Signal,
    cont: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            int: signal(SignalKind::interrupt())?,
            term: signal(SignalKind::terminate())?,
            hup: signal(SignalKind::hangup())?,
            tstp: signal(SignalKind::from_raw(libc::SIGTSTP))?,
            cont: signal(SignalKind::from_raw(libc::SIGCONT))?,
        })
    }

    async fn next(&mut self) -> Caught {
        tokio::select! {
            _ = self.int.recv() => Caught::End(Number::SIGINT),
            _ = self.term.recv() => Caught::End(Number::SIGTERM),
            _ = self.hup.recv() => Caught::End(Number::SIGHUP),
            _ = self.tstp.recv() => Caught::Stop,
            _ = self.cont.recv() => Caught::Continue,
        }
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! A machine whose watch is recorded: every record that its source hands over, and every file that is read of it meanwhile.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::{Host, Read, Source};
use crate::event::{decode, Kind};
use crate::kfd::{Captured, Root};
use crate::recording::{Attached, Counted, Snapped, Writer};
use crate::source::{Counters, Driver, LiveError, Startup};

/// Reads everything of a machine that a recording should have of it.
pub(crate) type Look = Box<dyn Fn(&Root)>;

/// A machine, and a recording of it. Where the machine is at another root, only what is read through [`Host::root`] is kept.
pub struct CaptureHost<H: Host> {
    host: H,
    root: Root,
    capture: Capture,
}

/// The recording: to be finished when the watch has ended.
#[derive(Clone)]
pub struct Capture(Rc<RefCell<State>>);

struct State {
    writer: Option<Writer<File>>,
    root: Root,
    captured: Arc<Mutex<Captured>>,
    look: Look,
    now: fn() -> u64,
    every_ns: Option<u64>,
    looked_ns: u64,
    /// A picture would look otherwise than the last one.
    changed: bool,
    counters: Counters,
    /// The driver went, and the source that was attached to it is still there.
    gone: bool,
    /// Nothing is written after it.
    failed: Option<io::Error>,
}

/// A source whose records are kept.
pub struct CaptureSource<S> {
    source: S,
    capture: Capture,
    now: fn() -> u64,
}

impl<H: Host> CaptureHost<H> {
    /// Records `host` to `file`. `look` reads what belongs into a picture of the machine: at the start, at the end, within a second
    /// after queues came, went, were stopped or restarted, and `every` so often.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn new(host: H, file: File, look: Look, every: Option<Duration>) -> io::Result<Self> {
        let (root, captured) = host.root().capturing();
        let state = State {
            writer: Some(Writer::new(file, super::session::unix_ns())?),
            root: root.clone(),
            captured,
            look,
            now: H::clock,
            every_ns: every.map(|every| u64::try_from(every.as_nanos()).unwrap_or(u64::MAX)),
            looked_ns: 0,
            changed: false,
            counters: Counters::default(),
            gone: false,
            failed: None,
        };
        Ok(Self {
            host,
            root,
            capture: Capture(Rc::new(RefCell::new(state))),
        })
    }

    /// The recording.
    #[must_use]
    pub fn capture(&self) -> Capture {
        self.capture.clone()
    }
}

impl Capture {
    /// Takes a last picture and ends the recording. Returns the number of records in it.
    ///
    /// # Errors
    /// The first error of writing it.
    pub fn finish(&self, ts_ns: u64) -> io::Result<u64> {
        let mut state = self.0.borrow_mut();
        state.snapshot(ts_ns);
        if let Some(error) = state.failed.take() {
            return Err(error);
        }
        let Some(writer) = state.writer.take() else {
            return Ok(0);
        };
        let (file, records) = writer.finish(ts_ns)?;
        file.sync_all()?;
        Ok(records)
    }
}

impl State {
    fn write(&mut self, what: impl FnOnce(&mut Writer<File>) -> io::Result<()>) {
        if self.failed.is_some() {
            return;
        }
        if let Some(Err(error)) = self.writer.as_mut().map(what) {
            self.failed = Some(error);
        }
    }

    /// Writes the files that were read since the last call.
    fn files(&mut self) {
        let files = lock(&self.captured).take();
        self.write(|writer| {
            files
                .iter()
                .try_for_each(|(path, content)| writer.file(path, content))
        });
    }

    fn snapshot(&mut self, ts_ns: u64) {
        self.files();
        lock(&self.captured).clear();
        (self.look)(&self.root);
        let taken_ns = (self.now)();
        self.write(|writer| writer.snapshot(Snapped { ts_ns, taken_ns }));
        self.files();
        self.looked_ns = ts_ns;
        self.changed = false;
    }

    /// Once a second.
    fn tick(&mut self, ts_ns: u64, counters: Counters) {
        let lost = |c: &Counters| (c.ring_full, c.unmatched, c.read_fault);
        if lost(&counters) != lost(&self.counters) {
            self.counters = counters;
            self.files();
            self.write(|writer| writer.counters(&Counted { ts_ns, counters }));
        }
        let due = |every| ts_ns.saturating_sub(self.looked_ns) >= every;
        if self.changed || self.every_ns.is_some_and(due) {
            self.snapshot(ts_ns);
        }
        self.files();
        self.write(Writer::flush);
    }
}

fn lock(captured: &Mutex<Captured>) -> std::sync::MutexGuard<'_, Captured> {
    captured.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<H: Host> Host for CaptureHost<H> {
    type Source = CaptureSource<H::Source>;

    fn driver(&self) -> Driver {
        let driver = self.host.driver();
        if driver == Driver::Absent {
            self.capture.0.borrow_mut().gone = true;
        }
        driver
    }

    fn attach(&self) -> Result<Self::Source, LiveError> {
        let source = self.host.attach()?;
        let ts_ns = self.host.now_ns();
        let mut state = self.capture.0.borrow_mut();
        state.gone = false;
        state.counters = Counters::default();
        let attached = Attached {
            ts_ns,
            unix_ns: self.host.unix_ns(),
            startup: source.startup().clone(),
        };
        state.write(|writer| writer.attached(&attached));
        state.snapshot(ts_ns);
        Ok(CaptureSource {
            source,
            capture: self.capture(),
            now: H::clock,
        })
    }

    fn now_ns(&self) -> u64 {
        self.host.now_ns()
    }

    fn clock() -> u64 {
        H::clock()
    }

    fn unix_ns(&self) -> u64 {
        self.host.unix_ns()
    }

    fn root(&self) -> &Root {
        &self.root
    }
}

impl<S: Source> Source for CaptureSource<S> {
    fn startup(&self) -> &Startup {
        self.source.startup()
    }

    fn settle(&mut self) {
        self.source.settle();
    }

    async fn read(&mut self, each: &mut dyn FnMut(&[u8])) -> anyhow::Result<Read> {
        let capture = self.capture.clone();
        let mut full = false;
        let read = self
            .source
            .read(&mut |bytes| {
                full |= keep(&capture, bytes);
                each(bytes);
            })
            .await?;
        let mut state = capture.0.borrow_mut();
        state.files();
        if full {
            state.write(Writer::flush);
        }
        match state.failed.take() {
            Some(error) => Err(anyhow::Error::new(error).context("cannot write the recording")),
            None => Ok(read),
        }
    }

    /// What is drained may be interpreted later, and files be read then: nothing is written yet, so that they come before it.
    fn drain(&mut self, each: &mut dyn FnMut(&[u8])) {
        let capture = self.capture.clone();
        self.source.drain(&mut |bytes| {
            keep(&capture, bytes);
            each(bytes);
        });
    }

    fn counters(&self) -> Counters {
        let counters = self.source.counters();
        self.capture.0.borrow_mut().tick((self.now)(), counters);
        counters
    }

    fn verify(&self) -> Result<(), LiveError> {
        self.source.verify()
    }
}

/// Whether a picture looks otherwise after it: queues came or went, or something stops them, or not any more.
fn looks_otherwise(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::QueueCreated
            | Kind::QueueDestroyed
            | Kind::ProcessEvicted
            | Kind::ProcessRestored
            | Kind::QueuesSuspended
            | Kind::QueuesResumed
            | Kind::QueuesHeld
            | Kind::QueuesReleased
    )
}

/// Whether it is time to write.
fn keep(capture: &Capture, bytes: &[u8]) -> bool {
    let mut state = capture.0.borrow_mut();
    state.changed = state.changed
        || decode(bytes).is_ok_and(|happening| looks_otherwise(happening.event.kind()));
    state
        .writer
        .as_mut()
        .is_some_and(|writer| writer.record(bytes))
}

impl<S> Drop for CaptureSource<S> {
    fn drop(&mut self) {
        let mut state = self.capture.0.borrow_mut();
        if state.gone {
            let ts_ns = (self.now)();
            state.files();
            state.write(|writer| writer.gone(ts_ns));
        }
    }
}

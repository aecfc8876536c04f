// SPDX-License-Identifier: MIT OR Apache-2.0
//! A machine of the past: what a recording says of it. Its files, its clock and its records move on together, as fast as they are
//! read.

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::{Host, Read, Source};
use crate::event::{split, time_of};
use crate::kfd::tree::Tree;
use crate::kfd::Root;
use crate::recording::{Attached, Entry, Error, Reader, Snapped};
use crate::source::{Counters, Driver, LiveError, Startup};

/// Is told of every picture of the machine that a recording holds, when all of its files are there: the machine as it was, and when
/// that was.
pub type OnPicture = Box<dyn FnMut(&Root, Snapped)>;

/// A recording, played.
pub struct RecordedHost {
    root: Root,
    tape: Rc<RefCell<Tape>>,
}

/// Records of a recording, from one attachment on.
pub struct RecordedSource {
    startup: Startup,
    tape: Rc<RefCell<Tape>>,
    /// Handed over when the snapshot of the start has been told.
    drained: bool,
}

struct Tape {
    reader: Reader,
    tree: Arc<Mutex<Tree>>,
    now_ns: u64,
    /// Wall clock when probes were attached last.
    unix_ns: u64,
    /// Where to stop, if before the end.
    until_ns: Option<u64>,
    counters: Counters,
    /// How often probes were attached.
    attached: u64,
    /// Attached next: read already, to know what the driver is.
    next: Option<Box<Attached>>,
    /// An entry that was read to know that it comes.
    peeked: Option<Entry>,
    /// Files of this picture are being read.
    in_picture: Option<Snapped>,
    /// Which picture the files are of.
    pictured: Rc<Cell<Option<Snapped>>>,
    on_picture: Option<OnPicture>,
    ended: bool,
}

impl RecordedHost {
    /// Opens a recording; `limit` leaves out what is later than that after its start.
    ///
    /// # Errors
    /// See [`Reader::play`]; [`Error::CutOff`] where it ends before anything was recorded.
    pub fn open(path: &Path, limit: Option<Duration>) -> Result<Self, Error> {
        Self::new(Reader::play(path)?, limit)
    }

    /// Plays what `reader` reads.
    ///
    /// # Errors
    /// As [`RecordedHost::open`].
    pub fn new(reader: Reader, limit: Option<Duration>) -> Result<Self, Error> {
        let tree = Arc::new(Mutex::new(Tree::default()));
        let mut tape = Tape {
            reader,
            tree: Arc::clone(&tree),
            now_ns: 0,
            unix_ns: 0,
            until_ns: None,
            counters: Counters::default(),
            attached: 0,
            next: None,
            peeked: None,
            in_picture: None,
            pictured: Rc::default(),
            on_picture: None,
            ended: false,
        };
        tape.seek_attachment()?;
        let limit_ns = limit.map(|limit| u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX));
        tape.until_ns = limit_ns.map(|limit_ns| tape.now_ns.saturating_add(limit_ns));
        Ok(Self {
            root: Root::recorded(tree),
            tape: Rc::new(RefCell::new(tape)),
        })
    }

    /// Has every picture told from now on, before the events that come after it.
    pub fn on_picture(&mut self, each: OnPicture) {
        self.tape.borrow_mut().on_picture = Some(each);
    }

    /// The last picture that was read. It stays true while the recording is played.
    #[must_use]
    pub fn pictured(&self) -> Rc<Cell<Option<Snapped>>> {
        Rc::clone(&self.tape.borrow().pictured)
    }
}

impl Tape {
    fn entry(&mut self) -> Result<Option<Entry>, Error> {
        if let Some(entry) = self.peeked.take() {
            return Ok(Some(entry));
        }
        let entry = self.reader.next_entry();
        if !matches!(entry, Ok(Some(Entry::File { .. } | Entry::Mqds(_)))) {
            self.end_picture();
        }
        entry
    }

    /// All of its files were read, or all that there are of a recording that is cut off.
    fn end_picture(&mut self) {
        if let (Some(snapped), Some(each)) = (self.in_picture.take(), &mut self.on_picture) {
            each(&Root::recorded(Arc::clone(&self.tree)), snapped);
        }
    }

    /// Goes to the next attachment, or to the end.
    fn seek_attachment(&mut self) -> Result<(), Error> {
        loop {
            match self.entry()? {
                Some(Entry::Attached(attached)) => {
                    self.now_ns = self.now_ns.max(attached.ts_ns);
                    self.next = Some(attached);
                    return Ok(());
                }
                Some(Entry::End(end)) => {
                    self.now_ns = self.now_ns.max(end.ts_ns);
                    self.ended = true;
                    return Ok(());
                }
                Some(other) => self.apply(other),
                None => {
                    self.ended = true;
                    return Ok(());
                }
            }
        }
    }

    /// Takes the files that stand before the next records.
    fn files(&mut self) -> Result<(), Error> {
        loop {
            match self.entry()? {
                Some(entry @ (Entry::File { .. } | Entry::Mqds(_) | Entry::Snapshot(_))) => {
                    self.apply(entry);
                }
                other => {
                    self.peeked = other;
                    return Ok(());
                }
            }
        }
    }

    fn apply(&mut self, entry: Entry) {
        let mut tree = self.tree.lock().unwrap_or_else(PoisonError::into_inner);
        match entry {
            Entry::File { path, content } => tree.put(path, content),
            Entry::Mqds(mqds) => tree.put_mqds(mqds),
            Entry::Snapshot(snapped) => {
                tree.clear();
                self.in_picture = Some(snapped);
                self.pictured.set(Some(snapped));
                self.now_ns = self.now_ns.max(snapped.ts_ns);
            }
            Entry::Counters(counted) => {
                self.counters = counted.counters;
                self.now_ns = self.now_ns.max(counted.ts_ns);
            }
            Entry::Gone(gone) => self.now_ns = self.now_ns.max(gone.ts_ns),
            Entry::Attached(_) | Entry::Events(_) | Entry::End(_) => {}
        }
    }

    /// Whether that is later than what is wanted.
    fn is_after(&self, ts_ns: u64) -> bool {
        self.until_ns.is_some_and(|until_ns| ts_ns > until_ns)
    }

    /// Hands over the records of a chunk. Whether it was one to its end.
    fn hand_over(&mut self, mut bytes: &[u8], each: &mut dyn FnMut(&[u8])) -> bool {
        while let Some((record, rest)) = split(bytes) {
            if let Some(ts_ns) = time_of(record) {
                if self.is_after(ts_ns) {
                    self.ended = true;
                    return false;
                }
                self.now_ns = self.now_ns.max(ts_ns);
            }
            each(record);
            bytes = rest;
        }
        true
    }
}

impl Host for RecordedHost {
    type Source = RecordedSource;

    fn driver(&self) -> Driver {
        let tape = self.tape.borrow();
        let loaded = |identity| Driver::Loaded {
            module: "amdgpu".to_owned(),
            version: None,
            identity,
        };
        match (&tape.next, tape.attached) {
            (Some(_), attached) => loaded(attached + 1),
            (None, 0) => Driver::Absent,
            (None, _) if tape.ended => Driver::Absent,
            (None, attached) => loaded(attached),
        }
    }

    fn attach(&self) -> Result<RecordedSource, LiveError> {
        let mut tape = self.tape.borrow_mut();
        let Some(attached) = tape.next.take() else {
            return Err(anyhow::anyhow!("the recording has no more of that driver").into());
        };
        tape.attached += 1;
        tape.unix_ns = match attached.unix_ns {
            0 => tape.reader.head().unix_ns,
            unix_ns => unix_ns,
        };
        tape.counters = Counters::default();
        tape.files()
            .map_err(|error| LiveError::Other(error.into()))?;
        Ok(RecordedSource {
            startup: attached.startup,
            tape: Rc::clone(&self.tape),
            drained: false,
        })
    }

    fn now_ns(&self) -> u64 {
        self.tape.borrow().now_ns
    }

    /// Of the attachment that is played.
    fn unix_ns(&self) -> u64 {
        self.tape.borrow().unix_ns
    }

    fn root(&self) -> &Root {
        &self.root
    }

    fn ended(&self) -> bool {
        let tape = self.tape.borrow();
        tape.ended && tape.next.is_none()
    }
}

impl Source for RecordedSource {
    fn startup(&self) -> &Startup {
        &self.startup
    }

    fn settle(&mut self) {}

    async fn read(&mut self, each: &mut dyn FnMut(&[u8])) -> anyhow::Result<Read> {
        let tape = Rc::clone(&self.tape);
        // Events and signals have a turn between two chunks.
        tokio::task::yield_now().await;
        if tape.borrow().ended {
            return Ok(Read::Ended);
        }
        let entry = tape.borrow_mut().entry()?;
        match entry {
            Some(Entry::Events(bytes)) => Ok(match tape.borrow_mut().hand_over(&bytes, each) {
                true => Read::Records,
                false => Read::Ended,
            }),
            Some(Entry::Gone(gone)) => {
                let mut tape = tape.borrow_mut();
                tape.apply(Entry::Gone(gone));
                tape.seek_attachment()?;
                Ok(Read::Ended)
            }
            Some(Entry::Snapshot(snapped)) if tape.borrow().is_after(snapped.ts_ns) => {
                tape.borrow_mut().ended = true;
                Ok(Read::Ended)
            }
            Some(Entry::End(end)) => {
                let mut tape = tape.borrow_mut();
                tape.now_ns = tape.now_ns.max(end.ts_ns);
                tape.ended = true;
                Ok(Read::Ended)
            }
            Some(Entry::Attached(attached)) => {
                let mut tape = tape.borrow_mut();
                tape.next = Some(attached);
                Ok(Read::Ended)
            }
            Some(other) => {
                tape.borrow_mut().apply(other);
                Ok(Read::Other)
            }
            None => {
                tape.borrow_mut().ended = true;
                Ok(Read::Ended)
            }
        }
    }

    /// The records that were made before the queues of sysfs were told stand first.
    fn drain(&mut self, each: &mut dyn FnMut(&[u8])) {
        if std::mem::replace(&mut self.drained, true) {
            return;
        }
        let mut tape = self.tape.borrow_mut();
        match tape.peeked.take() {
            Some(Entry::Events(bytes)) => {
                tape.hand_over(&bytes, each);
            }
            other => tape.peeked = other,
        }
    }

    fn counters(&self) -> Counters {
        self.tape.borrow().counters
    }

    fn verify(&self) -> Result<(), LiveError> {
        Ok(())
    }
}

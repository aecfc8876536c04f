// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reads a recording. Decompression has a thread of its own, so that it and what is done with the records overlap.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read};
use std::path::Path;
use std::sync::mpsc::{sync_channel, Receiver, SyncSender};
use std::thread;

use serde::de::DeserializeOwned;

use super::format::{self, Entry, Head, FORMAT};
use crate::kfd::{self, mqds};

/// Entries are handed over in batches of about so many bytes, most of which are small files: a thread that is woken for each of them
/// costs more than reading it.
const BATCH_BYTES: usize = 1 << 20;

/// What an entry takes beside its content, about.
const ENTRY_BYTES: usize = 256;

/// Batches that are read ahead.
const AHEAD: usize = 4;

/// An entry that is longer gets its memory as it is read: its length is a claim.
const BELIEVED: u64 = 64 << 20;

/// A dump of descriptors is parsed in pieces of about so many bytes.
const PIECE: u64 = 64 << 10;

/// Longest entry: a chunk of events is one MiB, a dump of debugfs some tens of them.
const LONGEST: u64 = 1 << 30;

/// Why a recording cannot be read, or not further.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be opened.
    #[error("cannot read {path}: {error}")]
    Open {
        /// It.
        path: String,
        /// Why.
        error: io::Error,
    },
    /// It is something else.
    #[error("{path} is no recording of gpreempt ({why}); `gpreempt record` makes one")]
    Foreign {
        /// It.
        path: String,
        /// What gives it away.
        why: String,
    },
    /// It was made by a newer program.
    #[error("{path} has format {format}, and this program reads formats up to {FORMAT}: it was made by gpreempt {version}, use that or a later one")]
    Newer {
        /// It.
        path: String,
        /// Its format.
        format: u32,
        /// The program that made it.
        version: String,
    },
    /// It ends too early: the program was killed, or the file was not copied wholly.
    #[error("the recording is cut off after {records} records ({why})")]
    CutOff {
        /// Records that could be read.
        records: u64,
        /// Where it breaks.
        why: String,
    },
}

/// A recording that is being read.
#[derive(Debug)]
pub struct Reader {
    head: Head,
    batches: Receiver<Result<Vec<Entry>, String>>,
    batch: std::vec::IntoIter<Entry>,
    records: u64,
    ended: bool,
}

impl Reader {
    /// Opens a recording and reads its first entry.
    ///
    /// # Errors
    /// [`Error::Open`], [`Error::Foreign`], [`Error::Newer`].
    pub fn open(path: &Path) -> Result<Self, Error> {
        let (file, name) = open(path)?;
        Self::new(file, name)
    }

    /// The same to look at the machine as it was: of the dump of descriptors, which is nearly all of a picture, comes what it says
    /// and not its text.
    ///
    /// # Errors
    /// As [`Reader::open`].
    pub fn play(path: &Path) -> Result<Self, Error> {
        let (file, name) = open(path)?;
        Self::start(file, name, true)
    }

    /// Reads from `file`, which is called `path` in messages.
    ///
    /// # Errors
    /// As [`Reader::open`].
    pub fn new(file: impl Read + Send + 'static, path: String) -> Result<Self, Error> {
        Self::start(file, path, false)
    }

    fn start(file: impl Read + Send + 'static, path: String, parses: bool) -> Result<Self, Error> {
        let (sender, batches) = sync_channel(AHEAD);
        let (head_sender, head) = sync_channel(1);
        thread::Builder::new()
            .name("recording".to_owned())
            .spawn(move || read_all(file, parses, &head_sender, sender))
            .map_err(|error| Error::Open {
                path: path.clone(),
                error,
            })?;
        let head: Head = match head.recv() {
            Ok(Ok(head)) => head,
            Ok(Err(why)) => return Err(Error::Foreign { path, why }),
            Err(_) => {
                return Err(Error::Foreign {
                    path,
                    why: "it is empty".to_owned(),
                })
            }
        };
        if head.format > FORMAT {
            return Err(Error::Newer {
                path,
                format: head.format,
                version: head.version,
            });
        }
        Ok(Self {
            head,
            batches,
            batch: Vec::new().into_iter(),
            records: 0,
            ended: false,
        })
    }

    /// Its first entry.
    #[must_use]
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// The next entry; `None` after the last.
    ///
    /// # Errors
    /// [`Error::CutOff`] if the file ends before the recording does. What was read before is good.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, Error> {
        if self.ended {
            return Ok(None);
        }
        let why = loop {
            if let Some(entry) = self.batch.next() {
                match &entry {
                    Entry::Events(bytes) => self.records += count(bytes),
                    Entry::End(_) => self.ended = true,
                    _ => {}
                }
                return Ok(Some(entry));
            }
            match self.batches.recv() {
                Ok(Ok(batch)) => self.batch = batch.into_iter(),
                Ok(Err(why)) => break why,
                Err(_) => break "its last entry is missing".to_owned(),
            }
        };
        self.ended = true;
        Err(Error::CutOff {
            records: self.records,
            why,
        })
    }
}

fn open(path: &Path) -> Result<(File, String), Error> {
    let name = path.display().to_string();
    match File::open(path) {
        Ok(file) => Ok((file, name)),
        Err(error) => Err(Error::Open { path: name, error }),
    }
}

/// Records in a chunk.
fn count(mut bytes: &[u8]) -> u64 {
    let mut records = 0;
    while let Some((_, rest)) = crate::event::split(bytes) {
        bytes = rest;
        records += 1;
    }
    records
}

/// Entries on their way to the reader.
struct Ahead {
    batches: SyncSender<Result<Vec<Entry>, String>>,
    batch: Vec<Entry>,
    bytes: usize,
}

impl Ahead {
    /// Whether more is wanted.
    fn push(&mut self, entry: Entry, bytes: usize) -> bool {
        self.batch.push(entry);
        self.bytes += bytes + ENTRY_BYTES;
        self.bytes < BATCH_BYTES || self.send()
    }

    fn send(&mut self) -> bool {
        self.bytes = 0;
        self.batches
            .send(Ok(std::mem::take(&mut self.batch)))
            .is_ok()
    }
}

fn read_all(
    file: impl Read,
    parses: bool,
    head: &SyncSender<Result<Head, String>>,
    batches: SyncSender<Result<Vec<Entry>, String>>,
) {
    let mut ahead = Ahead {
        batches,
        batch: Vec::new(),
        bytes: 0,
    };
    let read = try_read_all(file, parses, head, &mut ahead);
    // What is before an error is good.
    let _ = ahead.send();
    if let Err(why) = read {
        // Before the head was read, this is why there is none.
        let _ = head.try_send(Err(why.clone()));
        let _ = ahead.batches.send(Err(why));
    }
}

fn try_read_all(
    file: impl Read,
    parses: bool,
    head: &SyncSender<Result<Head, String>>,
    ahead: &mut Ahead,
) -> Result<(), String> {
    let words = |error: io::Error| error.to_string();
    let decoder = zstd::Decoder::new(BufReader::new(file)).map_err(words)?;
    let mut archive = tar::Archive::new(decoder);
    let mut first = true;
    for entry in archive.entries().map_err(words)? {
        let mut entry = entry.map_err(words)?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        if entry.size() > LONGEST {
            return Err(format!("entry {name} claims {} bytes", entry.size()));
        }
        let cut_off = || format!("entry {name} is cut off");
        if parses && !first && is_mqds(&name) {
            let bytes = usize::try_from(entry.size()).unwrap_or(usize::MAX);
            let mqds = whole(mqds(&mut entry))
                .map_err(words)?
                .ok_or_else(cut_off)?;
            if !ahead.push(Entry::Mqds(mqds), bytes) {
                return Ok(());
            }
            continue;
        }
        let content = whole(content(&mut entry))
            .map_err(words)?
            .ok_or_else(cut_off)?;
        if first {
            if name != format::HEAD {
                return Err(format!("its first entry is {name:?}"));
            }
            first = false;
            let _ = head.send(Ok(json(&name, &content)?));
            continue;
        }
        let bytes = content.len();
        let Some(entry) = interpret(&name, content)? else {
            continue;
        };
        // Nobody wants more.
        if !ahead.push(entry, bytes) {
            return Ok(());
        }
    }
    if first {
        return Err("it has no entries".to_owned());
    }
    Ok(())
}

/// `None` if there is less than it claims.
fn whole<T>(read: io::Result<T>) -> io::Result<Option<T>> {
    match read {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        read => read.map(Some),
    }
}

fn content(entry: &mut tar::Entry<'_, impl Read>) -> io::Result<Vec<u8>> {
    let claimed = entry.size();
    // Memory that the kernel has zeroed already, all at once.
    let mut content = vec![0; usize::try_from(claimed.min(BELIEVED)).unwrap_or(0)];
    entry.read_exact(&mut content)?;
    if claimed > BELIEVED {
        entry.read_to_end(&mut content)?;
    }
    match content.len() as u64 == claimed {
        true => Ok(content),
        false => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

fn is_mqds(name: &str) -> bool {
    let path = name.strip_prefix(format::TREE);
    path.is_some() && path == mqds::PATH.strip_prefix('/')
}

/// What a dump of descriptors says. Its text is never there as a whole: to get memory for it takes longer than to parse it.
fn mqds(entry: &mut tar::Entry<'_, impl Read>) -> io::Result<mqds::Parsed> {
    let mut left = entry.size();
    let mut parser = Ok(mqds::Parser::default());
    let mut from = BufReader::new(entry);
    let mut piece = Vec::new();
    while left > 0 {
        piece.clear();
        from.by_ref().take(PIECE).read_to_end(&mut piece)?;
        from.read_until(b'\n', &mut piece)?;
        if piece.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        left = left.saturating_sub(piece.len() as u64);
        parser = parser.and_then(|mut parser| parser.take(&kfd::text(&piece)).map(|()| parser));
    }
    Ok(parser.map(mqds::Parser::finish))
}

/// `None` for an entry that later versions may have.
fn interpret(name: &str, content: Vec<u8>) -> Result<Option<Entry>, String> {
    if let Some(path) = name.strip_prefix(format::TREE) {
        let path = format!("/{path}");
        return Ok(Some(Entry::File { path, content }));
    }
    if name.starts_with(format::EVENTS) {
        return Ok(Some(Entry::Events(content)));
    }
    Ok(Some(match name {
        format::ATTACHED => Entry::Attached(Box::new(json(name, &content)?)),
        format::SNAPSHOT => Entry::Snapshot(json(name, &content)?),
        format::COUNTERS => Entry::Counters(json(name, &content)?),
        format::GONE => Entry::Gone(json(name, &content)?),
        format::END => Entry::End(json(name, &content)?),
        _ => return Ok(None),
    }))
}

fn json<T: DeserializeOwned>(name: &str, content: &[u8]) -> Result<T, String> {
    serde_json::from_slice(content).map_err(|error| format!("entry {name}: {error}"))
}

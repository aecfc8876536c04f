// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reads a recording. Decompression has a thread of its own, so that it and what is done with the records overlap.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;
use std::sync::mpsc::{sync_channel, Receiver, SyncSender};
use std::thread;

use serde::de::DeserializeOwned;

use super::format::{self, Entry, Head, FORMAT};

/// Entries that are read ahead.
const AHEAD: usize = 8;

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
    entries: Receiver<Result<Entry, String>>,
    records: u64,
    ended: bool,
}

impl Reader {
    /// Opens a recording and reads its first entry.
    ///
    /// # Errors
    /// [`Error::Open`], [`Error::Foreign`], [`Error::Newer`].
    pub fn open(path: &Path) -> Result<Self, Error> {
        let name = path.display().to_string();
        let file = File::open(path).map_err(|error| Error::Open {
            path: name.clone(),
            error,
        })?;
        Self::new(file, name)
    }

    /// Reads from `file`, which is called `path` in messages.
    ///
    /// # Errors
    /// As [`Reader::open`].
    pub fn new(file: impl Read + Send + 'static, path: String) -> Result<Self, Error> {
        let (sender, entries) = sync_channel(AHEAD);
        let (head_sender, head) = sync_channel(1);
        thread::Builder::new()
            .name("recording".to_owned())
            .spawn(move || read_all(file, &head_sender, &sender))
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
            entries,
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
        let why = match self.entries.recv() {
            Ok(Ok(entry)) => {
                match &entry {
                    Entry::Events(bytes) => self.records += count(bytes),
                    Entry::End(_) => self.ended = true,
                    _ => {}
                }
                return Ok(Some(entry));
            }
            Ok(Err(why)) => why,
            Err(_) => "its last entry is missing".to_owned(),
        };
        self.ended = true;
        Err(Error::CutOff {
            records: self.records,
            why,
        })
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

fn read_all(
    file: impl Read,
    head: &SyncSender<Result<Head, String>>,
    entries: &SyncSender<Result<Entry, String>>,
) {
    if let Err(why) = try_read_all(file, head, entries) {
        // Before the head was read, this is why there is none.
        let _ = head.try_send(Err(why.clone()));
        let _ = entries.send(Err(why));
    }
}

fn try_read_all(
    file: impl Read,
    head: &SyncSender<Result<Head, String>>,
    entries: &SyncSender<Result<Entry, String>>,
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
        let mut content = Vec::new();
        entry.read_to_end(&mut content).map_err(words)?;
        if content.len() as u64 != entry.size() {
            return Err(format!("entry {name} is cut off"));
        }
        if first {
            if name != format::HEAD {
                return Err(format!("its first entry is {name:?}"));
            }
            first = false;
            let _ = head.send(Ok(json(&name, &content)?));
            continue;
        }
        let Some(entry) = interpret(&name, content)? else {
            continue;
        };
        // Nobody wants more.
        if entries.send(Ok(entry)).is_err() {
            return Ok(());
        }
    }
    if first {
        return Err("it has no entries".to_owned());
    }
    Ok(())
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

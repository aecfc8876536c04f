// SPDX-License-Identifier: MIT OR Apache-2.0
//! Writes a recording.

use std::fs::File;
use std::io::{self, Write};

use serde::Serialize;
use tar::{Builder, EntryType, Header};
use zstd::Encoder;

use super::format::{self, Attached, Counted, Ended, Head, Snapped, FORMAT};

/// Events are written when there are so many bytes of them, or when something else is to follow.
const CHUNK_BYTES: usize = 1 << 20;

/// Fast, and a tenth of the size for what the driver says.
const LEVEL: i32 = 3;

/// Writes a recording, entry by entry. What was written before a crash can be read.
pub struct Writer<W: Write = File> {
    out: Builder<Encoder<'static, W>>,
    unix_s: u64,
    events: Vec<u8>,
    chunks: u64,
    records: u64,
}

impl<W: Write> Writer<W> {
    /// Starts a recording in `out`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn new(out: W, unix_ns: u64) -> io::Result<Self> {
        let mut encoder = Encoder::new(out, LEVEL)?;
        encoder.include_checksum(true)?;
        let mut writer = Self {
            out: Builder::new(encoder),
            unix_s: unix_ns / 1_000_000_000,
            events: Vec::with_capacity(CHUNK_BYTES + 4096),
            chunks: 0,
            records: 0,
        };
        writer.json(
            format::HEAD,
            &Head {
                format: FORMAT,
                version: env!("CARGO_PKG_VERSION").to_owned(),
                unix_ns,
            },
        )?;
        Ok(writer)
    }

    /// Probes were attached.
    ///
    /// # Errors
    /// When it cannot be written, as for all that follow.
    pub fn attached(&mut self, attached: &Attached) -> io::Result<()> {
        self.json(format::ATTACHED, attached)
    }

    /// The files that follow are a new picture.
    pub fn snapshot(&mut self, snapped: Snapped) -> io::Result<()> {
        self.json(format::SNAPSHOT, &snapped)
    }

    /// A file of the machine, by its absolute path. It comes before the records that were taken and not written yet: they may
    /// need it.
    pub fn file(&mut self, path: &str, content: &[u8]) -> io::Result<()> {
        self.append(
            &format!("{}{}", format::TREE, path.trim_start_matches('/')),
            content,
        )
    }

    /// Takes one record. Returns whether there are so many that [`Self::flush`] is due.
    pub fn record(&mut self, bytes: &[u8]) -> bool {
        self.events.extend_from_slice(bytes);
        self.records += 1;
        self.events.len() >= CHUNK_BYTES
    }

    /// Writes the records that were taken, if there are any, and sees to it that all of it can be read from now on.
    pub fn flush(&mut self) -> io::Result<()> {
        self.chunk()?;
        self.out.get_mut().flush()
    }

    /// Counts so far.
    pub fn counters(&mut self, counted: &Counted) -> io::Result<()> {
        self.json(format::COUNTERS, counted)
    }

    /// The driver was unloaded.
    pub fn gone(&mut self, ts_ns: u64) -> io::Result<()> {
        let records = self.records;
        self.json(format::GONE, &Ended { ts_ns, records })
    }

    /// Ends the recording and returns what it was written to, and the number of records in it.
    pub fn finish(mut self, ts_ns: u64) -> io::Result<(W, u64)> {
        self.chunk()?;
        let records = self.records;
        self.json(format::END, &Ended { ts_ns, records })?;
        let out = self.out.into_inner()?.finish()?;
        Ok((out, records))
    }

    fn chunk(&mut self) -> io::Result<()> {
        if self.events.is_empty() {
            return Ok(());
        }
        let name = format!("{}{:08}.bin", format::EVENTS, self.chunks);
        self.chunks += 1;
        let events = std::mem::take(&mut self.events);
        self.append(&name, &events)?;
        self.events = events;
        self.events.clear();
        Ok(())
    }

    fn json(&mut self, name: &str, content: &impl Serialize) -> io::Result<()> {
        let mut text = serde_json::to_vec(content)?;
        text.push(b'\n');
        self.entry(name, &text)
    }

    /// What was taken before comes before it.
    fn entry(&mut self, name: &str, content: &[u8]) -> io::Result<()> {
        self.chunk()?;
        self.append(name, content)
    }

    fn append(&mut self, name: &str, content: &[u8]) -> io::Result<()> {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o644);
        header.set_mtime(self.unix_s);
        header.set_size(content.len() as u64);
        self.out.append_data(&mut header, name, content)
    }
}

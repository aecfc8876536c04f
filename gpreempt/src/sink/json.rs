// SPDX-License-Identifier: MIT OR Apache-2.0
//! One JSON object a line.

use std::io::{self, BufWriter, Write};

use serde::Serialize;

use super::record::Record;
use super::Sink;

const BUFFER_BYTES: usize = 32 * 1024;

/// Writes `{"type": ..., "data": {...}}` lines.
#[derive(Debug)]
pub struct Json<W: Write>(BufWriter<W>);

impl<W: Write> Json<W> {
    /// Writes to `out`.
    #[must_use]
    pub fn new(out: W) -> Self {
        Self(BufWriter::with_capacity(BUFFER_BYTES, out))
    }
}

/// Writes one object on a line of its own.
///
/// # Errors
/// When it cannot be written.
pub fn line(out: &mut impl Write, object: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, object)?;
    out.write_all(b"\n")
}

impl<W: Write> Sink for Json<W> {
    fn record(&mut self, record: &Record) -> io::Result<()> {
        line(&mut self.0, record)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

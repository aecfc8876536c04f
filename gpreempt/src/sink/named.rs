// SPDX-License-Identifier: MIT OR Apache-2.0
//! A sink whose errors say what could not be written.

use std::io;

use super::record::Record;
use super::{Commands, Sink};
use crate::event::Happening;
use crate::model::{Context, Model};

/// A sink and the name of what is behind it.
#[derive(Debug)]
pub struct Named<S> {
    name: String,
    sink: S,
}

impl<S: Sink> Named<S> {
    /// Names what is behind a sink: a path, or `stdout`.
    pub fn new(name: impl Into<String>, sink: S) -> Self {
        Self {
            name: name.into(),
            sink,
        }
    }

    fn named(&self, error: io::Error) -> io::Error {
        io::Error::new(error.kind(), format!("{}: {error}", self.name))
    }
}

impl<S: Sink> Sink for Named<S> {
    fn record(&mut self, record: &Record) -> io::Result<()> {
        self.sink.record(record).map_err(|e| self.named(e))
    }

    fn raw(&mut self, happening: &Happening) -> io::Result<()> {
        self.sink.raw(happening).map_err(|e| self.named(e))
    }

    fn event(&mut self, happening: &Happening, context: &Context, model: &Model) -> io::Result<()> {
        self.sink
            .event(happening, context, model)
            .map_err(|e| self.named(e))
    }

    fn unfiltered(
        &mut self,
        happening: &Happening,
        context: &Context,
        model: &Model,
    ) -> io::Result<()> {
        self.sink
            .unfiltered(happening, context, model)
            .map_err(|e| self.named(e))
    }

    fn end(&mut self, model: &Model, ts_ns: u64) -> io::Result<()> {
        self.sink.end(model, ts_ns).map_err(|e| self.named(e))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sink.flush().map_err(|e| self.named(e))
    }

    fn commands(&mut self, commands: Commands<'_>, model: &Model, ts_ns: u64) -> io::Result<()> {
        self.sink
            .commands(commands, model, ts_ns)
            .map_err(|e| self.named(e))
    }

    fn tick(&mut self, model: &Model) -> io::Result<()> {
        self.sink.tick(model).map_err(|e| self.named(e))
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! Events and what the model knows of them, to people and tools. Every sink takes the same [`Record`]s.

pub mod filter;
pub mod finding;
pub mod json;
mod named;
pub mod perfetto;
pub mod picture;
pub mod record;
pub mod schema;
pub mod summary;
pub mod table;
pub mod units;

use std::io;
use std::process::ExitStatus;

use crate::event::{Happening, Pid};
use crate::model::{Context, Model};
pub use named::Named;
use record::Record;

/// What became of commands that are watched.
#[derive(Clone, Copy, Debug)]
pub enum Commands<'a> {
    /// These are their processes: those of a stage, started together.
    Started(&'a [Pid]),
    /// All of them have ended.
    Ended(&'a [ExitStatus]),
}

/// Something that shows records.
pub trait Sink {
    /// Takes one record.
    ///
    /// # Errors
    /// When what is behind it cannot be written. A broken pipe means that nobody reads any more.
    fn record(&mut self, record: &Record) -> io::Result<()>;

    /// Takes every event of a watch that makes nothing of them, and is told no more of it.
    ///
    /// # Errors
    /// As [`Sink::record`].
    fn raw(&mut self, happening: &Happening) -> io::Result<()> {
        let _ = happening;
        Ok(())
    }

    /// Takes an event that is shown, before the record of it: for what needs more than the record, the state of everything after it.
    ///
    /// # Errors
    /// As [`Sink::record`].
    fn event(&mut self, happening: &Happening, context: &Context, model: &Model) -> io::Result<()> {
        let _ = (happening, context, model);
        Ok(())
    }

    /// Takes every event, also those that filters leave out, before [`Sink::event`]: for what would be wrong with gaps.
    ///
    /// # Errors
    /// As [`Sink::record`].
    fn unfiltered(
        &mut self,
        happening: &Happening,
        context: &Context,
        model: &Model,
    ) -> io::Result<()> {
        let _ = (happening, context, model);
        Ok(())
    }

    /// Called at the end, before the summary: the last look at the state of everything.
    ///
    /// # Errors
    /// As [`Sink::record`].
    fn end(&mut self, model: &Model, ts_ns: u64) -> io::Result<()> {
        let _ = (model, ts_ns);
        Ok(())
    }

    /// Called when no more records are at hand: what was taken must become visible.
    ///
    /// # Errors
    /// As [`Sink::record`].
    fn flush(&mut self) -> io::Result<()>;

    /// Called when something became of the commands that are watched.
    ///
    /// # Errors
    /// As [`Sink::record`].
    fn commands(&mut self, commands: Commands<'_>, model: &Model, ts_ns: u64) -> io::Result<()> {
        let _ = (commands, model, ts_ns);
        Ok(())
    }

    /// Called about once a second, or as often as the caller wished.
    ///
    /// # Errors
    /// As [`Sink::record`].
    fn tick(&mut self, model: &Model) -> io::Result<()> {
        let _ = model;
        Ok(())
    }
}

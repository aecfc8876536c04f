// SPDX-License-Identifier: MIT OR Apache-2.0
//! Answers about the queues of a model, each with its evidence: how many it uses, with which ids, whether they are the same the
//! next time, on which hardware slots they are, and what follows for whoever wants to preempt it. [`Watcher`] collects
//! [`Run`]s while it watches; [`conclude`] judges them; the rest shows that.

use std::sync::{Mutex, MutexGuard, PoisonError};

mod collector;
pub mod compare;
mod conclude;
mod html;
mod member;
mod noteworthy;
pub mod record;
mod run;
mod steady;
pub mod table;
mod together;
mod trial;
mod watcher;

pub use conclude::{conclude, Analysis, Means};
pub use html::{comparison as html_comparison, page as html_page};
pub use record::{page, schema};
pub use run::Run;
pub use together::Parties;
pub use trial::{Trials, Tried};
pub use watcher::{Collected, Look, Pictures, Tell, Watcher, Who};

/// What other threads or owners see too.
pub(crate) fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

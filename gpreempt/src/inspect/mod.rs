// SPDX-License-Identifier: MIT OR Apache-2.0
//! A picture of the running machine: the files that `kfd` reads, and the driver's own structs, which it takes eBPF to read.
//! Whoever wants a picture calls [`look`]; on a recording it needs neither.

mod live;
mod walk;

use std::sync::{Mutex, PoisonError};

pub use live::Reader;
pub use walk::{walk, Kernel, Table};

use crate::kfd::snapshot::{self, Snapshot, Want};
use crate::kfd::states::States;
use crate::kfd::Root;

/// Loading the program and finding the structs takes longer than reading them, so it is done once.
static READER: Mutex<Option<Reader>> = Mutex::new(None);

/// Takes a picture of all queues.
#[must_use]
pub fn look(root: &Root, want: Want) -> Snapshot {
    match root.is_real() {
        true => snapshot::collect_with(root, want, &mut || Ok(states())),
        false => snapshot::collect(root, want),
    }
}

/// Sets the offset profile for [`look`] on a driver without BTF.
pub fn use_offsets(profile: Option<std::path::PathBuf>) {
    let mut reader = READER.lock().unwrap_or_else(PoisonError::into_inner);
    *reader = Some(Reader::new(profile));
}

fn states() -> States {
    let mut reader = READER.lock().unwrap_or_else(PoisonError::into_inner);
    reader.get_or_insert_with(|| Reader::new(None)).read()
}

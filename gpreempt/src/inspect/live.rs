// SPDX-License-Identifier: MIT OR Apache-2.0
//! The running kernel's memory, and where the driver keeps its processes in it.

use std::io;
use std::path::PathBuf;

use super::walk::{walk, Kernel, Table};
use crate::kfd::states::States;
use crate::source::peek::{Opened, Peek};
use crate::source::{driver, Driver, LiveError};

/// Every process that has /dev/kfd open (kfd_process.c, Linux 6.1 to 7.3).
const TABLE: &str = "kfd_processes_table";

/// Reads the driver's structs. Opens what it needs at the first read, and again when another driver was loaded.
#[derive(Default)]
pub struct Reader {
    profile: Option<PathBuf>,
    open: Option<Open>,
}

struct Open {
    opened: Opened,
    table: Table,
    driver: Driver,
}

impl Kernel for Peek {
    fn read(&self, address: u64, into: &mut [u8]) -> io::Result<()> {
        self.read(address, into)
    }
}

impl Reader {
    /// With the offsets of this profile in place of BTF.
    #[must_use]
    pub fn new(profile: Option<PathBuf>) -> Self {
        Self {
            profile,
            open: None,
        }
    }

    /// Every queue that the driver has.
    pub fn read(&mut self) -> States {
        let now = driver();
        if self.open.as_ref().is_some_and(|open| open.driver != now) {
            self.open = None;
        }
        if self.open.is_none() {
            match self.open(now) {
                Ok(open) => self.open = Some(open),
                Err(error) => return unknown(&error),
            }
        }
        let Some(open) = &self.open else {
            return unknown(&LiveError::NoPrograms);
        };
        match walk(&open.opened.peek, &open.opened.offsets, open.table) {
            Ok(states) => states,
            Err(lacking) => States::Unknown {
                why: format!(
                    "where {} are in this driver is not known",
                    lacking.join(", ")
                ),
                fix: "extract the offset profile again with this version (gpreempt doctor --extract-offsets)"
                    .to_owned(),
            },
        }
    }

    fn open(&self, driver: Driver) -> Result<Open, LiveError> {
        let opened = Opened::open(self.profile.as_deref())?;
        let object = opened.locate(TABLE)?;
        Ok(Open {
            table: Table::new(object.address, object.room_bytes),
            opened,
            driver,
        })
    }
}

/// A message of [`LiveError`] ends with what can be done.
fn unknown(error: &LiveError) -> States {
    let text = error.to_string();
    let (why, fix) = text.split_once(": ").unwrap_or((&text, ""));
    States::Unknown {
        why: why.to_owned(),
        fix: fix.to_owned(),
    }
}

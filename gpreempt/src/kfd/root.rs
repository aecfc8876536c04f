// SPDX-License-Identifier: MIT OR Apache-2.0
//! The directory below which /sys and /proc are looked for.

use std::io;
use std::path::{Path, PathBuf};

/// The directory below which /sys and /proc are looked for: `/`, or a tree that a test made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root(PathBuf);

impl Root {
    /// The running system.
    #[must_use]
    pub fn real() -> Self {
        Self(PathBuf::from("/"))
    }

    /// Another tree.
    #[must_use]
    pub fn at(path: PathBuf) -> Self {
        Self(path)
    }

    /// Whether this is the running system.
    #[must_use]
    pub fn is_real(&self) -> bool {
        self.0 == Path::new("/")
    }

    /// An absolute path of the system, below this root.
    #[must_use]
    pub fn path(&self, absolute: &str) -> PathBuf {
        self.0.join(absolute.trim_start_matches('/'))
    }

    /// A file's content without surrounding white space.
    ///
    /// # Errors
    /// As [`std::fs::read_to_string`], with the path in the message.
    pub fn text(&self, absolute: &str) -> io::Result<String> {
        let path = self.path(absolute);
        match std::fs::read(&path) {
            Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).trim().to_owned()),
            Err(e) => Err(io::Error::new(e.kind(), format!("{}: {e}", path.display()))),
        }
    }

    /// A file's content as a number, decimal.
    #[must_use]
    pub fn number(&self, absolute: &str) -> Option<i64> {
        self.text(absolute).ok()?.parse().ok()
    }

    /// Whether something is there.
    #[must_use]
    pub fn exists(&self, absolute: &str) -> bool {
        self.path(absolute).exists()
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! Files of /sys and /proc in memory: those of a recording, or what was read of the running system and belongs into one.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use super::mqds;

/// Files by absolute path. A dump has tens of megabytes: who reads one shares it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    files: BTreeMap<String, Arc<Vec<u8>>>,
    mqds: Option<mqds::Parsed>,
}

impl Tree {
    /// Puts a file there, in place of an older one. Whether that changed anything.
    pub fn insert(&mut self, path: &str, content: &[u8]) -> bool {
        if self
            .files
            .get(path)
            .is_some_and(|old| old.as_slice() == content)
        {
            return false;
        }
        self.put(path.to_owned(), content.to_vec());
        true
    }

    /// The same for who has no more use for the content.
    pub fn put(&mut self, path: String, content: Vec<u8>) {
        self.files.insert(path, Arc::new(content));
    }

    /// Puts there what the dump of descriptors says, in place of its text.
    pub fn put_mqds(&mut self, mqds: mqds::Parsed) {
        self.mqds = Some(mqds);
    }

    /// What the dump of descriptors says, if its text is not there.
    #[must_use]
    pub fn mqds(&self) -> Option<mqds::Parsed> {
        self.mqds.clone()
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.files.clear();
        self.mqds = None;
    }

    /// A file's content.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn bytes(&self, path: &str) -> io::Result<Arc<Vec<u8>>> {
        self.files.get(path).cloned().ok_or_else(not_recorded)
    }

    /// Names in a directory, ascending.
    ///
    /// # Errors
    /// `NotFound` if nothing is below it.
    pub fn names(&self, dir: &str) -> io::Result<Vec<String>> {
        let dir = format!("{}/", dir.trim_end_matches('/'));
        let below = self.files.range(dir.clone()..);
        let names: BTreeSet<&str> = below
            .map_while(|(path, _)| path.strip_prefix(&dir))
            .filter_map(|rest| rest.split('/').next())
            .collect();
        if names.is_empty() {
            return Err(not_recorded());
        }
        Ok(names.into_iter().map(str::to_owned).collect())
    }

    /// Whether there is a file of this path, or anything below it.
    #[must_use]
    pub fn exists(&self, path: &str) -> bool {
        self.files.contains_key(path) || self.names(path).is_ok()
    }

    /// Files in order of their paths.
    pub fn files(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.files
            .iter()
            .map(|(path, content)| (path.as_str(), content.as_slice()))
    }
}

fn not_recorded() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "not in the recording")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_what_lies_below() {
        let mut tree = Tree::default();
        assert!(tree.insert("/proc/7/comm", b"a\n"));
        assert!(!tree.insert("/proc/7/comm", b"a\n"));
        assert!(tree.insert("/proc/7/comm", b"b\n"));
        tree.insert("/proc/70/stat", b"");
        tree.insert("/proc/7-x", b"");
        assert_eq!(tree.names("/proc").unwrap(), ["7", "7-x", "70"]);
        assert_eq!(tree.names("/proc/7/").unwrap(), ["comm"]);
        assert_eq!(tree.bytes("/proc/7/comm").unwrap().as_slice(), b"b\n");
        assert!(tree.exists("/proc/7") && !tree.exists("/proc/8") && !tree.exists("/pro"));
        let error = tree.names("/sys").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        tree.clear();
        assert_eq!(tree.files().count(), 0);
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where /sys and /proc are looked for: the running system, a directory that a test made, or a recording. And how what is read
//! gets into a recording: a capturing root keeps what was read through it.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::tree::Tree;
use super::{mqds, text};
use crate::event::Pid;

/// Where /sys and /proc are looked for.
#[derive(Clone, Debug)]
pub struct Root(Inner);

#[derive(Clone, Debug)]
enum Inner {
    Directory(PathBuf),
    Captured(PathBuf, Arc<Mutex<Captured>>),
    Recorded(Arc<Mutex<Tree>>),
}

/// What was read through a capturing root.
#[derive(Debug, Default)]
pub struct Captured {
    all: Tree,
    fresh: BTreeSet<String>,
}

impl Captured {
    fn keep(&mut self, path: &str, content: &[u8]) {
        if self.all.insert(path, content) {
            self.fresh.insert(path.to_owned());
        }
    }

    /// What is new or other than it was since this was last called, in order of the paths.
    pub fn take(&mut self) -> Vec<(String, Arc<Vec<u8>>)> {
        let all = &self.all;
        std::mem::take(&mut self.fresh)
            .into_iter()
            .filter_map(|path| Some((path.clone(), all.bytes(&path).ok()?)))
            .collect()
    }

    /// Forgets what was read: everything that is read from now on is new.
    pub fn clear(&mut self) {
        self.all.clear();
        self.fresh.clear();
    }
}

impl Root {
    /// The running system.
    #[must_use]
    pub fn real() -> Self {
        Self(Inner::Directory(PathBuf::from("/")))
    }

    /// Another tree.
    #[must_use]
    pub fn at(path: PathBuf) -> Self {
        Self(Inner::Directory(path))
    }

    /// Files of a recording, which its reader may change.
    #[must_use]
    pub fn recorded(tree: Arc<Mutex<Tree>>) -> Self {
        Self(Inner::Recorded(tree))
    }

    /// The same as this one, and what is read through it and its clones is kept. A recorded root is not captured again.
    #[must_use]
    pub fn capturing(&self) -> (Self, Arc<Mutex<Captured>>) {
        let captured = Arc::new(Mutex::new(Captured::default()));
        let inner = match &self.0 {
            Inner::Directory(dir) | Inner::Captured(dir, _) => {
                Inner::Captured(dir.clone(), Arc::clone(&captured))
            }
            Inner::Recorded(tree) => Inner::Recorded(Arc::clone(tree)),
        };
        (Self(inner), captured)
    }

    /// Whether this is the running system.
    #[must_use]
    pub fn is_real(&self) -> bool {
        match &self.0 {
            Inner::Directory(dir) | Inner::Captured(dir, _) => dir == Path::new("/"),
            Inner::Recorded(_) => false,
        }
    }

    /// An absolute path of the system, below this root. In a recording, one that is not there: only text was recorded.
    #[must_use]
    pub fn path(&self, absolute: &str) -> PathBuf {
        match &self.0 {
            Inner::Directory(dir) | Inner::Captured(dir, _) => {
                dir.join(absolute.trim_start_matches('/'))
            }
            Inner::Recorded(_) => Path::new("/dev/null").join(absolute.trim_start_matches('/')),
        }
    }

    /// A file's content.
    ///
    /// # Errors
    /// As [`std::fs::read`], with the path in the message.
    pub fn bytes(&self, absolute: &str) -> io::Result<Vec<u8>> {
        self.shared(absolute).map(Arc::unwrap_or_clone)
    }

    fn shared(&self, absolute: &str) -> io::Result<Arc<Vec<u8>>> {
        self.read(absolute, |path| std::fs::read(path))
            .map_err(|e| io::Error::new(e.kind(), format!("{absolute}: {e}")))
    }

    /// A file's content without surrounding white space.
    ///
    /// # Errors
    /// As [`Root::bytes`].
    pub fn text(&self, absolute: &str) -> io::Result<String> {
        self.read_text(absolute, str::to_owned)
    }

    /// What `read` makes of a file's content without surrounding white space. Of a long file in a recording no copy is made.
    ///
    /// # Errors
    /// As [`Root::bytes`].
    pub fn read_text<T>(&self, absolute: &str, read: impl FnOnce(&str) -> T) -> io::Result<T> {
        let bytes = self.shared(absolute)?;
        Ok(read(text(&bytes).trim()))
    }

    /// What the dump of descriptors says. Of a recording that is played it was parsed as it was read.
    ///
    /// # Errors
    /// As [`Root::bytes`].
    pub fn mqds(&self) -> io::Result<mqds::Parsed> {
        if let Inner::Recorded(tree) = &self.0 {
            if let Some(mqds) = lock(tree).mqds() {
                return Ok(mqds);
            }
        }
        self.read_text(mqds::PATH, |text| mqds::parse(text).map(Arc::new))
    }

    /// A file's content as a number, decimal.
    #[must_use]
    pub fn number(&self, absolute: &str) -> Option<i64> {
        self.text(absolute).ok()?.parse().ok()
    }

    /// Whether something is there.
    #[must_use]
    pub fn exists(&self, absolute: &str) -> bool {
        match &self.0 {
            Inner::Recorded(tree) => lock(tree).exists(absolute),
            _ => self.path(absolute).exists(),
        }
    }

    /// Names in a directory, in no order.
    ///
    /// # Errors
    /// As [`std::fs::read_dir`], with the path in the message. A recording has directories with something in them only.
    pub fn names(&self, absolute: &str) -> io::Result<Vec<String>> {
        if let Inner::Recorded(tree) = &self.0 {
            return lock(tree).names(absolute);
        }
        let entries = std::fs::read_dir(self.path(absolute))
            .map_err(|e| io::Error::new(e.kind(), format!("{absolute}: {e}")))?;
        Ok(entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .collect())
    }

    /// Inode number of a file or directory.
    #[must_use]
    pub fn inode(&self, absolute: &str) -> Option<u64> {
        self.derived(&format!("{absolute}#inode"), |_| {
            Ok(std::fs::metadata(self.path(absolute))?.ino())
        })
        .ok()
    }

    /// What `read` finds out about the running system and no file says; `name` is what a recording knows it by: the path of the
    /// file or process that it is about, `#`, and a word.
    ///
    /// # Errors
    /// Those of `read`; `NotFound` in a recording without it.
    pub fn derived<T>(&self, name: &str, read: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T>
    where
        T: std::fmt::Display + std::str::FromStr,
    {
        let bytes = self.read(name, |path| Ok(read(path)?.to_string().into_bytes()))?;
        String::from_utf8_lossy(&bytes)
            .trim()
            .parse()
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, name.to_owned()))
    }

    /// Eight bytes of a process's memory.
    ///
    /// # Errors
    /// `PermissionDenied` without ptrace right; `NotFound` if the process is gone; others where nothing is mapped.
    pub fn memory(&self, pid: Pid, address: u64) -> io::Result<u64> {
        let name = format!("/proc/{pid}/mem#{address:x}");
        if !self.is_real() && !matches!(self.0, Inner::Recorded(_)) {
            return self.text(&name)?.parse().map_err(|_| {
                io::Error::new(io::ErrorKind::InvalidData, format!("{name}: no number"))
            });
        }
        self.derived(&name, |_| super::memory::read_u64(pid, address))
    }

    fn read(
        &self,
        absolute: &str,
        from: impl FnOnce(&Path) -> io::Result<Vec<u8>>,
    ) -> io::Result<Arc<Vec<u8>>> {
        match &self.0 {
            Inner::Directory(_) => from(&self.path(absolute)).map(Arc::new),
            Inner::Captured(_, captured) => {
                let bytes = from(&self.path(absolute))?;
                lock(captured).keep(absolute, &bytes);
                Ok(Arc::new(bytes))
            }
            Inner::Recorded(tree) => lock(tree).bytes(absolute),
        }
    }
}

/// A panic of another thread leaves the files as they were.
fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_can_be_read_again_from_a_recording() {
        let dir = std::env::temp_dir().join(format!("gpreempt-root-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("proc/7")).unwrap();
        std::fs::write(dir.join("proc/7/comm"), "job\n").unwrap();
        std::fs::write(dir.join("proc/7/stat"), "not read").unwrap();
        let (root, captured) = Root::at(dir.clone()).capturing();
        assert_eq!(root.text("/proc/7/comm").unwrap(), "job");
        let inode = root.inode("/proc/7").unwrap();
        assert!(root.text("/proc/8/comm").is_err());

        let tree = Arc::new(Mutex::new(Tree::default()));
        for (path, content) in captured.lock().unwrap().take() {
            tree.lock().unwrap().insert(&path, &content);
        }
        assert!(captured.lock().unwrap().take().is_empty());
        let recorded = Root::recorded(tree);
        assert_eq!(recorded.text("/proc/7/comm").unwrap(), "job");
        assert_eq!(recorded.inode("/proc/7"), Some(inode));
        assert!(recorded.exists("/proc/7") && !recorded.is_real());
        let error = recorded.text("/proc/7/stat").unwrap_err();
        assert_eq!(error.to_string(), "/proc/7/stat: not in the recording");
        assert!(!recorded.path("/proc/7/comm").exists());
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn own_memory_can_be_read() {
        let value = 0x1122_3344_5566_7788_u64;
        let address = std::ptr::from_ref(&value) as u64;
        let me = Pid(std::process::id());
        assert_eq!(Root::real().memory(me, address).unwrap(), value);
        assert!(Root::real().memory(me, 0).is_err());
    }
}

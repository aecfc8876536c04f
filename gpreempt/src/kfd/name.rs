// SPDX-License-Identifier: MIT OR Apache-2.0
//! How users name GPUs and processes, on the command line and in rules.

use std::fmt;
use std::str::FromStr;

use crate::event::{Comm, GpuId};

/// A node as the user names it: hexadecimal as tables and the driver's debugfs print it, or decimal as in JSON and sysfs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GpuArg {
    decimal: Option<u32>,
    hex: Option<u32>,
}

impl GpuArg {
    /// Whether it names this node.
    #[must_use]
    pub fn is(self, gpu: GpuId) -> bool {
        self.decimal == Some(gpu.0) || self.hex == Some(gpu.0)
    }
}

/// As it was given, but for a prefix.
impl fmt::Display for GpuArg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.decimal, self.hex) {
            (Some(decimal), _) => decimal.fmt(f),
            (None, hex) => write!(f, "{:x}", hex.unwrap_or_default()),
        }
    }
}

impl FromStr for GpuArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (decimal, digits) = match text.strip_prefix("0x") {
            Some(digits) => (None, digits),
            None => (text.parse().ok(), text),
        };
        let hex = u32::from_str_radix(digits, 16).ok();
        if decimal.is_none() && hex.is_none() {
            return Err(
                "expected a gpu_id: 52a1 or 0x52a1 as tables print it, 21153 as JSON does"
                    .to_owned(),
            );
        }
        Ok(Self { decimal, hex })
    }
}

/// A shell pattern for process names: `*`, `?`, `[abc]`.
#[derive(Clone, Debug)]
pub struct CommGlob(glob::Pattern);

impl CommGlob {
    /// Matches the name as it is shown, that is escaped.
    #[must_use]
    pub fn matches(&self, comm: &Comm) -> bool {
        match std::str::from_utf8(comm.as_bytes()) {
            Ok(plain) if self.0.matches(plain) => true,
            _ => self.0.matches(&comm.to_string()),
        }
    }
}

impl fmt::Display for CommGlob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for CommGlob {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        glob::Pattern::new(text)
            .map(Self)
            .map_err(|e| e.msg.to_owned())
    }
}

/// A shell pattern for paths of cgroups. `*` matches a slash too.
#[derive(Clone, Debug)]
pub struct CgroupGlob(glob::Pattern);

impl CgroupGlob {
    /// Whether it matches this cgroup or one above it: a cgroup is meant with all below it.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        let mut path = path;
        loop {
            if self.0.matches(path) {
                return true;
            }
            match path.rsplit_once('/') {
                Some(("", "")) | None => return false,
                Some(("", _)) => path = "/",
                Some((above, _)) => path = above,
            }
        }
    }
}

impl fmt::Display for CgroupGlob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for CgroupGlob {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Err("expected a path of a cgroup, as in /batch.slice/*".to_owned());
        }
        let pattern = match text.strip_prefix('/') {
            Some(_) => glob::Pattern::new(text),
            None if text.starts_with('*') => glob::Pattern::new(text),
            None => glob::Pattern::new(&format!("/{text}")),
        };
        pattern.map(Self).map_err(|e| e.msg.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_is_named_either_way() {
        let gpu = GpuId(0x5201);
        for text in ["5201", "0x5201", "20993"] {
            assert!(text.parse::<GpuArg>().unwrap().is(gpu), "{text}");
        }
        assert!("gpu0".parse::<GpuArg>().is_err());
    }

    #[test]
    fn names_match_as_shells_do() {
        let glob: CommGlob = "kworker/*:[0-9]".parse().unwrap();
        assert!(
            glob.matches(&Comm::from_procfs(b"kworker/0:1\n")),
            "a slash is nothing special"
        );
        assert!(!glob.matches(&Comm::from_procfs(b"python3\n")));
        let escaped: CommGlob = "a*".parse().unwrap();
        assert!(escaped.matches(&Comm::from_procfs(b"a\xff\n")));
        assert!("[".parse::<CommGlob>().is_err());
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the three debugfs dumps have in common: lines of `offset: word word ...` below headings, and errors that name
//! the line.

use std::fmt;

use crate::event::GpuId;

/// A dump that is not understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError {
    /// From 1; 0 = the dump as a whole.
    pub line: usize,
    /// What is wrong.
    pub what: String,
}

impl ParseError {
    pub(super) fn new(line: usize, what: impl Into<String>) -> Self {
        Self {
            line,
            what: what.into(),
        }
    }

    /// For a dump that has text but not one heading in it.
    pub(super) fn nothing_found(what: &str) -> Self {
        Self::new(0, format!("the file is not empty but no {what} was found in it; this driver prints another format"))
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => f.write_str(&self.what),
            line => write!(f, "line {line}: {}", self.what),
        }
    }
}

impl std::error::Error for ParseError {}

/// Lines of a dump with their numbers, without blank ones and trailing white space.
pub(super) fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .map(|(at, line)| (at + 1, line.trim_end()))
        .filter(|(_, line)| !line.is_empty())
}

/// `  00000020: 0000fcc0 00000000 ...`: the number before the colon and at most 8 words. `None` if it is no such line.
pub(super) fn row(line: &str) -> Option<(u32, impl Iterator<Item = Option<u32>> + '_)> {
    let (offset, words) = line.trim_start().split_once(':')?;
    if offset.len() < 8 || !offset.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let offset = u32::from_str_radix(offset, 16).ok()?;
    Some((offset, words.split_ascii_whitespace().map(word_of)))
}

fn word_of(word: &str) -> Option<u32> {
    (word.len() == 8)
        .then(|| u32::from_str_radix(word, 16).ok())
        .flatten()
}

/// `Node 2, gpu_id f7bc:`.
pub(super) fn node(line: &str) -> Option<(u32, GpuId)> {
    let (node, gpu_id) = line
        .strip_prefix("Node ")?
        .strip_suffix(':')?
        .split_once(", gpu_id ")?;
    Some((
        node.parse().ok()?,
        GpuId(u32::from_str_radix(gpu_id, 16).ok()?),
    ))
}

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
    Some((offset, Words(words.as_bytes())))
}

/// Words with white space between them.
struct Words<'a>(&'a [u8]);

impl Iterator for Words<'_> {
    type Item = Option<u32>;

    fn next(&mut self) -> Option<Option<u32>> {
        // As the kernel prints them: a blank, eight digits, and the next word or the end.
        if let [b' ', rest @ ..] = self.0 {
            if let (Some(digits), None | Some(b' ')) = (rest.first_chunk(), rest.get(8)) {
                if let Some(value) = value_of(*digits) {
                    self.0 = &rest[8..];
                    return Some(Some(value));
                }
            }
        }
        let start = self.0.trim_ascii_start();
        if start.is_empty() {
            return None;
        }
        let end = start.iter().position(u8::is_ascii_whitespace);
        let (word, rest) = start.split_at(end.unwrap_or(start.len()));
        self.0 = rest;
        Some(word.try_into().ok().and_then(value_of))
    }
}

/// Values of hexadecimal digits; what is none has a bit that no digit has. A dump has a million words.
const DIGITS: [u8; 256] = {
    let mut digits = [0x80; 256];
    let mut value = 0;
    while value < 16 {
        digits[b"0123456789abcdef"[value] as usize] = value as u8;
        digits[b"0123456789ABCDEF"[value] as usize] = value as u8;
        value += 1;
    }
    digits
};

fn value_of(digits: [u8; 8]) -> Option<u32> {
    let digits = digits.map(|digit| DIGITS[usize::from(digit)]);
    let all = digits.iter().fold(0, |all, digit| all | digit);
    let value = digits
        .iter()
        .fold(0, |value, digit| value << 4 | u32::from(*digit));
    (all < 16).then_some(value)
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn words_are_those_of_the_standard_library(words in "([ \t]{0,2}([0-9a-fA-F]{7,9}|[0-9a-f+é]{8})){0,4} ?") {
            let read: Vec<_> = Words(words.as_bytes()).collect();
            let is_word = |word: &str| word.len() == 8 && word.bytes().all(|b| b.is_ascii_hexdigit());
            let expected: Vec<_> = words
                .split_ascii_whitespace()
                .map(|word| is_word(word).then(|| u32::from_str_radix(word, 16).ok()).flatten())
                .collect();
            prop_assert_eq!(read, expected);
        }
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the three debugfs dumps have in common: lines of `offset: word word ...` below headings, and errors that name
//! the line.

use std::borrow::Cow;
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

/// A dump's bytes as text, as `String::from_utf8_lossy` makes it, which is slow where all of a long text is as it should be.
#[must_use]
pub fn text(bytes: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => String::from_utf8_lossy(bytes),
    }
}

/// A line of a dump.
pub(super) enum Line<'a> {
    /// Words, `  00000020: 0000fcc0 00000000 ...`.
    Row(Row<'a>),
    /// Any other, without white space at its end.
    Other(&'a str),
}

/// Words behind their offset.
#[derive(Clone, Copy)]
pub(super) struct Row<'a> {
    /// What is before the colon.
    pub(super) offset: u32,
    words: &'a [u8],
    is_printed: bool,
}

impl<'a> Row<'a> {
    /// Each of its words; `None` for what is none.
    pub(super) fn words(self) -> impl Iterator<Item = Option<u32>> + 'a {
        Words(self.words)
    }

    /// How many there are; `None` if one of them is none.
    pub(super) fn count(self) -> Option<usize> {
        match self.is_printed {
            true => Some(8),
            false => self
                .words()
                .try_fold(0, |count, word| word.map(|_| count + 1)),
        }
    }
}

/// Lines of a dump with their numbers, without blank ones.
pub(super) fn lines(text: &str) -> Lines<'_> {
    lines_after(0, text)
}

/// The same of what follows the first so many lines.
pub(super) fn lines_after(number: usize, text: &str) -> Lines<'_> {
    Lines { rest: text, number }
}

/// See [`lines`].
pub(super) struct Lines<'a> {
    rest: &'a str,
    /// Of the line before.
    pub(super) number: usize,
}

impl<'a> Iterator for Lines<'a> {
    type Item = (usize, Line<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        while !self.rest.is_empty() {
            self.number += 1;
            // Nearly all of a long dump: to look for the ends of these lines and of their words takes longer than to see that they
            // are where they always are.
            if let Some((row, rest)) = printed(self.rest) {
                self.rest = rest;
                return Some((self.number, Line::Row(row)));
            }
            let (line, rest) = self.rest.split_once('\n').unwrap_or((self.rest, ""));
            self.rest = rest;
            let line = line.trim_end();
            if !line.is_empty() {
                let line = row(line).map_or(Line::Other(line), Line::Row);
                return Some((self.number, line));
            }
        }
        None
    }
}

/// A line of eight words as the kernel prints them, each 0 for a digit.
const PRINTED: &[u8; 86] =
    b"    00000000: 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000\n";

/// Such a line at the start of a text, and what follows it.
fn printed(text: &str) -> Option<(Row<'_>, &str)> {
    let line: &[u8; PRINTED.len()] = text.as_bytes().first_chunk()?;
    // Without a branch, so that many are compared at once.
    let is_printed = line.iter().zip(PRINTED).fold(true, |all, (byte, as_in)| {
        let is_digit = (byte.wrapping_sub(b'0') < 10) | ((byte | 0x20).wrapping_sub(b'a') < 6);
        all & ((byte == as_in) | (is_digit & (*as_in == b'0')))
    });
    if !is_printed {
        return None;
    }
    let row = Row {
        offset: line[4..12].try_into().ok().and_then(value_of)?,
        words: &line[13..line.len() - 1],
        is_printed,
    };
    Some((row, &text[line.len()..]))
}

/// Any other line of an offset and words; `None` if it is none.
fn row(line: &str) -> Option<Row<'_>> {
    let (offset, words) = line.trim_start().split_once(':')?;
    if offset.len() < 8 || !offset.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    Some(Row {
        offset: u32::from_str_radix(offset, 16).ok()?,
        words: words.as_bytes(),
        is_printed: false,
    })
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
    let (mut value, mut all) = (0, 0);
    for digit in digits {
        let digit = DIGITS[usize::from(digit)];
        value = value << 4 | u32::from(digit);
        all |= digit;
    }
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
        fn a_line_as_printed_is_read_as_any_other(
            offset in "[ 0-9a-f]{4}[0-9a-f]{8}", words in proptest::collection::vec("[0-9a-fA-F]{7,8}|[g:@`é]{8}", 7..10), end in "\n|\r|"
        ) {
            let text = format!("{offset}: {}{end}", words.join(" "));
            let read = |text: &str| -> Vec<_> {
                lines(text)
                    .map(|(number, line)| match line {
                        Line::Row(row) => (number, row.offset, row.words().collect(), row.count(), None),
                        Line::Other(line) => (number, 0, Vec::new(), None, Some(line.to_owned())),
                    })
                    .collect()
            };
            // Blanks at its end, and it is not as printed.
            prop_assert_eq!(read(&text), read(&text.replace('\n', " \n")));
        }

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

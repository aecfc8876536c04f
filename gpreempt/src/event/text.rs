// SPDX-License-Identifier: MIT OR Apache-2.0
//! Strings that a process chose, made safe for a terminal and for a line of JSON.
//!
//! A process names itself (`prctl(PR_SET_NAME)`), so `comm` is hostile input: it may hold escape sequences, characters
//! that reverse the direction of the line, or bytes that are no UTF-8.

use std::fmt;

use gpreempt_common::record::COMM_BYTES;
use serde::{Serialize, Serializer};

/// Name of a process as the kernel keeps it. Printed and serialised escaped.
///
/// Aligned, as it is copied several times for every event: of an optional one at an odd address processors read parts that were written
/// separately, which takes them longer than a lookup.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
#[repr(align(8))]
pub struct Comm([u8; COMM_BYTES]);

impl Comm {
    /// Takes the kernel's bytes; what follows the first NUL is not part of the name.
    #[must_use]
    pub fn new(raw: [u8; COMM_BYTES]) -> Self {
        let mut clean = [0; COMM_BYTES];
        let len = raw.iter().position(|b| *b == 0).unwrap_or(COMM_BYTES);
        clean[..len].copy_from_slice(&raw[..len]);
        Self(clean)
    }

    /// From the content of `/proc/PID/comm`: a name and a newline. Longer names (workqueue workers have them) are cut.
    #[must_use]
    pub fn from_procfs(content: &[u8]) -> Self {
        let name = content.strip_suffix(b"\n").unwrap_or(content);
        let mut raw = [0; COMM_BYTES];
        let len = name.len().min(COMM_BYTES);
        raw[..len].copy_from_slice(&name[..len]);
        Self::new(raw)
    }

    /// The name's bytes, which need not be UTF-8.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        let len = self.0.iter().position(|b| *b == 0).unwrap_or(COMM_BYTES);
        &self.0[..len]
    }

    /// True where the kernel gave no name.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0[0] == 0
    }
}

impl fmt::Display for Comm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Escaped(self.as_bytes()).fmt(f)
    }
}

impl fmt::Debug for Comm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Comm({self})")
    }
}

impl Serialize for Comm {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Displays bytes with everything that is not plainly visible text written as an escape: `\n`, `\x1b`, `\u{202e}`,
/// `\xff` for a byte that is not UTF-8, `\\` for a backslash, so that the original can be recovered.
#[derive(Clone, Copy, Debug)]
pub struct Escaped<'a>(pub &'a [u8]);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            let text = chunk.valid();
            let mut plain_from = 0;
            for (at, c) in text.char_indices() {
                if !needs_escape(c) {
                    continue;
                }
                f.write_str(&text[plain_from..at])?;
                plain_from = at + c.len_utf8();
                match c {
                    '\\' => f.write_str("\\\\")?,
                    '\n' => f.write_str("\\n")?,
                    '\r' => f.write_str("\\r")?,
                    '\t' => f.write_str("\\t")?,
                    c if c.is_ascii() => write!(f, "\\x{:02x}", u32::from(c))?,
                    c => write!(f, "\\u{{{:x}}}", u32::from(c))?,
                }
            }
            f.write_str(&text[plain_from..])?;
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

/// Controls, the characters that steer bidirectional text, and others that take no room on the screen.
fn needs_escape(c: char) -> bool {
    if c.is_ascii_graphic() || c == ' ' {
        return c == '\\';
    }
    c.is_control()
        || matches!(u32::from(c),
            0xad | 0x34f | 0x61c | 0x115f..=0x1160 | 0x17b4..=0x17b5 | 0x180b..=0x180f
            | 0x200b..=0x200f | 0x2028..=0x202f | 0x205f..=0x206f | 0x3164 | 0xfe00..=0xfe0f | 0xfeff | 0xffa0
            | 0xfff0..=0xfffb | 0x1bca0..=0x1bca3 | 0x1d173..=0x1d17a | 0xe0000..=0xe0fff)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn comm(bytes: &[u8]) -> String {
        let mut raw = [0; COMM_BYTES];
        raw[..bytes.len()].copy_from_slice(bytes);
        Comm::new(raw).to_string()
    }

    #[test]
    fn plain_names_stay() {
        assert_eq!(comm(b"kfd-load"), "kfd-load");
        assert_eq!(
            comm(b"VLLM::Worker_TP0"),
            "VLLM::Worker_TP0",
            "a full buffer has no NUL"
        );
        assert_eq!(comm("日本".as_bytes()), "日本");
    }

    #[test]
    fn hostile_names_are_escaped() {
        assert_eq!(comm(b"\x1b[2J\x07"), "\\x1b[2J\\x07");
        assert_eq!(comm("\u{202e}drowssap".as_bytes()), "\\u{202e}drowssap");
        assert_eq!(
            comm("a\u{9b}31m".as_bytes()),
            "a\\u{9b}31m",
            "C1 controls steer terminals too"
        );
        assert_eq!(comm(b"a\xffb\xc3"), "a\\xffb\\xc3");
        assert_eq!(comm(b"a\nb\\n"), "a\\nb\\\\n");
        assert_eq!(comm("\u{200b}\u{2066}".as_bytes()), "\\u{200b}\\u{2066}");
        assert_eq!(comm(b"a\0hidden"), "a");
    }

    /// Reads the escapes back.
    fn unescape(text: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut rest = text.chars();
        while let Some(c) = rest.next() {
            if c != '\\' {
                bytes.extend(c.to_string().bytes());
                continue;
            }
            match rest.next().unwrap() {
                '\\' => bytes.push(b'\\'),
                'n' => bytes.push(b'\n'),
                'r' => bytes.push(b'\r'),
                't' => bytes.push(b'\t'),
                'x' => {
                    let hex: String = rest.by_ref().take(2).collect();
                    bytes.push(u8::from_str_radix(&hex, 16).unwrap());
                }
                'u' => {
                    let hex: String = rest.by_ref().skip(1).take_while(|c| *c != '}').collect();
                    let c = char::from_u32(u32::from_str_radix(&hex, 16).unwrap()).unwrap();
                    bytes.extend(c.to_string().bytes());
                }
                other => panic!("unknown escape {other}"),
            }
        }
        bytes
    }

    proptest! {
        #[test]
        fn nothing_hostile_survives_and_nothing_is_lost(raw in proptest::array::uniform16(any::<u8>())) {
            let name = Comm::new(raw);
            let shown = name.to_string();
            prop_assert!(shown.chars().all(|c| !c.is_control()));
            let steers = |c| ('\u{200b}'..='\u{200f}').contains(&c) || ('\u{202a}'..='\u{202e}').contains(&c);
            prop_assert!(!shown.chars().any(steers));
            prop_assert_eq!(unescape(&shown), name.as_bytes());
        }

        #[test]
        fn any_text_survives(text in any::<String>()) {
            let shown = Escaped(text.as_bytes()).to_string();
            prop_assert!(shown.chars().all(|c| !needs_escape(c) || c == '\\'));
            prop_assert_eq!(unescape(&shown), text.as_bytes());
        }
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! Several files as one text, for a corpus that people can read: each after a line of `=== ` and its path.

const HEAD: &[u8] = b"=== ";

/// Paths and contents.
pub(crate) fn files(bytes: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<(String, Vec<u8>)> = Vec::new();
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        if let Some(path) = line.strip_prefix(HEAD) {
            let path = String::from_utf8_lossy(path).trim_end().to_owned();
            files.push((path, Vec::new()));
        } else if let Some((_, content)) = files.last_mut() {
            content.extend_from_slice(line);
        }
    }
    files
}

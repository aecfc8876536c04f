// SPDX-License-Identifier: MIT OR Apache-2.0
//! What may be written to a terminal or a program, whatever the names of processes and cgroups are.

/// Text for people without colours: lines of characters that control nothing.
pub(crate) fn is_text(bytes: &[u8]) {
    let text = std::str::from_utf8(bytes).expect("text is UTF-8");
    let control = text.chars().find(|c| c.is_control() && *c != '\n');
    assert_eq!(control, None, "{text:?}");
}

/// Objects, one a line.
pub(crate) fn is_json_lines(bytes: &[u8]) {
    let text = std::str::from_utf8(bytes).expect("JSON is UTF-8");
    for line in text.lines() {
        let value: serde_json::Value = serde_json::from_str(line).expect("a line is JSON");
        assert!(value.is_object(), "{line}");
    }
    assert!(text.is_empty() || text.ends_with('\n'));
}

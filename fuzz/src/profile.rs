// SPDX-License-Identifier: MIT OR Apache-2.0
//! Offset profiles: what is taken survives being written, and every offset is within a struct.

use gpreempt::source::profile::Profile;
use gpreempt_common::offsets::UNKNOWN;

pub fn profile(bytes: &[u8]) {
    let Ok(profile) = Profile::parse(&String::from_utf8_lossy(bytes)) else {
        return;
    };
    let text = profile.to_text().expect("it can be written");
    assert_eq!(Profile::parse(&text).expect("it can be read"), profile);
    let resolved = profile.resolve();
    let known = profile.offsets.len() + resolved.missing.len();
    assert_eq!(known, resolved.offsets.as_words().len());
    let words = resolved.offsets.as_words();
    assert!(words
        .iter()
        .all(|word| *word <= 1 << 20 || *word == UNKNOWN));
}

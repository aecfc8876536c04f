// SPDX-License-Identifier: MIT OR Apache-2.0
//! The driver's structs as a recording keeps them: what is read survives being written.

use gpreempt::kfd::states::States;

pub fn states(bytes: &[u8]) {
    let Ok(states) = String::from_utf8_lossy(bytes).parse::<States>() else {
        return;
    };
    let text = states.to_string();
    assert!(!text.contains('\n'));
    assert_eq!(text.parse::<States>().expect("it can be read"), states);
}

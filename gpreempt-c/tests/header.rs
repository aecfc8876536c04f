// SPDX-License-Identifier: MIT OR Apache-2.0
//! The committed header is what the declarations say. `SNAPSHOTS=overwrite cargo test -p gpreempt-c --test header` writes it anew.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use std::path::Path;

#[test]
fn header_is_up_to_date() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = cbindgen::Config::from_file(here.join("cbindgen.toml")).unwrap();
    let mut builder = cbindgen::Builder::new().with_config(config);
    for file in ["abi", "calls"] {
        builder = builder.with_src(here.join("src").join(file).with_extension("rs"));
    }
    let mut header = Vec::new();
    builder.generate().unwrap().write(&mut header);
    let header = String::from_utf8(header).unwrap();
    // Rust's word for it.
    let header = header.replace("# Safety\n", "The caller promises:\n");
    snapbox::assert_data_eq!(header, snapbox::file!["../include/gpreempt.h"].raw());
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! `watch` as a user sees it, on scripts of records: no root, no GPU, no kernel module.

mod common;

use common::{life, Tree};
use snapbox::str;

#[test]
fn a_life_in_80_columns() {
    let tree = Tree::with_gpu("life-80");
    tree.file("/proc/9/comm", "kworker/u8:2\n");
    tree.file("/proc/300/comm", "rocgdb\n");
    let count = life().len().to_string();
    tree.watch(&life())
        .env("COLUMNS", "80")
        .args(["--count", &count])
        .assert()
        .success()
        .stdout_eq(str![[""]])
        .stderr_eq(str![[""]]);
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! The rooms depend on each other in one direction: source, event <- kfd, model <- sink <- engine, doctor <- cli.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// A room and the rooms that it may use.
const MAY_USE: &[(&str, &[&str])] = &[
    ("source", &[]),
    ("event", &[]),
    ("kfd", &["event"]),
    ("model", &["event"]),
    ("sink", &["event", "kfd", "model", "source"]),
    ("engine", &["event", "kfd", "model", "sink", "source"]),
    ("doctor", &["kfd", "source"]),
    (
        "cli",
        &["doctor", "engine", "event", "kfd", "sink", "source"],
    ),
];

fn rust_files(dir: &Path, files: &mut Vec<std::path::PathBuf>) {
    for entry in fs::read_dir(dir).expect("the source is there") {
        let path = entry.expect("the source can be listed").path();
        if path.is_dir() {
            rust_files(&path, files);
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
}

#[test]
fn rooms_use_only_rooms_below_them() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    rust_files(&src, &mut files);
    let mut rooms = BTreeSet::new();
    for file in &files {
        let relative = file.strip_prefix(&src).expect("it is below");
        let first = relative
            .components()
            .next()
            .expect("it has a name")
            .as_os_str()
            .to_string_lossy();
        let room = first.trim_end_matches(".rs").to_owned();
        if room == "lib" || room == "main" {
            continue;
        }
        let (_, allowed) = MAY_USE
            .iter()
            .find(|(name, _)| *name == room)
            .unwrap_or_else(|| panic!("{room} is new"));
        let text = fs::read_to_string(file).expect("the source is text");
        for used in text.split("crate::").skip(1) {
            let used: String = used
                .chars()
                .take_while(|c| c.is_alphanumeric() || *c == '_')
                .collect();
            let is_room = MAY_USE.iter().any(|(name, _)| *name == used);
            assert!(
                !is_room || used == room || allowed.contains(&used.as_str()),
                "{} uses {used}, which is above it",
                relative.display()
            );
        }
        rooms.insert(room);
    }
    assert_eq!(rooms.len(), MAY_USE.len(), "every room was looked at");
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! The rooms depend on each other in one direction: source, event <- kfd, model <- inspect, control, policy <- sink <- findings
//! <- engine, bench, doctor, stat <- analysis, serve, top <- cli.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// A room and the rooms that it may use.
const MAY_USE: &[(&str, &[&str])] = &[
    ("source", &[]),
    ("event", &[]),
    ("kfd", &["event"]),
    // Reads the running kernel: what `source` fetches and `kfd` knows the meaning of.
    ("inspect", &["kfd", "source"]),
    ("model", &["event"]),
    ("control", &["event", "kfd", "source"]),
    // Decides from what it is told; of kfd, only the patterns by which users name processes.
    ("policy", &["event", "kfd"]),
    // Of control, only the records that it reports: a test below.
    ("sink", &["control", "event", "kfd", "model", "source"]),
    ("findings", &["event", "kfd", "model", "sink"]),
    ("stat", &["event", "findings", "model", "sink"]),
    ("recording", &["event", "kfd", "source"]),
    (
        "engine",
        &["event", "kfd", "model", "recording", "sink", "source"],
    ),
    // What pages look like, whatever is on them.
    ("html", &[]),
    (
        "analysis",
        &[
            "event", "findings", "html", "inspect", "kfd", "model", "sink", "stat",
        ],
    ),
    ("bench", &["control", "event", "html", "kfd", "sink"]),
    ("doctor", &["event", "findings", "kfd", "source"]),
    (
        "top",
        &[
            "engine",
            "event",
            "findings",
            "inspect",
            "kfd",
            "model",
            "recording",
            "sink",
            "source",
        ],
    ),
    // The daemon: all that decides, acts and watches, behind a socket.
    (
        "serve",
        &[
            "control", "engine", "event", "inspect", "kfd", "model", "policy", "sink", "source",
        ],
    ),
    (
        "cli",
        &[
            "analysis",
            "bench",
            "control",
            "doctor",
            "engine",
            "event",
            "findings",
            "inspect",
            "kfd",
            "model",
            "policy",
            "recording",
            "serve",
            "sink",
            "source",
            "stat",
            "top",
        ],
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

/// What shows things must not be able to do things.
#[test]
fn sinks_know_the_records_of_control_only() {
    let sink = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/sink");
    let mut files = Vec::new();
    rust_files(&sink, &mut files);
    assert!(!files.is_empty());
    for file in files {
        let text = fs::read_to_string(&file).expect("the source is text");
        for used in text.split("crate::control").skip(1) {
            assert!(
                used.starts_with("::report::"),
                "{} uses more of control than its records",
                file.display()
            );
        }
    }
}

/// Calls that can crash what they are made on are made in few places.
#[test]
fn unsafe_code_is_in_leaf_files() {
    const LEAVES: &[&str] = &[
        "control/command.rs",
        "control/pidfd.rs",
        "control/preload.rs",
        "control/ptrace.rs",
        "control/supervisor/isolate.rs",
        "kfd/uapi/criu.rs",
        "kfd/uapi/debug.rs",
        "kfd/uapi/gpreempt.rs",
        "source/links.rs",
        "source/sys.rs",
    ];
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    rust_files(&src, &mut files);
    let mut found: Vec<String> = files
        .iter()
        .filter(|file| !file.ends_with("tests.rs"))
        .filter(|file| {
            let text = fs::read_to_string(file).expect("the source is text");
            text.lines()
                .any(|line| line.contains("unsafe {") || line.trim().starts_with("unsafe impl"))
        })
        .map(|file| {
            let relative = file.strip_prefix(&src).expect("it is below");
            relative.to_string_lossy().into_owned()
        })
        .collect();
    found.sort();
    for file in &found {
        assert!(LEAVES.contains(&file.as_str()), "{file} has unsafe code");
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is written can be read; what is not a recording says so; what is cut off says how much of it was good.

use std::io::Cursor;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::kfd::mqds;
use crate::source::{Counters, Startup};

fn startup() -> Startup {
    Startup {
        kernel: "6.12.95".to_owned(),
        module: "amdgpu".to_owned(),
        module_version: None,
        offsets: "btf".to_owned(),
        probes: Vec::new(),
        ring_bytes: 4096,
    }
}

/// A header alone, of no known kind.
fn record(ts_ns: u64) -> Vec<u8> {
    let mut bytes = vec![0; 40];
    bytes[..8].copy_from_slice(&ts_ns.to_ne_bytes());
    bytes[16..18].copy_from_slice(&40_u16.to_ne_bytes());
    bytes
}

fn written(records: u64) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new(), 1_700_000_000_000_000_000).unwrap();
    let attached = Attached {
        ts_ns: 5,
        unix_ns: 6,
        startup: startup(),
    };
    writer.attached(&attached).unwrap();
    writer.snapshot(Snapped::at(5)).unwrap();
    writer.file("/proc/7/comm", b"job\n").unwrap();
    for ts_ns in 0..records {
        writer.record(&record(10 + ts_ns));
    }
    let counters = Counters {
        ring_full: 3,
        ..Counters::default()
    };
    writer
        .counters(&Counted {
            ts_ns: 90,
            counters,
        })
        .unwrap();
    writer.file("/proc/8/comm", b"late\n").unwrap();
    let (bytes, count) = writer.finish(100).unwrap();
    assert_eq!(count, records);
    bytes
}

fn open(bytes: Vec<u8>) -> Result<Reader, Error> {
    Reader::new(Cursor::new(bytes), "a.gpr".to_owned())
}

fn all(reader: &mut Reader) -> Result<Vec<Entry>, Error> {
    let mut entries = Vec::new();
    while let Some(entry) = reader.next_entry()? {
        entries.push(entry);
    }
    Ok(entries)
}

#[test]
fn what_was_written_is_read_in_order() {
    let mut reader = open(written(2)).unwrap();
    assert_eq!(reader.head().format, FORMAT);
    assert_eq!(reader.head().unix_ns, 1_700_000_000_000_000_000);
    let entries = all(&mut reader).unwrap();
    let [Entry::Attached(attached), Entry::Snapshot(_), Entry::File { path, content }, Entry::Events(events), Entry::Counters(counted), Entry::File { .. }, Entry::End(end)] =
        entries.as_slice()
    else {
        panic!("{entries:?}");
    };
    assert_eq!(attached.startup, startup());
    assert_eq!(
        (path.as_str(), content.as_slice()),
        ("/proc/7/comm", &b"job\n"[..])
    );
    assert_eq!(events, &[record(10), record(11)].concat());
    assert_eq!(counted.counters.ring_full, 3);
    assert_eq!((end.ts_ns, end.records), (100, 2));
    assert!(reader.next_entry().unwrap().is_none());
}

#[test]
fn files_that_records_need_come_before_them() {
    let mut writer = Writer::new(Vec::new(), 0).unwrap();
    writer.record(&record(1));
    writer.file("/proc/7/comm", b"job\n").unwrap();
    let (bytes, _) = writer.finish(2).unwrap();
    let entries = all(&mut open(bytes).unwrap()).unwrap();
    assert!(
        matches!(
            entries.as_slice(),
            [Entry::File { .. }, Entry::Events(_), Entry::End(_)]
        ),
        "{entries:?}"
    );
}

#[test]
fn long_paths_survive() {
    let path = format!("/sys/{}/x#inode", "directory/".repeat(40));
    let mut writer = Writer::new(Vec::new(), 0).unwrap();
    writer.file(&path, b"1").unwrap();
    let (bytes, _) = writer.finish(0).unwrap();
    let entries = all(&mut open(bytes).unwrap()).unwrap();
    assert!(
        matches!(&entries[0], Entry::File { path: read, .. } if *read == path),
        "{entries:?}"
    );
}

/// A dump of several pieces, and one that is not understood in the second of them.
#[test]
fn a_dump_of_descriptors_that_is_played_says_what_its_text_does() {
    let words = " 00000001".repeat(8);
    let lines: String = (0..4000)
        .map(|line| format!("    {:08x}:{words}\n", line % 64 * 32))
        .collect();
    let good = format!("Process 7 PASID 0x8001:\n  Compute queue on device 52a1\n{lines}");
    let bad = format!("{good}    what\n{lines}");
    let file = std::env::temp_dir().join(format!("gpreempt-play-{}.gpr", std::process::id()));
    for text in [good, bad] {
        let mut writer = Writer::new(Vec::new(), 0).unwrap();
        writer.file(mqds::PATH, text.as_bytes()).unwrap();
        writer.file("/proc/7/comm", b"job\n").unwrap();
        let (bytes, _) = writer.finish(0).unwrap();
        std::fs::write(&file, bytes).unwrap();
        let entries = all(&mut Reader::play(&file).unwrap()).unwrap();
        let [Entry::Mqds(said), Entry::File { .. }, Entry::End(_)] = entries.as_slice() else {
            panic!("{entries:?}");
        };
        assert_eq!(*said, mqds::parse(&text).map(Arc::new));
    }
    std::fs::remove_file(file).unwrap();
}

#[test]
fn what_is_no_recording_says_so() {
    let tar_of_others = {
        let mut tar = tar::Builder::new(zstd::Encoder::new(Vec::new(), 1).unwrap());
        let mut header = tar::Header::new_gnu();
        header.set_size(2);
        tar.append_data(&mut header, "README", &b"hi"[..]).unwrap();
        tar.into_inner().unwrap().finish().unwrap()
    };
    for bytes in [
        Vec::new(),
        b"#!/bin/sh\n".to_vec(),
        zstd::encode_all(&b"hello"[..], 1).unwrap(),
        tar_of_others,
    ] {
        let error = open(bytes).unwrap_err();
        assert!(matches!(error, Error::Foreign { .. }), "{error}");
        assert!(
            error.to_string().contains("is no recording of gpreempt"),
            "{error}"
        );
    }
}

#[test]
fn a_newer_format_is_refused_by_its_name() {
    let head = format!(
        r#"{{"format":{},"version":"9.9.9","unix_ns":0}}"#,
        FORMAT + 1
    );
    let mut tar = tar::Builder::new(zstd::Encoder::new(Vec::new(), 1).unwrap());
    let mut header = tar::Header::new_gnu();
    header.set_size(head.len() as u64);
    tar.append_data(&mut header, "gpreempt.json", head.as_bytes())
        .unwrap();
    let error = open(tar.into_inner().unwrap().finish().unwrap()).unwrap_err();
    assert!(
        error.to_string().contains("made by gpreempt 9.9.9"),
        "{error}"
    );
}

#[test]
fn what_was_flushed_before_a_crash_can_be_read() {
    let shared = Arc::new(std::sync::Mutex::new(Vec::new()));
    struct Shared(Arc<std::sync::Mutex<Vec<u8>>>);
    impl std::io::Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut writer = Writer::new(Shared(shared.clone()), 0).unwrap();
    writer.record(&record(1));
    writer.record(&record(2));
    writer.flush().unwrap();
    writer.record(&record(3));
    let bytes = shared.lock().unwrap().clone();
    let mut reader = open(bytes).unwrap();
    assert!(matches!(reader.next_entry(), Ok(Some(Entry::Events(_)))));
    let error = reader.next_entry().unwrap_err();
    assert!(
        error.to_string().contains("cut off after 2 records"),
        "{error}"
    );
    assert!(reader.next_entry().unwrap().is_none(), "told once");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_truncation_is_told(cut in 0.0..1.0_f64) {
        let bytes = written(500);
        let len = (bytes.len() as f64 * cut) as usize;
        match open(bytes[..len].to_vec()) {
            Err(Error::Foreign { .. }) => {}
            Err(other) => prop_assert!(false, "{other}"),
            Ok(mut reader) => match all(&mut reader) {
                Err(error) => prop_assert!(matches!(error, Error::CutOff { .. }), "{error}"),
                // Only the padding after the last entry is missing.
                Ok(entries) => prop_assert!(matches!(entries.last(), Some(Entry::End(_)))),
            },
        }
    }

    #[test]
    fn any_damage_is_survived(at in 0.0..1.0_f64, value in any::<u8>()) {
        let mut bytes = written(500);
        let at = (bytes.len() as f64 * at) as usize;
        bytes[at] = value;
        if let Ok(mut reader) = open(bytes) {
            let _ = all(&mut reader);
        }
    }

    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(open(bytes).is_err());
    }
}

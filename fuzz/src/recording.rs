// SPDX-License-Identifier: MIT OR Apache-2.0
//! Recordings: whatever a file holds, it is read to its end or refused; what was read survives being written.

use std::io::Cursor;

use gpreempt::engine::{Host as _, RecordedHost};
use gpreempt::event::split;
use gpreempt::recording::{Entry, Error, Reader, Writer};

use super::files;

/// The bytes as a file; and, since no change of a compressed file survives its checksum, as the entries of an archive.
pub fn recording(bytes: &[u8]) {
    play(bytes);
    let entries = files::files(bytes);
    if !entries.is_empty() {
        play(&archive(&entries));
    }
}

fn archive(entries: &[(String, Vec<u8>)]) -> Vec<u8> {
    let out = zstd::Encoder::new(Vec::new(), 1).expect("a level");
    let mut tar = tar::Builder::new(out);
    for (path, content) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        // Some paths cannot be in an archive.
        let _ = tar.append_data(&mut header, path, content.as_slice());
    }
    let out = tar.into_inner().and_then(zstd::Encoder::finish);
    out.expect("memory can be written")
}

fn play(bytes: &[u8]) {
    let open = || Reader::new(Cursor::new(bytes.to_vec()), "a.gpr".to_owned());
    let Ok(mut reader) = open() else {
        return;
    };
    let (entries, cut_off) = all(&mut reader);
    if let Ok(host) = RecordedHost::new(open().expect("it was opened before"), None) {
        let _ = (host.driver(), host.now_ns(), host.attach().is_ok());
    }
    let written = write(&entries);
    let mut reader = Reader::new(Cursor::new(written), "b.gpr".to_owned()).expect("we wrote it");
    let (again, _) = all(&mut reader);
    assert_eq!(texts(&entries), texts(&again));
    assert!(cut_off || matches!(entries.last(), Some(Entry::End(_))));
}

/// Entries, and whether the recording broke off after them.
fn all(reader: &mut Reader) -> (Vec<Entry>, bool) {
    let mut entries = Vec::new();
    loop {
        match reader.next_entry() {
            Ok(Some(entry)) => entries.push(entry),
            Ok(None) => return (entries, false),
            Err(Error::CutOff { records, .. }) => {
                assert_eq!(records, entries.iter().map(records_of).sum::<u64>());
                assert!(reader.next_entry().is_ok_and(|entry| entry.is_none()));
                return (entries, true);
            }
            Err(other) => panic!("{other} in the middle of it"),
        }
    }
}

fn records_of(entry: &Entry) -> u64 {
    let Entry::Events(mut rest) = entry.clone() else {
        return 0;
    };
    let mut records = 0;
    while let Some((record, _)) = split(&rest) {
        rest.drain(..record.len());
        records += 1;
    }
    records
}

/// As the program writes them. What it never writes is left out.
fn write(entries: &[Entry]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new(), 0).expect("memory can be written");
    for entry in kept(entries) {
        let written = match entry {
            Entry::Attached(attached) => writer.attached(attached),
            Entry::Snapshot(snapped) => writer.snapshot(*snapped),
            Entry::File { path, content } => {
                writer.flush().and_then(|()| writer.file(path, content))
            }
            Entry::Events(bytes) => {
                writer.record(bytes);
                writer.flush()
            }
            // Of recordings that are played.
            Entry::Mqds(_) => Ok(()),
            Entry::Counters(counted) => writer.counters(counted),
            Entry::Gone(_) | Entry::End(_) => Ok(()),
        };
        written.expect("memory can be written");
    }
    writer.finish(0).expect("memory can be written").0
}

fn kept(entries: &[Entry]) -> impl Iterator<Item = &Entry> {
    entries.iter().filter(|entry| match entry {
        // An archive has no path without a name, none that leads out of it, and none with NUL.
        Entry::File { path, .. } => {
            let mut parts = path.split('/').skip(1);
            parts.all(|part| {
                !part.is_empty()
                    && part != "."
                    && part != ".."
                    && !part.contains(['\0', '\u{fffd}'])
            })
        }
        Entry::Events(bytes) => !bytes.is_empty(),
        Entry::Gone(_) | Entry::End(_) => false,
        _ => true,
    })
}

fn texts(entries: &[Entry]) -> Vec<String> {
    kept(entries).map(|entry| format!("{entry:?}")).collect()
}

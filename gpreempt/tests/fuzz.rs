// SPDX-License-Identifier: MIT OR Apache-2.0
//! The bodies of `fuzz/` on every file of its corpus, and on changes of them.

#[path = "../../fuzz/src/lib.rs"]
#[allow(unreachable_pub, reason = "a crate of its own")]
mod fuzz;

use std::fs;
use std::path::{Path, PathBuf};

use fuzz::{Target, TARGETS};
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestRunner};

/// Changed inputs of each target.
const CASES: u32 = 1000;

/// Longer seeds are changed less often: they take longer.
const LONG_BYTES: usize = 64 * 1024;

fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../fuzz/corpus")
        .join(target);
    let entries = fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut files: Vec<_> = entries
        .map(|entry| entry.expect("an entry").path())
        .map(|path| (path.clone(), fs::read(path).expect("a file")))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "no seeds in {}", dir.display());
    files
}

/// A change of bytes.
#[derive(Clone, Debug)]
enum Change {
    Set(Index, u8),
    Flip(Index, u8),
    Insert(Index, Vec<u8>),
    Remove(Index, usize),
    Cut(Index),
    /// A part of another seed in this place.
    Splice(Index, Index, Index, usize),
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let at = any::<Index>;
    let bytes = || prop::collection::vec(any::<u8>(), 1..9);
    let digits = "[0-9a-fx =:,\"\n]{1,12}".prop_map(String::into_bytes);
    let change = prop_oneof![
        (at(), any::<u8>()).prop_map(|(at, byte)| Change::Set(at, byte)),
        (at(), 0..8u8).prop_map(|(at, bit)| Change::Flip(at, bit)),
        (at(), prop_oneof![bytes(), digits]).prop_map(|(at, bytes)| Change::Insert(at, bytes)),
        (at(), 1..64usize).prop_map(|(at, count)| Change::Remove(at, count)),
        at().prop_map(Change::Cut),
        (at(), at(), at(), 1..256usize)
            .prop_map(|(at, seed, from, count)| Change::Splice(at, seed, from, count)),
    ];
    prop::collection::vec(change, 1..6)
}

fn change(bytes: &mut Vec<u8>, change: &Change, seeds: &[(PathBuf, Vec<u8>)]) {
    let place = |at: &Index, bytes: &[u8]| at.index(bytes.len() + 1);
    match change {
        Change::Set(at, byte) => {
            let at = place(at, bytes);
            bytes.splice(at..(at + 1).min(bytes.len()), [*byte]);
        }
        Change::Flip(at, bit) => {
            let at = place(at, bytes);
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << bit;
            }
        }
        Change::Insert(at, new) => {
            let at = place(at, bytes);
            bytes.splice(at..at, new.iter().copied());
        }
        Change::Remove(at, count) => {
            let at = place(at, bytes);
            bytes.drain(at..(at + count).min(bytes.len()));
        }
        Change::Cut(at) => bytes.truncate(place(at, bytes)),
        Change::Splice(at, seed, from, count) => {
            let (_, other) = &seeds[seed.index(seeds.len())];
            let from = place(from, other);
            let part = &other[from..(from + count).min(other.len())];
            let at = place(at, bytes);
            bytes.splice(at..at, part.iter().copied());
        }
    }
}

fn try_all(name: &str, target: Target) {
    let seeds = corpus(name);
    for (path, bytes) in &seeds {
        println!("{}", path.display());
        target(bytes);
    }
    target(b"");
    let longest = seeds
        .iter()
        .map(|(_, bytes)| bytes.len())
        .max()
        .unwrap_or(0);
    let cases = CASES / (1 + u32::try_from(longest / LONG_BYTES).unwrap_or(0));
    let mut runner = TestRunner::new(Config {
        cases,
        // What is found becomes a file of the corpus.
        failure_persistence: None,
        ..Config::default()
    });
    let inputs = (any::<Index>(), changes()).prop_map(|(seed, changes)| {
        let mut bytes = seeds[seed.index(seeds.len())].1.clone();
        changes
            .iter()
            .for_each(|one| change(&mut bytes, one, &seeds));
        bytes
    });
    let tried = runner.run(&inputs, |bytes| {
        target(&bytes);
        Ok(())
    });
    if let Err(error) = tried {
        panic!("{name}: {error}");
    }
}

macro_rules! targets {
    ($($name:ident)+) => {
        $(
            #[test]
            fn $name() {
                let name = stringify!($name);
                let target = TARGETS.iter().find(|(other, _)| *other == name);
                try_all(name, target.expect("a target of this name").1);
            }
        )+

        #[test]
        fn every_target_has_its_test_and_its_program() {
            let tests = [$(stringify!($name)),+];
            let names: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
            assert_eq!(tests.as_slice(), names);
            let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
            let manifest = fs::read_to_string(fuzz.join("Cargo.toml")).expect("a manifest");
            for name in names {
                assert!(manifest.contains(&format!("\nname = \"{name}\"\n")), "{name}");
                let program = fs::read_to_string(fuzz.join(format!("fuzz_targets/{name}.rs")));
                assert!(program.expect("a program").contains(&format!("(\"{name}\", bytes)")), "{name}");
            }
        }
    };
}

targets! { rls mqds hqds tree states events walk profile btf recording }

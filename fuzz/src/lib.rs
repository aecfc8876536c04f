// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is tried with bytes that anybody may have written: one function for each parser. It panics where a parser breaks its word,
//! not only where one panics itself.
//!
//! `cargo xtask fuzz` searches with them, guided by coverage; `gpreempt/tests/fuzz.rs`, which compiles this file too, runs them on the
//! corpus and on changes of it with every `cargo test`.

mod btf;
mod dumps;
mod events;
mod files;
mod profile;
mod recording;
mod screen;
mod states;
mod tree;
mod walk;

/// A parser and what is demanded of it.
pub type Target = fn(&[u8]);

/// Every one, by its name, which is also that of its corpus.
pub const TARGETS: &[(&str, Target)] = &[
    ("rls", dumps::rls),
    ("mqds", dumps::mqds),
    ("hqds", dumps::hqds),
    ("tree", tree::tree),
    ("states", states::states),
    ("events", events::events),
    ("walk", walk::walk),
    ("profile", profile::profile),
    ("btf", btf::btf),
    ("recording", recording::recording),
];

/// Runs one.
///
/// # Panics
/// If there is none of that name; and where the parser breaks its word.
#[allow(dead_code, reason = "the test has the functions themselves")]
pub fn run(name: &str, bytes: &[u8]) {
    match TARGETS.iter().find(|(other, _)| *other == name) {
        Some((_, target)) => target(bytes),
        None => panic!("no fuzz target {name}"),
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! The structs and numbers here against what a C compiler makes of the header.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::mem::offset_of;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::*;

const HEADER: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../kernel-patch/uapi/kfd_gpreempt_ioctl.h"
);

macro_rules! layout {
    ($all:ident, $c:literal, $rust:ty, $($field:ident),+) => {
        $all.insert(concat!($c, ".size").to_owned(), size_of::<$rust>() as u64);
        $($all.insert(concat!($c, ".", stringify!($field)).to_owned(), offset_of!($rust, $field) as u64);)+
    };
}

macro_rules! constants {
    ($all:ident, $($c:literal = $value:expr),+ $(,)?) => {
        $($all.insert($c.to_owned(), u64::from($value));)+
    };
}

fn ours() -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    layout!(
        all,
        "kfd_gpreempt_entry",
        Entry,
        pid,
        gpu_id,
        queue_id,
        flags,
        start_ticks,
        status,
        state,
        n_matched,
        n_changed
    );
    layout!(
        all,
        "kfd_gpreempt_batch_args",
        BatchArgs,
        entries_ptr,
        num_entries,
        entry_size,
        flags,
        grace_period,
        lease_ms,
        abi_version,
        num_changed,
        num_failed,
        num_nodes,
        pad,
        lock_wait_ns,
        hw_ns,
        total_ns,
        reserved
    );
    layout!(
        all,
        "kfd_gpreempt_reserve_args",
        ReserveArgs,
        entries_ptr,
        num_entries,
        entry_size,
        gpu_id,
        op,
        flags,
        slots_reserved,
        rotate_ms,
        abi_version,
        slots_total,
        cp_queues_active,
        queues_capped,
        processes,
        processes_max,
        oversubscribed,
        owner_pid,
        num_failed,
        reserved
    );
    constants!(
        all,
        "KFD_GPREEMPT_ABI_VERSION" = ABI_VERSION,
        "KFD_GPREEMPT_MAX_ENTRIES" = u32::try_from(MAX_ENTRIES).unwrap(),
        "KFD_GPREEMPT_MAX_MS" = MAX_MS,
        "KFD_GPREEMPT_ALL_GPUS" = ALL_GPUS,
        "KFD_GPREEMPT_ALL_QUEUES" = ALL_QUEUES,
        "KFD_GPREEMPT_INHERIT" = INHERIT,
        "KFD_GPREEMPT_NO_SDMA" = NO_SDMA,
        "KFD_GPREEMPT_ACTIVE" = state::ACTIVE,
        "KFD_GPREEMPT_HELD" = state::HELD,
        "KFD_GPREEMPT_HELD_OTHER" = state::HELD_OTHER,
        "KFD_GPREEMPT_CAPPED" = state::CAPPED,
        "KFD_GPREEMPT_EVICTED" = state::EVICTED,
        "KFD_GPREEMPT_SUSPENDED" = state::SUSPENDED,
        "KFD_GPREEMPT_RESET" = state::RESET,
        "KFD_GPREEMPT_DRY_RUN" = DRY_RUN,
        "KFD_GPREEMPT_FORCE" = FORCE,
        "KFD_GPREEMPT_RESERVE_QUERY" = RESERVE_QUERY,
        "KFD_GPREEMPT_RESERVE_SET" = RESERVE_SET,
        "KFD_GPREEMPT_RESERVE_CLEAR" = RESERVE_CLEAR,
        "AMDKFD_IOC_BATCH_UNMAP_QUEUES" = request::BATCH_UNMAP_QUEUES,
        "AMDKFD_IOC_FAST_REMAP" = request::FAST_REMAP,
        "AMDKFD_IOC_SET_HQD_RESERVATION" = request::SET_HQD_RESERVATION,
    );
    all
}

/// Names that the header defines: every constant, and every member of every struct.
fn defined(header: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut inside: Option<String> = None;
    for line in header.lines() {
        if let Some(rest) = line.strip_prefix("#define ") {
            let name: String = rest.chars().take_while(|c| !c.is_whitespace()).collect();
            if name != "KFD_GPREEMPT_IOCTL_H_INCLUDED" {
                names.push(name);
            }
        } else if let Some(name) = line
            .strip_prefix("struct ")
            .and_then(|l| l.strip_suffix(" {"))
        {
            names.push(format!("{name}.size"));
            inside = Some(name.to_owned());
        } else if line == "};" {
            inside = None;
        } else if let (Some(name), Some(member)) = (
            &inside,
            line.trim()
                .strip_suffix(';')
                .and_then(|l| l.split(' ').nth(1)),
        ) {
            names.push(format!("{name}.{member}"));
        }
    }
    names
}

#[test]
fn numbers_are_those_of_the_contract() {
    assert_eq!(size_of::<Entry>(), 40);
    assert_eq!(request::BATCH_UNMAP_QUEUES, 0xC050_4BE0);
    assert_eq!(request::FAST_REMAP, 0xC050_4BE1);
    assert_eq!(request::SET_HQD_RESERVATION, 0xC050_4BE2);
}

#[test]
fn every_name_of_the_header_is_here() {
    let header = std::fs::read_to_string(HEADER).unwrap();
    let mut defined = defined(&header);
    defined.sort();
    assert_eq!(defined, ours().into_keys().collect::<Vec<_>>());
}

#[test]
fn a_c_compiler_agrees_with_every_value() {
    let dir: PathBuf = std::env::temp_dir().join(format!("gpreempt-uapi-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let mut source = format!(
        "#include <stddef.h>\n#include <stdio.h>\n#include \"{HEADER}\"\nint main(void) {{\n"
    );
    for name in ours().keys() {
        let value = match name.split_once('.') {
            Some((of, "size")) => format!("sizeof(struct {of})"),
            Some((of, member)) => format!("offsetof(struct {of}, {member})"),
            None => name.clone(),
        };
        let _ = writeln!(
            source,
            "printf(\"{name} %llu\\n\", (unsigned long long)({value}));"
        );
    }
    source.push_str("return 0; }\n");
    let (c, program) = (dir.join("layout.c"), dir.join("layout"));
    std::fs::write(&c, source).unwrap();
    compile(&c, &program);
    let output = Command::new(&program).output().unwrap();
    std::fs::remove_dir_all(&dir).unwrap();
    let theirs: BTreeMap<String, u64> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| line.split_once(' ').unwrap())
        .map(|(name, value)| (name.to_owned(), value.parse().unwrap()))
        .collect();
    assert_eq!(theirs, ours());
}

/// rustc links with `cc`, so it is there wherever this is built.
fn compile(source: &Path, program: &Path) {
    let output = Command::new("cc")
        .args(["-Wall", "-Wextra", "-Werror", "-o"])
        .args([program, source])
        .output()
        .expect("cc is there");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn too_many_entries_are_refused_before_the_call() {
    assert_eq!(
        count(&vec![Entry::default(); MAX_ENTRIES + 1]),
        Err(Errno::EINVAL)
    );
    assert_eq!(count(&vec![Entry::default(); MAX_ENTRIES]), Ok(1024));
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! The offset table for this kernel, resolved by name.

use std::path::Path;

use anyhow::Result;
use gpreempt_common::offsets::{Field, Offsets, Wanted, FIELDS, UNKNOWN};

use super::btf::Btf;

/// Where the kernel shows BTF.
pub(super) const SYS_BTF: &str = "/sys/kernel/btf";

/// A resolved table and what it lacks.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The table.
    pub offsets: Offsets,
    /// Fields that are not in the BTF: name, and whether it is required.
    pub missing: Vec<(&'static str, bool)>,
}

impl Resolved {
    /// Whether the records of holds can be read: true of a driver with this project's patches, and of no other.
    #[must_use]
    pub fn knows_holds(&self) -> bool {
        FIELDS
            .iter()
            .filter(|field| {
                field
                    .places
                    .iter()
                    .any(|(strukt, _)| strukt.starts_with("kfd_gpreempt_"))
            })
            .all(|field| self.missing.iter().all(|(name, _)| *name != field.name))
    }

    /// Required fields that are missing, as `name (struct.member)`.
    #[must_use]
    pub fn missing_required(&self) -> Vec<String> {
        FIELDS
            .iter()
            .filter(|field| self.missing.contains(&(field.name, true)))
            .map(|field| {
                let places: Vec<_> = field
                    .places
                    .iter()
                    .map(|(strukt, member)| format!("{strukt}.{member}"))
                    .collect();
                format!("{} ({})", field.name, places.join(" or "))
            })
            .collect()
    }
}

/// Resolves every field of the table.
#[must_use]
pub fn resolve(btf: &Btf<'_>) -> Resolved {
    let mut names: Vec<&str> = FIELDS
        .iter()
        .flat_map(|field| field.places)
        .map(|(strukt, _)| *strukt)
        .collect();
    names.sort_unstable();
    names.dedup();
    let structs = btf.structs(&names);
    let find = |field: &Field| -> Option<u32> {
        field.places.iter().find_map(|(strukt, member)| {
            let mut values: Vec<u32> = structs
                .get(*strukt)?
                .iter()
                .filter_map(|id| match field.wanted {
                    Wanted::Offset => btf.member_offset(*id, member).ok().flatten(),
                    Wanted::Size => btf.struct_bytes(*id).ok(),
                })
                .collect();
            values.dedup();
            // Two structs of one name that disagree: neither can be trusted.
            (values.len() == 1).then(|| values[0])
        })
    };
    table(FIELDS.iter().map(find))
}

/// A table from values in the order of [`FIELDS`].
pub(super) fn table(values: impl Iterator<Item = Option<u32>>) -> Resolved {
    let values: Vec<_> = values.collect();
    let missing = FIELDS
        .iter()
        .zip(&values)
        .filter(|(_, value)| value.is_none())
        .map(|(field, _)| (field.name, field.required))
        .collect();
    Resolved {
        offsets: Offsets::from_words(values.iter().map(|value| value.unwrap_or(UNKNOWN))),
        missing,
    }
}

/// BTF of vmlinux or of a module of the running kernel.
pub(super) fn open_sys_btf<'b>(name: &str, base: Option<&'b Btf<'b>>) -> Result<Btf<'b>> {
    Btf::open(&Path::new(SYS_BTF).join(name), base)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_knows_what_it_lacks() {
        let resolved = table(FIELDS.iter().enumerate().map(|(index, field)| {
            (field.name != "queue_process" && field.name != "queue_format").then_some(index as u32)
        }));
        assert_eq!(
            resolved.missing,
            [("queue_process", true), ("queue_format", false)]
        );
        assert_eq!(
            resolved.missing_required(),
            ["queue_process (queue.process)"]
        );
        assert!(resolved.knows_holds());
        assert_eq!(resolved.offsets.queue_process, UNKNOWN);
        assert_eq!(resolved.offsets.queue_device, 1);
    }

    #[test]
    fn holds_are_read_only_if_every_member_is_known() {
        for lacking in ["hold_op_kind", "hold_note_total_ns"] {
            let resolved = table(
                FIELDS
                    .iter()
                    .map(|field| (field.name != lacking).then_some(8)),
            );
            assert!(!resolved.knows_holds(), "{lacking}");
            assert!(resolved.missing_required().is_empty());
        }
    }
}

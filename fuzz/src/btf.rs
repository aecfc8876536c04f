// SPDX-License-Identifier: MIT OR Apache-2.0
//! BTF of a kernel or a module that is not what it says it is.

use gpreempt::source::btf::Btf;
use gpreempt::source::offsets;
use gpreempt_common::offsets::FIELDS;

pub fn btf(bytes: &[u8]) {
    let Ok(base) = Btf::parse(bytes.to_vec(), None) else {
        return;
    };
    // A module on top of it, which has types and names of its own.
    let module = Btf::parse(bytes.to_vec(), Some(&base)).expect("the same bytes");
    for btf in [&base, &module] {
        let resolved = offsets::resolve(btf);
        assert_eq!(resolved.offsets.as_words().len(), FIELDS.len());
        let names: Vec<&str> = FIELDS
            .iter()
            .flat_map(|field| field.places.iter().map(|(strukt, _)| *strukt))
            .collect();
        for (name, ids) in btf.structs(&names) {
            for id in ids {
                assert_eq!(btf.name(id).ok().as_deref(), Some(name.as_str()));
                assert!(btf.struct_bytes(id).is_ok());
            }
        }
        for id in btf.functions(&["kfd_ioctl_create_queue"]).into_values() {
            let _ = btf.parameters(id);
        }
    }
}

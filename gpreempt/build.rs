// SPDX-License-Identifier: MIT OR Apache-2.0
//! Embeds the eBPF programs that `GPREEMPT_EBPF_OBJ` names; `cargo xtask build` builds them and sets it.

fn main() {
    println!("cargo::rustc-check-cfg=cfg(gpreempt_ebpf)");
    println!("cargo::rerun-if-env-changed=GPREEMPT_EBPF_OBJ");
    if let Some(path) = std::env::var_os("GPREEMPT_EBPF_OBJ").filter(|path| !path.is_empty()) {
        let path = std::path::PathBuf::from(path);
        assert!(
            path.is_absolute() && path.is_file(),
            "GPREEMPT_EBPF_OBJ={} is not an absolute path of a file",
            path.display()
        );
        println!("cargo::rerun-if-changed={}", path.display());
        println!("cargo::rustc-cfg=gpreempt_ebpf");
    }
}

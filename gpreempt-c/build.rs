// SPDX-License-Identifier: MIT OR Apache-2.0
//! The name by which programs find the library when they start. Its number changes when a program must be compiled anew.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libgpreempt.so.0");
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a shared library needs of the system: the packages of the libraries that it names, and the C library in the version whose
//! symbols it uses.

use std::fs;
use std::path::Path;

use anyhow::{bail, Context, Result};
use object::elf::FileHeader64;
use object::read::elf::{Dyn as _, ElfFile64, FileHeader as _};
use object::Endianness;

/// Libraries, and the packages that Debian has them in. Others are an error: nobody should depend on what was not looked at.
const PACKAGES: &[(&str, &str)] = &[
    ("libc.so.6", "libc6"),
    ("libm.so.6", "libc6"),
    ("libdl.so.2", "libc6"),
    ("libpthread.so.0", "libc6"),
    ("librt.so.1", "libc6"),
    ("ld-linux-x86-64.so.2", "libc6"),
    ("libgcc_s.so.1", "libgcc-s1"),
];

/// Dependencies, as in `Depends`.
pub(super) fn of_library(path: &Path) -> Result<Vec<String>> {
    let data = fs::read(path).with_context(|| format!("read {}", path.display()))?;
    let (libraries, versions) =
        read(&data).with_context(|| format!("read what {} needs", path.display()))?;
    let mut needs = Vec::new();
    for library in libraries {
        let Some((_, package)) = PACKAGES.iter().find(|(name, _)| *name == library) else {
            bail!(
                "{} needs {library}, whose package is not known here",
                path.display()
            );
        };
        needs.push((*package).to_owned());
    }
    if needs.iter().any(|need| need == "libc6") {
        let least = newest_glibc(&versions).context("no version of the C library's symbols")?;
        needs.retain(|need| need != "libc6");
        needs.push(format!("libc6 (>= {least})"));
    }
    Ok(needs)
}

/// Names of libraries, and versions of symbols.
fn read(data: &[u8]) -> Result<(Vec<String>, Vec<String>)> {
    let file = ElfFile64::<Endianness>::parse(data)?;
    let endian = file.endian();
    let header: &FileHeader64<Endianness> = file.elf_header();
    let sections = header.sections(endian, data)?;
    let (mut libraries, mut versions) = (Vec::new(), Vec::new());
    if let Some((dynamic, link)) = sections.dynamic(endian, data)? {
        let strings = sections.strings(endian, data, link)?;
        for entry in dynamic {
            if entry.tag32(endian) == Some(object::elf::DT_NEEDED) {
                let name = entry.string(endian, strings)?;
                libraries.push(String::from_utf8_lossy(name).into_owned());
            }
        }
    }
    if let Some((mut needed, link)) = sections.gnu_verneed(endian, data)? {
        let strings = sections.strings(endian, data, link)?;
        while let Some((_, mut symbols)) = needed.next()? {
            while let Some(symbol) = symbols.next()? {
                let name = symbol.name(endian, strings)?;
                versions.push(String::from_utf8_lossy(name).into_owned());
            }
        }
    }
    Ok((libraries, versions))
}

/// The newest of `GLIBC_2.34` and the like.
fn newest_glibc(versions: &[String]) -> Option<String> {
    let numbers = versions.iter().filter_map(|version| {
        let (major, minor) = version.strip_prefix("GLIBC_")?.split_once('.')?;
        let minor = minor.split('.').next()?;
        Some((major.parse::<u32>().ok()?, minor.parse::<u32>().ok()?))
    });
    let (major, minor) = numbers.max()?;
    Some(format!("{major}.{minor}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_symbol_decides() {
        let versions = ["GLIBC_2.9", "GLIBC_2.34", "GLIBC_2.3.4", "GCC_3.0"].map(str::to_owned);
        assert_eq!(newest_glibc(&versions).as_deref(), Some("2.34"));
        assert_eq!(newest_glibc(&["GCC_3.0".to_owned()]), None);
    }

    #[test]
    fn a_program_of_this_machine_is_read() {
        let own = std::env::current_exe().unwrap();
        let needs = of_library(&own).unwrap();
        assert!(
            needs.iter().any(|need| need.starts_with("libc6 (>= 2.")),
            "{needs:?}"
        );
    }
}

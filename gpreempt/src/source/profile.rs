// SPDX-License-Identifier: MIT OR Apache-2.0
//! Offset profiles: the table for one build of the driver as a text file, for kernels whose driver comes without BTF.
//!
//! A profile is extracted from an amdgpu.ko that has BTF and is of the same build, and names that build.

use std::{
    collections::BTreeMap, fmt::Write as _, fs, io::Read as _, path::Path, process::Command,
};

use anyhow::{bail, ensure, Context as _, Result};
use gpreempt_common::offsets::FIELDS;
use object::{Object as _, ObjectSection as _};
use serde::{Deserialize, Serialize};

use super::{
    btf::Btf,
    offsets::{self, Resolved},
};

/// Version of the text.
const FORMAT: u32 = 1;

/// No struct of the kernel is longer.
const MOST_BYTES: u32 = 1 << 20;

/// A profile as it is written down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// Version of this text: 1.
    pub format: u32,
    /// Name of the module.
    pub module: String,
    /// `vermagic` of the module: the kernel it is built for.
    pub vermagic: String,
    /// `version` of the module, where it has one (out-of-tree drivers).
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub version: Option<String>,
    /// `srcversion` of the module, where it has one: with it the profile is tied to this very build.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub srcversion: Option<String>,
    /// Offsets by name. What the driver lacks is left out.
    pub offsets: BTreeMap<String, u32>,
}

impl Profile {
    /// The text, with a comment that says what it is.
    ///
    /// # Errors
    /// When it cannot be written as TOML.
    pub fn to_text(&self) -> Result<String> {
        let mut text = String::from("# Offsets of amdkfd's structs for one build of the driver. Use: gpreempt watch --profile FILE\n");
        text.write_str(&toml::to_string(self).context("writing the profile as TOML")?)?;
        Ok(text)
    }

    /// Reads a profile from a file.
    ///
    /// # Errors
    /// When it cannot be read, is not a profile, or has another format version or names that this program does not know.
    pub fn load(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path)
            .with_context(|| format!("reading the offset profile {}", path.display()))?;
        Self::parse(&text)
            .with_context(|| format!("{} is not a usable offset profile", path.display()))
    }

    /// Reads a profile.
    ///
    /// # Errors
    /// When it is none, or has another format version or names that this program does not know.
    pub fn parse(text: &str) -> Result<Self> {
        let profile: Self = toml::from_str(text)?;
        ensure!(
            profile.format == FORMAT,
            "format {} instead of {FORMAT}: extract it again",
            profile.format
        );
        let unknown: Vec<_> = profile
            .offsets
            .keys()
            .filter(|name| FIELDS.iter().all(|field| field.name != name.as_str()))
            .collect();
        ensure!(
            unknown.is_empty(),
            "unknown offsets {unknown:?}: extract it again with this version"
        );
        let far: Vec<_> = profile
            .offsets
            .iter()
            .filter(|(_, offset)| **offset > MOST_BYTES)
            .map(|(name, _)| name)
            .collect();
        ensure!(far.is_empty(), "{far:?} cannot be: extract it again");
        Ok(profile)
    }

    /// The table.
    #[must_use]
    pub fn resolve(&self) -> Resolved {
        offsets::table(
            FIELDS
                .iter()
                .map(|field| self.offsets.get(field.name).copied()),
        )
    }

    /// Whether the profile is of the module in this sysfs directory (`/sys/module/amdgpu`) of the kernel `release`.
    ///
    /// # Errors
    /// When it is of another build; says which.
    pub fn check_module(&self, directory: &Path, release: &str) -> Result<()> {
        let built_for = self.vermagic.split(' ').next().unwrap_or_default();
        ensure!(
            built_for == release,
            "the profile is of kernel {built_for}, this is {release}: extract one from this kernel's module"
        );
        if let (Some(expected), Ok(found)) = (
            &self.srcversion,
            fs::read_to_string(directory.join("srcversion")),
        ) {
            ensure!(
                expected == found.trim(),
                "the profile is of the build with srcversion {expected}, the loaded module has {}: extract one from it",
                found.trim()
            );
        }
        Ok(())
    }
}

/// Extracts the profile of a module file (`.ko`, `.ko.xz`, `.ko.zst`, `.ko.gz`). `vmlinux` is the BTF of the kernel that the
/// module is for: raw, as in /sys/kernel/btf/vmlinux, or an ELF file with a `.BTF` section.
///
/// # Errors
/// When a file cannot be read or decompressed, or has no BTF.
pub fn extract(module: &Path, vmlinux: &Path) -> Result<Profile> {
    let bytes = read_module(module)?;
    let elf = object::File::parse(&*bytes)
        .with_context(|| format!("{} is not a kernel module", module.display()))?;
    let info = modinfo(&elf);
    let own = section(&elf, ".BTF").with_context(|| {
        format!(
            "{} has no BTF: rebuild the driver where the kernel headers hold a vmlinux with BTF \
             (cp /sys/kernel/btf/vmlinux into the kernel's build directory)",
            module.display()
        )
    })?;
    let vmlinux = Btf::parse(read_vmlinux(vmlinux)?, None)
        .with_context(|| format!("the BTF in {} cannot be read", vmlinux.display()))?;
    // Out-of-tree builds with a recent pahole carry the part of vmlinux's BTF that they build on.
    let distilled = match section(&elf, ".BTF.base") {
        Some(base) => {
            Some(Btf::parse(base, None).context("the module's .BTF.base section cannot be read")?)
        }
        None => None,
    };
    let btf = Btf::parse(own, Some(distilled.as_ref().unwrap_or(&vmlinux))).with_context(|| {
        format!(
            "the BTF of {} does not fit that of the kernel: pass its own vmlinux",
            module.display()
        )
    })?;
    let of_module = offsets::resolve(&btf);
    let of_kernel = offsets::resolve(&vmlinux);
    let mut found = BTreeMap::new();
    for ((field, own), base) in FIELDS
        .iter()
        .zip(of_module.offsets.as_words())
        .zip(of_kernel.offsets.as_words())
    {
        // A distilled base has the sizes of the kernel's structs and none of their members.
        let value = if distilled.is_some()
            && !of_kernel
                .missing
                .iter()
                .any(|(name, _)| *name == field.name)
        {
            *base
        } else {
            *own
        };
        if value != gpreempt_common::offsets::UNKNOWN {
            found.insert(field.name.to_owned(), value);
        }
    }
    let profile = Profile {
        format: FORMAT,
        module: info
            .get("name")
            .cloned()
            .unwrap_or_else(|| "amdgpu".to_owned()),
        vermagic: info.get("vermagic").cloned().unwrap_or_default(),
        version: info.get("version").cloned(),
        srcversion: info.get("srcversion").cloned(),
        offsets: found,
    };
    let missing = profile.resolve().missing_required();
    ensure!(
        missing.is_empty(),
        "{} has no {}: is it a driver with amdkfd?",
        module.display(),
        missing.join(", ")
    );
    Ok(profile)
}

fn section(elf: &object::File<'_>, name: &str) -> Option<Vec<u8>> {
    elf.section_by_name(name)?.data().ok().map(<[u8]>::to_vec)
}

/// `key=value` strings of the section `.modinfo`; of a repeated key the first.
fn modinfo(elf: &object::File<'_>) -> BTreeMap<String, String> {
    let mut info = BTreeMap::new();
    for entry in section(elf, ".modinfo")
        .unwrap_or_default()
        .split(|byte| *byte == 0)
    {
        if let Some((key, value)) = String::from_utf8_lossy(entry).split_once('=') {
            info.entry(key.to_owned())
                .or_insert_with(|| value.trim().to_owned());
        }
    }
    info
}

fn read_vmlinux(path: &Path) -> Result<Vec<u8>> {
    let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    if !bytes.starts_with(b"\x7fELF") {
        return Ok(bytes);
    }
    let elf = object::File::parse(&*bytes)
        .with_context(|| format!("{} is not a kernel image", path.display()))?;
    section(&elf, ".BTF").with_context(|| format!("{} has no .BTF section", path.display()))
}

/// The module's ELF bytes. Compressed ones go through the tools that made them: every system with such modules has them.
fn read_module(path: &Path) -> Result<Vec<u8>> {
    let name = path.to_string_lossy();
    let tool = match name.rsplit('.').next() {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        Some("gz") => "gzip",
        _ => {
            let mut bytes = Vec::new();
            fs::File::open(path)
                .and_then(|mut file| file.read_to_end(&mut bytes))
                .with_context(|| format!("reading {}", path.display()))?;
            return Ok(bytes);
        }
    };
    let output = Command::new(tool)
        .args(["-d", "-c", "-q", "--"])
        .arg(path)
        .output()
        .with_context(|| {
            format!(
                "running {tool} to decompress {}: install it, or decompress the file yourself",
                name
            )
        })?;
    if !output.status.success() {
        bail!(
            "{tool} cannot decompress {name}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile() -> Profile {
        Profile {
            format: FORMAT,
            module: "amdgpu".to_owned(),
            vermagic: "6.12.0 SMP preempt mod_unload ".to_owned(),
            version: None,
            srcversion: Some("0123ABC".to_owned()),
            offsets: FIELDS
                .iter()
                .map(|field| (field.name.to_owned(), 8))
                .collect(),
        }
    }

    #[test]
    fn a_profile_survives_its_text() {
        let text = profile().to_text().unwrap();
        assert_eq!(Profile::parse(&text).unwrap(), profile());
        assert!(profile().resolve().missing.is_empty());
    }

    #[test]
    fn what_the_driver_lacks_is_missing_in_the_table() {
        let mut profile = profile();
        profile.offsets.remove("queue_process");
        profile.offsets.remove("queue_is_suspended");
        let resolved = profile.resolve();
        assert_eq!(
            resolved.missing,
            [("queue_process", true), ("queue_is_suspended", false)]
        );
    }

    #[test]
    fn a_profile_of_another_version_is_refused() {
        let text = profile().to_text().unwrap();
        for (from, to) in [
            ("format = 1", "format = 2"),
            ("queue_process =", "queue_owner ="),
            ("module =", "modul ="),
        ] {
            assert!(text.contains(from));
            assert!(Profile::parse(&text.replace(from, to)).is_err(), "{to}");
        }
    }

    #[test]
    fn a_profile_of_another_build_is_refused() {
        let directory =
            std::env::temp_dir().join(format!("gpreempt-profile-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("srcversion"), "0123ABC\n").unwrap();
        assert!(profile().check_module(&directory, "6.12.0").is_ok());
        assert!(profile()
            .check_module(&directory, "6.12.1")
            .unwrap_err()
            .to_string()
            .contains("6.12.1"));
        fs::write(directory.join("srcversion"), "FFF\n").unwrap();
        assert!(profile()
            .check_module(&directory, "6.12.0")
            .unwrap_err()
            .to_string()
            .contains("FFF"));
        fs::remove_dir_all(directory).unwrap();
    }
}

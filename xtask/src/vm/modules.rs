// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which kernel modules a module needs. The packages have no `modules.dep` (the installation makes it), but each
//! module names its dependencies in its `.modinfo`.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result};
use object::{Object, ObjectSection};

use crate::setup::tools::Tools;

/// The modules of one kernel.
pub(crate) struct Modules<'a> {
    tools: &'a Tools,
    files: HashMap<String, PathBuf>,
}

/// A module ready to be loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Loadable {
    pub(crate) name: String,
    pub(crate) content: Vec<u8>,
}

impl<'a> Modules<'a> {
    /// Lists the modules below a kernel's module directory.
    pub(crate) fn list(dir: &Path, tools: &'a Tools) -> Result<Self> {
        let mut files = HashMap::new();
        let mut open = vec![dir.join("kernel")];
        while let Some(dir) = open.pop() {
            for entry in fs::read_dir(&dir).with_context(|| format!("read {}", dir.display()))? {
                let entry = entry.with_context(|| format!("read {}", dir.display()))?;
                if entry
                    .file_type()
                    .with_context(|| format!("read {}", dir.display()))?
                    .is_dir()
                {
                    open.push(entry.path());
                } else if let Some(name) = module_name(&entry.file_name().to_string_lossy()) {
                    files.insert(name, entry.path());
                }
            }
        }
        Ok(Self { tools, files })
    }

    /// Whether there is such a module; otherwise it is built in or unknown to this kernel.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.files.contains_key(name)
    }

    /// The module's content, decompressed.
    pub(crate) fn read(&self, name: &str) -> Result<Vec<u8>> {
        let path = self
            .files
            .get(name)
            .with_context(|| format!("this kernel has no module {name}"))?;
        if path.extension().is_some_and(|extension| extension == "ko") {
            return fs::read(path).with_context(|| format!("read {}", path.display()));
        }
        let output = self
            .tools
            .command("xz")?
            .arg("-dc")
            .arg(path)
            .stdin(Stdio::null())
            .output()
            .context("run xz")?;
        anyhow::ensure!(
            output.status.success(),
            "xz -dc {}: {}",
            path.display(),
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(output.stdout)
    }

    /// The modules and everything they need, in an order in which they can be loaded.
    pub(crate) fn closure(&self, wanted: &[&str]) -> Result<Vec<Loadable>> {
        let mut read = BTreeMap::new();
        let mut open: Vec<String> = wanted.iter().map(|&name| name.to_owned()).collect();
        while let Some(name) = open.pop() {
            if read.contains_key(&name) {
                continue;
            }
            let content = self.read(&name)?;
            let depends = depends_of(&content).with_context(|| format!("module {name}"))?;
            open.extend(depends.iter().cloned());
            read.insert(name, (content, depends));
        }
        let needs: BTreeMap<&str, &[String]> = read
            .iter()
            .map(|(name, (_, depends))| (name.as_str(), depends.as_slice()))
            .collect();
        let order = load_order(wanted, &needs);
        Ok(order
            .into_iter()
            .filter_map(|name| {
                Some(Loadable {
                    content: read.get(&name)?.0.clone(),
                    name,
                })
            })
            .collect())
    }
}

/// The name a module has when it is loaded: of its file, with `_` for `-`.
fn module_name(file: &str) -> Option<String> {
    let (name, rest) = file.split_once(".ko")?;
    matches!(rest, "" | ".xz").then(|| name.replace('-', "_"))
}

/// The `depends=` of a module.
pub(crate) fn depends_of(content: &[u8]) -> Result<Vec<String>> {
    let file = object::File::parse(content).context("not an object file")?;
    let section = file
        .section_by_name(".modinfo")
        .context("no .modinfo: not a kernel module")?;
    Ok(parse_depends(section.data().context("read .modinfo")?))
}

fn parse_depends(modinfo: &[u8]) -> Vec<String> {
    let entries = modinfo
        .split(|&byte| byte == 0)
        .filter_map(|entry| entry.strip_prefix(b"depends="));
    let names = entries
        .flat_map(|names| names.split(|&byte| byte == b','))
        .filter(|name| !name.is_empty());
    names
        .map(|name| String::from_utf8_lossy(name).replace('-', "_"))
        .collect()
}

/// Depth first: what a module needs comes before it.
fn load_order(wanted: &[&str], needs: &BTreeMap<&str, &[String]>) -> Vec<String> {
    fn visit(
        name: &str,
        needs: &BTreeMap<&str, &[String]>,
        order: &mut Vec<String>,
        under_way: &mut Vec<String>,
    ) {
        // The kernel's build refuses cycles; should one appear all the same, this still ends.
        if order
            .iter()
            .chain(under_way.iter())
            .any(|seen| seen == name)
        {
            return;
        }
        under_way.push(name.to_owned());
        for need in needs.get(name).copied().unwrap_or_default() {
            visit(need, needs, order, under_way);
        }
        under_way.pop();
        order.push(name.to_owned());
    }
    let mut order = Vec::new();
    for name in wanted {
        visit(name, needs, &mut order, &mut Vec::new());
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_become_module_names() {
        assert_eq!(
            module_name("drm_kms_helper.ko.xz").as_deref(),
            Some("drm_kms_helper")
        );
        assert_eq!(
            module_name("i2c-algo-bit.ko").as_deref(),
            Some("i2c_algo_bit")
        );
        assert_eq!(module_name("modules.order"), None);
        assert_eq!(module_name("a.ko.gz"), None);
    }

    #[test]
    fn depends_are_read_from_modinfo() {
        assert_eq!(
            parse_depends(b"license=GPL\0depends=drm,i2c-algo-bit\0vermagic=x\0"),
            ["drm", "i2c_algo_bit"]
        );
        assert!(parse_depends(b"license=GPL\0depends=\0").is_empty());
    }

    #[test]
    fn needs_come_first_and_once() {
        let list = |names: &[&str]| {
            names
                .iter()
                .map(|&name| name.to_owned())
                .collect::<Vec<_>>()
        };
        let (ttm, drm, amdgpu) = (list(&["drm"]), list(&[]), list(&["ttm", "drm"]));
        let needs = BTreeMap::from([
            ("ttm", &ttm[..]),
            ("drm", &drm[..]),
            ("amdgpu", &amdgpu[..]),
        ]);
        assert_eq!(
            load_order(&["amdgpu", "drm"], &needs),
            ["drm", "ttm", "amdgpu"]
        );
    }

    #[test]
    fn a_cycle_does_not_hang() {
        let (a, b) = (vec!["b".to_owned()], vec!["a".to_owned()]);
        let needs = BTreeMap::from([("a", &a[..]), ("b", &b[..])]);
        assert_eq!(load_order(&["a"], &needs), ["b", "a"]);
    }
}

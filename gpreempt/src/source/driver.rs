// SPDX-License-Identifier: MIT OR Apache-2.0
//! What carries amdkfd in the running kernel.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use super::symbols::{Symbols, VMLINUX};

/// State of the driver now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Driver {
    /// No amdkfd in this kernel at present.
    Absent,
    /// amdkfd is here.
    Loaded {
        /// `amdgpu`, or `vmlinux` when built in.
        module: String,
        /// Version, else srcversion, where it has one.
        version: Option<String>,
        /// Changes when the module is reloaded.
        identity: u64,
    },
}

/// Looks for amdkfd. Two stat calls and at most three small files: meant to be polled once a second.
#[must_use]
pub fn driver() -> Driver {
    find(Path::new("/sys"))
}

fn find(sys: &Path) -> Driver {
    // kfd_chardev_init makes the class, kfd_chardev_exit removes it: a reload makes a new inode (kernfs never reuses one).
    let Ok(class) = fs::metadata(sys.join("class/kfd")) else {
        return Driver::Absent;
    };
    let identity = class.ino();
    // amdkfd is a part of amdgpu since Linux 4.20. Anything else is searched for by symbol, which is slow.
    let module = if sys.join("module/amdgpu").exists() {
        "amdgpu".to_owned()
    } else {
        match Symbols::of_running_kernel() {
            Ok(Some(symbols)) => symbols.module,
            _ => VMLINUX.to_owned(),
        }
    };
    let directory = sys.join("module").join(&module);
    // Only what is loaded has a state; the directory of what is built in holds parameters alone.
    match fs::read_to_string(directory.join("initstate")) {
        Err(_) => Driver::Loaded {
            module: VMLINUX.to_owned(),
            version: version(&directory),
            identity,
        },
        Ok(state) if state.trim() == "live" => Driver::Loaded {
            version: version(&directory),
            module,
            identity,
        },
        // Being loaded or unloaded.
        Ok(_) => Driver::Absent,
    }
}

/// Version or srcversion of a module by its directory in sysfs.
pub(super) fn version(directory: &Path) -> Option<String> {
    ["version", "srcversion"]
        .iter()
        .find_map(|file| line(directory.join(file)))
}

fn line(path: PathBuf) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Tree(PathBuf);

    impl Tree {
        fn new(name: &str) -> Self {
            let root =
                std::env::temp_dir().join(format!("gpreempt-driver-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&root);
            fs::create_dir_all(&root).unwrap();
            Self(root)
        }

        fn file(&self, path: &str, text: &str) {
            let path = self.0.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn no_class_is_no_driver() {
        let tree = Tree::new("none");
        tree.file("module/amdgpu/initstate", "live\n");
        assert_eq!(find(&tree.0), Driver::Absent);
    }

    #[test]
    fn a_live_module_has_a_version_and_a_new_identity_after_a_reload() {
        let tree = Tree::new("live");
        tree.file("class/kfd/kfd", "");
        tree.file("module/amdgpu/initstate", "live\n");
        tree.file("module/amdgpu/srcversion", "ABC\n");
        let Driver::Loaded {
            module,
            version,
            identity,
        } = find(&tree.0)
        else {
            panic!()
        };
        assert_eq!(
            (module.as_str(), version.as_deref()),
            ("amdgpu", Some("ABC"))
        );
        fs::rename(tree.0.join("class/kfd"), tree.0.join("old")).unwrap();
        tree.file("class/kfd/kfd", "");
        let Driver::Loaded {
            identity: again, ..
        } = find(&tree.0)
        else {
            panic!()
        };
        assert_ne!(identity, again);
    }

    #[test]
    fn a_module_on_its_way_is_not_there_and_a_built_in_one_is_vmlinux() {
        let tree = Tree::new("states");
        tree.file("class/kfd/kfd", "");
        tree.file("module/amdgpu/initstate", "coming\n");
        assert_eq!(find(&tree.0), Driver::Absent);
        fs::remove_file(tree.0.join("module/amdgpu/initstate")).unwrap();
        let Driver::Loaded {
            module, version, ..
        } = find(&tree.0)
        else {
            panic!()
        };
        assert_eq!((module.as_str(), version), ("vmlinux", None));
    }
}

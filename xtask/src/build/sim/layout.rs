// SPDX-License-Identifier: MIT OR Apache-2.0
//! The build directory of the simulated GPU's module: the driver's files, the project's beside them, links to the
//! headers.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::{DRIVER, TAKEN};
use crate::build::cargo::publish;
use crate::build::series::Overlay;

/// The project's files of the module: names and contents, sorted.
pub(crate) fn own_files(dir: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))? {
        let path = entry
            .with_context(|| format!("read {}", dir.display()))?
            .path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if name == "Kbuild" || name.ends_with(".c") || name.ends_with(".h") {
            files.push((
                name,
                fs::read(&path).with_context(|| format!("read {}", path.display()))?,
            ));
        }
    }
    anyhow::ensure!(
        files.iter().any(|(name, _)| name == "Kbuild"),
        "{} holds no Kbuild",
        dir.display()
    );
    files.sort();
    Ok(files)
}

/// Brings the build directory up to date and returns the driver's directory in it. Only files whose content differs
/// are written, since make goes by their times. `overlay` is what patches make of the driver's files.
pub(crate) fn lay_out(
    amd: &Path,
    build_dir: &Path,
    own: &[(String, Vec<u8>)],
    overlay: &Overlay,
) -> Result<PathBuf> {
    buildable(overlay)?;
    fs::create_dir_all(build_dir).with_context(|| format!("create {}", build_dir.display()))?;
    // Headers are read from the source tree; only the driver's own directory is written to, and so is a copy.
    for entry in fs::read_dir(amd).with_context(|| format!("read {}", amd.display()))? {
        let from = entry
            .with_context(|| format!("read {}", amd.display()))?
            .path();
        let link = build_dir.join(from.file_name().unwrap_or_default());
        if !from.ends_with("amdkfd") && fs::read_link(&link).ok().as_ref() != Some(&from) {
            let _ = fs::remove_file(&link);
            std::os::unix::fs::symlink(&from, &link)
                .with_context(|| format!("link {}", link.display()))?;
        }
    }
    let driver = build_dir.join("amdkfd");
    fs::create_dir_all(&driver).with_context(|| format!("create {}", driver.display()))?;
    let mut expected: Vec<String> = own.iter().map(|(name, _)| name.clone()).collect();
    for entry in fs::read_dir(amd.join("amdkfd")).context("read the driver's source")? {
        let from = entry.context("read the driver's source")?.path();
        let name = from
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let patched = overlay.below(DRIVER).any(|(patched, _)| patched == name);
        // A file of our own takes the place of one of that name.
        if from.is_file() && !patched && !own.iter().any(|(own, _)| *own == name) {
            publish(&from, &driver.join(&name))?;
            expected.push(name);
        }
    }
    publish(&amd.join("amdgpu").join(TAKEN), &driver.join(TAKEN))?;
    expected.push(TAKEN.to_owned());
    for (name, content) in own {
        write_if_new(&driver.join(name), content)?;
    }
    for (name, content) in overlay.below(DRIVER) {
        anyhow::ensure!(
            !own.iter().any(|(own, _)| own == name) && name != TAKEN,
            "the series touches {DRIVER}/{name}, a name that the simulated GPU takes"
        );
        if let Some(content) = content {
            write_if_new(&driver.join(name), content)?;
            expected.push(name.to_owned());
        }
    }
    // The Kbuild takes every source file it finds: one that left the project must not stay.
    for entry in fs::read_dir(&driver).with_context(|| format!("read {}", driver.display()))? {
        let path = entry
            .with_context(|| format!("read {}", driver.display()))?
            .path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let is_source = (name.ends_with(".c") && !name.ends_with(".mod.c")) || name.ends_with(".h");
        if is_source && !expected.contains(&name) {
            fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
        }
    }
    Ok(driver)
}

/// That the module is built from everything that the series changes: else the guest would run something other than
/// the series. Documentation is not built from.
fn buildable(overlay: &Overlay) -> Result<()> {
    let other = overlay.0.keys().find(|path| {
        let below = path
            .strip_prefix(DRIVER)
            .and_then(|rest| rest.strip_prefix('/'));
        below.is_none_or(|name| name.contains('/')) && !path.starts_with("Documentation/")
    });
    match other {
        None => Ok(()),
        Some(path) => anyhow::bail!(
            "the series touches {path}: the simulated GPU's module is built from patched files of {DRIVER} only"
        ),
    }
}

fn write_if_new(path: &Path, content: &[u8]) -> Result<()> {
    if fs::read(path).is_ok_and(|old| old == content) {
        return Ok(());
    }
    fs::write(path, content).with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let amd = dir.path().join("amd");
        for made in ["amdkfd", "amdgpu", "include"] {
            fs::create_dir_all(amd.join(made)).unwrap();
        }
        fs::write(amd.join("amdkfd/kfd_queue.c"), "queue").unwrap();
        fs::write(amd.join("amdkfd/Makefile"), "list").unwrap();
        fs::write(amd.join("amdgpu").join(TAKEN), "fence").unwrap();
        (dir, amd)
    }

    #[test]
    fn the_driver_is_copied_and_its_headers_are_linked() {
        let (dir, amd) = tree();
        let build = dir.path().join("build");
        let driver = lay_out(
            &amd,
            &build,
            &[
                ("Kbuild".into(), b"k".to_vec()),
                ("sim_a.c".into(), b"a".to_vec()),
            ],
            &Overlay::default(),
        )
        .unwrap();
        assert_eq!(
            fs::read_to_string(driver.join("kfd_queue.c")).unwrap(),
            "queue"
        );
        assert_eq!(fs::read_to_string(driver.join(TAKEN)).unwrap(), "fence");
        assert_eq!(fs::read_to_string(driver.join("sim_a.c")).unwrap(), "a");
        assert_eq!(
            fs::read_link(build.join("include")).unwrap(),
            amd.join("include")
        );
        assert!(!driver.is_symlink());
    }

    #[test]
    fn what_did_not_change_keeps_its_time_and_what_left_is_removed() {
        let (dir, amd) = tree();
        let build = dir.path().join("build");
        let first = [
            ("Kbuild".to_owned(), b"k".to_vec()),
            ("sim_a.c".to_owned(), b"a".to_vec()),
            ("sim_b.c".to_owned(), b"b".to_vec()),
        ];
        let driver = lay_out(&amd, &build, &first, &Overlay::default()).unwrap();
        let time = |name: &str| fs::metadata(driver.join(name)).unwrap().modified().unwrap();
        let before = (time("kfd_queue.c"), time("sim_a.c"));
        fs::write(driver.join("amdgpu.mod.c"), "generated").unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20));
        lay_out(&amd, &build, &first[..2], &Overlay::default()).unwrap();
        assert_eq!(before, (time("kfd_queue.c"), time("sim_a.c")));
        assert!(!driver.join("sim_b.c").exists());
        assert!(driver.join("amdgpu.mod.c").exists());
    }

    fn overlay(files: &[(&str, Option<&str>)]) -> Overlay {
        Overlay(
            files
                .iter()
                .map(|(path, content)| {
                    (
                        (*path).to_owned(),
                        content.map(|content| content.as_bytes().to_vec()),
                    )
                })
                .collect(),
        )
    }

    #[test]
    fn patched_files_take_the_place_of_the_drivers_and_leave_with_their_patch() {
        let (dir, amd) = tree();
        fs::write(amd.join("amdkfd/kfd_gone.c"), "gone").unwrap();
        let build = dir.path().join("build");
        let own = [("Kbuild".to_owned(), b"k".to_vec())];
        let patched = overlay(&[
            (&format!("{DRIVER}/kfd_queue.c"), Some("patched")),
            (&format!("{DRIVER}/kfd_new.h"), Some("new")),
            (&format!("{DRIVER}/kfd_gone.c"), None),
        ]);
        lay_out(&amd, &build, &own, &Overlay::default()).unwrap();
        let driver = lay_out(&amd, &build, &own, &patched).unwrap();
        let read = |name: &str| fs::read_to_string(driver.join(name)).unwrap();
        assert_eq!(read("kfd_queue.c"), "patched");
        assert_eq!(read("kfd_new.h"), "new");
        assert!(!driver.join("kfd_gone.c").exists());
        let time = |name: &str| fs::metadata(driver.join(name)).unwrap().modified().unwrap();
        let before = (time("kfd_queue.c"), time("Makefile"));
        std::thread::sleep(std::time::Duration::from_millis(20));
        lay_out(&amd, &build, &own, &patched).unwrap();
        assert_eq!(before, (time("kfd_queue.c"), time("Makefile")));
        lay_out(&amd, &build, &own, &Overlay::default()).unwrap();
        assert_eq!(read("kfd_queue.c"), "queue");
        assert_eq!(read("kfd_gone.c"), "gone");
        assert!(!driver.join("kfd_new.h").exists());
    }

    #[test]
    fn what_the_module_is_not_built_from_is_refused() {
        let touches = |path: &str| buildable(&overlay(&[(path, Some("x"))]));
        assert!(touches(&format!("{DRIVER}/kfd_queue.c")).is_ok());
        assert!(touches("Documentation/gpu/amdgpu/gpreempt.rst").is_ok());
        for path in [
            "drivers/gpu/drm/amd/amdgpu/amdgpu_amdkfd.h",
            "include/uapi/linux/kfd_ioctl.h",
            "drivers/gpu/drm/amd/amdkfd/sub/x.c",
        ] {
            let error = touches(path).unwrap_err().to_string();
            assert!(error.contains(path), "{error}");
        }
    }
}

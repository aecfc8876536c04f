// SPDX-License-Identifier: MIT OR Apache-2.0
//! The simulated GPU's `amdgpu.ko`: the unmodified amdkfd of the kernel's source with `tests/sim-gpu` beside it.
//! The build directory is kept, so a change rebuilds what it touches; the result is kept by the digest of its
//! inputs, so without a change nothing is built.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result};

use super::cargo::publish;
use crate::exit::unavailable;
use crate::project::Project;
use crate::setup::digest;
use crate::setup::kernels::Kernel;
use crate::setup::tools::Tools;
use crate::ui::Step;

/// What is needed of the kernel's source: the driver, and the headers it includes.
pub(crate) const SOURCE_DIRS: &[&str] = &[
    "drivers/gpu/drm/amd/amdkfd",
    "drivers/gpu/drm/amd/amdgpu",
    "drivers/gpu/drm/amd/include",
    "drivers/gpu/drm/amd/pm",
    "drivers/gpu/drm/amd/display",
    "drivers/gpu/drm/amd/acp/include",
];

/// A file of amdgpu proper that the module takes as it is.
const TAKEN: &str = "amdgpu_amdkfd_fence.c";

/// Where a result keeps the driver's objects.
const OBJECTS: &str = "amdkfd";

/// Results of earlier inputs that are kept, for those who go back and forth.
const KEPT: usize = 6;

/// What was built.
#[derive(Debug, Clone)]
pub(crate) struct SimModule {
    pub(crate) module: PathBuf,
    /// The directory of the objects that the driver's unmodified files were compiled to.
    pub(crate) objects: PathBuf,
}

/// Builds the module for `kernel` if its inputs changed.
pub(crate) fn build(project: &Project, tools: &Tools, kernel: &Kernel) -> Result<SimModule> {
    let own = own_files(&project.root.join("tests/sim-gpu"))?;
    let release = kernel.release();
    let parts = own
        .iter()
        .flat_map(|(name, content)| [name.as_bytes(), content.as_slice()]);
    let key = digest::of_parts([release.as_bytes()].into_iter().chain(parts));
    let results = kernel.dir().join("sim");
    let result = results.join(&key[..16]);
    let module = result.join("amdgpu.ko");
    if module.is_file() {
        return Ok(SimModule {
            module,
            objects: result.join(OBJECTS),
        });
    }

    let _lock = project.lock()?;
    let build_dir = kernel.dir().join("sim-build");
    if build_dir.to_string_lossy().contains(char::is_whitespace) {
        return Err(unavailable(format!(
            "make cannot build in {}, whose name holds a blank: set GPREEMPT_CACHE to a directory without one",
            build_dir.display()
        )));
    }
    let headers = kernel.headers(project)?;
    let source = kernel.source(project, SOURCE_DIRS)?;
    let step = Step::start(&format!("build the simulated GPU's module for {release}"));
    let driver = lay_out(&source.join("drivers/gpu/drm/amd"), &build_dir, &own)?;
    make(tools, &headers, &driver)?;

    let partial = tempfile::Builder::new()
        .prefix(".sim-")
        .tempdir_in(kernel.dir())
        .context("create a directory for the module")?;
    // Without DWARF it is a twentieth of the size; BTF stays.
    let stripped = partial.path().join("amdgpu.ko");
    let output = tools
        .command("strip")?
        .arg("-g")
        .arg("-o")
        .arg(&stripped)
        .arg(driver.join("amdgpu.ko"))
        .output()
        .context("run strip")?;
    anyhow::ensure!(
        output.status.success(),
        "strip: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    fs::create_dir_all(&results).with_context(|| format!("create {}", results.display()))?;
    keep_objects(
        &source.join("drivers/gpu/drm/amd/amdkfd"),
        &driver,
        &partial.path().join(OBJECTS),
    )?;
    let _ = fs::remove_dir_all(&result);
    let partial = partial.keep();
    fs::rename(&partial, &result)
        .with_context(|| format!("move {} to {}", partial.display(), result.display()))?;
    drop_old(&results)?;
    step.done();
    Ok(SimModule {
        module,
        objects: result.join(OBJECTS),
    })
}

/// The project's files of the module: names and contents, sorted.
fn own_files(dir: &Path) -> Result<Vec<(String, Vec<u8>)>> {
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
/// are written, since make goes by their times.
fn lay_out(amd: &Path, build_dir: &Path, own: &[(String, Vec<u8>)]) -> Result<PathBuf> {
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
        // A file of our own takes the place of one of that name.
        if from.is_file() && !own.iter().any(|(own, _)| *own == name) {
            publish(&from, &driver.join(&name))?;
            expected.push(name);
        }
    }
    publish(&amd.join("amdgpu").join(TAKEN), &driver.join(TAKEN))?;
    expected.push(TAKEN.to_owned());
    for (name, content) in own {
        let path = driver.join(name);
        if !fs::read(&path).is_ok_and(|old| old == *content) {
            fs::write(&path, content).with_context(|| format!("write {}", path.display()))?;
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

fn make(tools: &Tools, headers: &Path, driver: &Path) -> Result<()> {
    let module = driver.join("amdgpu.ko");
    let _ = fs::remove_file(&module);
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    let mut command = tools.command("make")?;
    tools.prepare(&mut command);
    // Flags of an outer make are not for this one.
    command
        .env_remove("MAKEFLAGS")
        .env_remove("MFLAGS")
        .env_remove("MAKELEVEL");
    command
        .arg("-C")
        .arg(headers)
        .arg(format!("M={}", driver.display()))
        .arg(format!("-j{jobs}"))
        .arg("modules");
    let output = command.stdin(Stdio::null()).output().context("run make")?;
    let words = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() || !module.is_file() {
        anyhow::bail!(
            "the simulated GPU's module does not build:\n{}",
            words.trim()
        );
    }
    // Warnings of the compiler are worth reading; a remark about the way of building is not.
    words
        .lines()
        .filter(|line| line.contains("warning:") || line.contains("error:"))
        .for_each(|line| eprintln!("{line}"));
    Ok(())
}

/// Copies what the driver's own files were compiled to.
fn keep_objects(source: &Path, driver: &Path, into: &Path) -> Result<()> {
    fs::create_dir_all(into).with_context(|| format!("create {}", into.display()))?;
    for entry in fs::read_dir(source).with_context(|| format!("read {}", source.display()))? {
        let name = entry
            .with_context(|| format!("read {}", source.display()))?
            .file_name();
        let object = driver.join(&name).with_extension("o");
        if Path::new(&name)
            .extension()
            .is_some_and(|extension| extension == "c")
            && object.is_file()
        {
            fs::copy(&object, into.join(&name).with_extension("o"))
                .with_context(|| format!("copy {}", object.display()))?;
        }
    }
    Ok(())
}

fn drop_old(results: &Path) -> Result<()> {
    let mut all: Vec<_> = fs::read_dir(results)
        .with_context(|| format!("read {}", results.display()))?
        .flatten()
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    all.sort();
    for (_, path) in all.iter().rev().skip(KEPT) {
        let _ = fs::remove_dir_all(path);
    }
    Ok(())
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
        let driver = lay_out(&amd, &build, &first).unwrap();
        let time = |name: &str| fs::metadata(driver.join(name)).unwrap().modified().unwrap();
        let before = (time("kfd_queue.c"), time("sim_a.c"));
        fs::write(driver.join("amdgpu.mod.c"), "generated").unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20));
        lay_out(&amd, &build, &first[..2]).unwrap();
        assert_eq!(before, (time("kfd_queue.c"), time("sim_a.c")));
        assert!(!driver.join("sim_b.c").exists());
        assert!(driver.join("amdgpu.mod.c").exists());
    }
}

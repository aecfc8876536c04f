// SPDX-License-Identifier: MIT OR Apache-2.0
//! The simulated GPU's `amdgpu.ko`: the amdkfd of the kernel's source, unmodified or with a patch series, and
//! `tests/sim-gpu` beside it. The build directories are kept, so a change rebuilds what it touches; the results are
//! kept by the digest of their inputs, so without a change nothing is built.

mod compile;
mod layout;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::fcntl::Flock;

use super::series::{Overlay, Scratch, Series};
use crate::exit::unavailable;
use crate::project::Project;
use crate::setup::digest;
use crate::setup::kernels::Kernel;
use crate::setup::tools::Tools;
use crate::ui::Step;

pub(crate) use compile::{Warning, Warnings};

/// What is needed of the kernel's source: the driver, the headers it includes, and what judges patches.
pub(crate) const SOURCE_DIRS: &[&str] = &[
    "drivers/gpu/drm/amd/amdkfd",
    "drivers/gpu/drm/amd/amdgpu",
    "drivers/gpu/drm/amd/include",
    "drivers/gpu/drm/amd/pm",
    "drivers/gpu/drm/amd/display",
    "drivers/gpu/drm/amd/acp/include",
    "scripts/checkpatch.pl",
    "scripts/const_structs.checkpatch",
    "scripts/spelling.txt",
];

/// AMD's directory in the kernel's source.
const AMD: &str = "drivers/gpu/drm/amd";

/// The driver's directory in the kernel's source.
pub(crate) const DRIVER: &str = "drivers/gpu/drm/amd/amdkfd";

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

/// A source to build from and the files of the project that go into it.
pub(crate) struct Workbench<'a> {
    project: &'a Project,
    tools: &'a Tools,
    kernel: &'a Kernel,
    own: Vec<(String, Vec<u8>)>,
}

/// A module as make left it.
pub(crate) struct Made {
    /// The driver's directory of the build, with the module in it.
    pub(crate) driver: PathBuf,
    pub(crate) warnings: Vec<Warning>,
}

/// Builds the module for `kernel` if its inputs changed: of the unmodified driver, or of the driver with a series.
pub(crate) fn build(
    project: &Project,
    tools: &Tools,
    kernel: &Kernel,
    series: Option<&Series>,
) -> Result<SimModule> {
    let bench = Workbench::new(project, tools, kernel)?;
    let release = kernel.release();
    let (variant, what) = match series {
        None => ("sim", "simulated GPU's module"),
        Some(_) => ("patched", "simulated GPU's module, patched,"),
    };
    let key = bench.digest(&series.map(Series::digest).unwrap_or_default());
    let results = kernel.dir().join(variant);
    let result = results.join(&key[..16]);
    let built = SimModule {
        module: result.join("amdgpu.ko"),
        objects: result.join(OBJECTS),
    };
    if built.module.is_file() {
        return Ok(built);
    }

    let build_dir = format!("{variant}-build");
    let _lock = bench.lock(&build_dir)?;
    if built.module.is_file() {
        // The one that had the lock has built it.
        return Ok(built);
    }
    let source = bench.source()?;
    // A series that does not apply is to be known before anything is built.
    let overlay = match series {
        None => Overlay::default(),
        Some(series) => {
            let scratch = Scratch::new(&source, series)?;
            scratch.apply_all(tools, series)?;
            scratch.overlay()?
        }
    };
    let step = Step::start(&format!("build the {what} for {release}"));
    let made = bench.make(&build_dir, &overlay, Warnings::Usual)?;
    // Warnings of the compiler are worth reading; a remark about the way of building is not.
    made.warnings
        .iter()
        .for_each(|warning| eprintln!("{}", warning.line));
    let driver = made.driver;

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
    keep_objects(&source.join(DRIVER), &driver, &partial.path().join(OBJECTS))?;
    let _ = fs::remove_dir_all(&result);
    let partial = partial.keep();
    fs::rename(&partial, &result)
        .with_context(|| format!("move {} to {}", partial.display(), result.display()))?;
    drop_old(&results)?;
    step.done();
    Ok(built)
}

impl<'a> Workbench<'a> {
    /// Reads the project's files.
    pub(crate) fn new(project: &'a Project, tools: &'a Tools, kernel: &'a Kernel) -> Result<Self> {
        Ok(Self {
            project,
            tools,
            kernel,
            own: layout::own_files(&project.root.join("tests/sim-gpu"))?,
        })
    }

    /// The kernel's source, as far as it is needed here.
    pub(crate) fn source(&self) -> Result<PathBuf> {
        self.kernel.source(self.project, SOURCE_DIRS)
    }

    /// Tells a build's inputs apart from any other's; `more` is what comes on top of the kernel and the project's files.
    pub(crate) fn digest(&self, more: &str) -> String {
        let release = self.kernel.release();
        let parts = self
            .own
            .iter()
            .flat_map(|(name, content)| [name.as_bytes(), content.as_slice()]);
        digest::of_parts(
            [release.as_bytes(), more.as_bytes()]
                .into_iter()
                .chain(parts),
        )
    }

    /// Takes the build directory of that name. The kernel's headers and source are in place by now, and stay.
    pub(crate) fn lock(&self, name: &str) -> Result<Flock<fs::File>> {
        Project::lock_dir(&self.kernel.dir().join(name))
    }

    /// Brings the build directory of that name up to date and returns the driver's directory in it. The caller holds its
    /// lock.
    pub(crate) fn lay_out(&self, name: &str, overlay: &Overlay) -> Result<PathBuf> {
        let build_dir = self.kernel.dir().join(name);
        if build_dir.to_string_lossy().contains(char::is_whitespace) {
            return Err(unavailable(format!(
                "make cannot build in {}, whose name holds a blank: set GPREEMPT_CACHE to a directory without one",
                build_dir.display()
            )));
        }
        layout::lay_out(&self.source()?.join(AMD), &build_dir, &self.own, overlay)
    }

    /// Builds in the directory of that name, which is kept. The caller holds its lock.
    pub(crate) fn make(&self, name: &str, overlay: &Overlay, warnings: Warnings) -> Result<Made> {
        let driver = self.lay_out(name, overlay)?;
        let headers = self.kernel.headers(self.project)?;
        let warnings = compile::make(self.tools, &headers, &driver, warnings)?;
        Ok(Made { driver, warnings })
    }
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

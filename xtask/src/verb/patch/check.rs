// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask patch check`: whether every patch of the series applies, builds without a warning and pleases
//! `checkpatch.pl`, and whether the driver that results loads, answers and leaves.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result};

use super::{checkpatch, chosen, kernel};
use crate::build::series::{Overlay, Patch, Scratch, Series, DIR};
use crate::build::sim::{Warnings, Workbench, DRIVER};
use crate::cli::SeriesArgs;
use crate::project::Project;
use crate::setup::kernels::{Kernel, Pins};
use crate::setup::tools::Tools;
use crate::setup::{self, digest, Needs};
use crate::ui;
use crate::verb::test::groups::{self, Chosen};
use crate::verb::test::tally::Tally;
use crate::vm::config::Driver;

/// The build directory: one of its own, since every patch is built and with more warnings than usual.
const BUILD_DIR: &str = "patch-check-build";

/// In the build directory while it holds objects whose warnings were not looked at, or were bad.
const UNJUDGED: &str = ".unjudged";

/// Where it is noted which states of the driver built without a warning.
const PASSED_DIR: &str = "patch-check";

/// The headers that user space is built with.
const UAPI: &str = "uapi";

/// The tests of [`Driver::Patched`] groups that concern the driver alone have names that begin like this.
const GUEST_TESTS: &str = "::driver_";

/// Runs the verb.
pub(crate) fn run(project: &Project, args: &SeriesArgs) -> Result<ExitCode> {
    let started = Instant::now();
    let (kernel, series) = chosen(project, args)?;
    let mut tally = Tally::new(None);
    on_host(project, args, &mut tally);
    in_guest(project, &kernel, args, &mut tally);
    ui::note(&format!(
        "checked {} patches for {kernel} in {:.0} s",
        series.patches.len(),
        started.elapsed().as_secs_f64()
    ));
    Ok(tally.finish())
}

/// What needs no guest.
pub(crate) fn on_host(project: &Project, args: &SeriesArgs, tally: &mut Tally) {
    if let Err(error) = try_on_host(project, args, tally) {
        tally.step("patch::prepare", Err(error));
    }
}

fn try_on_host(project: &Project, args: &SeriesArgs, tally: &mut Tally) -> Result<()> {
    let kernel = kernel(project, args)?;
    let name = |what: &str| format!("patch-{kernel}::{what}");
    let mut series = None;
    tally.run(&name("series_is_complete"), || {
        let read = Series::of_kernel(project, &kernel, args.series.as_deref())?;
        let read = series.insert(read);
        let forgotten = read.forgotten()?;
        anyhow::ensure!(
            forgotten.is_empty(),
            "{} does not name {}",
            read.dir.display(),
            forgotten.join(", ")
        );
        Ok(())
    });
    let series = match series {
        Some(series) => series,
        // The step above has said why, unless it was not asked for.
        None if tally.wants(&name("series_is_complete")) => return Ok(()),
        None => Series::of_kernel(project, &kernel, args.series.as_deref())?,
    };
    let steps = ["applies", "builds", "checkpatch"];
    let last = ["uapi_header_is_the_projects", "other_files_are_unmodified"];
    let wanted = series
        .patches
        .iter()
        .flat_map(|patch| steps.map(|step| name(&step_of(patch, step))))
        .chain(last.map(name))
        .any(|name| tally.wants(&name));
    if !wanted {
        return Ok(());
    }

    let pins = Pins::read(project)?;
    let ready = setup::provide(
        project,
        &pins,
        &Needs {
            modules: vec![kernel.clone()],
            ..Needs::default()
        },
    )?;
    let check = Check::new(project, &ready.tools, ready.kernel(&kernel)?, &series)?;
    for (index, patch) in series.patches.iter().enumerate() {
        // The steps after it need it, whether it is asked for or not.
        let mut applied = check.apply(patch);
        let overlay = match &mut applied {
            Ok(_) => check.scratch.overlay()?,
            Err(_) => Overlay::default(),
        };
        let failed = applied.is_err();
        tally.run(&name(&step_of(patch, steps[0])), || applied);
        if failed {
            for later in &series.patches[index + 1..] {
                tally.run(&name(&step_of(later, steps[0])), || {
                    anyhow::bail!("{} before it does not apply", patch.name)
                });
            }
            return Ok(());
        }
        tally.run(&name(&step_of(patch, steps[1])), || check.builds(&overlay));
        tally.run(&name(&step_of(patch, steps[2])), || {
            checkpatch::lint(&check.source, patch)
        });
    }
    let overlay = check.scratch.overlay()?;
    tally.run(&name(last[0]), || {
        same_headers(&project.root.join(DIR).join(UAPI), &overlay)
    });
    tally.run(&name(last[1]), || check.others_are_unmodified(&overlay));
    Ok(())
}

fn step_of(patch: &Patch, step: &str) -> String {
    format!("{}::{step}", patch.name.trim_end_matches(".patch"))
}

/// Boots a guest with the patched driver, in which the tests that concern the driver alone are run.
fn in_guest(project: &Project, kernel: &str, args: &SeriesArgs, tally: &mut Tally) {
    let chosen = groups::first_of(project, Driver::Patched, kernel).map(|group| Chosen {
        groups: vec![group],
        filter: Some(GUEST_TESTS.to_owned()),
        series: args.series.clone(),
    });
    match chosen {
        Ok(chosen) => groups::run(project, &chosen, tally),
        Err(error) => {
            tally.step("patch::guest", Err(error));
        }
    }
}

struct Check<'a> {
    tools: &'a Tools,
    kernel: &'a Kernel,
    bench: Workbench<'a>,
    source: PathBuf,
    scratch: Scratch,
}

impl<'a> Check<'a> {
    fn new(
        project: &'a Project,
        tools: &'a Tools,
        kernel: &'a Kernel,
        series: &Series,
    ) -> Result<Self> {
        let bench = Workbench::new(project, tools, kernel)?;
        let source = bench.source()?;
        Ok(Self {
            tools,
            kernel,
            scratch: Scratch::new(&source, series)?,
            bench,
            source,
        })
    }

    /// Applies a patch on top of those before it. On the pinned kernel every hunk has to be where the patch says.
    fn apply(&self, patch: &Patch) -> Result<()> {
        let moved = self.scratch.apply(self.tools, patch)?;
        if self.kernel.is_as_pinned() {
            anyhow::ensure!(
                moved.is_empty(),
                "{} was made for another source:\n{}",
                patch.name,
                moved.join("\n")
            );
        }
        // A newer kernel of the series took the pinned one's place: that lines moved is no fault of the patch.
        moved
            .iter()
            .for_each(|place| ui::note(&format!("{}: {place}", patch.name)));
        Ok(())
    }

    /// Builds the driver as it is after the patches so far, with the warnings that new code has to be free of.
    fn builds(&self, overlay: &Overlay) -> Result<()> {
        let compiler = self
            .tools
            .command("gcc-12")?
            .arg("--version")
            .output()
            .context("run gcc-12")?;
        // The simulated GPU's own files are no part of it: it is linked with, and not what is checked here.
        let release = self.kernel.release();
        let parts = overlay.0.iter().flat_map(|(path, content)| {
            [path.as_bytes(), content.as_deref().unwrap_or(b"\0removed")]
        });
        let inputs = digest::of_parts(
            [compiler.stdout.as_slice(), release.as_bytes()]
                .into_iter()
                .chain(parts),
        );
        let dir = self.kernel.dir().join(PASSED_DIR);
        let passed = dir.join(&inputs[..32]);
        if passed.is_file() {
            return Ok(());
        }
        let _lock = self.bench.lock(BUILD_DIR)?;
        if passed.is_file() {
            // The one that had the lock has built it.
            return Ok(());
        }
        let build_dir = self.kernel.dir().join(BUILD_DIR);
        let unjudged = begin(&build_dir)?;
        let made = self.bench.make(BUILD_DIR, overlay, Warnings::New)?;
        let bad: Vec<&str> = made
            .warnings
            .iter()
            // Not a word about the patches.
            .filter(|warning| !warning.is_of_the_simulator())
            .map(|warning| warning.line.as_str())
            .collect();
        anyhow::ensure!(bad.is_empty(), "warnings:\n{}", bad.join("\n"));
        fs::remove_file(&unjudged).with_context(|| format!("remove {}", unjudged.display()))?;
        fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        fs::write(&passed, "").with_context(|| format!("write {}", passed.display()))
    }

    /// That what is built differs from the kernel's source in the files that the series names, and in no other.
    fn others_are_unmodified(&self, overlay: &Overlay) -> Result<()> {
        let _lock = self.bench.lock(BUILD_DIR)?;
        let driver = self.bench.lay_out(BUILD_DIR, overlay)?;
        let (same, other) = compare(&self.source.join(DRIVER), &driver, overlay)?;
        anyhow::ensure!(
            other.is_empty(),
            "differ from the kernel's source and are not in the series: {}",
            other.join(", ")
        );
        anyhow::ensure!(same > 0, "there was nothing to compare");
        Ok(())
    }
}

/// Begins a build in a directory in which every object was compiled without a warning: make compiles a file only once, and
/// is silent about it after that. The file that is returned says that there are objects nobody has judged; whoever finds
/// it there starts anew.
fn begin(build_dir: &Path) -> Result<PathBuf> {
    let unjudged = build_dir.join(UNJUDGED);
    if unjudged.exists() {
        fs::remove_dir_all(build_dir).with_context(|| format!("remove {}", build_dir.display()))?;
    }
    fs::create_dir_all(build_dir).with_context(|| format!("create {}", build_dir.display()))?;
    fs::write(&unjudged, "").with_context(|| format!("write {}", unjudged.display()))?;
    Ok(unjudged)
}

/// How many of the driver's files are the same in the build directory, and which differ without a patch.
fn compare(source: &Path, driver: &Path, overlay: &Overlay) -> Result<(usize, Vec<String>)> {
    let (mut same, mut other) = (0, Vec::new());
    for entry in fs::read_dir(source).with_context(|| format!("read {}", source.display()))? {
        let path = entry
            .with_context(|| format!("read {}", source.display()))?
            .path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if !path.is_file() || overlay.0.contains_key(&format!("{DRIVER}/{name}")) {
            continue;
        }
        let original = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        if fs::read(driver.join(&name)).is_ok_and(|built| built == original) {
            same += 1;
        } else {
            other.push(name);
        }
    }
    other.sort();
    Ok((same, other))
}

/// That the project's headers for user space are those of the series, byte by byte.
fn same_headers(dir: &Path, overlay: &Overlay) -> Result<()> {
    let mut compared = 0;
    for entry in fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))? {
        let path = entry
            .with_context(|| format!("read {}", dir.display()))?
            .path();
        let Some(name) = path
            .file_name()
            .and_then(|name| name.to_str())
            .filter(|name| name.ends_with(".h"))
        else {
            continue;
        };
        let ours = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        let theirs = overlay
            .0
            .iter()
            .find(|(path, _)| path.rsplit('/').next() == Some(name));
        let (at, theirs) = theirs.with_context(|| format!("the series has no {name}"))?;
        if let Some(line) = first_difference(&ours, theirs.as_deref().unwrap_or_default()) {
            anyhow::bail!(
                "{} and {at} of the series differ from line {line} on",
                path.display()
            );
        }
        compared += 1;
    }
    anyhow::ensure!(compared > 0, "{} holds no header", dir.display());
    Ok(())
}

/// The number of the first line that differs.
fn first_difference(left: &[u8], right: &[u8]) -> Option<usize> {
    if left == right {
        return None;
    }
    let same = left
        .split(|&byte| byte == b'\n')
        .zip(right.split(|&byte| byte == b'\n'))
        .take_while(|(left, right)| left == right)
        .count();
    Some(same + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overlay(files: &[(&str, &str)]) -> Overlay {
        Overlay(
            files
                .iter()
                .map(|(path, content)| ((*path).to_owned(), Some(content.as_bytes().to_vec())))
                .collect(),
        )
    }

    #[test]
    fn headers_must_be_the_same_to_the_byte() {
        let dir = tempfile::tempdir().unwrap();
        assert!(same_headers(dir.path(), &Overlay::default()).is_err());
        fs::write(dir.path().join("k.h"), "a\nb\n").unwrap();
        assert!(same_headers(dir.path(), &overlay(&[("d/k.h", "a\nb\n")])).is_ok());
        let error = same_headers(dir.path(), &overlay(&[("d/k.h", "a\nc\n")]))
            .unwrap_err()
            .to_string();
        assert!(error.ends_with("differ from line 2 on"), "{error}");
        assert!(same_headers(dir.path(), &overlay(&[("d/k.h", "a\nb")])).is_err());
        assert!(same_headers(dir.path(), &overlay(&[("d/other.h", "a\nb\n")])).is_err());
    }

    #[test]
    fn objects_that_nobody_has_judged_are_not_built_on() {
        let dir = tempfile::tempdir().unwrap();
        let build = dir.path().join("build");
        let unjudged = begin(&build).unwrap();
        fs::write(build.join("a.o"), "").unwrap();
        // Judged and good: kept.
        fs::remove_file(&unjudged).unwrap();
        begin(&build).unwrap();
        assert!(build.join("a.o").exists());
        // Interrupted, or bad.
        begin(&build).unwrap();
        assert!(!build.join("a.o").exists());
        assert!(unjudged.exists());
    }

    #[test]
    fn a_file_that_differs_without_a_patch_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let (source, driver) = (dir.path().join("s"), dir.path().join("b"));
        for made in [&source, &driver] {
            fs::create_dir(made).unwrap();
            fs::write(made.join("same.c"), "x").unwrap();
        }
        fs::write(source.join("patched.c"), "x").unwrap();
        fs::write(driver.join("patched.c"), "y").unwrap();
        fs::write(source.join("other.c"), "x").unwrap();
        fs::write(driver.join("other.c"), "y").unwrap();
        fs::write(source.join("gone.c"), "x").unwrap();
        fs::write(driver.join("sim_own.c"), "y").unwrap();
        let patched = overlay(&[(&format!("{DRIVER}/patched.c"), "y")]);
        assert_eq!(
            compare(&source, &driver, &patched).unwrap(),
            (1, vec!["gone.c".to_owned(), "other.c".to_owned()])
        );
    }
}

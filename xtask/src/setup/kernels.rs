// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernels of `tests/kernels.toml`: image, headers and source, each unpacked once into the cache.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::packages::{self, Finder, Wanted};
use super::version::NamePattern;
use crate::exit::unavailable;
use crate::project::Project;
use crate::ui::{self, Step};

/// Image, modules, headers and the driver's source take this much while they are unpacked.
const ROOM_BYTES: u64 = 3_000_000_000;

/// `tests/kernels.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Pins {
    pub(crate) kernel: Vec<Spec>,
    pub(crate) rust_src: RustSrcPins,
    pub(crate) rocm: RuntimePins,
    pub(crate) python: RuntimePins,
    pub(crate) perfetto: super::perfetto::Pin,
}

/// A kernel as pinned.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Spec {
    /// The series, and what users call it.
    pub(crate) name: String,
    abi: String,
    version: String,
    newer: String,
    suites: Vec<String>,
    image: Vec<Pin>,
    #[serde(default)]
    headers: Vec<Pin>,
    source: Option<Pin>,
}

impl Spec {
    /// Whether modules can be built for it: with headers and source.
    pub(crate) fn has_source(&self) -> bool {
        self.source.is_some() && !self.headers.is_empty()
    }
}

/// Package and digest; the version is the kernel's.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pin {
    name: String,
    sha256: String,
}

/// Where the standard library's source comes from.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RustSrcPins {
    pub(crate) suites: Vec<String>,
    pub(crate) pinned: Vec<RustSrcPin>,
}

/// The package for one compiler.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RustSrcPin {
    pub(crate) rustc: String,
    pub(crate) version: String,
    pub(crate) sha256: String,
}

/// The packages of something that runs in guests with the libraries that it needs.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RuntimePins {
    pub(crate) suites: Vec<String>,
    pub(crate) packages: Vec<PackagePin>,
}

/// One of them.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PackagePin {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) sha256: String,
}

impl Pins {
    /// Reads the project's file.
    pub(crate) fn read(project: &Project) -> Result<Self> {
        let path = project.root.join("tests/kernels.toml");
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        toml::from_str(&text).with_context(|| format!("parse {}", path.display()))
    }

    /// The kernel of that name.
    pub(crate) fn kernel(&self, name: &str) -> Result<&Spec> {
        let names = || {
            self.kernel
                .iter()
                .map(|spec| spec.name.as_str())
                .collect::<Vec<_>>()
                .join(", ")
        };
        let found = self.kernel.iter().find(|spec| spec.name == name);
        found.with_context(|| {
            format!(
                "tests/kernels.toml has no kernel {name}; it has {}",
                names()
            )
        })
    }

    /// The kernel that the simulated GPU is built for.
    pub(crate) fn sim_kernel(&self) -> Result<&Spec> {
        let found = self.kernel.iter().find(|spec| spec.source.is_some());
        found.context("tests/kernels.toml has no kernel with headers and source")
    }
}

/// The exact kernel that is used: as pinned, or its replacement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Choice {
    /// What was pinned when this was chosen; another pin asks for another choice.
    pinned_version: String,
    abi: String,
    version: String,
}

/// A kernel in the cache.
#[derive(Debug, Clone)]
pub(crate) struct Kernel {
    spec: Spec,
    choice: Choice,
    dir: PathBuf,
}

impl Kernel {
    /// Makes the image available: from the cache, else as pinned, else the newest of its series.
    pub(crate) fn provide(project: &Project, spec: &Spec) -> Result<Self> {
        let choice_file = project
            .cache
            .join("kernels")
            .join(format!("{}.json", spec.name));
        let pinned = Choice {
            pinned_version: spec.version.clone(),
            abi: spec.abi.clone(),
            version: spec.version.clone(),
        };
        let replaced = fs::read(&choice_file)
            .ok()
            .and_then(|text| serde_json::from_slice::<Choice>(&text).ok());
        let choice = replaced
            .filter(|choice| choice.pinned_version == spec.version)
            .unwrap_or_else(|| pinned.clone());
        let kernel = Self::of(project, spec, choice);
        if kernel.unpack(project, &spec.image, "image")? {
            kernel.say_if_replaced();
            return Ok(kernel);
        }
        let choice = newest_of_series(project, spec)?;
        let kernel = Self::of(project, spec, choice);
        kernel.say_if_replaced();
        let found = kernel.unpack(project, &spec.image, "image")?;
        anyhow::ensure!(
            found,
            unavailable(format!(
                "no package of the {} kernel series is to be had",
                spec.name
            ))
        );
        let text = serde_json::to_vec(&kernel.choice).context("write the choice of a kernel")?;
        fs::write(&choice_file, text)
            .with_context(|| format!("write {}", choice_file.display()))?;
        Ok(kernel)
    }

    fn of(project: &Project, spec: &Spec, choice: Choice) -> Self {
        let dir = project
            .cache
            .join("kernels")
            .join(format!("{}_{}", choice.abi, choice.version));
        Self {
            spec: spec.clone(),
            choice,
            dir,
        }
    }

    fn say_if_replaced(&self) {
        if !self.is_as_pinned() {
            ui::warn(&format!(
                "kernel {} {} of tests/kernels.toml is gone from the mirror: {} is used in its place, with the digest of the \
                 signed package index",
                self.spec.name, self.spec.version, self.choice.version
            ));
        }
    }

    /// Whether it is the pinned one, or a newer one of its series in its place.
    pub(crate) fn is_as_pinned(&self) -> bool {
        self.choice.version == self.spec.version
    }

    /// What `uname -r` says in it.
    pub(crate) fn release(&self) -> String {
        format!("{}-amd64", self.choice.abi)
    }

    /// The series, as in `tests/kernels.toml`.
    pub(crate) fn name(&self) -> &str {
        &self.spec.name
    }

    /// Where builds for this kernel may be kept.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The bootable image. Newer packages keep it beside the modules.
    pub(crate) fn image(&self) -> Result<PathBuf> {
        let places = [
            self.dir
                .join("image/boot")
                .join(format!("vmlinuz-{}", self.release())),
            self.modules_dir()?.join("vmlinuz"),
        ];
        places
            .iter()
            .find(|path| path.is_file())
            .cloned()
            .with_context(|| {
                format!(
                    "the package of kernel {} holds no image; remove {} and try again",
                    self.release(),
                    self.dir.display()
                )
            })
    }

    /// The directory of its modules.
    pub(crate) fn modules_dir(&self) -> Result<PathBuf> {
        let name = if self.choice.abi.ends_with("-amd64") {
            self.choice.abi.clone()
        } else {
            self.release()
        };
        let release = [name.as_str(), self.choice.abi.as_str()];
        let places = ["lib/modules", "usr/lib/modules"]
            .iter()
            .flat_map(|place| release.iter().map(move |name| format!("{place}/{name}")));
        let found = places
            .map(|place| self.dir.join("image").join(place))
            .find(|path| path.is_dir());
        found.with_context(|| {
            format!(
                "the package of kernel {} holds no modules; remove {} and try again",
                self.release(),
                self.dir.display()
            )
        })
    }

    /// The headers' build directory for out-of-tree modules, made available when asked for the first time.
    pub(crate) fn headers(&self, project: &Project) -> Result<PathBuf> {
        let found = self.unpack(project, &self.spec.headers, "headers")?;
        anyhow::ensure!(found, self.gone("headers"));
        let sources = self.dir.join("headers/usr/src");
        let build = sources.join(format!("linux-headers-{}", self.release()));
        // The package's one absolute path: everything else in it is relative and works from any directory.
        let common = sources.join(format!("linux-headers-{}-common", self.choice.abi));
        let makefile = build.join("Makefile");
        let wanted = format!("include {}/Makefile\n", common.display());
        if fs::read_to_string(&makefile).with_context(|| format!("read {}", makefile.display()))?
            != wanted
        {
            fs::write(&makefile, wanted)
                .with_context(|| format!("write {}", makefile.display()))?;
        }
        Ok(build)
    }

    /// The named directories and files of the kernel's source tree, unpacked when asked for the first time.
    pub(crate) fn source(&self, project: &Project, wanted: &[&str]) -> Result<PathBuf> {
        let tree = self.dir.join("source");
        let marker = tree.join(".unpacked");
        if fs::read_to_string(&marker).is_ok_and(|have| have == wanted.join("\n")) {
            return Ok(tree);
        }
        let pin = self
            .spec
            .source
            .clone()
            .with_context(|| format!("kernel {} is pinned without source", self.spec.name))?;
        let name = pin.name.clone();
        let found = self.unpack(project, &[pin], "source-package")?;
        anyhow::ensure!(found, self.gone("source"));
        let package = self.dir.join("source-package");
        let archive = package.join("usr/src").join(format!("{name}.tar.xz"));
        let step = Step::start(&format!("unpack the driver from {name}"));
        let _ = fs::remove_dir_all(&tree);
        fs::create_dir_all(&tree).with_context(|| format!("create {}", tree.display()))?;
        let output = Command::new("tar")
            .args(["--strip-components=1", "-xJf"])
            .arg(&archive)
            .arg("-C")
            .arg(&tree)
            .args(wanted.iter().map(|path| format!("{name}/{path}")))
            .stdin(Stdio::null())
            .output()
            .context("run tar")?;
        anyhow::ensure!(
            output.status.success(),
            "unpack {}: {}",
            archive.display(),
            String::from_utf8_lossy(&output.stderr).trim()
        );
        fs::write(&marker, wanted.join("\n"))
            .with_context(|| format!("write {}", marker.display()))?;
        // 150 MB that only another choice of directories would need again.
        fs::remove_dir_all(&package).with_context(|| format!("remove {}", package.display()))?;
        step.done();
        Ok(tree)
    }

    fn gone(&self, what: &str) -> anyhow::Error {
        unavailable(format!(
            "the {what} of kernel {} {} are not to be had any more, though its image is here. Remove {} to start over with a newer one",
            self.spec.name,
            self.choice.version,
            self.dir.display()
        ))
    }

    /// Unpacks a group of packages to `<dir>/<group>`; false if one of them is not to be had.
    fn unpack(&self, project: &Project, pins: &[Pin], group: &str) -> Result<bool> {
        let into = self.dir.join(group);
        if into.is_dir() {
            return Ok(true);
        }
        project.need_room(ROOM_BYTES)?;
        let as_pinned = self.is_as_pinned();
        let finder = Finder::new(project, &self.spec.suites);
        let mut archives = Vec::new();
        for pin in pins {
            let wanted = Wanted {
                name: pin.name.replace("{abi}", &self.choice.abi),
                version: self.choice.version.clone(),
                sha256: as_pinned.then(|| pin.sha256.clone()),
            };
            match finder.archive(&wanted)? {
                Some(archive) => archives.push(archive),
                None => return Ok(false),
            }
        }
        packages::unpack(&archives, &into)?;
        Ok(true)
    }
}

/// The newest kernel of the series whose packages are all there.
fn newest_of_series(project: &Project, spec: &Spec) -> Result<Choice> {
    let pattern = NamePattern::parse(&spec.newer)
        .with_context(|| format!("tests/kernels.toml: `newer` of {}", spec.name))?;
    let finder = Finder::new(project, &spec.suites);
    let pins: Vec<_> = spec
        .image
        .iter()
        .chain(&spec.headers)
        .chain(&spec.source)
        .collect();
    let mut choices = Vec::new();
    for name in finder.names(&pattern.prefix())? {
        let Some(abi) = pattern.group_of(&name) else {
            continue;
        };
        for version in finder.versions(&name)? {
            let mut complete = true;
            for pin in &pins {
                complete &= finder
                    .versions(&pin.name.replace("{abi}", abi))?
                    .contains(&version);
            }
            if complete {
                choices.push(Choice {
                    pinned_version: spec.version.clone(),
                    abi: abi.to_owned(),
                    version,
                });
            }
        }
    }
    packages::newest(choices, |choice| &choice.version).ok_or_else(|| {
        unavailable(format!(
            "no kernel of the {} series in {}: pin another one in tests/kernels.toml",
            spec.name,
            project
                .packages
                .as_ref()
                .map_or_else(|| spec.suites.join(", "), |dir| dir.display().to_string())
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn project(dir: &Path) -> Project {
        Project {
            root: Path::new(env!("CARGO_MANIFEST_DIR"))
                .parent()
                .unwrap()
                .to_path_buf(),
            target: dir.join("target"),
            cache: dir.join("cache"),
            packages: Some(dir.join("packages")),
        }
    }

    #[test]
    fn the_committed_pins_are_complete() {
        let dir = tempfile::tempdir().unwrap();
        let pins = Pins::read(&project(dir.path())).unwrap();
        for spec in &pins.kernel {
            let pattern = NamePattern::parse(&spec.newer).unwrap();
            let first = spec.image[0].name.replace("{abi}", &spec.abi);
            assert_eq!(
                pattern.group_of(&first),
                Some(spec.abi.as_str()),
                "`newer` of {} finds the pinned kernel",
                spec.name
            );
            let digests = spec.image.iter().chain(&spec.headers).chain(&spec.source);
            assert!(digests.into_iter().all(|pin| pin.sha256.len() == 64));
        }
        assert!(!pins.sim_kernel().unwrap().headers.is_empty());
        assert!(pins.kernel("6.1").is_ok());
        assert!(pins.kernel("2.4").unwrap_err().to_string().contains("6.12"));
    }

    #[test]
    fn the_newest_complete_kernel_of_a_series_replaces_one_that_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let packages = dir.path().join("packages");
        fs::create_dir(&packages).unwrap();
        let put = |name: &str, version: &str| {
            fs::write(packages.join(format!("{name}_{version}_amd64.deb")), "").unwrap()
        };
        for (abi, version) in [
            ("6.12.100+deb12", "6.12.100-1~bpo12+1"),
            ("6.12.117+deb12", "6.12.117-1~deb12u1"),
        ] {
            put(&format!("linux-image-{abi}-amd64"), version);
            put(&format!("linux-headers-{abi}-amd64"), version);
            put(&format!("linux-headers-{abi}-common"), version);
            put(&format!("linux-kbuild-{abi}"), version);
            put("linux-source-6.12", version);
        }
        // Newer, but without headers: of no use.
        put("linux-image-6.12.200+deb12-amd64", "6.12.200-1");
        let project = project(dir.path());
        let pins = Pins::read(&project).unwrap();
        let choice = newest_of_series(&project, pins.kernel("6.12").unwrap()).unwrap();
        assert_eq!(choice.abi, "6.12.117+deb12");
        assert!(newest_of_series(&project, pins.kernel("7.3").unwrap()).is_err());
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! The compiler, and the source of its standard library, from which `core` for the BPF target is built.
//!
//! rustup is asked first. Where it cannot help, the distribution's package of exactly the compiler's version
//! is used through a sysroot of our own: links to the compiler's files, plus the source. The compiler's own
//! installation stays as it is.

use std::fs;
use std::os::unix::fs::{symlink, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::kernels::RustSrcPins;
use super::packages::{self, Finder, Wanted};
use super::version;
use crate::exit::unavailable;
use crate::project::Project;
use crate::ui::{self, Step};

/// rustup may wait for a network that is not there.
const RUSTUP_DEADLINE: Duration = Duration::from_secs(120);

/// Where a sysroot has the source of the standard library.
const LIBRARY: &str = "lib/rustlib/src/rust/library";

/// The compiler in use.
#[derive(Debug, Clone)]
pub(crate) struct Compiler {
    /// Such as `1.95.0`.
    pub(crate) version: String,
    sysroot: PathBuf,
}

/// A compiler whose standard library can be built.
#[derive(Debug, Clone)]
pub(crate) struct WithSource {
    /// What `RUSTC` has to be; `None`: the usual one.
    pub(crate) rustc: Option<PathBuf>,
}

impl Compiler {
    /// Asks the compiler.
    pub(crate) fn ask(project: &Project) -> Result<Self> {
        let ask = |arguments: &[&str]| -> Result<String> {
            let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
            let output = Command::new(&rustc)
                .args(arguments)
                .current_dir(&project.root)
                .output()
                .context("run rustc")?;
            anyhow::ensure!(
                output.status.success(),
                "rustc {}: {}",
                arguments.join(" "),
                String::from_utf8_lossy(&output.stderr).trim()
            );
            Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        };
        let text = ask(&["-vV"])?;
        let version = text
            .lines()
            .find_map(|line| line.strip_prefix("release: "))
            .context("rustc does not tell its version")?;
        Ok(Self {
            version: version.to_owned(),
            sysroot: PathBuf::from(ask(&["--print", "sysroot"])?),
        })
    }

    /// Makes the standard library's source available.
    pub(crate) fn with_source(&self, project: &Project, pins: &RustSrcPins) -> Result<WithSource> {
        if self.sysroot.join(LIBRARY).is_dir() {
            return Ok(WithSource { rustc: None });
        }
        let own = project
            .cache
            .join("rust")
            .join(format!("sysroot-{}", self.version));
        let wrapper = own.join("rustc");
        if own.join(LIBRARY).is_dir()
            && fs::read_to_string(&wrapper).is_ok_and(|text| text == self.wrapper_text(&own))
        {
            return Ok(WithSource {
                rustc: Some(wrapper),
            });
        }
        let packaged = project
            .cache
            .join("rust")
            .join(format!("source-{}", self.version));
        if !packaged.is_dir() {
            if project.packages.is_none() && self.rustup_adds_it() {
                return Ok(WithSource { rustc: None });
            }
            self.unpack_package(project, pins, &packaged)?;
        }
        self.build_sysroot(&packaged, &own)?;
        Ok(WithSource {
            rustc: Some(wrapper),
        })
    }

    /// Lets rustup add the component, if there is a rustup and it can.
    fn rustup_adds_it(&self) -> bool {
        let step = Step::start("add rust-src by rustup");
        let spawned = Command::new("rustup")
            .args(["component", "add", "rust-src"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let Ok(mut child) = spawned else { return false };
        let started = Instant::now();
        while started.elapsed() < RUSTUP_DEADLINE {
            match child.try_wait() {
                Ok(None) => thread::sleep(Duration::from_millis(50)),
                Ok(Some(status)) if status.success() && self.sysroot.join(LIBRARY).is_dir() => {
                    step.done();
                    return true;
                }
                Ok(Some(_)) | Err(_) => return false,
            }
        }
        let _ = child.kill();
        let _ = child.wait();
        false
    }

    fn unpack_package(&self, project: &Project, pins: &RustSrcPins, into: &Path) -> Result<()> {
        ui::note(&format!(
            "rustup cannot add rust-src for {}: the distribution's package takes its place",
            self.version
        ));
        let finder = Finder::new(project, &pins.suites);
        let mut wanted = None;
        if let Some(pin) = pins.pinned.iter().find(|pin| pin.rustc == self.version) {
            let pinned = Wanted {
                name: "rust-src".to_owned(),
                version: pin.version.clone(),
                sha256: Some(pin.sha256.clone()),
            };
            match finder.archive(&pinned)? {
                Some(archive) => return packages::unpack(&[archive], into),
                None => ui::warn(&format!(
                    "rust-src {} of tests/kernels.toml is gone from the mirror",
                    pin.version
                )),
            }
        }
        for version in finder.versions("rust-src")? {
            if is_source_of(&version, &self.version) {
                wanted = Some(Wanted {
                    name: "rust-src".to_owned(),
                    version,
                    sha256: None,
                });
            }
        }
        let missing = || {
            unavailable(format!(
                "no source of the standard library for rustc {}: `rustup component add rust-src` does not work here and the \
                 distribution has no rust-src of that version. Use a toolchain that has it",
                self.version
            ))
        };
        let archive = finder
            .archive(&wanted.ok_or_else(missing)?)?
            .ok_or_else(missing)?;
        packages::unpack(&[archive], into)
    }

    /// A sysroot of links to the compiler's, plus the source.
    fn build_sysroot(&self, packaged: &Path, own: &Path) -> Result<()> {
        let _ = fs::remove_dir_all(own);
        let rustlib = own.join("lib/rustlib");
        fs::create_dir_all(rustlib.join("src"))
            .with_context(|| format!("create {}", rustlib.display()))?;
        link_all(&self.sysroot.join("lib"), &own.join("lib"))?;
        link_all(&self.sysroot.join("lib/rustlib"), &rustlib)?;
        let source = packaged.join("usr/lib/rustlib/src/rust");
        let source = fs::canonicalize(&source)
            .with_context(|| format!("the rust-src package holds no {}", source.display()))?;
        symlink(&source, rustlib.join("src/rust")).context("link the standard library's source")?;
        anyhow::ensure!(
            own.join(LIBRARY).is_dir(),
            "the rust-src package holds no library below {}",
            source.display()
        );
        let wrapper = own.join("rustc");
        fs::write(&wrapper, self.wrapper_text(own))
            .with_context(|| format!("write {}", wrapper.display()))?;
        fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755))
            .context("make the compiler's wrapper executable")
    }

    fn wrapper_text(&self, own: &Path) -> String {
        format!(
            "#!/bin/sh\nexec '{}' --sysroot '{}' \"$@\"\n",
            self.sysroot.join("bin/rustc").display(),
            own.display()
        )
    }
}

/// Links every entry of `from` that `to` does not have.
fn link_all(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from).with_context(|| format!("read {}", from.display()))? {
        let entry = entry.with_context(|| format!("read {}", from.display()))?;
        let link = to.join(entry.file_name());
        if !link.exists() {
            symlink(entry.path(), &link).with_context(|| format!("link {}", link.display()))?;
        }
    }
    Ok(())
}

/// Whether a package version such as `1.95.0+dfsg1-2~bpo13+1` is the source of that compiler.
fn is_source_of(package: &str, rustc: &str) -> bool {
    let upstream = version::upstream(package);
    upstream.split(['+', '~']).next() == Some(rustc)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_exact_version_is_the_source() {
        assert!(is_source_of("1.95.0+dfsg1-2~bpo13+1", "1.95.0"));
        assert!(is_source_of("1.85.0-1", "1.85.0"));
        assert!(!is_source_of("1.95.1+dfsg1-1", "1.95.0"));
        assert!(!is_source_of("1.95.0+dfsg1-1", "1.95.0-nightly"));
    }

    #[test]
    fn our_sysroot_has_the_compilers_files_and_the_source() {
        let dir = tempfile::tempdir().unwrap();
        let (sysroot, packaged, own) = (
            dir.path().join("real"),
            dir.path().join("package"),
            dir.path().join("own"),
        );
        for made in [
            "real/lib/rustlib/x86_64/lib",
            "real/lib/rustlib/src",
            "package/usr/src/rustc/library/core",
            "package/usr/lib/rustlib/src",
        ] {
            fs::create_dir_all(dir.path().join(made)).unwrap();
        }
        fs::write(sysroot.join("lib/libdriver.so"), "x").unwrap();
        symlink(
            "../../../src/rustc",
            packaged.join("usr/lib/rustlib/src/rust"),
        )
        .unwrap();
        let compiler = Compiler {
            version: "1.0.0".to_owned(),
            sysroot,
        };
        compiler.build_sysroot(&packaged, &own).unwrap();
        assert!(own.join("lib/libdriver.so").is_file());
        assert!(own.join("lib/rustlib/x86_64/lib").is_dir());
        assert!(own.join(LIBRARY).join("core").is_dir());
        assert!(own.join("rustc").is_file());
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! Programs of the distribution: QEMU, pahole and the like. What the machine has is used; the rest is unpacked
//! into the cache, with the libraries it needs. Nothing is installed, so no rights are needed and the
//! machine's package state stays as it is.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context, Result};

use super::apt::{self, Apt};
use super::packages::{self, Finder, Wanted};
use super::version;
use crate::exit::unavailable;
use crate::project::Project;
use crate::ui;

const QEMU: &str = "qemu-system-x86_64";
const QEMU_PACKAGE: &str = "qemu-system-x86";

/// Before this version an emulated processor may go on with an instruction that another one has just overwritten. Linux
/// overwrites its own instructions whenever a probe comes or goes, so that guests died of an `Oops: int3`, once in some
/// thousand probes.
const QEMU_LEAST: &str = "8.1";

/// A program and the package that has it.
struct Tool {
    program: &'static str,
    package: &'static str,
}

/// Everything that is needed beyond cargo, a C compiler's driver and what every Debian has.
const TOOLS: &[Tool] = &[
    Tool {
        program: QEMU,
        package: QEMU_PACKAGE,
    },
    // Kernel modules have to be built by the compiler of their kernel.
    Tool {
        program: "gcc-12",
        package: "gcc-12",
    },
    Tool {
        program: "ld",
        package: "binutils",
    },
    Tool {
        program: "strip",
        package: "binutils",
    },
    Tool {
        program: "make",
        package: "make",
    },
    Tool {
        program: "patch",
        package: "patch",
    },
    Tool {
        program: "pahole",
        package: "pahole",
    },
    Tool {
        program: "pkg-config",
        package: "pkgconf",
    },
    Tool {
        program: "xz",
        package: "xz-utils",
    },
    Tool {
        program: "busybox",
        package: "busybox-static",
    },
];

/// Programs of the machine and of the cache.
#[derive(Debug, Clone)]
pub(crate) struct Tools {
    /// Where missing programs were unpacked, if any were missing.
    private: Option<PathBuf>,
}

impl Tools {
    /// Finds every tool, and unpacks those that the machine lacks.
    pub(crate) fn provide(project: &Project) -> Result<Self> {
        let missing: BTreeSet<&str> = TOOLS
            .iter()
            .filter(|tool| !on_machine(tool.program))
            .map(|tool| tool.package)
            .collect();
        if missing.is_empty() {
            return Ok(Self { private: None });
        }
        let missing: Vec<&str> = missing.into_iter().collect();
        let parts = missing.iter().chain([&QEMU_LEAST]);
        let name = super::digest::of_parts(parts.map(|part| part.as_bytes()));
        let dir = project.cache.join("tools").join(&name[..16]);
        if !dir.is_dir() {
            project.need_room(2_000_000_000)?;
            ui::note(&format!(
                "this machine lacks {}: they go to {}, nothing is installed",
                missing.join(", "),
                dir.display()
            ));
            let archives = match &project.packages {
                Some(from) => closure_in(project, from, &missing, &is_installed)?,
                None => from_mirror(project, &missing)?,
            };
            packages::unpack(&archives, &dir)?;
        }
        let tools = Self { private: Some(dir) };
        for tool in TOOLS.iter().filter(|tool| missing.contains(&tool.package)) {
            tools.path(tool.program)?;
        }
        Ok(tools)
    }

    /// What is needed to run this one program, which most machines have.
    pub(crate) fn provide_only(project: &Project, program: &str) -> Result<Self> {
        if on_machine(program) {
            return Ok(Self { private: None });
        }
        let _lock = project.lock()?;
        Self::provide(project)
    }

    /// The machine's own programs.
    #[cfg(test)]
    pub(crate) fn of_machine() -> Self {
        Self { private: None }
    }

    /// A command that runs the tool.
    pub(crate) fn command(&self, program: &str) -> Result<Command> {
        let mut command = Command::new(self.path(program)?);
        self.prepare(&mut command);
        Ok(command)
    }

    /// Lets a command find the tools, for those that start others.
    pub(crate) fn prepare(&self, command: &mut Command) {
        let Some(dir) = &self.private else { return };
        let with = |name: &str, places: &[&str]| {
            let own = places
                .iter()
                .map(|place| dir.join(place).display().to_string());
            let old = std::env::var(name).ok().filter(|old| !old.is_empty());
            // The machine's own programs come first, the machine's own libraries last: the unpacked programs need theirs.
            let (mut all, own): (Vec<String>, Vec<String>) = (Vec::new(), own.collect());
            if name == "PATH" {
                all.extend(old);
                all.extend(own);
            } else {
                all.extend(own);
                all.extend(old);
            }
            all.join(":")
        };
        command.env("PATH", with("PATH", &["usr/bin", "bin", "usr/sbin"]));
        command.env(
            "LD_LIBRARY_PATH",
            with(
                "LD_LIBRARY_PATH",
                &["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"],
            ),
        );
    }

    /// The tool's file.
    pub(crate) fn path(&self, program: &str) -> Result<PathBuf> {
        if let Some(path) = find_on_machine(program) {
            return Ok(path);
        }
        let places = ["usr/bin", "bin", "usr/sbin"]
            .iter()
            .filter_map(|place| Some(self.private.as_ref()?.join(place).join(program)));
        places.into_iter().find(|path| is_program(path)).ok_or_else(|| {
            unavailable(format!("there is no {program}: install its package, or remove the cache's `tools` and try again"))
        })
    }

    /// Arguments that let an unpacked QEMU find its firmware.
    pub(crate) fn qemu_data(&self) -> Vec<String> {
        let Some(dir) = self.private.as_ref().filter(|_| !on_machine(QEMU)) else {
            return Vec::new();
        };
        let places = ["usr/share/qemu", "usr/share/seabios"]
            .iter()
            .map(|place| dir.join(place).display().to_string());
        places.flat_map(|place| ["-L".to_owned(), place]).collect()
    }
}

fn on_machine(program: &str) -> bool {
    find_on_machine(program).is_some()
}

/// Where the machine has one that serves.
fn find_on_machine(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let dirs = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    dirs.map(|dir| dir.join(program))
        .find(|path| is_program(path) && serves(program, path))
}

/// A busybox that needs libraries does not run in a guest, an old QEMU loses guests.
fn serves(program: &str, path: &Path) -> bool {
    static NEW: OnceLock<bool> = OnceLock::new();
    match program {
        "busybox" => is_static(path),
        QEMU => *NEW.get_or_init(|| {
            let output = Command::new(path).arg("--version").output();
            output.is_ok_and(|output| said_version(&output.stdout).is_some_and(qemu_is_new))
        }),
        _ => true,
    }
}

/// The version in `QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)`.
fn said_version(words: &[u8]) -> Option<&str> {
    let (_, rest) = std::str::from_utf8(words).ok()?.split_once("version ")?;
    rest.split_whitespace().next()
}

fn qemu_is_new(upstream: &str) -> bool {
    version::compare(upstream, QEMU_LEAST).is_ge()
}

fn is_program(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// A program without interpreter needs no libraries.
fn is_static(path: &Path) -> bool {
    use object::read::elf::{ElfFile64, FileHeader, ProgramHeader};
    let Ok(data) = fs::read(path) else {
        return false;
    };
    let Ok(file) = ElfFile64::<object::Endianness>::parse(&*data) else {
        return false;
    };
    let (endian, header) = (file.endian(), file.elf_header());
    header.program_headers(endian, &*data).is_ok_and(|headers| {
        !headers
            .iter()
            .any(|header| header.p_type(endian) == object::elf::PT_INTERP)
    })
}

/// The packages and everything they need that is not installed, by apt's own resolver.
fn from_mirror(project: &Project, missing: &[&str]) -> Result<Vec<packages::Archive>> {
    let codename = apt::codename();
    let (security, backports) = (
        format!("{codename}-security"),
        format!("{codename}-backports"),
    );
    let open = |suites: &[&str]| {
        Apt::open(project, suites)?.ok_or_else(|| {
            unavailable(format!(
                "{} are missing and the apt configuration of this machine names no Debian archive to take them from: install them, \
                 or put the packages into a directory and name it by --packages DIR",
                missing.join(", ")
            ))
        })
    };
    let mut apt = open(&[&codename, &security])?;
    let (qemu, others): (Vec<&str>, Vec<&str>) = missing
        .iter()
        .partition(|package| **package == QEMU_PACKAGE);
    let mut planned = Vec::new();
    if !qemu.is_empty() {
        let newest = packages::newest(apt.candidates(QEMU_PACKAGE)?, |found| &found.version);
        let own = newest.is_some_and(|found| qemu_is_new(version::upstream(&found.version)));
        if own {
            planned = apt.missing_for(&qemu, None)?;
        } else {
            apt = open(&[&codename, &security, &backports])?;
            planned = apt.missing_for(&qemu, Some(&backports))?;
        }
    }
    for (name, version) in apt.missing_for(&others, None)? {
        if !planned.iter().any(|(planned, _)| *planned == name) {
            planned.push((name, version));
        }
    }
    // A package can be installed and its program still not be there: unpack that one too.
    for &name in missing {
        if !planned.iter().any(|(planned, _)| planned == name) {
            let newest = packages::newest(apt.candidates(name)?, |candidate| &candidate.version);
            planned.extend(newest.map(|candidate| (candidate.name, candidate.version)));
        }
    }
    let wanted: Vec<Wanted> = planned
        .into_iter()
        .map(|(name, version)| Wanted {
            name,
            version,
            sha256: None,
        })
        .collect();
    packages::fetch(project, &apt, &wanted)?.context("packages of the index are not to be had")
}

/// The packages and what they depend on, as far as the directory has it and nobody else has.
pub(super) fn closure_in(
    project: &Project,
    from: &Path,
    missing: &[&str],
    is_installed: &dyn Fn(&str) -> bool,
) -> Result<Vec<packages::Archive>> {
    let finder = Finder::new(project, &[]);
    let mut archives = Vec::new();
    let mut seen = BTreeSet::new();
    let mut open: Vec<String> = missing.iter().map(|&name| name.to_owned()).collect();
    while let Some(name) = open.pop() {
        let required = missing.contains(&name.as_str());
        if !seen.insert(name.clone()) || (!required && is_installed(&name)) {
            continue;
        }
        let Some(version) = finder.versions(&name)?.pop() else {
            if required {
                return Err(unavailable(format!(
                    "this machine lacks {name} and {} has no package of it: install it (apt-get install {name}) or put it there",
                    from.display()
                )));
            }
            continue;
        };
        let wanted = Wanted {
            name,
            version,
            sha256: None,
        };
        let archive = finder
            .archive(&wanted)?
            .context("a package vanished from its directory")?;
        open.extend(depends_of(&archive.file)?);
        archives.push(archive);
    }
    Ok(archives)
}

fn is_installed(package: &str) -> bool {
    let query = Command::new("dpkg-query")
        .args(["-W", "-f=${db:Status-Status}", package])
        .stderr(Stdio::null())
        .output();
    query.is_ok_and(|output| output.status.success() && output.stdout.starts_with(b"installed"))
}

fn depends_of(deb: &Path) -> Result<Vec<String>> {
    let output = Command::new("dpkg-deb")
        .arg("-f")
        .arg(deb)
        .args(["Pre-Depends", "Depends"])
        .output()
        .context("run dpkg-deb")?;
    anyhow::ensure!(
        output.status.success(),
        "dpkg-deb cannot read {}",
        deb.display()
    );
    Ok(parse_depends(&String::from_utf8_lossy(&output.stdout)))
}

/// The names in `Depends: a (>= 1), b | c:any`, alternatives included.
fn parse_depends(fields: &str) -> Vec<String> {
    let values = fields
        .lines()
        .map(|line| line.split_once(": ").map_or(line, |(_, value)| value));
    let names = values
        .flat_map(|value| value.split([',', '|']))
        .filter_map(|name| name.split([' ', '(', ':']).find(|part| !part.is_empty()));
    names.map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_qemu_does_not_serve() {
        let old = b"QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b2)\n";
        let new = b"QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)\nCopyright";
        assert!(!qemu_is_new(said_version(old).unwrap()));
        assert!(qemu_is_new(said_version(new).unwrap()));
        assert!(qemu_is_new("8.1.0"));
        assert!(!qemu_is_new(version::upstream("1:7.2+dfsg-7+deb12u18+b2")));
        assert_eq!(said_version(b"no such thing"), None);
    }

    #[test]
    fn dependencies_are_taken_apart() {
        assert_eq!(
            parse_depends("Pre-Depends: dpkg (>= 1.17)\nDepends: libc6 (>= 2.34), a | b:any,c\n"),
            ["dpkg", "libc6", "a", "b", "c"]
        );
        assert!(parse_depends("").is_empty());
    }

    #[test]
    fn a_shell_script_is_no_static_program() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "#!/bin/sh\n").unwrap();
        assert!(!is_static(file.path()));
        let own = std::env::current_exe().unwrap();
        assert!(!is_static(&own), "the test program is linked dynamically");
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! From a pinned package to its unpacked files in the cache: found in a directory or on a mirror, checked
//! against its digest, unpacked once.

use std::cmp::Ordering;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use super::apt::Apt;
use super::{digest, version};
use crate::exit::unavailable;
use crate::project::Project;
use crate::ui::{self, Step};

/// One version of a package, with the digest its file must have. Without a pinned digest that of the signed
/// index decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) sha256: Option<String>,
}

/// A `.deb` whose digest was checked.
pub(crate) struct Archive {
    pub(crate) file: PathBuf,
    /// It was fetched for this and is not needed once unpacked.
    fetched: bool,
}

impl Archive {
    fn name(&self) -> String {
        self.file
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    }
}

/// Finds packages: in a directory, or in the suites of a mirror in this order.
pub(crate) struct Finder<'a> {
    project: &'a Project,
    suites: &'a [String],
}

impl<'a> Finder<'a> {
    pub(crate) fn new(project: &'a Project, suites: &'a [String]) -> Self {
        Self { project, suites }
    }

    /// The versions of `name` that there are, the newest last.
    pub(crate) fn versions(&self, name: &str) -> Result<Vec<String>> {
        let mut versions = match &self.project.packages {
            Some(dir) => debs_of(dir, name)
                .into_iter()
                .map(|(_, version)| version)
                .collect(),
            None => {
                let mut versions = Vec::new();
                for apt in self.apts()? {
                    versions.extend(apt.candidates(name)?.into_iter().map(|found| found.version));
                }
                versions
            }
        };
        versions.sort_by(|left, right| version::compare(left, right));
        versions.dedup();
        Ok(versions)
    }

    /// Names of packages that begin with `prefix`.
    pub(crate) fn names(&self, prefix: &str) -> Result<Vec<String>> {
        if let Some(dir) = &self.project.packages {
            let names = debs(dir).into_iter().map(|(_, name, _)| name);
            return Ok(names.filter(|name| name.starts_with(prefix)).collect());
        }
        let mut names = Vec::new();
        for apt in self.apts()? {
            names.extend(apt.names(prefix)?);
        }
        Ok(names)
    }

    /// Brings the package's file here and checks it. `Ok(None)`: this version is not to be had.
    pub(crate) fn archive(&self, wanted: &Wanted) -> Result<Option<Archive>> {
        Ok(self
            .archives(std::slice::from_ref(wanted))?
            .and_then(|mut archives| archives.pop()))
    }

    /// Brings the packages' files here and checks them. `Ok(None)`: one of the versions is not to be had.
    pub(crate) fn archives(&self, wanted: &[Wanted]) -> Result<Option<Vec<Archive>>> {
        match &self.project.packages {
            Some(dir) => find_in(dir, wanted),
            None => self.fetch(wanted),
        }
    }

    fn fetch(&self, wanted: &[Wanted]) -> Result<Option<Vec<Archive>>> {
        let mut apts = Vec::new();
        for suite in self.suites {
            // The index of a suite is fetched only when the suites before it do not have the package.
            let Some(apt) = Apt::open(self.project, &[suite])? else {
                continue;
            };
            if let Some(archives) = fetch(self.project, &apt, wanted)? {
                return Ok(Some(archives));
            }
            apts.push(apt);
        }
        if apts.is_empty() {
            return Err(self.no_archive());
        }
        // An index may be older than the package.
        for apt in &apts {
            if apt.refresh()? {
                if let Some(archives) = fetch(self.project, apt, wanted)? {
                    return Ok(Some(archives));
                }
            }
        }
        Ok(None)
    }

    fn apts(&self) -> Result<Vec<Apt>> {
        let mut apts = Vec::new();
        for suite in self.suites {
            apts.extend(Apt::open(self.project, &[suite])?);
        }
        if apts.is_empty() {
            return Err(self.no_archive());
        }
        Ok(apts)
    }

    fn no_archive(&self) -> anyhow::Error {
        unavailable(format!(
            "the apt configuration of this machine names no Debian archive that could have {}: this needs Debian, or \
             --packages DIR with the packages of tests/kernels.toml",
            self.suites.join(", ")
        ))
    }
}

/// Downloads packages in one go and checks them. `Ok(None)`: the index lacks one of the versions.
pub(crate) fn fetch(
    project: &Project,
    apt: &Apt,
    wanted: &[Wanted],
) -> Result<Option<Vec<Archive>>> {
    let mut candidates = Vec::new();
    for wanted in wanted {
        let versions = apt.candidates(&wanted.name)?;
        let Some(candidate) = versions
            .into_iter()
            .find(|found| found.version == wanted.version)
        else {
            return Ok(None);
        };
        if let Some(pinned) = wanted
            .sha256
            .as_ref()
            .filter(|pinned| **pinned != candidate.sha256)
        {
            return Err(unavailable(format!(
                "the mirror's {} {} is not the pinned one: digest {}, pinned {pinned}. If the mirror is to be trusted, change \
                 tests/kernels.toml",
                wanted.name, wanted.version, candidate.sha256
            )));
        }
        candidates.push(candidate);
    }
    let Some(first) = candidates.first() else {
        return Ok(Some(Vec::new()));
    };
    let into = project.cache.join("fetch").join(&first.name);
    apt.download(&candidates, &into)?;
    let mut archives = Vec::new();
    for candidate in &candidates {
        let found = debs_of(&into, &candidate.name)
            .into_iter()
            .find(|(_, version)| *version == candidate.version);
        let (file, _) = found
            .with_context(|| format!("apt-get left no {} in {}", candidate.name, into.display()))?;
        check(&file, &candidate.sha256)?;
        archives.push(Archive {
            file,
            fetched: true,
        });
    }
    Ok(Some(archives))
}

/// Finds packages in a directory and checks those that have a pinned digest.
fn find_in(dir: &Path, wanted: &[Wanted]) -> Result<Option<Vec<Archive>>> {
    let mut archives = Vec::new();
    for wanted in wanted {
        let found = debs_of(dir, &wanted.name)
            .into_iter()
            .find(|(_, version)| *version == wanted.version);
        let Some((file, _)) = found else {
            return Ok(None);
        };
        match &wanted.sha256 {
            Some(sha256) => check(&file, sha256)?,
            None => ui::warn(&format!(
                "{} is used unchecked: there is no pinned digest of it",
                file.display()
            )),
        }
        archives.push(Archive {
            file,
            fetched: false,
        });
    }
    Ok(Some(archives))
}

/// Fails unless the file has the digest.
fn check(file: &Path, sha256: &str) -> Result<()> {
    let found = digest::of_file(file)?;
    if found != sha256 {
        return Err(unavailable(format!(
            "{} is damaged or not the wanted one: its SHA-256 is {found}, expected {sha256}. Remove it and try again",
            file.display()
        )));
    }
    Ok(())
}

/// Every `.deb` in the directory: file, package name, version.
pub(crate) fn debs(dir: &Path) -> Vec<(PathBuf, String, String)> {
    let files = fs::read_dir(dir)
        .map(|files| files.flatten().map(|file| file.path()).collect())
        .unwrap_or_else(|_| Vec::new());
    files
        .into_iter()
        .filter_map(|file| {
            let (name, version) = parse_deb_name(file.file_name()?.to_str()?)?;
            Some((file, name, version))
        })
        .collect()
}

fn debs_of(dir: &Path, name: &str) -> Vec<(PathBuf, String)> {
    debs(dir)
        .into_iter()
        .filter(|(_, found, _)| found == name)
        .map(|(file, _, version)| (file, version))
        .collect()
}

/// `name_version_arch.deb`, where apt writes `:` as `%3a`.
fn parse_deb_name(file: &str) -> Option<(String, String)> {
    let mut parts = file.strip_suffix(".deb")?.split('_');
    let (name, version, _arch) = (parts.next()?, parts.next()?, parts.next()?);
    parts
        .next()
        .is_none()
        .then(|| (name.to_owned(), version.replace("%3a", ":")))
}

/// Unpacks packages into a new directory `into`, all or nothing.
pub(crate) fn unpack(archives: &[Archive], into: &Path) -> Result<()> {
    let parent = into
        .parent()
        .context("a directory to unpack into has a parent")?;
    fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
    let partial = tempfile::Builder::new()
        .prefix(".unpack-")
        .tempdir_in(parent)
        .context("create a directory to unpack into")?;
    let step = Step::start(&match archives {
        [one] => format!("unpack {}", one.name()),
        many => format!("unpack {} packages", many.len()),
    });
    for archive in archives {
        let name = archive.name();
        let output = Command::new("dpkg-deb")
            .arg("-x")
            .args([&archive.file, &partial.path().to_path_buf()])
            .stdin(Stdio::null())
            .output()
            .map_err(|error| {
                unavailable(format!(
                    "dpkg-deb: {error}; this needs Debian or a derivative"
                ))
            })?;
        anyhow::ensure!(
            output.status.success(),
            "unpack {name}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    step.done();
    let partial = partial.keep();
    fs::rename(&partial, into)
        .with_context(|| format!("move {} to {}", partial.display(), into.display()))?;
    for archive in archives.iter().filter(|archive| archive.fetched) {
        if let Some(dir) = archive.file.parent() {
            let _ = fs::remove_dir_all(dir);
        }
    }
    Ok(())
}

/// The newest of some versions.
pub(crate) fn newest<T>(
    items: impl IntoIterator<Item = T>,
    version_of: impl Fn(&T) -> &str,
) -> Option<T> {
    items.into_iter().max_by(|left, right| {
        match version::compare(version_of(left), version_of(right)) {
            Ordering::Equal => Ordering::Greater,
            order => order,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_package_files() {
        assert_eq!(
            parse_deb_name("zlib1g_1%3a1.3-3_amd64.deb"),
            Some(("zlib1g".to_owned(), "1:1.3-3".to_owned()))
        );
        assert_eq!(parse_deb_name("notes.txt"), None);
        assert_eq!(parse_deb_name("a_b.deb"), None);
    }

    #[test]
    fn the_newest_version_wins() {
        let versions = ["6.12.95-1", "6.12.117-1", "6.12.100-1"];
        assert_eq!(newest(versions, |version| version), Some("6.12.117-1"));
        assert_eq!(newest([] as [&str; 0], |version| version), None);
    }

    #[test]
    fn a_damaged_package_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a_1_all.deb");
        fs::write(&file, "abc").unwrap();
        assert!(check(
            &file,
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        )
        .is_ok());
        let error = check(&file, &"0".repeat(64)).unwrap_err();
        assert!(error.is::<crate::exit::Unavailable>(), "{error}");
    }
}

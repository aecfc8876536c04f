// SPDX-License-Identifier: MIT OR Apache-2.0
//! Debian packages and the Python wheel. [`contents`] lists what is in which, [`deb`] builds one package of a [`tree`].

mod contents;
mod deb;
pub(crate) mod example;
mod needs;
mod python;
mod texts;
mod tree;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::build::{programs, shared_library};
use crate::project::Project;
use crate::verb::build;
use contents::{Content, Package, PACKAGES};
use tree::Tree;

pub(crate) use python::wheel;

/// What every package is told of the project.
pub(crate) struct Release {
    pub(crate) version: String,
    /// The time that every file in a package has: `SOURCE_DATE_EPOCH`, else that of the last commit.
    pub(crate) epoch: u64,
}

impl Release {
    /// Reads the version of the workspace.
    pub(crate) fn read(project: &Project) -> Result<Self> {
        #[derive(Deserialize)]
        struct Manifest {
            workspace: Workspace,
        }
        #[derive(Deserialize)]
        struct Workspace {
            package: Common,
        }
        #[derive(Deserialize)]
        struct Common {
            version: String,
        }
        let path = project.root.join("Cargo.toml");
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let manifest: Manifest =
            toml::from_str(&text).with_context(|| format!("parse {}", path.display()))?;
        Ok(Self {
            version: manifest.workspace.package.version,
            epoch: epoch(project)?,
        })
    }
}

fn epoch(project: &Project) -> Result<u64> {
    if let Some(text) = std::env::var_os("SOURCE_DATE_EPOCH") {
        let text = text.to_string_lossy();
        return text
            .parse()
            .with_context(|| format!("SOURCE_DATE_EPOCH is {text:?}; it is a number of seconds"));
    }
    let output = Command::new("git")
        .args(["log", "-1", "--format=%ct"])
        .current_dir(&project.root)
        .stdin(Stdio::null())
        .output();
    if let Some(time) = output.ok().filter(|output| output.status.success()) {
        let text = String::from_utf8_lossy(&time.stdout);
        return text.trim().parse().context("the time of the last commit");
    }
    // A tree without git, such as an archive of a release: the time of what names the version.
    let path = project.root.join("Cargo.toml");
    let modified = fs::metadata(&path).and_then(|meta| meta.modified());
    let modified = modified.with_context(|| format!("read {}", path.display()))?;
    Ok(modified
        .duration_since(std::time::UNIX_EPOCH)
        .context("Cargo.toml is older than 1970")?
        .as_secs())
}

/// What was built for the packages.
struct Built {
    program: PathBuf,
    agent: PathBuf,
    /// The directory of static libraries.
    libraries: PathBuf,
}

/// Builds every Debian package into `out`, and returns their files.
pub(crate) fn debs(project: &Project, release: &Release, out: &Path) -> Result<Vec<PathBuf>> {
    fs::create_dir_all(out).with_context(|| format!("create {}", out.display()))?;
    let object = build::ebpf_object(project)?;
    let program = build::program(project)?;
    let built = Built {
        program,
        agent: programs::build_agent(project)?,
        libraries: programs::build_static_libraries(project, Some(&object))?,
    };
    PACKAGES
        .iter()
        .map(|package| one(project, release, &built, package, out))
        .collect()
}

fn one(
    project: &Project,
    release: &Release,
    built: &Built,
    package: &Package,
    out: &Path,
) -> Result<PathBuf> {
    let dir = tempfile::Builder::new()
        .prefix("gpreempt-package-")
        .tempdir()
        .context("create a directory for a package")?;
    let mut tree = Tree::new(&dir.path().join("root"))?;
    for content in package.contents {
        put(project, release, built, content, &mut tree)
            .with_context(|| format!("package {}", package.name))?;
    }
    tree.document(
        package,
        &texts::changelog(package, release)?,
        &project.root.join("dist/debian/copyright"),
    )?;
    deb::build(project, release, package, tree, out)
}

fn put(
    project: &Project,
    release: &Release,
    built: &Built,
    content: &Content,
    tree: &mut Tree,
) -> Result<()> {
    match *content {
        Content::Program { to } => tree.copy(&built.program, to, 0o755),
        Content::Agent { to } => {
            tree.copy(&built.agent, to, 0o644)?;
            tree.needs.extend(needs::of_library(&tree.at(to))?);
            Ok(())
        }
        Content::Library {
            archive,
            soname,
            exports,
            to,
        } => {
            let archive = built.libraries.join(archive);
            tree.make_room_for(to)?;
            shared_library::link(&archive, soname, exports, &tree.at(to))?;
            tree.needs.extend(needs::of_library(&tree.at(to))?);
            tree.set_mode(to, 0o644)
        }
        Content::File { from, to } => tree.copy(&project.root.join(from), to, 0o644),
        Content::Conffile { from, to } => {
            tree.conffiles.push(format!("/{to}"));
            tree.copy(&project.root.join(from), to, 0o644)
        }
        Content::Dir { from, to } => tree.copy_dir(&project.root.join(from), to),
        Content::Empty { to } => tree.directory(to),
        Content::Link { to, target } => tree.link(to, target),
        Content::Man => {
            run(Command::new(&built.program)
                .args(["gen", "man"])
                .arg(tree.at("usr/share/man/man1")))?;
            tree.gzip_dir("usr/share/man/man1")
        }
        Content::Completions => run(Command::new(&built.program)
            .args(["gen", "completions"])
            .arg(tree.at("usr/share"))),
        Content::ThirdParty { to } => {
            let text = texts::third_party(project)?;
            tree.write(to, text.as_bytes(), 0o644)
        }
        Content::PkgConfig { to } => {
            let text = texts::pkg_config(project, release)?;
            tree.write(to, text.as_bytes(), 0o644)
        }
        Content::PythonMetadata { to } => {
            let text = python::metadata(project, release)?;
            let dir = format!("{to}/gpreempt-{}.dist-info", release.version);
            tree.write(&format!("{dir}/METADATA"), text.as_bytes(), 0o644)
        }
    }
}

/// Runs a command that must succeed, and returns what it printed.
fn output_of(command: &mut Command) -> Result<Vec<u8>> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("run {}", command.get_program().to_string_lossy()))?;
    anyhow::ensure!(
        output.status.success(),
        "{command:?}: {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(output.stdout)
}

fn run(command: &mut Command) -> Result<()> {
    output_of(command).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn project(dir: &Path) -> Project {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        Project {
            root: root.to_path_buf(),
            target: dir.join("target"),
            cache: dir.join("cache"),
            packages: None,
        }
    }

    /// The package that needs nothing built.
    fn python() -> &'static Package {
        PACKAGES
            .iter()
            .find(|one| one.name == "python3-gpreempt")
            .unwrap()
    }

    #[test]
    fn the_same_files_give_the_same_package() {
        let dir = tempfile::tempdir().unwrap();
        let project = project(dir.path());
        let release = Release {
            epoch: 1_700_000_000,
            ..Release::read(&project).unwrap()
        };
        let built = Built {
            program: PathBuf::new(),
            agent: PathBuf::new(),
            libraries: PathBuf::new(),
        };
        let bytes = |name: &str| {
            let out = dir.path().join(name);
            fs::create_dir(&out).unwrap();
            let file = one(&project, &release, &built, python(), &out).unwrap();
            fs::read(file).unwrap()
        };
        let first = bytes("first");
        // Another second, to another place.
        std::thread::sleep(std::time::Duration::from_millis(1100));
        assert!(first == bytes("second"), "two builds differ");
        let file = dir.path().join(format!(
            "first/python3-gpreempt_{}_all.deb",
            release.version
        ));
        let listed = output_of(Command::new("dpkg-deb").arg("-c").arg(&file)).unwrap();
        let listed = String::from_utf8(listed).unwrap();
        for line in listed.lines() {
            assert!(line.contains(" root/root "), "{line}");
            assert!(
                line.contains(" 2023-11-14 ") || line.contains(" 2023-11-15 "),
                "{line}"
            );
        }
        assert!(
            listed.contains("/dist-packages/gpreempt/__init__.py"),
            "{listed}"
        );
    }

    #[test]
    fn every_file_of_the_project_that_a_package_has_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let root = project(dir.path()).root;
        for package in PACKAGES {
            for content in package.contents {
                if let Content::File { from, .. }
                | Content::Conffile { from, .. }
                | Content::Dir { from, .. } = content
                {
                    assert!(root.join(from).exists(), "{}: {from}", package.name);
                }
            }
            for script in package.scripts {
                let path = root.join(format!("dist/debian/{}.{script}", package.name));
                run(Command::new("sh").arg("-n").arg(&path)).unwrap();
            }
        }
    }
}

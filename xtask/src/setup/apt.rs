// SPDX-License-Identifier: MIT OR Apache-2.0
//! A private apt per suite, under the cache: own sources, own index, own archives. It reads the machine's apt
//! configuration (mirror, keys, proxy) and changes nothing of it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::apt_sources::{self, Entry};
use crate::exit::unavailable;
use crate::project::Project;
use crate::ui::{self, Step};

/// A fetch during which nothing arrives for so long is given up.
const STALL: Duration = Duration::from_secs(120);

/// An index younger than this is believed when it lacks a version.
const REFRESH: Duration = Duration::from_secs(3600);

/// The private apt of some suites.
pub(crate) struct Apt {
    suites: String,
    dir: PathBuf,
    config: PathBuf,
}

/// What the index says about one version of a package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) sha256: String,
    pub(crate) size_bytes: u64,
}

impl Apt {
    /// Opens the private apt of `suites` and fetches its index the first time. `Ok(None)`: the machine's apt
    /// configuration names no archive that could have any of the suites.
    pub(crate) fn open(project: &Project, suites: &[&str]) -> Result<Option<Self>> {
        let entries = apt_sources::read_all(Path::new("/etc/apt"))?;
        let stanzas = suites
            .iter()
            .filter_map(|suite| Some(archive_of(&entries, suite)?.stanza_for(suite)));
        let stanzas: Vec<String> = stanzas.collect();
        if stanzas.is_empty() {
            return Ok(None);
        }
        let suites = suites.join("+");
        let dir = project.cache.join("apt").join(&suites);
        let apt = Self {
            suites,
            config: dir.join("apt.conf"),
            dir,
        };
        apt.configure(&stanzas.join("\n"))?;
        if !apt.dir.join("fetched").exists() {
            apt.update()?;
        }
        Ok(Some(apt))
    }

    /// Fetches the index anew if it is old enough to lack something. False if it is not.
    pub(crate) fn refresh(&self) -> Result<bool> {
        let age = fs::metadata(self.dir.join("fetched"))
            .and_then(|meta| meta.modified())
            .ok()
            .and_then(|time| time.elapsed().ok());
        if age.is_some_and(|age| age < REFRESH) {
            return Ok(false);
        }
        self.update()?;
        Ok(true)
    }

    fn update(&self) -> Result<()> {
        let step = Step::start(&format!("fetch the package index of {}", self.suites));
        self.run("apt-get", &["update"])?;
        fs::write(self.dir.join("fetched"), "").context("mark the index as fetched")?;
        step.done();
        Ok(())
    }

    /// Every version of the package that the suite has.
    pub(crate) fn candidates(&self, name: &str) -> Result<Vec<Candidate>> {
        let output = self
            .command("apt-cache")
            .args(["show", "--", name])
            .output()
            .context("run apt-cache")?;
        // apt-cache fails when it knows no such package; an unusable index would have failed the update.
        Ok(parse_show(&String::from_utf8_lossy(&output.stdout))
            .into_iter()
            .filter(|found| found.name == name)
            .collect())
    }

    /// The names of all packages that begin with `prefix`.
    pub(crate) fn names(&self, prefix: &str) -> Result<Vec<String>> {
        let names = self.run("apt-cache", &["pkgnames", prefix])?;
        Ok(names.lines().map(str::to_owned).collect())
    }

    /// What `apt-get install` would unpack beyond the packages that the machine has, and in which versions; those of `prefer`
    /// rather than others.
    pub(crate) fn missing_for(
        &self,
        packages: &[&str],
        prefer: Option<&str>,
    ) -> Result<Vec<(String, String)>> {
        let mut arguments = vec![
            "install",
            "--simulate",
            "--no-install-recommends",
            "-o",
            "Dir::State::status=/var/lib/dpkg/status",
        ];
        arguments.extend(prefer.map(|_| "--target-release"));
        arguments.extend(prefer);
        arguments.push("--");
        arguments.extend(packages);
        let plan = self.run("apt-get", &arguments)?;
        Ok(plan.lines().filter_map(parse_simulated).collect())
    }

    /// What `apt-get install` would unpack on a machine without any package, and in which versions.
    pub(crate) fn closure_of(&self, packages: &[&str]) -> Result<Vec<(String, String)>> {
        let mut arguments = vec!["install", "--simulate", "--no-install-recommends", "--"];
        arguments.extend(packages);
        let plan = self.run("apt-get", &arguments)?;
        Ok(plan.lines().filter_map(parse_simulated).collect())
    }

    /// Downloads packages into `into`, each as apt names its file.
    pub(crate) fn download(&self, packages: &[Candidate], into: &Path) -> Result<()> {
        let _ = fs::remove_dir_all(into);
        fs::create_dir_all(into).with_context(|| format!("create {}", into.display()))?;
        let total_bytes = packages.iter().map(|package| package.size_bytes).sum();
        let what = match packages {
            [one] => format!("fetch {} {}", one.name, one.version),
            many => format!("fetch {} packages", many.len()),
        };
        let what = format!("{what} ({})", ui::bytes(total_bytes));
        let step = Step::of_bytes(&what, total_bytes);
        let log_path = into.join("apt.log");
        let log = fs::File::create(&log_path).context("create apt's log")?;
        let mut child = self
            .command("apt-get")
            .args(["download", "--"])
            .args(
                packages
                    .iter()
                    .map(|package| format!("{}={}", package.name, package.version)),
            )
            .current_dir(into)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("run apt-get")?;
        let (mut arrived, mut since) = (0, Instant::now());
        let status = loop {
            if let Some(status) = child.try_wait().context("wait for apt-get")? {
                break status;
            }
            let now = bytes_in(into);
            if now != arrived {
                (arrived, since) = (now, Instant::now());
                step.at(arrived);
            }
            if since.elapsed() > STALL {
                let _ = child.kill();
                let _ = child.wait();
                return Err(no_network(&what, "nothing arrived for two minutes"));
            }
            thread::sleep(Duration::from_millis(50));
        };
        let words = fs::read_to_string(&log_path).unwrap_or_default();
        anyhow::ensure!(status.success(), no_network(&what, words.trim()));
        step.done();
        Ok(())
    }

    fn configure(&self, sources: &str) -> Result<()> {
        for part in ["parts", "preferences", "lists/partial", "archives/partial"] {
            let part = self.dir.join(part);
            fs::create_dir_all(&part).with_context(|| format!("create {}", part.display()))?;
        }
        write_if_changed(&self.dir.join("suites.sources"), sources)?;
        link_machine_config(&self.dir.join("parts"))?;
        // Hooks of the machine act on the machine's state, and this is not it. Also, only package names are wanted.
        write_if_changed(
            &self.dir.join("parts/zz-private"),
            "#clear APT::Update::Pre-Invoke;\n#clear APT::Update::Post-Invoke;\n#clear APT::Update::Post-Invoke-Success;\n\
             #clear APT::Update::Post-Invoke-Stats;\n#clear Acquire::IndexTargets::deb::DEP-11;\n#clear Acquire::IndexTargets::deb::CNF;\n\
             #clear DPkg::Pre-Install-Pkgs;\n#clear DPkg::Pre-Invoke;\n#clear DPkg::Post-Invoke;\n",
        )?;
        let dir = self.dir.display();
        write_if_changed(
            &self.config,
            &format!(
                "Dir::Etc::parts \"{dir}/parts\";\nDir::Etc::main \"{dir}/none\";\n\
                 Dir::Etc::sourcelist \"{dir}/none\";\nDir::Etc::sourceparts \"{dir}/\";\n\
                 Dir::Etc::preferences \"{dir}/none\";\nDir::Etc::preferencesparts \"{dir}/preferences\";\n\
                 Dir::State \"{dir}/\";\nDir::State::lists \"{dir}/lists\";\nDir::State::status \"/dev/null\";\n\
                 Dir::Cache \"{dir}/\";\nDir::Cache::archives \"{dir}/archives\";\n\
                 APT::Architecture \"amd64\";\nAPT::Architectures {{ \"amd64\"; }};\n\
                 APT::Sandbox::User \"\";\nAPT::Update::Error-Mode \"any\";\n\
                 Acquire::Languages \"none\";\nAcquire::Retries \"3\";\nAcquire::http::Timeout \"60\";\nAcquire::https::Timeout \"60\";\n"
            ),
        )
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env("APT_CONFIG", &self.config)
            .env("LC_ALL", "C")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdin(Stdio::null());
        command
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let output = self.command(program).args(arguments).output().map_err(|error| {
            unavailable(format!("{program}: {error}; this needs Debian or a derivative, or --packages DIR with the packages"))
        })?;
        let what = format!(
            "{program} {} for {}",
            arguments.first().unwrap_or(&""),
            self.suites
        );
        anyhow::ensure!(
            output.status.success(),
            no_network(&what, String::from_utf8_lossy(&output.stderr).trim())
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

fn no_network(what: &str, why: &str) -> anyhow::Error {
    unavailable(format!(
        "could not {what}: {why}\nIs the mirror of /etc/apt reachable? Without one, put the packages into a directory and name it by \
         --packages DIR or GPREEMPT_PACKAGES (tests/kernels.toml lists them)"
    ))
}

/// Security suites live in an archive of their own, all others beside the release's own suite.
fn archive_of<'a>(entries: &'a [Entry], suite: &str) -> Option<&'a Entry> {
    if suite.ends_with("-security") {
        return apt_sources::security_archive(entries);
    }
    apt_sources::main_archive(entries, &codename())
}

/// The release that this machine runs, such as `bookworm`.
pub(crate) fn codename() -> String {
    let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    line.unwrap_or_default().trim_matches('"').to_owned()
}

/// The machine's proxies and credentials are needed too: its configuration files are read first.
fn link_machine_config(parts: &Path) -> Result<()> {
    let _ = fs::remove_dir_all(parts);
    fs::create_dir_all(parts).with_context(|| format!("create {}", parts.display()))?;
    if let Ok(files) = fs::read_dir("/etc/apt/apt.conf.d") {
        for file in files.flatten() {
            symlink(file.path(), parts.join(file.file_name()))
                .context("link a file of /etc/apt/apt.conf.d")?;
        }
    }
    if Path::new("/etc/apt/apt.conf").exists() {
        symlink("/etc/apt/apt.conf", parts.join("zy-apt.conf"))
            .context("link /etc/apt/apt.conf")?;
    }
    Ok(())
}

fn write_if_changed(path: &Path, text: &str) -> Result<()> {
    if fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    fs::write(path, text).with_context(|| format!("write {}", path.display()))
}

/// Size of everything that has arrived, whatever it is called while it does.
fn bytes_in(dir: &Path) -> u64 {
    let files = fs::read_dir(dir).into_iter().flatten().flatten();
    files
        .filter_map(|file| Some(file.metadata().ok()?.len()))
        .sum()
}

/// Stanzas of `apt-cache show`.
fn parse_show(text: &str) -> Vec<Candidate> {
    let stanzas = text.split("\n\n").map(|stanza| {
        stanza
            .lines()
            .filter_map(|line| line.split_once(": "))
            .collect::<BTreeMap<_, _>>()
    });
    stanzas
        .filter_map(|fields| {
            Some(Candidate {
                name: (*fields.get("Package")?).to_owned(),
                version: (*fields.get("Version")?).to_owned(),
                sha256: (*fields.get("SHA256")?).to_owned(),
                size_bytes: fields.get("Size")?.parse().ok()?,
            })
        })
        .collect()
}

/// `Inst name [old] (version archive [arch])` of a simulated installation.
fn parse_simulated(line: &str) -> Option<(String, String)> {
    let rest = line.strip_prefix("Inst ")?;
    let name = rest.split_whitespace().next()?;
    let version = rest.split_once('(')?.1.split_whitespace().next()?;
    Some((name.to_owned(), version.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn show_gives_every_version() {
        let text = "Package: rust-src\nVersion: 1.95.0-2\nDescription: x\n more: words\nSize: 45\nSHA256: ab\n\n\
                    Package: rust-src\nVersion: 1.85.1-1\nSize: 44\nSHA256: cd\n\nPackage: virtual\n";
        let found = parse_show(text);
        assert_eq!(found.len(), 2);
        assert_eq!(
            (
                found[1].version.as_str(),
                found[1].sha256.as_str(),
                found[1].size_bytes
            ),
            ("1.85.1-1", "cd", 44)
        );
    }

    #[test]
    fn a_simulated_installation_names_what_would_be_unpacked() {
        assert_eq!(
            parse_simulated(
                "Inst xz-utils [5.4.1-1] (5.4.1-1+deb12u2 Debian:12/stable [amd64]) []"
            ),
            Some(("xz-utils".into(), "5.4.1-1+deb12u2".into()))
        );
        assert_eq!(
            parse_simulated("Inst pahole (1.24-4.1 Debian:12 [amd64])"),
            Some(("pahole".into(), "1.24-4.1".into()))
        );
        assert_eq!(parse_simulated("Remv qemu-utils [1:10.0]"), None);
        assert_eq!(
            parse_simulated("Conf pahole (1.24-4.1 Debian:12 [amd64])"),
            None
        );
    }
}

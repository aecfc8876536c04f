// SPDX-License-Identifier: MIT OR Apache-2.0
//! The packages on a Debian with systemd: installed, the service does its work under what its unit takes away from it, and nothing is
//! left when they are purged. The tests are one story, in this order.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::Context;
use gpreempt::control::BackendKind;
use gpreempt::serve::api::{HintBegin, HintBegun, HintEnded, JobInfo, Setting, Status};
use gpreempt::serve::client::Client;

use super::List;
use crate::check::ensure_eq;
use crate::daemon::NO_GUARDS;
use crate::gpu::{busy, Job};
use crate::guest;
use crate::load::Load;
use crate::scene;

pub(super) const TESTS: List = &[
    (
        &["systemd"],
        "packages_install_and_the_service_runs",
        install,
    ),
    (&["systemd"], "the_unit_is_sound", unit),
    (&["systemd"], "the_service_holds_by_debug_trap", debug_trap),
    (&["systemd"], "the_service_holds_by_criu", criu),
    (&["systemd"], "the_service_holds_by_agents", agents),
    (
        &["systemd"],
        "the_service_reads_its_configuration_again",
        reload,
    ),
    (&["systemd"], "the_audit_log_is_rotated", rotate),
    (&["systemd"], "installed_libraries_give_hints", libraries),
    (&["systemd"], "removed_packages_leave_nothing", purge),
];

const UNIT: &str = "gpreempt.service";
const SOCKET: &str = "/run/gpreempt/gpreempt.sock";
const OWN_CONFIG: &str = "/etc/gpreempt/conf.d/10-test.toml";
const AUDIT: &str = "/var/log/gpreempt/audit.jsonl";

/// Where xtask puts packages and the example.
const PACKAGES: &str = "/root";

/// The user and the group nobody of Debian.
const NOBODY: u32 = 65534;

/// What an administrator would write: the work of one slice makes room.
const RULES: &str = r#"
[policy]
name = "priority"
[[rule]]
cgroup = "/training.slice"
class = "offline"
"#;

/// The service, as clients see it.
struct Service(Client);

impl Service {
    /// Waits until it is active and sees events.
    fn running() -> anyhow::Result<Self> {
        let mut service = Self(Client::new(Path::new(SOCKET)).context("client")?);
        guest::eventually("the service to see events", || {
            let seen = service.status().is_ok_and(|status| status.events);
            Ok((seen && is_active()).then_some(()))
        })?;
        Ok(service)
    }

    fn status(&mut self) -> anyhow::Result<Status> {
        Ok(self.0.get("/v1/status")?)
    }

    fn hint(&mut self) -> anyhow::Result<u64> {
        let asked = HintBegin {
            expires_ms: Some(600_000),
            wait: true,
            ..HintBegin::default()
        };
        let begun: HintBegun = self.0.post("/v1/hints", &asked)?;
        Ok(begun.id)
    }

    fn end_hint(&mut self, id: u64) -> anyhow::Result<HintEnded> {
        Ok(self.0.delete(&format!("/v1/hints/{id}"))?)
    }
}

fn output(program: &str, args: &[&str]) -> anyhow::Result<Output> {
    let mut command = Command::new(program);
    command.args(args);
    command.output().with_context(|| format!("start {program}"))
}

/// What a program that must succeed prints.
fn said(program: &str, args: &[&str]) -> anyhow::Result<String> {
    let output = output(program, args)?;
    anyhow::ensure!(
        output.status.success(),
        "{program} {args:?}: {}: {}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout).trim(),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn systemctl(args: &[&str]) -> anyhow::Result<String> {
    said("systemctl", args)
}

fn is_active() -> bool {
    systemctl(&["is-active", UNIT]).is_ok_and(|state| state == "active")
}

fn property(name: &str) -> anyhow::Result<u32> {
    let value = systemctl(&["show", "--property", name, "--value", UNIT])?;
    value.parse().with_context(|| format!("{name}={value}"))
}

/// Puts a configuration into effect by a restart.
fn configure(kind: BackendKind) -> anyhow::Result<()> {
    let serve = format!("[serve]\nbackend = \"{}\"\n", kind.name());
    fs::write(OWN_CONFIG, format!("{RULES}{NO_GUARDS}{serve}")).context(OWN_CONFIG)?;
    systemctl(&["restart", UNIT]).map(drop)
}

/// A job of an ordinary user in the slice that the rules call offline.
fn job(words: &[&str]) -> anyhow::Result<Job> {
    let args = busy(&["--profile", "simple", "--queues", "2"]);
    Job::new(Load::start_in("training.slice", "nobody", words, &args)?)
}

fn packages() -> anyhow::Result<Vec<PathBuf>> {
    let mut found: Vec<PathBuf> = fs::read_dir(PACKAGES)
        .context(PACKAGES)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|end| end == "deb"))
        .collect();
    found.sort();
    Ok(found)
}

fn install() -> anyhow::Result<()> {
    for entry in fs::read_dir("/dev/dri").context("/dev/dri")?.flatten() {
        open_to_all(&entry.path())?;
    }
    // What udev's rules do for the group render.
    open_to_all(Path::new("/dev/kfd"))?;
    let packages = packages()?;
    anyhow::ensure!(packages.len() == 4, "not the packages: {packages:?}");
    guest::run(Command::new("dpkg").arg("--install").args(&packages))?;
    for name in [
        "gpreempt",
        "libgpreempt0",
        "libgpreempt-dev",
        "python3-gpreempt",
    ] {
        ensure_eq!(said("dpkg", &["--audit", name])?, "", "dpkg --audit");
        ensure_eq!(said("dpkg", &["--verify", name])?, "", "files that differ");
    }
    ensure_eq!(systemctl(&["is-enabled", UNIT])?, "enabled", "the unit");
    let status = Service::running()?.status()?;
    ensure_eq!(
        status.policy.name(),
        "manual",
        "policy of the default configuration"
    );
    ensure_eq!(property("MainPID")?, status.pid.0, "MainPID");
    let mode = |path: &str| -> anyhow::Result<u32> {
        let meta = fs::metadata(path).with_context(|| path.to_owned())?;
        Ok(meta.permissions().mode() & 0o777)
    };
    ensure_eq!(mode("/run/gpreempt")?, 0o755, "mode of /run/gpreempt");
    ensure_eq!(
        mode("/var/log/gpreempt")?,
        0o750,
        "mode of /var/log/gpreempt"
    );
    // Whoever may not do more may look.
    let mut looks = Command::new("gpreempt");
    let output = looks
        .args(["ctl", "status"])
        .uid(NOBODY)
        .gid(NOBODY)
        .output();
    let output = output.context("start gpreempt ctl")?;
    let seen = String::from_utf8_lossy(&output.stdout);
    anyhow::ensure!(seen.contains("events   seen"), "as nobody: {seen}");
    Ok(())
}

fn open_to_all(path: &Path) -> anyhow::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o666))
        .with_context(|| path.display().to_string())
}

fn unit() -> anyhow::Result<()> {
    // Pages are not read: the guest has no man.
    let verified = output("systemd-analyze", &["verify", "--man=no", UNIT])?;
    let words = String::from_utf8_lossy(&verified.stderr);
    anyhow::ensure!(verified.status.success() && words.is_empty(), "{words}");
    // Its scale goes from 0 to 100, the less the better.
    let limit = ["security", "--threshold=40", "--no-pager", UNIT];
    said("systemd-analyze", &limit)?;
    let pid = property("MainPID")?.to_string();
    let touch = |path: &str| output("nsenter", &["--target", &pid, "--mount", "touch", path]);
    for path in ["/usr/bin/x", "/etc/gpreempt/x", "/etc/x", "/var/lib/x"] {
        let words = String::from_utf8_lossy(&touch(path)?.stderr).into_owned();
        anyhow::ensure!(words.contains("Read-only file system"), "{path}: {words}");
    }
    for path in ["/run/gpreempt/x", "/var/log/gpreempt/x"] {
        anyhow::ensure!(touch(path)?.status.success(), "{path} cannot be written");
    }
    Ok(())
}

fn debug_trap() -> anyhow::Result<()> {
    holds(BackendKind::DebugTrap)
}

fn criu() -> anyhow::Result<()> {
    holds(BackendKind::Criu)
}

fn agents() -> anyhow::Result<()> {
    holds(BackendKind::Agent)
}

/// A hold ends with the hint, with the daemon's death, and with the service.
fn holds(kind: BackendKind) -> anyhow::Result<()> {
    configure(kind)?;
    let mut service = Service::running()?;
    scene::clean(|| {
        let mut offline = match kind {
            BackendKind::Agent => job(&["gpreempt", "run", "--", "kfd-load-dynamic"])?,
            _ => job(&["kfd-load"])?,
        };
        let jobs: Vec<JobInfo> = service.0.get("/v1/jobs")?;
        ensure_eq!(jobs.len(), 1, "jobs");
        let id = service.hint()?;
        offline.expect_held("while a hint is in force")?;
        ensure_eq!(service.status()?.backend, Some(kind), "backend");
        service.end_hint(id)?;
        offline.wait_running("after the hint")?;
        offline.goes_on()?;

        service.hint()?;
        offline.expect_held("before the daemon is killed")?;
        let (pid, restarts) = (property("MainPID")?, property("NRestarts")?);
        systemctl(&["kill", "--kill-who=main", "--signal=SIGKILL", UNIT])?;
        offline.wait_running("after the daemon's death")?;
        offline.goes_on()?;
        guest::eventually("systemd to start it again", || {
            let (now, times) = (property("MainPID")?, property("NRestarts")?);
            Ok((now != 0 && now != pid && times > restarts).then_some(()))
        })?;
        service = Service::running()?;
        offline.expect_running("under the next daemon")?;
        if kind == BackendKind::Agent {
            guest::eventually("the job to connect again", || {
                let jobs: Vec<JobInfo> = service.0.get("/v1/jobs")?;
                Ok(jobs.iter().any(|job| job.registered).then_some(()))
            })?;
        }

        service.hint()?;
        offline.expect_held("before the service is stopped")?;
        systemctl(&["stop", UNIT])?;
        offline.expect_running("when the service has been stopped")?;
        offline.goes_on()?;
        ensure_eq!(
            systemctl(&["show", "--property", "Result", "--value", UNIT])?,
            "success",
            "the service's end"
        );
        anyhow::ensure!(!Path::new(SOCKET).exists(), "its socket is left");
        Ok(())
    })?;
    systemctl(&["start", UNIT]).map(drop)
}

/// `systemctl reload` puts it into effect, or says that it cannot.
fn reload() -> anyhow::Result<()> {
    let mut service = Service::running()?;
    let pid = property("MainPID")?;
    let mut max_pause = || -> anyhow::Result<String> {
        let settings: Vec<Setting> = service.0.get("/v1/config")?;
        let found = settings
            .into_iter()
            .find(|one| one.key == "guards.max_pause");
        Ok(found.context("no guards.max_pause")?.value)
    };
    fs::write(OWN_CONFIG, "[guards]\nmax_pause = \"7s\"\n").context(OWN_CONFIG)?;
    systemctl(&["reload", UNIT])?;
    ensure_eq!(max_pause()?, "\"7s\"", "max_pause");
    fs::write(OWN_CONFIG, "[guards]\nmax_pose = \"8s\"\n").context(OWN_CONFIG)?;
    anyhow::ensure!(
        !output("systemctl", &["reload", UNIT])?.status.success(),
        "a mistake was taken over"
    );
    ensure_eq!(max_pause()?, "\"7s\"", "max_pause after a mistake");
    ensure_eq!(property("MainPID")?, pid, "MainPID");
    fs::remove_file(OWN_CONFIG).context(OWN_CONFIG)?;
    systemctl(&["reload", UNIT])?;
    ensure_eq!(max_pause()?, "\"10s\"", "max_pause by default");
    Ok(())
}

fn rotate() -> anyhow::Result<()> {
    let before = fs::read_to_string(AUDIT).context(AUDIT)?;
    said("logrotate", &["--force", "/etc/logrotate.d/gpreempt"])?;
    let old = format!("{AUDIT}.1");
    ensure_eq!(
        fs::read_to_string(&old).context("the old log")?,
        before,
        "the old log"
    );
    systemctl(&["reload", UNIT])?;
    guest::eventually("the next line to go into a new log", || {
        Ok(fs::read_to_string(AUDIT)
            .ok()
            .filter(|text| text.lines().count() == 1))
    })?;
    ensure_eq!(
        fs::read_to_string(&old).context("the old log")?,
        before,
        "the old log"
    );
    Ok(())
}

/// The example in C was compiled against the packages on the host; Python is the guest's.
fn libraries() -> anyhow::Result<()> {
    let mut service = Service::running()?;
    let requests = said(&format!("{PACKAGES}/online"), &["2"])?;
    let told = requests.lines().filter(|line| line.starts_with("request "));
    ensure_eq!(told.count(), 2, "lines that tell of a request");
    let code = "import gpreempt\nwith gpreempt.online(required=True):\n  print(gpreempt.__file__)";
    let file = said("python3", &["-c", code])?;
    anyhow::ensure!(
        file.starts_with("/usr/lib/python3/dist-packages/"),
        "{file}"
    );
    ensure_eq!(service.status()?.hints, 0, "hints left");
    Ok(())
}

/// Removed while it holds somebody, then purged.
fn purge() -> anyhow::Result<()> {
    configure(BackendKind::Criu)?;
    let mut service = Service::running()?;
    scene::clean(|| {
        let mut offline = job(&["kfd-load"])?;
        service.hint()?;
        offline.expect_held("before the package is removed")?;
        said("dpkg", &["--remove", "gpreempt"])?;
        offline.expect_running("when the package is removed")?;
        offline.goes_on()
    })?;
    anyhow::ensure!(
        Path::new(OWN_CONFIG).exists(),
        "configuration goes with a purge only"
    );
    let names = [
        "gpreempt",
        "libgpreempt0",
        "libgpreempt-dev",
        "python3-gpreempt",
    ];
    said("dpkg", &[&["--purge"], &names[..]].concat())?;
    let left: Vec<PathBuf> = named_gpreempt(Path::new("/"))?;
    anyhow::ensure!(left.is_empty(), "left behind: {left:?}");
    let units = systemctl(&["list-units", "--all", "--no-legend", "gpreempt*"])?;
    ensure_eq!(units, "", "units");
    Ok(())
}

/// Every path with the project's name in it, but for what xtask and the kernel have put there.
fn named_gpreempt(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    const OTHERS: &[&str] = &["/proc", "/sys", "/dev", PACKAGES];
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let entry = entry.with_context(|| dir.display().to_string())?;
        let path = entry.path();
        if OTHERS.iter().any(|other| path == Path::new(other)) {
            continue;
        }
        if entry.file_name().to_string_lossy().contains("gpreempt") {
            found.push(path);
        } else if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(named_gpreempt(&path)?);
        }
    }
    Ok(found)
}

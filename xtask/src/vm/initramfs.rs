// SPDX-License-Identifier: MIT OR Apache-2.0
//! The guest's root file system: several cpio archives, one after the other, unpacked over each other by the
//! kernel. What changes rarely (modules, ROCm) is kept as an archive of its own in the cache.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result};
use guest::plan::{BootPlan, Module, MODULE_DIR, PLAN_PATH};

use super::config::{Driver, Guest};
use super::cpio::Cpio;
use super::modules::{depends_of, Loadable, Modules};
use super::system;
use crate::project::Project;
use crate::setup::tools::Tools;

/// The channel's device, for kernels that do not have it built in.
const CHANNEL_MODULES: &[&str] = &["virtio_pci", "virtio_console"];

/// Parts of packages that no guest reads.
const UNREAD: &[&str] = &[
    "usr/share/doc",
    "usr/share/man",
    "usr/share/locale",
    "usr/share/gdb",
    "usr/share/lintian",
    "usr/include",
    "usr/share/zoneinfo",
    "usr/lib/x86_64-linux-gnu/gconv",
    "usr/lib/x86_64-linux-gnu/audit",
    // Of Python's library.
    "lib/x86_64-linux-gnu/gconv",
    "usr/lib/python3.11/lib2to3",
    "usr/lib/python3.11/pydoc_data",
    "usr/lib/python3.11/test",
    "usr/share/applications",
    "usr/share/binfmts",
    "usr/share/pixmaps",
];

/// Directories that are links into /usr on Debian, where its packages do not say so.
pub(super) const MERGED: &[&str] = &["bin", "lib", "lib64", "sbin"];

/// Writes the initramfs of `guest` to `path`.
pub(crate) fn write(project: &Project, tools: &Tools, guest: &Guest, path: &Path) -> Result<()> {
    let mut plan = BootPlan {
        background: guest.background.clone(),
        ..BootPlan::default()
    };
    let mut segments = Vec::new();
    let channel = modules_segment(tools, guest, "channel", CHANNEL_MODULES)?;
    plan.modules.extend(channel.modules);
    segments.push(channel.archive);

    let params = guest.params.join(" ");
    let mut sim = None;
    match guest.driver {
        Driver::None => {}
        Driver::Stock => {
            let stock = modules_segment(tools, guest, "stock", &["amdgpu"])?;
            plan.modules
                .extend(stock.modules.into_iter().map(|module| Module {
                    params: if module.name == "amdgpu" {
                        params.clone()
                    } else {
                        module.params
                    },
                    ..module
                }));
            segments.push(stock.archive);
        }
        Driver::Sim | Driver::Patched => {
            let module = guest
                .sim_module
                .as_ref()
                .context("a guest with the simulated GPU needs its module")?;
            let content = fs::read(module).with_context(|| format!("read {}", module.display()))?;
            let depends = depends_of(&content).with_context(|| format!("{}", module.display()))?;
            let depends: Vec<&str> = depends.iter().map(String::as_str).collect();
            let below = modules_segment(tools, guest, "sim", &depends)?;
            plan.modules.extend(below.modules);
            plan.modules.push(Module {
                name: "amdgpu".to_owned(),
                params,
            });
            segments.push(below.archive);
            sim = Some(content);
        }
    }
    if guest.system.is_some() {
        plan.then = system::INIT.map(str::to_owned).into();
    }
    plan.modules.dedup_by(|left, right| left.name == right.name);
    for root in guest.rocm.iter().chain(&guest.python) {
        segments.push(tree_segment(project, root)?);
    }

    let out = File::create(path).with_context(|| format!("create {}", path.display()))?;
    let mut out = BufWriter::new(out);
    if let Some(root) = &guest.system {
        // First: its links decide where what comes later goes.
        let system = read(&system::segment(project, root)?)?;
        out.write_all(&system)
            .with_context(|| format!("write {}", path.display()))?;
    }
    let mut out = own_segment(tools, guest, &plan, sim.as_deref(), out)?;
    for segment in segments {
        let content = fs::read(&segment).with_context(|| format!("read {}", segment.display()))?;
        out.write_all(&content)
            .with_context(|| format!("write {}", path.display()))?;
    }
    out.flush()
        .with_context(|| format!("write {}", path.display()))
}

/// What is this guest's own: directories, busybox, PID 1, programs, the plan.
fn own_segment<W: Write>(
    tools: &Tools,
    guest: &Guest,
    plan: &BootPlan,
    sim: Option<&[u8]>,
    out: W,
) -> Result<W> {
    let mut cpio = Cpio::new(out);
    let mut dirs = BTreeSet::new();
    if guest.system.is_some() {
        // Links.
        dirs.extend(MERGED.iter().map(|&name| name.to_owned()));
    }
    let usual = [
        "bin",
        "dev",
        "etc",
        "lib/modules",
        "proc",
        "root",
        "run",
        "sys",
        "tmp",
        "usr/bin",
        "usr/lib",
        "var/log",
    ];
    for dir in usual {
        directories(&mut cpio, &mut dirs, dir)?;
    }
    if guest.system.is_none() && (guest.rocm.is_some() || guest.python.is_some()) {
        // Where the dynamic loader is. These packages expect a merged /usr and do not bring its links.
        directories(&mut cpio, &mut dirs, "usr/lib64")?;
        cpio.link("lib64", "usr/lib64")?;
    }
    // Without it the kernel starts PID 1 with closed streams.
    cpio.device("dev/console", 0o600, 5, 1)?;
    if guest.system.is_none() {
        cpio.file("etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\n")?;
        cpio.file("etc/group", 0o644, b"root:x:0:\n")?;
    }
    cpio.file("etc/hosts", 0o644, b"127.0.0.1 localhost guest\n")?;
    cpio.file(
        PLAN_PATH.trim_start_matches('/'),
        0o644,
        &serde_json::to_vec(plan).context("write the boot plan")?,
    )?;
    cpio.file("init", 0o755, &read(&guest.init)?)?;

    let busybox = tools.path("busybox")?;
    cpio.file("bin/busybox", 0o755, &read(&busybox)?)?;
    let taken: BTreeSet<&str> = guest.files.iter().map(|file| file.to.as_str()).collect();
    let output = tools
        .command("busybox")?
        .arg("--list")
        .stdin(Stdio::null())
        .output()
        .context("run busybox")?;
    for applet in String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter(|applet| *applet != "busybox" && guest.system.is_none())
    {
        let path = format!("/bin/{applet}");
        if !taken.contains(path.as_str()) {
            cpio.link(&path[1..], "busybox")?;
        }
    }
    for file in &guest.files {
        let to = file.to.trim_start_matches('/');
        if let Some((dir, _)) = to.rsplit_once('/') {
            directories(&mut cpio, &mut dirs, dir)?;
        }
        let mode = fs::metadata(&file.from)
            .with_context(|| format!("read {}", file.from.display()))?
            .permissions()
            .mode();
        cpio.file(to, mode, &read(&file.from)?)?;
    }
    if let Some(content) = sim {
        cpio.file(&format!("{}/amdgpu.ko", &MODULE_DIR[1..]), 0o644, content)?;
    }
    cpio.finish().context("write the initramfs")
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("read {}", path.display()))
}

fn directories<W: Write>(
    cpio: &mut Cpio<W>,
    have: &mut BTreeSet<String>,
    path: &str,
) -> Result<()> {
    let ends = path
        .match_indices('/')
        .map(|(at, _)| at)
        .chain([path.len()]);
    for end in ends {
        if have.insert(path[..end].to_owned()) {
            cpio.directory(&path[..end])
                .context("write the initramfs")?;
        }
    }
    Ok(())
}

/// Modules in an archive of the cache, and the order to load them in.
struct Segment {
    archive: PathBuf,
    modules: Vec<Module>,
}

fn modules_segment(tools: &Tools, guest: &Guest, name: &str, wanted: &[&str]) -> Result<Segment> {
    let dir = guest.kernel.dir().join("segments");
    fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    let archive = dir.join(format!("{name}-{}.cpio", wanted.join("+")));
    let order_file = archive.with_extension("order");
    if !archive.is_file() || !order_file.is_file() {
        let modules = Modules::list(&guest.kernel.modules_dir()?, tools)?;
        let present: Vec<&str> = wanted
            .iter()
            .copied()
            .filter(|name| modules.has(name))
            .collect();
        let closure = modules.closure(&present)?;
        replace(&archive, &pack_modules(&closure)?)?;
        let order: Vec<&str> = closure.iter().map(|module| module.name.as_str()).collect();
        replace(&order_file, order.join("\n").as_bytes())?;
    }
    let order = fs::read_to_string(&order_file)
        .with_context(|| format!("read {}", order_file.display()))?;
    let modules = order
        .lines()
        .map(|name| Module {
            name: name.to_owned(),
            params: String::new(),
        })
        .collect();
    Ok(Segment { archive, modules })
}

fn pack_modules(modules: &[Loadable]) -> Result<Vec<u8>> {
    let mut cpio = Cpio::new(Vec::new());
    for module in modules {
        cpio.file(
            &format!("{}/{}.ko", &MODULE_DIR[1..], module.name),
            0o644,
            &module.content,
        )?;
    }
    cpio.finish().context("pack modules")
}

/// An unpacked tree as an archive beside it.
fn tree_segment(project: &Project, root: &Path) -> Result<PathBuf> {
    let archive = root.with_extension("cpio");
    if archive.is_file() {
        return Ok(archive);
    }
    project.need_room(200_000_000)?;
    let mut cpio = Cpio::new(Vec::new());
    pack_tree(&mut cpio, root, root)?;
    replace(&archive, &cpio.finish()?)?;
    Ok(archive)
}

pub(super) fn pack_tree(cpio: &mut Cpio<Vec<u8>>, root: &Path, dir: &Path) -> Result<()> {
    let entries = fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))?;
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<std::io::Result<_>>()?;
    paths.sort();
    for path in paths {
        let inside = path.strip_prefix(root).context("a path below the root")?;
        let name = inside
            .to_str()
            .with_context(|| format!("{} is not UTF-8", inside.display()))?;
        if UNREAD.contains(&name) {
            continue;
        }
        if MERGED.contains(&name) {
            // A link by now: the directory itself would take its place.
            pack_tree(cpio, root, &path)?;
            continue;
        }
        let meta =
            fs::symlink_metadata(&path).with_context(|| format!("read {}", path.display()))?;
        if meta.is_dir() {
            cpio.directory(name)?;
            pack_tree(cpio, root, &path)?;
        } else if meta.is_symlink() {
            let target =
                fs::read_link(&path).with_context(|| format!("read {}", path.display()))?;
            cpio.link(name, &target.to_string_lossy())?;
        } else {
            cpio.file(name, meta.permissions().mode(), &read(&path)?)?;
        }
    }
    Ok(())
}

/// Writes a file of the cache at once, so that nobody sees half of it.
pub(super) fn replace(path: &Path, content: &[u8]) -> Result<()> {
    let dir = path
        .parent()
        .context("a file of the cache has a directory")?;
    let mut file = tempfile::NamedTempFile::new_in(dir)
        .with_context(|| format!("create a file in {}", dir.display()))?;
    file.write_all(content)
        .with_context(|| format!("write {}", path.display()))?;
    file.persist(path)
        .with_context(|| format!("write {}", path.display()))?;
    Ok(())
}

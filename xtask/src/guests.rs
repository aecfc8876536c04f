// SPDX-License-Identifier: MIT OR Apache-2.0
//! From "a guest with this kernel and that driver" to a [`Guest`] whose every part is in place: sets up, builds,
//! puts together.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use guest::plan::Background;

use crate::build::c_programs::{self, C_PROGRAMS};
use crate::build::series::Series;
use crate::build::{ebpf, programs, sim};
use crate::package::{self, Release};
use crate::project::Project;
use crate::setup::kernels::Pins;
use crate::setup::tools::Tools;
use crate::setup::{self, Needs, Ready};
use crate::vm::config::{Driver, Guest, GuestFile, Hardware};

/// Programs of the project that every guest gets.
const STATIC_PROGRAMS: &[&str] = &["guest-init", "gpreempt", "kfd-load", "vm-tests", "vm-bench"];

/// Programs that use libraries, for guests that have some: by their names, and by those that they have there.
const DYNAMIC_PROGRAMS: &[(&str, &str)] =
    &[("hsa-load", "hsa-load"), ("kfd-load", "kfd-load-dynamic")];

/// Where `gpreempt run` finds its library.
const AGENT_PLACE: &str = "/lib/gpreempt/libgpreempt_agent.so";

/// A guest as it is asked for.
#[derive(Debug, Clone)]
pub(crate) struct Wish {
    /// Starts the name of its console log.
    pub(crate) label: String,
    /// A kernel of `tests/kernels.toml`; `None`: the simulated GPU's.
    pub(crate) kernel: Option<String>,
    pub(crate) driver: Driver,
    /// Parameters of the driver, `key=value`.
    pub(crate) params: Vec<String>,
    pub(crate) rocm: bool,
    /// Debian with systemd, and the project's packages in `/root`.
    pub(crate) systemd: bool,
    /// With Python and the project's package.
    pub(crate) python: bool,
    pub(crate) hardware: Hardware,
    pub(crate) background: Vec<Background>,
    /// More files.
    pub(crate) files: Vec<GuestFile>,
    /// Only PID 1 and busybox.
    pub(crate) bare: bool,
    /// A module to load in place of the one that would be built.
    pub(crate) module: Option<PathBuf>,
    /// With [`Driver::Patched`]: a series in place of the project's.
    pub(crate) series: Option<PathBuf>,
}

impl Wish {
    /// The unmodified driver on the simulated GPU, on its kernel, with usual hardware.
    pub(crate) fn sim(label: &str) -> Self {
        Self {
            label: label.to_owned(),
            kernel: None,
            driver: Driver::Sim,
            params: Vec::new(),
            rocm: false,
            systemd: false,
            python: false,
            hardware: Hardware::default(),
            background: Vec::new(),
            files: Vec::new(),
            bare: false,
            module: None,
            series: None,
        }
    }
}

/// What a guest with libraries gets.
struct Dynamic {
    programs: PathBuf,
    agent: PathBuf,
}

impl Dynamic {
    fn build(project: &Project) -> Result<Self> {
        let binaries: Vec<&str> = DYNAMIC_PROGRAMS.iter().map(|(name, _)| *name).collect();
        Ok(Self {
            programs: programs::build_dynamic(project, &binaries)?,
            agent: programs::build_agent(project)?,
        })
    }

    fn files(&self) -> impl Iterator<Item = GuestFile> + '_ {
        let agent = GuestFile {
            from: self.agent.clone(),
            to: AGENT_PLACE.to_owned(),
        };
        let programs = DYNAMIC_PROGRAMS.iter().map(|(name, to)| GuestFile {
            from: self.programs.join(name),
            to: format!("/bin/{to}"),
        });
        std::iter::once(agent).chain(programs)
    }
}

/// Everything that guests are made of, set up and built.
pub(crate) struct Workshop {
    project: Project,
    pins: Pins,
    ready: Ready,
    programs: PathBuf,
    dynamic: Option<Dynamic>,
    c_programs: Option<PathBuf>,
    /// The project's Debian packages, and the example in C.
    packages: Vec<PathBuf>,
    // Holds them.
    _packages_dir: Option<tempfile::TempDir>,
}

impl Workshop {
    /// Prepares what the wishes need.
    pub(crate) fn open(project: &Project, wishes: &[Wish]) -> Result<Self> {
        let pins = Pins::read(project)?;
        let mut needs = Needs::default();
        for wish in wishes {
            let name = kernel_name(&pins, wish)?;
            if !needs.kernels.contains(&name) {
                needs.kernels.push(name.clone());
            }
            if builds_module(wish) && !needs.modules.contains(&name) {
                needs.modules.push(name);
            }
            needs.bpf |= !wish.bare;
            needs.rocm |= wish.rocm;
            needs.system |= wish.systemd;
            needs.python |= wish.python;
        }
        let ready = setup::provide(project, &pins, &needs)?;
        let object = ready
            .bpf
            .as_ref()
            .map(|toolchain| ebpf::build(project, toolchain))
            .transpose()?;
        let binaries = if needs.bpf {
            STATIC_PROGRAMS
        } else {
            &STATIC_PROGRAMS[..1]
        };
        let programs = programs::build_static(project, binaries, object.as_deref())?;
        let libraries = needs.rocm || needs.system;
        let dynamic = libraries.then(|| Dynamic::build(project)).transpose()?;
        // Only a patched driver does all that a program can ask the library for.
        let c_programs = wishes
            .iter()
            .any(has_c_programs)
            .then(|| c_programs::build(project, object.as_deref()))
            .transpose()?;
        let packages_dir = needs
            .system
            .then(tempfile::tempdir)
            .transpose()
            .context("create a directory for packages")?;
        let packages = match &packages_dir {
            Some(dir) => {
                let mut files = package::debs(project, &Release::read(project)?, dir.path())?;
                files.push(package::example::build(&ready.tools, &files, dir.path())?);
                files
            }
            None => Vec::new(),
        };
        let workshop = Self {
            project: project.clone(),
            pins,
            ready,
            programs,
            dynamic,
            c_programs,
            packages,
            _packages_dir: packages_dir,
        };
        // Built now, the others find it ready. A series is another matter: if it does not apply or build, only its own
        // guests cannot be had, and they ask for it themselves.
        if let Some(wish) = wishes
            .iter()
            .find(|wish| wish.driver == Driver::Sim && builds_module(wish))
        {
            workshop.module(wish)?;
        }
        Ok(workshop)
    }

    /// The module of the simulated GPU for a guest, built if its inputs changed.
    fn module(&self, wish: &Wish) -> Result<Option<PathBuf>> {
        if !wish.driver.is_simulated() {
            return Ok(None);
        }
        if wish.module.is_some() {
            return Ok(wish.module.clone());
        }
        let name = kernel_name(&self.pins, wish)?;
        let series = match wish.driver {
            Driver::Patched => Some(Series::of_kernel(
                &self.project,
                &name,
                wish.series.as_deref(),
            )?),
            Driver::Sim | Driver::Stock | Driver::None => None,
        };
        let built = sim::build(
            &self.project,
            &self.ready.tools,
            self.ready.kernel(&name)?,
            series.as_ref(),
        )?;
        Ok(Some(built.module))
    }

    /// Puts a guest together.
    pub(crate) fn guest(&self, wish: &Wish) -> Result<Guest> {
        let to_bin = |dir: &Path, name: &str| GuestFile {
            from: dir.join(name),
            to: format!("/bin/{name}"),
        };
        let mut files = Vec::new();
        if !wish.bare {
            // With packages, gpreempt is what they install.
            let programs = STATIC_PROGRAMS[1..]
                .iter()
                .filter(|name| !wish.systemd || **name != "gpreempt");
            files.extend(programs.map(|name| to_bin(&self.programs, name)));
        }
        if wish.systemd {
            files.extend(self.packages.iter().map(|file| GuestFile {
                from: file.clone(),
                to: format!(
                    "/root/{}",
                    file.file_name().unwrap_or_default().to_string_lossy()
                ),
            }));
        }
        if wish.rocm || wish.systemd {
            let dynamic = self
                .dynamic
                .as_ref()
                .context("what a guest with libraries gets was not built")?;
            // With packages, the agent is what they install.
            let all = dynamic.files();
            files.extend(all.filter(|file| !wish.systemd || file.to != AGENT_PLACE));
        }
        if has_c_programs(wish) {
            let dir = self
                .c_programs
                .as_ref()
                .context("the C programs were not built")?;
            files.extend(C_PROGRAMS.iter().map(|(name, _)| to_bin(dir, name)));
        }
        if wish.python {
            files.extend(python_package(&self.project)?);
        }
        files.extend(wish.files.iter().cloned());
        Ok(Guest {
            kernel: self.ready.kernel(&kernel_name(&self.pins, wish)?)?.clone(),
            driver: wish.driver,
            sim_module: self.module(wish)?,
            params: wish.params.clone(),
            init: self.programs.join("guest-init"),
            files,
            rocm: if wish.rocm {
                self.ready.rocm.clone()
            } else {
                None
            },
            system: if wish.systemd {
                self.ready.system.clone()
            } else {
                None
            },
            python: if wish.python {
                self.ready.python.clone()
            } else {
                None
            },
            background: wish.background.clone(),
            hardware: wish.hardware.clone(),
            label: wish.label.clone(),
        })
    }

    /// The tools that were set up.
    pub(crate) fn tools(&self) -> &Tools {
        &self.ready.tools
    }

    /// A program as the host runs it: guests' programs are static and run anywhere.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }
}

/// The project's Python package, and what the tests in guests do with it.
fn python_package(project: &Project) -> Result<Vec<GuestFile>> {
    let mut files = vec![GuestFile {
        from: project.root.join("tests/vm/python/package.py"),
        to: "/usr/lib/python-tests/package.py".to_owned(),
    }];
    let dir = project.root.join("python/src/gpreempt");
    for entry in std::fs::read_dir(&dir).with_context(|| format!("read {}", dir.display()))? {
        let from = entry
            .with_context(|| format!("read {}", dir.display()))?
            .path();
        if from.extension().is_some_and(|extension| extension == "py") {
            let name = from.file_name().unwrap_or_default().to_string_lossy();
            let to = format!("/usr/lib/python3/dist-packages/gpreempt/{name}");
            files.push(GuestFile { to, from });
        }
    }
    files.sort_by(|left, right| left.to.cmp(&right.to));
    Ok(files)
}

fn has_c_programs(wish: &Wish) -> bool {
    wish.driver == Driver::Patched && !wish.bare
}

/// Whether the guest's module is built here.
fn builds_module(wish: &Wish) -> bool {
    wish.driver.is_simulated() && wish.module.is_none()
}

fn kernel_name(pins: &Pins, wish: &Wish) -> Result<String> {
    let sim = &pins.sim_kernel()?.name;
    let name = wish.kernel.as_ref().unwrap_or(sim);
    let spec = pins.kernel(name)?;
    anyhow::ensure!(
        !builds_module(wish) || spec.has_source(),
        "the simulated GPU is built for kernel {sim}; with {name} take --driver stock"
    );
    anyhow::ensure!(
        wish.series.is_none() || wish.driver == Driver::Patched,
        "--series is for --driver patched"
    );
    Ok(name.clone())
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! Everything a build or a guest needs and a fresh machine lacks. Each step does nothing when its result is
//! in the cache already.

mod apt;
mod apt_sources;
mod bpf_linker;
mod debian;
pub(crate) mod digest;
pub(crate) mod kernels;
mod packages;
pub(crate) mod perfetto;
mod runtime;
mod rust;
pub(crate) mod tools;
mod version;

use std::path::PathBuf;
use std::thread;

use anyhow::{anyhow, Result};

use crate::project::Project;
use kernels::{Kernel, Pins};
use runtime::Runtime;
use rust::{Compiler, WithSource};
use tools::Tools;

/// What a run needs; the rest is left alone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Needs {
    /// Kernels by name.
    pub(crate) kernels: Vec<String>,
    /// Kernels for which the simulated GPU's module is to be built: headers and the driver's source.
    pub(crate) modules: Vec<String>,
    /// To build eBPF programs.
    pub(crate) bpf: bool,
    /// The ROCm runtime.
    pub(crate) rocm: bool,
    /// A Debian that boots.
    pub(crate) system: bool,
    pub(crate) python: bool,
}

/// What was made available.
pub(crate) struct Ready {
    pub(crate) tools: Tools,
    pub(crate) kernels: Vec<Kernel>,
    pub(crate) bpf: Option<BpfToolchain>,
    pub(crate) rocm: Option<PathBuf>,
    pub(crate) system: Option<PathBuf>,
    pub(crate) python: Option<PathBuf>,
}

/// What builds eBPF programs.
#[derive(Debug, Clone)]
pub(crate) struct BpfToolchain {
    /// Directory of bpf-linker.
    pub(crate) linker_dir: PathBuf,
    /// A compiler that can build `core`.
    pub(crate) compiler: WithSource,
}

impl Ready {
    /// A kernel that was asked for.
    pub(crate) fn kernel(&self, name: &str) -> Result<&Kernel> {
        self.kernels
            .iter()
            .find(|kernel| kernel.name() == name)
            .ok_or_else(|| anyhow!("kernel {name} was not set up"))
    }
}

/// Makes everything available that is needed. Holds the cache's lock meanwhile.
pub(crate) fn provide(project: &Project, pins: &Pins, needs: &Needs) -> Result<Ready> {
    let _lock = project.lock()?;
    let tools = Tools::provide(project)?;
    thread::scope(|scope| {
        // The linker's build waits for processors, the packages for the network: together they take half the time.
        let linker = needs.bpf.then(|| {
            scope.spawn(|| {
                Compiler::ask(project)
                    .and_then(|compiler| Ok((bpf_linker::provide(project, &compiler)?, compiler)))
            })
        });
        let packages = || -> Result<_> {
            let mut kernels = Vec::new();
            for name in &needs.kernels {
                kernels.push(Kernel::provide(project, pins.kernel(name)?)?);
            }
            for name in &needs.modules {
                let spec = pins.kernel(name)?;
                let known = kernels
                    .iter()
                    .find(|kernel: &&Kernel| kernel.name() == spec.name);
                let known = known.cloned();
                let is_known = known.is_some();
                let kernel = known.map_or_else(|| Kernel::provide(project, spec), Ok)?;
                kernel.headers(project)?;
                kernel.source(project, crate::build::sim::SOURCE_DIRS)?;
                if !is_known {
                    kernels.push(kernel);
                }
            }
            let rocm = needs
                .rocm
                .then(|| runtime::provide(project, Runtime::Rocm, &pins.rocm))
                .transpose()?;
            let system = needs.system.then(|| debian::system(project)).transpose()?;
            let python = needs
                .python
                .then(|| runtime::provide(project, Runtime::Python, &pins.python))
                .transpose()?;
            Ok((kernels, rocm, system, python))
        };
        let packages = packages();
        let linker = linker.map(|thread| {
            thread
                .join()
                .map_err(|_| anyhow!("the thread that builds bpf-linker panicked"))
        });
        let (kernels, rocm, system, python) = packages?;
        let bpf = match linker {
            Some(result) => {
                let (linker_dir, compiler) = result??;
                Some(BpfToolchain {
                    linker_dir,
                    compiler: compiler.with_source(project, &pins.rust_src)?,
                })
            }
            None => None,
        };
        Ok(Ready {
            tools,
            kernels,
            bpf,
            rocm,
            system,
            python,
        })
    })
}

/// A directory in which Debian's setuptools are, unpacked.
pub(crate) fn setuptools(project: &Project) -> Result<PathBuf> {
    let _lock = project.lock()?;
    debian::setuptools(project)
}

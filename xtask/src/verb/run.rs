// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask run`: gpreempt on this machine's driver, or, where there is none, on a simulated GPU in a guest
//! with programs that use it as a job would.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use guest::plan::Background;

use super::vm::{execute, LONG_DEADLINE};
use crate::cli::RunArgs;
use crate::guests::Wish;
use crate::project::Project;
use crate::ui;
use crate::vm::config::Driver;

/// Runs the verb.
pub(crate) fn run(project: &Project, args: RunArgs) -> Result<ExitCode> {
    let vm = args.vm || args.driver.is_some();
    let native = if args.native || vm {
        args.native
    } else {
        has_driver(Path::new("/sys"))
    };
    if native {
        let program = super::build::program(project)?;
        return Err(Command::new(&program).args(&args.arguments).exec())
            .with_context(|| format!("run {}", program.display()));
    }
    if !vm {
        ui::note("no amdkfd with kprobes on this machine: running in a guest with a simulated GPU");
    }
    let driver = args.driver.unwrap_or(Driver::Sim);
    let wish = Wish {
        driver,
        // Without a GPU there is nothing that they could use. The daemon's demo brings jobs of its own.
        background: match driver.is_simulated()
            && !args.arguments.iter().any(|word| word == "--demo")
        {
            true => demo(),
            false => Vec::new(),
        },
        ..Wish::sim("run")
    };
    let argv = std::iter::once("gpreempt".to_owned())
        .chain(args.arguments)
        .collect();
    execute(project, &wish, argv, LONG_DEADLINE)
}

/// Whether the driver is loaded and the kernel can probe it.
fn has_driver(sys: &Path) -> bool {
    let driver = ["amdgpu", "amdkfd"]
        .iter()
        .any(|name| sys.join("module").join(name).is_dir());
    driver && sys.join("bus/event_source/devices/kprobe").exists()
}

/// Something to see: a model that computes and copies, beside a process whose queues come and go once a second.
fn demo() -> Vec<Background> {
    [&["model"][..], &["churn", "--rate", "1"]]
        .map(|profile| Background {
            name: format!("kfd-load-{}", profile[0]),
            argv: ["/bin/kfd-load", "--profile"]
                .iter()
                .chain(profile)
                .map(|&word| word.to_owned())
                .collect(),
        })
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_counts_only_with_kprobes() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!has_driver(dir.path()));
        std::fs::create_dir_all(dir.path().join("module/amdgpu")).unwrap();
        assert!(!has_driver(dir.path()));
        std::fs::create_dir_all(dir.path().join("bus/event_source/devices/kprobe")).unwrap();
        assert!(has_driver(dir.path()));
    }
}

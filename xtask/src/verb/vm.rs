// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask vm`: a guest as the arguments say, and a command or shell in it.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::cli::{GuestArgs, VmArgs};
use crate::guests::{Wish, Workshop};
use crate::project::Project;
use crate::ui;
use crate::vm::config::{Driver, GuestFile, Hardware};
use crate::vm::{Machine, Session};

/// A command may take so long unless `--deadline` says otherwise.
pub(crate) const DEADLINE: Duration = Duration::from_secs(15 * 60);

/// And someone at a terminal this long.
pub(crate) const LONG_DEADLINE: Duration = Duration::from_secs(8 * 3600);

/// Runs the verb.
pub(crate) fn run(project: &Project, args: VmArgs) -> Result<ExitCode> {
    let shell = args.command.is_empty();
    let default = if shell { LONG_DEADLINE } else { DEADLINE };
    let deadline = args.guest.deadline.map_or(default, Duration::from_secs);
    let argv = if shell {
        vec!["/bin/sh".to_owned(), "-l".to_owned()]
    } else {
        args.command
    };
    execute(project, &wish_of(&args.guest)?, argv, deadline)
}

/// Boots the guest, runs the command with our streams, and passes on how it ended.
pub(crate) fn execute(
    project: &Project,
    wish: &Wish,
    argv: Vec<String>,
    deadline: Duration,
) -> Result<ExitCode> {
    let workshop = Workshop::open(project, std::slice::from_ref(wish))?;
    let mut machine = Machine::boot(project, workshop.tools(), &workshop.guest(wish)?, deadline)?;
    for problem in &machine.ready().problems {
        ui::warn(&format!("guest: {problem}"));
    }
    let ending = Session::interactive(argv).run(&mut machine)?;
    let log = machine.log().to_path_buf();
    for finding in machine.shut_down() {
        ui::warn(&format!(
            "the guest's kernel complained: {} (console log: {})",
            finding.line,
            log.display()
        ));
    }
    Ok(ExitCode::from(ending.exit_code()))
}

/// What the arguments ask for.
pub(crate) fn wish_of(args: &GuestArgs) -> Result<Wish> {
    let mut params = shape_params(args.driver, args.gpus, args.xccs);
    params.extend(args.params.iter().cloned());
    Ok(Wish {
        kernel: args.kernel.clone(),
        driver: args.driver,
        params,
        rocm: args.rocm,
        systemd: args.systemd,
        python: args.python,
        hardware: Hardware {
            memory_mb: args.memory,
            cpus: args.smp,
            icount: args.icount,
        },
        files: args
            .add
            .iter()
            .map(|add| added(add))
            .collect::<Result<_>>()?,
        bare: args.bare,
        module: args.module.clone(),
        series: args.series.clone(),
        ..Wish::sim("vm")
    })
}

/// The simulated GPU's parameters for a shape.
pub(crate) fn shape_params(driver: Driver, gpus: Option<u32>, xccs: Option<u32>) -> Vec<String> {
    if !driver.is_simulated() {
        return Vec::new();
    }
    let gpus = gpus.map(|count| format!("sim_gpus={count}"));
    let xccs = xccs.map(|count| format!("sim_xccs={count}"));
    gpus.into_iter().chain(xccs).collect()
}

/// `FILE[:PATH]`.
fn added(add: &str) -> Result<GuestFile> {
    let (from, to) = match add.rsplit_once(':') {
        Some((from, to)) if to.starts_with('/') => (from, Some(to.to_owned())),
        _ => (add, None),
    };
    let from = PathBuf::from(from);
    let name = from
        .file_name()
        .with_context(|| format!("--add {add} names no file"))?
        .to_string_lossy()
        .into_owned();
    Ok(GuestFile {
        from,
        to: to.unwrap_or_else(|| format!("/bin/{name}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn added_files_go_to_bin_unless_told_otherwise() {
        assert_eq!(added("/a/prog").unwrap().to, "/bin/prog");
        assert_eq!(
            added("/a/prog:/etc/x").unwrap(),
            GuestFile {
                from: "/a/prog".into(),
                to: "/etc/x".into()
            }
        );
        assert_eq!(added("/a/odd:name").unwrap().to, "/bin/odd:name");
        assert!(added("/").is_err());
    }

    #[test]
    fn only_the_simulated_gpu_has_a_shape() {
        assert_eq!(
            shape_params(Driver::Sim, Some(2), Some(4)),
            ["sim_gpus=2", "sim_xccs=4"]
        );
        assert_eq!(shape_params(Driver::Patched, Some(4), None), ["sim_gpus=4"]);
        assert!(shape_params(Driver::Sim, None, None).is_empty());
        assert!(shape_params(Driver::Stock, Some(0), Some(0)).is_empty());
    }
}

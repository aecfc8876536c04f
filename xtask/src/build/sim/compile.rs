// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel's make, and what its compiler has to say.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result};

use crate::setup::tools::Tools;

/// Files of the project in the build directory begin like this.
const OWN: &str = "sim_";

/// How much the compiler is to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Warnings {
    /// What the kernel's build usually warns of.
    Usual,
    /// `W=1`: what new code has to be free of.
    New,
}

/// Builds the module in the driver's directory and returns the warnings.
pub(crate) fn make(
    tools: &Tools,
    headers: &Path,
    driver: &Path,
    warnings: Warnings,
) -> Result<Vec<Warning>> {
    let module = driver.join("amdgpu.ko");
    let _ = fs::remove_file(&module);
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    let mut command = tools.command("make")?;
    tools.prepare(&mut command);
    // Flags of an outer make are not for this one.
    command
        .env_remove("MAKEFLAGS")
        .env_remove("MFLAGS")
        .env_remove("MAKELEVEL")
        .env("LC_ALL", "C");
    command
        .arg("-C")
        .arg(headers)
        .arg(format!("M={}", driver.display()))
        .arg(format!("-j{jobs}"))
        // Words of two compilers do not mix.
        .arg("--output-sync=target");
    if warnings == Warnings::New {
        command.arg("W=1");
    }
    command.arg("modules");
    let output = command.stdin(Stdio::null()).output().context("run make")?;
    let words = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() || !module.is_file() {
        anyhow::bail!(
            "the simulated GPU's module does not build:\n{}",
            words.trim()
        );
    }
    Ok(parse(&words))
}

/// A warning of the compiler, or of the steps after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Warning {
    /// The line that says what.
    pub(crate) line: String,
    /// The source file that was compiled, where the words tell.
    pub(crate) unit: Option<String>,
}

impl Warning {
    /// Whether it is about a file of the project's simulated GPU.
    pub(crate) fn is_of_the_simulator(&self) -> bool {
        self.unit.as_ref().is_some_and(|unit| unit.starts_with(OWN))
    }
}

/// The warnings in what make and its children wrote.
fn parse(words: &str) -> Vec<Warning> {
    let mut found = Vec::new();
    let mut unit: Option<String> = None;
    let mut fresh = true;
    for line in words.lines() {
        let leads = line.starts_with("In file included from ")
            || line.trim_start().starts_with("from ")
            || line.starts_with("In function ")
            || line.trim_start().starts_with("inlined from ")
            || line.contains(": In function ");
        if leads {
            // The first line that leads up to a warning forgets the one before.
            if fresh {
                unit = None;
                fresh = false;
            }
            unit = unit_in(line).or(unit);
            continue;
        }
        let lower = line.to_ascii_lowercase();
        if lower.contains("warning:") || lower.contains("error:") {
            let own = line.split_once(": ").and_then(|(place, _)| unit_in(place));
            found.push(Warning {
                line: line.to_owned(),
                unit: own.or_else(|| unit.take()),
            });
        }
        fresh = true;
    }
    found
}

/// The C file that a line names last.
fn unit_in(line: &str) -> Option<String> {
    let mut words =
        line.split(|c: char| c.is_whitespace() || matches!(c, ':' | ',' | '\'' | '‘' | '’'));
    let file = words.rfind(|word| word.ends_with(".c"))?;
    Some(file.rsplit('/').next().unwrap_or(file).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORDS: &str = "\
In file included from /h/include/linux/string.h:390,
                 from /b/amdkfd/sim_engine.h:28,
                 from /b/amdkfd/sim_mqd.c:10:
In function ‘fortify_memcpy_chk’,
    inlined from ‘sim_load_cp’ at /b/amdkfd/sim_mqd.c:142:3:
/h/include/linux/fortify-string.h:580:25: warning: call to ‘__read_overflow2_field’ declared with attribute warning
  580 |                         __read_overflow2_field(q_size_field, size);
      |                         ^~~~
/b/amdkfd/kfd_gpreempt.c: In function 'kfd_gpreempt_note':
/b/amdkfd/kfd_gpreempt.c:12:6: warning: variable 'x' set but not used [-Wunused-but-set-variable]
   12 |  int x;
/b/amdkfd/kfd_priv.h:7: warning: Function parameter or struct member 'y' not described in 'kfd_z'
WARNING: modpost: missing MODULE_DESCRIPTION() in /b/amdkfd/amdgpu.o
make[2]: Nothing to be done
";

    #[test]
    fn warnings_are_found_with_the_file_that_was_compiled() {
        let found = parse(WORDS);
        let units: Vec<_> = found
            .iter()
            .map(|warning| warning.unit.as_deref())
            .collect();
        assert_eq!(
            units[..2],
            [Some("sim_mqd.c"), Some("kfd_gpreempt.c")],
            "{found:?}"
        );
        assert_eq!(found.len(), 4);
        assert_eq!(
            found
                .iter()
                .filter(|warning| warning.is_of_the_simulator())
                .count(),
            1
        );
    }

    #[test]
    fn a_warning_of_unknown_origin_is_not_the_simulators() {
        let found = parse("x.h:1: warning: y\nWARNING: modpost: z\n");
        assert_eq!(found.len(), 2);
        assert!(!found.iter().any(Warning::is_of_the_simulator));
        assert!(parse("  CC [M]  a.o\nmake: Leaving directory\n").is_empty());
    }
}

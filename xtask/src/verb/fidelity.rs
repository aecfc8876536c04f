// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask fidelity`: whether the amdkfd on the simulated GPU is the one that the distribution ships. What
//! attaches to the one must attach to the other: the same functions, inlined the same way, and the same structs.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use object::{Object, ObjectSymbol, SymbolKind};

use crate::build::sim;
use crate::project::Project;
use crate::setup::kernels::{Kernel, Pins};
use crate::setup::tools::Tools;
use crate::setup::{self, Needs};
use crate::vm::modules::Modules;

/// How often a function of that name and code size occurs.
type Functions = BTreeMap<(String, u64), usize>;

/// Size of each struct by name.
type Structs = BTreeMap<String, u64>;

/// How the two drivers compare.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Comparison {
    /// Functions of amdkfd that were compared.
    pub(crate) functions: usize,
    /// Those that the distribution's module does not have like that.
    pub(crate) other_functions: Vec<String>,
    /// Structs that both have.
    pub(crate) structs: usize,
    /// Those of another size.
    pub(crate) other_structs: Vec<String>,
}

/// Runs the verb.
pub(crate) fn run(project: &Project) -> Result<ExitCode> {
    let found = compare(project)?;
    println!(
        "functions of amdkfd: {}, of them other than in the distribution's module: {}",
        found.functions,
        found.other_functions.len()
    );
    found
        .other_functions
        .iter()
        .for_each(|line| println!("  {line}"));
    println!(
        "structs in both: {}, of them of another size: {}",
        found.structs,
        found.other_structs.len()
    );
    found
        .other_structs
        .iter()
        .for_each(|line| println!("  {line}"));
    Ok(if found.is_faithful() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

impl Comparison {
    /// Nothing differs, and there was something to compare.
    pub(crate) fn is_faithful(&self) -> bool {
        self.functions > 0
            && self.structs > 0
            && self.other_functions.is_empty()
            && self.other_structs.is_empty()
    }
}

/// Builds the module and compares it with the distribution's.
pub(crate) fn compare(project: &Project) -> Result<Comparison> {
    let pins = Pins::read(project)?;
    let name = pins.sim_kernel()?.name.clone();
    let ready = setup::provide(
        project,
        &pins,
        &Needs {
            modules: vec![name.clone()],
            ..Needs::default()
        },
    )?;
    let kernel = ready.kernel(&name)?;
    let sim = sim::build(project, &ready.tools, kernel, None)?;
    let stock = Modules::list(&kernel.modules_dir()?, &ready.tools)?.read("amdgpu")?;

    let ours = functions_of_objects(&sim.objects)?;
    let theirs = functions(&stock).context("the distribution's amdgpu.ko")?;
    let dir = tempfile::tempdir().context("create a directory for the distribution's module")?;
    let stock_file = dir.path().join("amdgpu.ko");
    fs::write(&stock_file, &stock).context("write the distribution's module")?;
    let our_structs = structs(project, &ready.tools, kernel, &sim.module)?;
    let their_structs = structs(project, &ready.tools, kernel, &stock_file)?;
    Ok(Comparison {
        functions: ours.values().sum(),
        other_functions: differing_functions(&ours, &theirs),
        structs: our_structs
            .keys()
            .filter(|name| their_structs.contains_key(*name))
            .count(),
        other_structs: differing_structs(&our_structs, &their_structs),
    })
}

fn functions_of_objects(dir: &Path) -> Result<Functions> {
    let mut all = Functions::new();
    for entry in fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))? {
        let path = entry
            .with_context(|| format!("read {}", dir.display()))?
            .path();
        let content = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        for (function, count) in functions(&content).with_context(|| path.display().to_string())? {
            *all.entry(function).or_default() += count;
        }
    }
    Ok(all)
}

fn functions(content: &[u8]) -> Result<Functions> {
    let file = object::File::parse(content).context("not an object file")?;
    let mut functions = Functions::new();
    for symbol in file
        .symbols()
        .filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.is_definition())
    {
        let name = symbol.name().context("a symbol's name")?;
        // `__cfi_` and `__pfx_` symbols are padding before a function.
        if !name.is_empty() && !name.starts_with("__pfx_") && !name.starts_with("__cfi_") {
            *functions
                .entry((name.to_owned(), symbol.size()))
                .or_default() += 1;
        }
    }
    Ok(functions)
}

fn differing_functions(ours: &Functions, theirs: &Functions) -> Vec<String> {
    let missing = ours
        .iter()
        .filter(|(function, count)| theirs.get(*function).copied().unwrap_or(0) < **count);
    missing
        .map(|((name, size), _)| {
            let others: Vec<String> = theirs
                .keys()
                .filter(|(other, _)| other == name)
                .map(|(_, size)| size.to_string())
                .collect();
            match others.is_empty() {
                true => format!("{name}: the distribution's has no such function"),
                false => format!(
                    "{name}: {size} bytes of code, {} in the distribution's",
                    others.join(" or ")
                ),
            }
        })
        .collect()
}

fn differing_structs(ours: &Structs, theirs: &Structs) -> Vec<String> {
    let pairs = ours
        .iter()
        .filter_map(|(name, size)| Some((name, size, theirs.get(name)?)));
    pairs
        .filter(|(_, ours, theirs)| ours != theirs)
        .map(|(name, ours, theirs)| format!("{name}: {ours} bytes, {theirs} in the distribution's"))
        .collect()
}

/// The structs that a module's BTF adds to the kernel's, which comes with the headers.
fn structs(project: &Project, tools: &Tools, kernel: &Kernel, module: &Path) -> Result<Structs> {
    let base = kernel.headers(project)?.join("vmlinux");
    let sizes = |files: &[&Path]| -> Result<Structs> {
        let mut command = tools.command("pahole")?;
        let output = command
            .args(["-F", "btf", "--sizes"])
            .args(files)
            .output()
            .context("run pahole")?;
        let words = String::from_utf8_lossy(&output.stderr);
        anyhow::ensure!(
            output.status.success(),
            "pahole --sizes of {}: {}",
            module.display(),
            words.trim()
        );
        Ok(parse_sizes(&String::from_utf8_lossy(&output.stdout)))
    };
    let kernels = sizes(&[&base])?;
    let mut all = sizes(&[Path::new("--btf_base"), &base, module])?;
    all.retain(|name, size| kernels.get(name) != Some(size));
    Ok(all)
}

/// `name\tsize\tholes` a line.
fn parse_sizes(text: &str) -> Structs {
    let lines = text.lines().filter_map(|line| {
        let mut fields = line.split('\t');
        Some((fields.next()?.to_owned(), fields.next()?.parse().ok()?))
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_of_another_size_or_count_differs() {
        let functions = |list: &[(&str, u64, usize)]| {
            list.iter()
                .map(|(name, size, count)| (((*name).to_owned(), *size), *count))
                .collect::<Functions>()
        };
        let theirs = functions(&[("load_mqd", 10, 2), ("update", 7, 1), ("more", 1, 1)]);
        assert!(differing_functions(
            &functions(&[("load_mqd", 10, 2), ("update", 7, 1)]),
            &theirs
        )
        .is_empty());
        assert_eq!(
            differing_functions(&functions(&[("load_mqd", 10, 3)]), &theirs).len(),
            1
        );
        assert_eq!(
            differing_functions(&functions(&[("update", 8, 1), ("gone", 1, 1)]), &theirs),
            [
                "gone: the distribution's has no such function",
                "update: 8 bytes of code, 7 in the distribution's"
            ]
        );
    }

    #[test]
    fn struct_sizes_are_compared_where_both_have_them() {
        let ours = parse_sizes("kfd_node\t100\t1\nqueue\t8\t0\nsim_bo\t4\t0\n");
        let theirs = parse_sizes("kfd_node\t100\t1\nqueue\t16\t0\n");
        assert_eq!(
            differing_structs(&ours, &theirs),
            ["queue: 8 bytes, 16 in the distribution's"]
        );
    }

    #[test]
    fn comparing_nothing_is_not_being_faithful() {
        let nothing = Comparison {
            functions: 0,
            other_functions: vec![],
            structs: 5,
            other_structs: vec![],
        };
        assert!(!nothing.is_faithful());
    }
}

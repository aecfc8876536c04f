// SPDX-License-Identifier: MIT OR Apache-2.0
//! Functions of the module that carries amdkfd, by the names the kernel knows them by.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufRead, BufReader},
    path::Path,
};

use anyhow::{Context as _, Result};

/// A function that every kernel with amdkfd has, and nothing else.
const MARK: &str = "kfd_ioctl_create_queue";

/// What /proc/kallsyms calls a module's part of the kernel that has no module name.
pub const VMLINUX: &str = "vmlinux";

/// Function symbols of one module: name and how often it occurs there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Symbols {
    /// `amdgpu`, or `vmlinux` when built in.
    pub module: String,
    functions: BTreeMap<String, usize>,
}

impl Symbols {
    /// Symbols of the running kernel's amdkfd. Works where `kptr_restrict` hides the addresses. `None` where no module has it.
    ///
    /// # Errors
    /// When /proc/kallsyms cannot be read.
    pub fn of_running_kernel() -> Result<Option<Self>> {
        let path = Path::new("/proc/kallsyms");
        let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
        Self::parse(BufReader::with_capacity(1 << 16, file))
    }

    /// Symbols from lines as of /proc/kallsyms: `address type name`, then `[module]` after a tab for those of a module. Of the
    /// kernel itself only names that contain `kfd`, `cpsch` or another of the plan's words are kept.
    fn parse(mut lines: impl BufRead) -> Result<Option<Self>> {
        // A module's symbols are together, so one module's are kept at a time.
        let mut current = Self {
            module: VMLINUX.to_owned(),
            functions: BTreeMap::new(),
        };
        let mut line = Vec::new();
        loop {
            line.clear();
            if lines
                .read_until(b'\n', &mut line)
                .context("reading /proc/kallsyms")?
                == 0
            {
                return Ok(current.carries_amdkfd().then_some(current));
            }
            let Some((kind, name, module)) = split(&line) else {
                continue;
            };
            let module = module.unwrap_or(VMLINUX);
            if module != current.module {
                if current.carries_amdkfd() {
                    return Ok(Some(current));
                }
                current.module.clear();
                current.module.push_str(module);
                current.functions.clear();
            }
            if matches!(kind, b't' | b'T') && (module != VMLINUX || super::plan::mentions(name)) {
                *current.functions.entry(name.to_owned()).or_default() += 1;
            }
        }
    }

    /// A list for tests and for symbol tables of files.
    #[must_use]
    pub fn from_names<'a>(module: &str, names: impl IntoIterator<Item = &'a str>) -> Self {
        let mut functions = BTreeMap::new();
        for name in names {
            *functions.entry(name.to_owned()).or_default() += 1;
        }
        Self {
            module: module.to_owned(),
            functions,
        }
    }

    fn carries_amdkfd(&self) -> bool {
        self.functions.contains_key(MARK)
    }

    /// How many functions of the module are called so.
    #[must_use]
    pub fn count(&self, name: &str) -> usize {
        self.functions.get(name).copied().unwrap_or(0)
    }

    /// Compiler's variants of a function: `name.constprop.0`, `name.isra.0` and the like, without parts (`.part.0`, `.cold`),
    /// which are pieces of a function.
    pub fn variants<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.functions
            .keys()
            .map(String::as_str)
            .filter(move |symbol| {
                symbol.strip_prefix(name).is_some_and(|rest| {
                    (rest.starts_with(".constprop.") || rest.starts_with(".isra."))
                        && !rest.contains(".part.")
                        && !rest.contains(".cold")
                })
            })
    }

    /// What kprobes attach to: generic names like `update_queue` occur in other modules too.
    #[must_use]
    pub fn qualified(&self, symbol: &str) -> String {
        if self.module == VMLINUX {
            symbol.to_owned()
        } else {
            format!("{}:{symbol}", self.module)
        }
    }
}

/// Where an object of a module is in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Object {
    /// Its address.
    pub address: u64,
    /// Bytes to the next symbol of any module: those of the object and what pads it. `None` if nothing follows.
    pub room_bytes: Option<u64>,
}

/// Where a variable of the module that carries amdkfd is. `None` if it has no such symbol; an address of 0 is hidden
/// (`kptr_restrict`).
///
/// # Errors
/// When /proc/kallsyms cannot be read.
pub fn locate(module: &str, name: &str) -> Result<Option<Object>> {
    let path = Path::new("/proc/kallsyms");
    let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    locate_in(BufReader::with_capacity(1 << 16, file), module, name)
}

fn locate_in(lines: impl BufRead, module: &str, name: &str) -> Result<Option<Object>> {
    let mut found = None;
    let mut addresses = Vec::new();
    each(lines, |line| {
        let address = address_in(line);
        addresses.extend(address);
        let Some((kind, symbol, of)) = split(line) else {
            return;
        };
        let data = matches!(kind, b'b' | b'B' | b'd' | b'D');
        if data && symbol == name && of.unwrap_or(VMLINUX) == module {
            found = address;
        }
    })?;
    Ok(found.map(|address| {
        let later = addresses.into_iter().filter(|other| *other > address);
        Object {
            address,
            room_bytes: later.min().map(|next| next - address),
        }
    }))
}

fn each(mut lines: impl BufRead, mut take: impl FnMut(&[u8])) -> Result<()> {
    let mut line = Vec::new();
    while lines
        .read_until(b'\n', &mut line)
        .context("reading /proc/kallsyms")?
        > 0
    {
        take(&line);
        line.clear();
    }
    Ok(())
}

fn address_in(line: &[u8]) -> Option<u64> {
    let digits = line.split(|byte| *byte == b' ').next()?;
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// Type letter, name and module of a line.
fn split(line: &[u8]) -> Option<(u8, &str, Option<&str>)> {
    let line = std::str::from_utf8(line).ok()?;
    let mut words = line.split_ascii_whitespace();
    let _address = words.next()?;
    let kind = words.next()?;
    let name = words.next()?;
    let module = words
        .next()
        .map(|word| word.trim_start_matches('[').trim_end_matches(']'));
    Some((*kind.as_bytes().first()?, name, module))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KALLSYMS: &str = "\
0000000000000000 T _text
0000000000000000 t update_queue
0000000000000000 t kfd_unrelated
0000000000000000 t other_function\t[other]
0000000000000000 t update_queue\t[amdgpu]
0000000000000000 t kfd_ioctl_create_queue\t[amdgpu]
0000000000000000 d kfd_ioctls\t[amdgpu]
0000000000000000 t execute_queues_cpsch.constprop.0\t[amdgpu]
0000000000000000 t execute_queues_cpsch.constprop.0.cold\t[amdgpu]
0000000000000000 t kfd_dbg_trap_activate.part.0\t[amdgpu]
0000000000000000 t load_mqd\t[amdgpu]
0000000000000000 t load_mqd\t[amdgpu]
0000000000000000 t last\t[zzz]
";

    #[test]
    fn only_the_module_with_amdkfd_counts() {
        let symbols = Symbols::parse(KALLSYMS.as_bytes()).unwrap().unwrap();
        assert_eq!(symbols.module, "amdgpu");
        assert_eq!(symbols.count("update_queue"), 1);
        assert_eq!(symbols.count("load_mqd"), 2);
        assert_eq!(symbols.count("kfd_ioctls"), 0, "data is no function");
        assert_eq!(symbols.count("other_function"), 0);
        assert_eq!(symbols.qualified("update_queue"), "amdgpu:update_queue");
    }

    #[test]
    fn variables_have_an_address() {
        let lines =
            "ffff10 b kfd_processes_table\t[amdgpu]\nffff20 b kfd_processes_table\t[other]\n";
        let object = |module| locate_in(lines.as_bytes(), module, "kfd_processes_table").unwrap();
        let first = Object {
            address: 0xff_ff10,
            room_bytes: Some(0x10),
        };
        assert_eq!(object("amdgpu"), Some(first));
        assert_eq!(object("other").unwrap().room_bytes, None);
        assert_eq!(object(VMLINUX), None);
        assert_eq!(
            locate_in(KALLSYMS.as_bytes(), "amdgpu", "update_queue").unwrap(),
            None
        );
    }

    #[test]
    fn pieces_of_a_function_are_no_variants() {
        let symbols = Symbols::parse(KALLSYMS.as_bytes()).unwrap().unwrap();
        assert_eq!(
            symbols.variants("execute_queues_cpsch").collect::<Vec<_>>(),
            ["execute_queues_cpsch.constprop.0"]
        );
        assert_eq!(symbols.variants("kfd_dbg_trap_activate").count(), 0);
    }

    #[test]
    fn a_kernel_with_amdkfd_built_in_has_it_in_vmlinux() {
        let built_in =
            "0 T _text\n0 t kfd_ioctl_create_queue\n0 t update_queue\n0 t bpf_prog_abc\t[bpf]\n";
        let symbols = Symbols::parse(built_in.as_bytes()).unwrap().unwrap();
        assert_eq!(symbols.module, VMLINUX);
        assert_eq!(symbols.qualified("update_queue"), "update_queue");
    }

    #[test]
    fn no_amdkfd_is_none() {
        assert_eq!(
            Symbols::parse("0 T _text\n0 t x\t[y]\n".as_bytes()).unwrap(),
            None
        );
    }
}

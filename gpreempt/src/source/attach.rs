// SPDX-License-Identifier: MIT OR Apache-2.0
//! Programs on functions: fentry where the module's BTF has the function under its own name, else kprobes.
//!
//! fentry costs a third of a kprobe pair, and never loses a return: a kretprobe has room for twice as many calls at a time as
//! there are CPUs. What is attached by fentry keeps the module loaded, what is attached by kprobe does not.

use std::{
    collections::HashMap,
    io,
    os::fd::{AsFd as _, OwnedFd},
};

use super::{
    links::Links,
    plan::Planned,
    programs::Programs,
    symbols::Symbols,
    sys::{self, ProgramInfo, ProgramKind},
};

/// How programs get to functions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Attach {
    /// fentry where possible, else kprobes.
    #[default]
    Auto,
    /// kprobes only: the module can be unloaded meanwhile.
    Kprobe,
}

/// Functions that fentry can reach.
#[derive(Default)]
pub(super) struct Fentry {
    /// BTF of the module; `None` = the functions are in vmlinux.
    pub(super) btf: Option<OwnedFd>,
    /// BTF ids by function name; empty = no fentry.
    pub(super) functions: HashMap<String, u32>,
}

/// A loaded program.
struct Loaded {
    name: String,
    symbol: String,
    program: OwnedFd,
}

/// Everything attached; goes away soon after it is dropped.
pub(super) struct Attached {
    programs: Vec<Loaded>,
    links: Links,
    kprobe_source: Option<(u32, u32)>,
    fentry: Fentry,
}

/// Entry or return of a function.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Entry,
    Exit,
}

impl Attached {
    pub(super) fn new(kprobe_source: Option<(u32, u32)>, fentry: Fentry) -> Self {
        Self {
            programs: Vec::new(),
            links: Links::default(),
            kprobe_source,
            fentry,
        }
    }

    /// Attaches what the plan wants at one function: at its return first, so that no entry waits in vain. All or nothing.
    pub(super) fn attach(
        &mut self,
        programs: &Programs,
        symbols: &Symbols,
        planned: &Planned,
    ) -> io::Result<()> {
        let (loaded_before, links_before) = (self.programs.len(), self.links.len());
        for symbol in &planned.symbols {
            let sides = [
                (Side::Exit, planned.programs.exit),
                (Side::Entry, planned.programs.entry),
            ];
            for (side, name) in sides {
                let Some(name) = name else { continue };
                if let Err(error) = self.attach_one(programs, symbols, symbol, side, name) {
                    self.links.truncate(links_before);
                    self.programs.truncate(loaded_before);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    fn attach_one(
        &mut self,
        programs: &Programs,
        symbols: &Symbols,
        symbol: &str,
        side: Side,
        name: &str,
    ) -> io::Result<()> {
        // Both sides of a function the same way: they share the function's trampoline.
        if let Some(id) = self.fentry.functions.get(symbol).copied() {
            let btf = self.fentry.btf.as_ref().map(OwnedFd::as_fd);
            let kind = match side {
                Side::Entry => ProgramKind::Fentry(btf, id),
                Side::Exit => ProgramKind::Fexit(btf, id),
            };
            let tried = programs
                .load(&format!("{name}_f"), kind)
                .and_then(|program| Ok((sys::attach_tracing(program.as_fd())?, program)));
            match tried {
                Ok((link, program)) => {
                    self.links.push(link);
                    self.programs.push(Loaded {
                        name: format!("{name}_f"),
                        symbol: symbol.to_owned(),
                        program,
                    });
                    return Ok(());
                }
                Err(error) if self.kprobe_source.is_none() => return Err(error),
                Err(_) => {}
            }
        }
        let Some((source, return_bit)) = self.kprobe_source else {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "this kernel has no kprobes, and BTF has no such function",
            ));
        };
        // One kprobe program serves several functions.
        let index = match self.programs.iter().position(|loaded| loaded.name == name) {
            Some(index) => index,
            None => {
                let program = programs.load(name, ProgramKind::Kprobe)?;
                self.programs.push(Loaded {
                    name: name.to_owned(),
                    symbol: symbol.to_owned(),
                    program,
                });
                self.programs.len() - 1
            }
        };
        let return_bit = (side == Side::Exit).then_some(return_bit);
        let program = self.programs[index].program.as_fd();
        let link = sys::attach_kprobe(program, source, return_bit, &symbols.qualified(symbol))?;
        self.links.push(link);
        Ok(())
    }

    /// Everything is attached: it goes away soon after it is dropped, or this process ends.
    pub(super) fn complete(&mut self) {
        self.links.share();
    }

    /// Detaches and waits until the kernel is done: some four seconds for the full plan.
    pub(super) fn detach_and_wait(self) {
        self.links.close_and_wait();
    }

    /// Name, function and counts of every program.
    pub(super) fn infos(&self) -> impl Iterator<Item = (&str, &str, ProgramInfo)> {
        self.programs.iter().filter_map(|loaded| {
            let info = sys::program_info(loaded.program.as_fd()).ok()?;
            Some((loaded.name.as_str(), loaded.symbol.as_str(), info))
        })
    }
}

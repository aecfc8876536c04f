// SPDX-License-Identifier: MIT OR Apache-2.0
//! `gen`: writes what is generated from the types and the parser. A test fails when committed files differ.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::CommandFactory as _;
use clap_complete::Shell;

use super::{Cli, Exit, Failure};
use crate::analysis;
use crate::bench::record;
use crate::serve;
use crate::sink::schema;
use crate::stat;

/// Write what is generated from the types and the parser
#[derive(Debug, clap::Args)]
pub(super) struct Gen {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Schemas and the pages on them
    Docs {
        /// The docs directory
        #[arg(default_value = "docs")]
        dir: PathBuf,
    },
    /// Man pages, one for each verb
    Man {
        /// Where to
        dir: PathBuf,
    },
    /// Completions, in the directories below /usr/share where shells look for them
    Completions {
        /// In place of /usr/share
        dir: PathBuf,
    },
}

/// Shells and where each looks for a program's completions.
const SHELLS: &[(Shell, &str)] = &[
    (Shell::Bash, "bash-completion/completions/gpreempt"),
    (Shell::Zsh, "zsh/vendor-completions/_gpreempt"),
    (Shell::Fish, "fish/vendor_completions.d/gpreempt.fish"),
];

impl Gen {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        match self.what {
            What::Docs { dir } => docs(&dir)?,
            What::Man { dir } => man(&dir)?,
            What::Completions { dir } => completions(&dir)?,
        }
        Ok(Exit::Ok)
    }
}

fn docs(dir: &Path) -> anyhow::Result<()> {
    let files = [
        ("schema/watch.schema.json", schema::schema()),
        ("schema/control.schema.json", schema::control_schema()),
        ("schema/queues.schema.json", schema::queues_schema()),
        ("schema/bench.schema.json", record::schema()),
        ("schema/stat.schema.json", stat::schema()),
        ("schema/analyze.schema.json", analysis::schema()),
        ("schema/audit.schema.json", serve::audit_schema()),
        ("openapi.json", serve::document()),
        ("json-records.md", schema::page()),
        ("json-audit.md", serve::audit_page()),
        ("json-stat.md", stat::page()),
        ("json-analyze.md", analysis::page()),
    ];
    for (name, content) in files {
        write(&dir.join(name), content.as_bytes())?;
    }
    Ok(())
}

fn man(dir: &Path) -> anyhow::Result<()> {
    let failed = || format!("cannot write man pages to {}", dir.display());
    std::fs::create_dir_all(dir).with_context(failed)?;
    clap_mangen::generate_to(Cli::command(), dir).with_context(failed)
}

fn completions(dir: &Path) -> anyhow::Result<()> {
    for (shell, place) in SHELLS {
        let mut script = Vec::new();
        clap_complete::generate(*shell, &mut public(), "gpreempt", &mut script);
        write(&dir.join(place), &script)?;
    }
    Ok(())
}

/// The parser without hidden verbs: the generators of completions do not leave them out.
fn public() -> clap::Command {
    fn shown(all: &clap::Command) -> clap::Command {
        let mut command = clap::Command::new(all.get_name().to_owned());
        if let Some(about) = all.get_about() {
            command = command.about(about.clone());
        }
        if let Some(version) = all.get_version() {
            command = command.version(version.to_owned());
        }
        let verbs = all.get_subcommands().filter(|verb| !verb.is_hide_set());
        command
            .args(all.get_arguments().cloned())
            .groups(all.get_groups().cloned())
            .subcommands(verbs.map(shown))
    }
    shown(&Cli::command())
}

fn write(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    }
    std::fs::write(path, content).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// Every verb that users are told of, as `gpreempt ctl hint`.
    fn verbs() -> Vec<(String, clap::Command)> {
        let mut found = Vec::new();
        let mut open = vec![("gpreempt".to_owned(), Cli::command())];
        while let Some((name, command)) = open.pop() {
            for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
                open.push((format!("{name} {}", verb.get_name()), verb.clone()));
            }
            found.push((name, command));
        }
        found
    }

    /// As it is in a page.
    fn roff(text: &str) -> String {
        text.replace('-', "\\-")
    }

    #[test]
    fn every_verb_has_a_page_with_all_its_options() {
        let dir = tempfile::tempdir().unwrap();
        man(dir.path()).unwrap();
        let verbs = verbs();
        assert!(verbs.len() > 20);
        for (name, command) in &verbs {
            let file = dir.path().join(name.replace(' ', "-") + ".1");
            let page = std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert!(page.contains(".SH NAME"), "{name}");
            let shown = command
                .get_arguments()
                .filter(|option| !option.is_hide_set());
            for long in shown.filter_map(clap::Arg::get_long) {
                assert!(
                    page.contains(&roff(&format!("--{long}"))),
                    "{name} --{long}"
                );
            }
        }
        let pages = std::fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(pages, verbs.len(), "pages of what is hidden");
    }

    #[test]
    fn completions_know_every_verb_and_no_hidden_one() {
        let dir = tempfile::tempdir().unwrap();
        completions(dir.path()).unwrap();
        for (_, place) in SHELLS {
            let script = std::fs::read_to_string(dir.path().join(place)).unwrap();
            for (name, _) in verbs() {
                let last = name.rsplit(' ').next().unwrap();
                assert!(script.contains(last), "{place}: {name}");
            }
            assert!(!script.contains("supervise"), "{place}");
        }
    }

    #[test]
    fn bash_completes() {
        let dir = tempfile::tempdir().unwrap();
        completions(dir.path()).unwrap();
        let script = dir.path().join(SHELLS[0].1);
        let bash = |code: &str| {
            let output = Command::new("bash").args(["-c", code]).output().unwrap();
            let said = String::from_utf8(output.stdout).unwrap();
            let errors = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success() && errors.is_empty(), "{errors}");
            said
        };
        bash(&format!("bash -n {}", script.display()));
        let said = bash(&format!(
            ". {}; COMP_WORDS=(gpreempt ctl h); COMP_CWORD=2; _gpreempt gpreempt h ctl; echo \"${{COMPREPLY[@]}}\"",
            script.display()
        ));
        assert_eq!(said.trim(), "hint hold help");
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! `--export FORMAT=PATH`: what is watched, to a file as well.

use std::fs::File;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::Context as _;

use crate::sink::json::Json;
use crate::sink::perfetto::Perfetto;
use crate::sink::{Named, Sink};

/// Files to write beside what is shown.
#[derive(Debug, clap::Args)]
pub(super) struct Exports {
    /// Also write to a file: JSON lines, or a trace for ui.perfetto.dev, which filters do not apply to
    #[arg(long, value_name = "json|perfetto=PATH")]
    export: Vec<Export>,
}

/// `json=PATH` or `perfetto=PATH`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Export {
    format: Format,
    path: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Json,
    Perfetto,
}

impl FromStr for Export {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (format, path) = match text.split_once('=') {
            Some(("json", path)) => (Format::Json, path),
            Some(("perfetto", path)) => (Format::Perfetto, path),
            _ => return Err("expected json=PATH or perfetto=PATH".to_owned()),
        };
        if path.is_empty() {
            return Err("expected a path".to_owned());
        }
        Ok(Self {
            format,
            path: path.into(),
        })
    }
}

impl Exports {
    /// Creates the files. To be done before anything is attached: a path that cannot be written is no reason to touch the kernel.
    pub(super) fn open(&self) -> anyhow::Result<Vec<Box<dyn Sink>>> {
        self.export.iter().map(Export::open).collect()
    }
}

impl Export {
    fn open(&self) -> anyhow::Result<Box<dyn Sink>> {
        let name = self.path.display().to_string();
        let file = File::create(&self.path).with_context(|| format!("cannot write {name}"))?;
        Ok(match self.format {
            Format::Json => Box::new(Named::new(name, Json::new(file))),
            Format::Perfetto => Box::new(Named::new(name, Perfetto::new(file))),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_format_and_a_path() {
        let export = "perfetto=/tmp/a=b".parse::<Export>();
        assert_eq!(
            export,
            Ok(Export {
                format: Format::Perfetto,
                path: "/tmp/a=b".into()
            })
        );
        for wrong in ["", "json", "json=", "perfetto=", "html=x", "=x"] {
            assert!(wrong.parse::<Export>().is_err(), "{wrong}");
        }
    }
}

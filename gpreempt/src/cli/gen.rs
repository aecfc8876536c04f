// SPDX-License-Identifier: MIT OR Apache-2.0
//! `gen`: writes what is generated from the types. A test fails when the committed files differ.

use std::path::PathBuf;

use anyhow::Context as _;

use super::{Exit, Failure};
use crate::analysis;
use crate::bench::record;
use crate::serve;
use crate::sink::schema;
use crate::stat;

/// Write the generated documents
#[derive(Debug, clap::Args)]
pub(super) struct Gen {
    /// The docs directory
    docs: PathBuf,
}

impl Gen {
    pub(super) fn run(self) -> Result<Exit, Failure> {
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
        std::fs::create_dir_all(self.docs.join("schema"))
            .with_context(|| self.docs.display().to_string())?;
        for (name, content) in files {
            let path = self.docs.join(name);
            std::fs::write(&path, content)
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(Exit::Ok)
    }
}

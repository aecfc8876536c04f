// SPDX-License-Identifier: MIT OR Apache-2.0
//! Committed documents that are generated from the types are those of the types.

use std::path::Path;

fn committed(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../docs")
        .join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[test]
fn schema_and_page_are_current() {
    let how = "is stale: `cargo run -p gpreempt -- gen docs`";
    assert!(
        committed("schema/watch.schema.json") == gpreempt::sink::schema::schema(),
        "watch.schema.json {how}"
    );
    assert!(
        committed("schema/control.schema.json") == gpreempt::sink::schema::control_schema(),
        "control.schema.json {how}"
    );
    assert!(
        committed("schema/queues.schema.json") == gpreempt::sink::schema::queues_schema(),
        "queues.schema.json {how}"
    );
    assert!(
        committed("json-records.md") == gpreempt::sink::schema::page(),
        "json-records.md {how}"
    );
    assert!(
        committed("schema/stat.schema.json") == gpreempt::stat::schema(),
        "stat.schema.json {how}"
    );
    assert!(
        committed("schema/analyze.schema.json") == gpreempt::analysis::schema(),
        "analyze.schema.json {how}"
    );
    assert!(
        committed("json-analyze.md") == gpreempt::analysis::page(),
        "json-analyze.md {how}"
    );
    assert!(
        committed("json-stat.md") == gpreempt::stat::page(),
        "json-stat.md {how}"
    );
    assert!(
        committed("schema/audit.schema.json") == gpreempt::serve::audit_schema(),
        "audit.schema.json {how}"
    );
    assert!(
        committed("json-audit.md") == gpreempt::serve::audit_page(),
        "json-audit.md {how}"
    );
    assert!(
        committed("openapi.json") == gpreempt::serve::document(),
        "openapi.json {how}"
    );
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! The OpenAPI document of the daemon's calls. Its schemas are generated from the types of [`super::api`]; a test calls every
//! operation that it lists.

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{json, Map, Value};

use super::api::{
    Asked, Done, HintBegin, HintBegun, HintEnded, JobInfo, Problem, QueueInfo, Register,
    Registered, SetPolicy, Setting, Status, Whom,
};
use super::audit::Line;
use crate::policy::Explanation;

type Make = fn(&mut SchemaGenerator) -> Schema;

/// A call.
pub(super) struct Operation {
    pub(super) method: &'static str,
    pub(super) path: &'static str,
    /// What it does.
    summary: &'static str,
    /// The right of `[access]` that it takes.
    right: &'static str,
    body: Option<Make>,
    /// Its media type; none = the connection changes its protocol.
    answer: (&'static str, Option<Make>),
}

fn of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

const JSON: &str = "application/json";

/// Parameters in paths and queries, by name.
const PARAMETERS: &[(&str, &str, &str, &str)] = &[
    (
        "pid",
        "path",
        "integer",
        "A process, as the host numbers it",
    ),
    (
        "id",
        "path",
        "integer",
        "The hint, as POST /v1/hints named it",
    ),
    (
        "last",
        "query",
        "integer",
        "So many of the last lines; 100 unless given",
    ),
    (
        "follow",
        "query",
        "boolean",
        "Go on with lines as they are written",
    ),
];

/// All of them.
pub(super) const OPERATIONS: &[Operation] = &[
    Operation { method: "get", path: "/v1/status", summary: "How the daemon is", right: "read", body: None, answer: (JSON, Some(of::<Status>)) },
    Operation { method: "get", path: "/v1/jobs", summary: "Every job", right: "read", body: None, answer: (JSON, Some(of::<Vec<JobInfo>>)) },
    Operation { method: "post", path: "/v1/jobs", summary: "Say what a process is: above the rules, until it ends. Everybody may register own processes as offline", right: "register", body: Some(of::<Register>), answer: (JSON, Some(of::<Registered>)) },
    Operation { method: "post", path: "/v1/hint-frames", summary: "For libgpreempt: the connection then carries hints in frames of a fixed size", right: "hint", body: None, answer: ("", None) },
    Operation { method: "post", path: "/v1/agents", summary: "For the agents of jobs that gpreempt run starts: as POST /v1/jobs, of the caller; the connection then has another protocol", right: "register", body: Some(of::<Register>), answer: ("", None) },
    Operation { method: "get", path: "/v1/queues", summary: "Every queue, with its job", right: "read", body: None, answer: (JSON, Some(of::<Vec<QueueInfo>>)) },
    Operation { method: "get", path: "/v1/explain/{pid}", summary: "Which rule says what a process is, and why. Of processes of other users, this takes the right `policy` too", right: "read", body: None, answer: (JSON, Some(of::<Explanation>)) },
    Operation { method: "get", path: "/v1/config", summary: "Every value that is in force, and where it comes from", right: "read", body: None, answer: (JSON, Some(of::<Vec<Setting>>)) },
    Operation { method: "post", path: "/v1/hints", summary: "Work of an online service comes or has begun", right: "hint", body: Some(of::<HintBegin>), answer: (JSON, Some(of::<HintBegun>)) },
    Operation { method: "delete", path: "/v1/hints/{id}", summary: "That work is done", right: "hint", body: None, answer: (JSON, Some(of::<HintEnded>)) },
    Operation { method: "post", path: "/v1/hold", summary: "Have jobs held, within the guards, whatever the policy wants", right: "hold", body: Some(of::<Whom>), answer: (JSON, Some(of::<Asked>)) },
    Operation { method: "post", path: "/v1/resume", summary: "Have jobs run, whatever the policy wants", right: "hold", body: Some(of::<Whom>), answer: (JSON, Some(of::<Asked>)) },
    Operation { method: "post", path: "/v1/free", summary: "Leave jobs to the policy again", right: "hold", body: Some(of::<Whom>), answer: (JSON, Some(of::<Asked>)) },
    Operation { method: "put", path: "/v1/policy", summary: "Have another policy decide, until the configuration is read again", right: "policy", body: Some(of::<SetPolicy>), answer: (JSON, Some(of::<Done>)) },
    Operation { method: "post", path: "/v1/reload", summary: "Read the configuration again", right: "policy", body: None, answer: (JSON, Some(of::<Done>)) },
    Operation { method: "post", path: "/v1/go-on", summary: "Hold jobs again after a GPU had not answered", right: "policy", body: None, answer: (JSON, Some(of::<Done>)) },
    Operation { method: "get", path: "/v1/audit", summary: "The last lines of the audit log, one object a line", right: "read", body: None, answer: ("application/x-ndjson", Some(of::<Line>)) },
    Operation { method: "get", path: "/v1/openapi.json", summary: "This document", right: "", body: None, answer: (JSON, None) },
    Operation { method: "get", path: "/metrics", summary: "Metrics for Prometheus", right: "read", body: None, answer: ("application/openmetrics-text", None) },
];

/// The document.
#[must_use]
pub fn document() -> String {
    let mut generator = SchemaSettings::draft2020_12()
        .with(|settings| settings.definitions_path = "/components/schemas".into())
        .into_generator();
    let problem = of::<Problem>(&mut generator);
    let mut paths: Map<String, Value> = Map::new();
    for operation in OPERATIONS {
        let mut described = json!({
            "summary": operation.summary,
            "responses": {
                "default": {
                    "description": "It cannot be done, and why",
                    "content": { JSON: { "schema": problem } },
                },
            },
        });
        let schema = operation.answer.1.map(|make| make(&mut generator));
        match operation.answer.0 {
            "" => described["responses"]["101"] = json!({ "description": "Done" }),
            media => {
                described["responses"]["200"] = json!({
                    "description": "Done",
                    "content": { media: schema.map_or(json!({}), |schema| json!({ "schema": schema })) },
                });
            }
        }
        if !operation.right.is_empty() {
            described["description"] =
                format!("Takes the right `{}` of `[access]`.", operation.right).into();
        }
        if let Some(make) = operation.body {
            described["requestBody"] =
                json!({ "content": { JSON: { "schema": make(&mut generator) } } });
        }
        let parameters: Vec<Value> = PARAMETERS
            .iter()
            .filter(|(name, place, ..)| match *place {
                "path" => operation.path.contains(&format!("{{{name}}}")),
                _ => operation.path == "/v1/audit",
            })
            .map(|(name, place, kind, what)| {
                json!({
                    "name": name, "in": place, "required": *place == "path", "description": what,
                    "schema": { "type": kind },
                })
            })
            .collect();
        if !parameters.is_empty() {
            described["parameters"] = parameters.into();
        }
        let path = paths.entry(operation.path).or_insert_with(|| json!({}));
        path[operation.method] = described;
    }
    let schemas = generator.take_definitions(true);
    let document = json!({
        "openapi": "3.1.0",
        "info": {
            "title": "gpreempt",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Control plane of the gpreempt daemon, on a Unix socket. Callers are known by their user (SO_PEERCRED).",
            "license": { "name": "MIT OR Apache-2.0" },
        },
        "servers": [{ "url": "http://gpreempt", "description": "Unix socket /run/gpreempt/gpreempt.sock" }],
        "paths": paths,
        "components": { "schemas": schemas },
    });
    let mut text = serde_json::to_string_pretty(&document).unwrap_or_default();
    text.push('\n');
    text
}

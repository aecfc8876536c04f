// SPDX-License-Identifier: MIT OR Apache-2.0
//! Calls of the daemon's socket as nobody would make them, generated from its OpenAPI document. Used on the host and, against a daemon
//! that holds real queues, in guests.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::{json, Map, Value};

/// The document.
pub(crate) fn document() -> Value {
    serde_json::from_str(&gpreempt::serve::document()).expect("the document is JSON")
}

/// One call of the document.
#[derive(Clone, Debug)]
pub(crate) struct Operation {
    pub(crate) method: String,
    /// With names in braces.
    pub(crate) path: String,
    /// The right that it takes.
    pub(crate) right: Option<String>,
    body: Option<Value>,
}

/// All of them.
pub(crate) fn operations() -> Vec<Operation> {
    let document = document();
    let paths = document["paths"].as_object().expect("paths");
    let all = paths.iter().flat_map(|(path, methods)| {
        let methods = methods.as_object().expect("methods");
        methods.iter().map(move |(method, about)| Operation {
            method: method.to_uppercase(),
            path: path.clone(),
            right: about["description"]
                .as_str()
                .and_then(|text| Some(text.split('`').nth(1)?.to_owned())),
            body: about["requestBody"]["content"]["application/json"]
                .get("schema")
                .cloned(),
        })
    });
    all.collect()
}

/// A call as it is sent.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) body: Vec<u8>,
}

impl Call {
    /// What it is answered: status and body. Of an answer without end, what has come so far.
    pub(crate) fn make(&self, socket: &Path) -> io::Result<(u16, Vec<u8>)> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        let head = format!(
            "{} {} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
            self.method,
            self.path,
            self.body.len()
        );
        // It may answer and hang up before it has read everything.
        let _ = stream.write_all(head.as_bytes());
        let _ = stream.write_all(&self.body);
        let endless = self.path.contains("follow=true");
        let mut answer = Vec::new();
        let mut buffer = [0; 16384];
        loop {
            match stream.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => answer.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => break,
            }
            if endless && head_of(&answer).is_some() {
                break;
            }
        }
        let none = || {
            let said = String::from_utf8_lossy(&answer).into_owned();
            io::Error::other(format!("{self:?}: no answer: {said:?}"))
        };
        let at = head_of(&answer).ok_or_else(none)?;
        let head = String::from_utf8_lossy(&answer[..at]).into_owned();
        let status = head.split(' ').nth(1).and_then(|word| word.parse().ok());
        Ok((status.ok_or_else(none)?, answer[at + 4..].to_vec()))
    }
}

fn head_of(answer: &[u8]) -> Option<usize> {
    answer.windows(4).position(|four| four == b"\r\n\r\n")
}

/// Makes calls up.
pub(crate) struct Maker {
    random: fastrand::Rng,
    document: Value,
    operations: Vec<Operation>,
    /// Processes that there are.
    pids: Vec<u32>,
}

/// Numbers at which things break.
const NUMBERS: [u64; 10] = [
    0,
    1,
    2,
    100,
    65_535,
    4_294_967_295,
    4_294_967_296,
    9_223_372_036_854_775_807,
    9_223_372_036_854_775_808,
    u64::MAX,
];

const TEXTS: [&str; 9] = [
    "",
    "x",
    "pid:1",
    "../../etc/passwd",
    "a\u{0}b",
    "\u{1b}[2J",
    "ü€😀",
    "%n%s",
    "null",
];

impl Maker {
    /// The same seed makes the same calls.
    pub(crate) fn new(seed: u64, pids: &[u32]) -> Self {
        Self {
            random: fastrand::Rng::with_seed(seed),
            document: document(),
            operations: operations(),
            pids: pids.to_vec(),
        }
    }

    /// The next one, and the operation that it is an instance of, unless its method is another.
    pub(crate) fn call(&mut self) -> (Call, Option<Operation>) {
        let of = self.random.usize(..self.operations.len());
        let operation = self.operations[of].clone();
        let path = self.path(&operation.path);
        let body = self.body(&operation);
        let methods = [
            "GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE", "FROB",
        ];
        let (method, operation) = match self.random.u8(..10) {
            0 => (methods[self.random.usize(..methods.len())].to_owned(), None),
            _ => (operation.method.clone(), Some(operation)),
        };
        (Call { method, path, body }, operation)
    }

    fn path(&mut self, template: &str) -> String {
        let mut path = template.to_owned();
        for name in ["{pid}", "{id}"] {
            if path.contains(name) {
                let value = match self.random.u8(..4) {
                    0 => ["-1", "x", "%00", "%2e%2e", "1%20", "0x1"][self.random.usize(..6)]
                        .to_owned(),
                    1 => self.number().to_string(),
                    _ => self.pid().to_string(),
                };
                path = path.replace(name, &value);
            }
        }
        if template == "/v1/audit" {
            let last = self.number();
            path += match self.random.u8(..6) {
                0 => "?follow=true".to_owned(),
                1 => "?last=-1".to_owned(),
                2 => "?frob=1&last=%ff".to_owned(),
                3 => String::new(),
                _ => format!("?last={last}"),
            }
            .as_str();
        }
        path
    }

    fn pid(&mut self) -> u32 {
        match self.pids.is_empty() {
            true => 1,
            false => self.pids[self.random.usize(..self.pids.len())],
        }
    }

    fn number(&mut self) -> u64 {
        NUMBERS[self.random.usize(..NUMBERS.len())]
    }

    fn text(&mut self) -> String {
        match self.random.u8(..8) {
            0 => "x".repeat(self.random.usize(..4000)),
            _ => TEXTS[self.random.usize(..TEXTS.len())].to_owned(),
        }
    }

    fn body(&mut self, operation: &Operation) -> Vec<u8> {
        let fits = match &operation.body {
            Some(schema) => self.of_schema(&schema.clone(), "", 0),
            None => Value::Null,
        };
        let mut bytes = match self.random.u8(..10) {
            // As it should be.
            0..5 => match fits {
                Value::Null => Vec::new(),
                fits => fits.to_string().into_bytes(),
            },
            5 | 6 => self.bent(fits).to_string().into_bytes(),
            7 => {
                let depth = self.random.usize(1..2000);
                [b"[".repeat(depth), b"]".repeat(depth)].concat()
            }
            8 => self.anything(0).to_string().into_bytes(),
            _ => {
                let length = self.random.usize(..200);
                (0..length).map(|_| self.random.u8(..)).collect()
            }
        };
        match self.random.u8(..20) {
            0 => bytes.truncate(self.random.usize(..=bytes.len())),
            1 => bytes.insert(self.random.usize(..=bytes.len()), self.random.u8(..)),
            2 => bytes.extend(b" ".repeat(80 << 10)),
            _ => {}
        }
        bytes
    }

    /// What the schema allows.
    fn of_schema(&mut self, schema: &Value, name: &str, depth: usize) -> Value {
        if let Some(reference) = schema["$ref"].as_str() {
            let pointer = reference.trim_start_matches('#');
            let target = self.document.pointer(pointer).cloned();
            return self.of_schema(&target.unwrap_or_default(), name, depth + 1);
        }
        for key in ["anyOf", "oneOf"] {
            if let Some(choices) = schema[key].as_array() {
                let choice = choices[self.random.usize(..choices.len())].clone();
                return self.of_schema(&choice, name, depth + 1);
            }
        }
        if let Some(constant) = schema.get("const") {
            return constant.clone();
        }
        if let Some(words) = schema["enum"].as_array() {
            return words[self.random.usize(..words.len())].clone();
        }
        let kind = match &schema["type"] {
            Value::Array(kinds) => kinds[self.random.usize(..kinds.len())].clone(),
            kind => kind.clone(),
        };
        match kind.as_str() {
            Some("object") if depth < 8 => {
                let mut object = Map::new();
                for (key, of) in schema["properties"]
                    .as_object()
                    .cloned()
                    .unwrap_or_default()
                {
                    if self.random.u8(..3) > 0 {
                        object.insert(key.clone(), self.of_schema(&of, &key, depth + 1));
                    }
                }
                object.into()
            }
            Some("array") if depth < 8 => {
                let count = self.random.usize(..3);
                let items = (0..count).map(|_| self.of_schema(&schema["items"], name, depth + 1));
                items.collect()
            }
            Some("integer" | "number") if name.contains("pid") => self.pid().into(),
            Some("integer" | "number") if self.random.bool() => self.random.u64(..500).into(),
            Some("integer" | "number") => self.number().into(),
            Some("boolean") => self.random.bool().into(),
            Some("string") if name == "jobs" => format!("pid:{}", self.pid()).into(),
            Some("string") => self.text().into(),
            _ => Value::Null,
        }
    }

    /// The same with one part of another kind, or one part more.
    fn bent(&mut self, mut value: Value) -> Value {
        let other = self.anything(0);
        match &mut value {
            Value::Object(object) if !object.is_empty() && self.random.bool() => {
                let at = self.random.usize(..object.len());
                if let Some(part) = object.values_mut().nth(at) {
                    *part = other;
                }
            }
            Value::Object(object) => {
                object.insert(self.text(), other);
            }
            _ => value = other,
        }
        value
    }

    fn anything(&mut self, depth: usize) -> Value {
        match self.random.u8(..if depth < 4 { 8 } else { 6 }) {
            0 => Value::Null,
            1 => self.random.bool().into(),
            2 => self.number().into(),
            3 => json!(-1),
            4 => json!(1e308),
            5 => self.text().into(),
            6 => (0..self.random.usize(..4))
                .map(|_| self.anything(depth + 1))
                .collect(),
            _ => {
                let count = self.random.usize(..4);
                let pairs = (0..count).map(|_| (self.text(), self.anything(depth + 1)));
                Value::Object(pairs.collect())
            }
        }
    }
}

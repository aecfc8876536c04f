// SPDX-License-Identifier: MIT OR Apache-2.0
//! One line of JSON, whoever printed it.

use anyhow::Context;
use serde_json::Value;

/// A record of `gpreempt` (`{"type", "data"}`) or a flat line of a load (`{"type", ...}`).
#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(crate) kind: String,
    pub(crate) data: Value,
}

impl Record {
    /// Reads a line.
    pub(crate) fn parse(line: &str) -> anyhow::Result<Self> {
        let value: Value =
            serde_json::from_str(line).with_context(|| format!("not JSON: {line}"))?;
        let kind = value["type"]
            .as_str()
            .with_context(|| format!("no type: {line}"))?
            .to_owned();
        let data = if value["data"].is_object() {
            value["data"].clone()
        } else {
            value
        };
        Ok(Self { kind, data })
    }

    /// A number, also one written as a string because it may exceed 2^53. None if absent or null.
    pub(crate) fn try_number(&self, key: &str) -> Option<u64> {
        number(&self.data[key])
    }

    /// A number that must be there.
    pub(crate) fn number(&self, key: &str) -> anyhow::Result<u64> {
        self.try_number(key)
            .with_context(|| format!("{}: no number {key}: {}", self.kind, self.data))
    }

    /// A signed number that must be there.
    pub(crate) fn signed(&self, key: &str) -> anyhow::Result<i64> {
        self.data[key]
            .as_i64()
            .with_context(|| format!("{}: no number {key}: {}", self.kind, self.data))
    }

    /// A string that must be there.
    pub(crate) fn text(&self, key: &str) -> anyhow::Result<&str> {
        self.data[key]
            .as_str()
            .with_context(|| format!("{}: no string {key}: {}", self.kind, self.data))
    }

    /// Whether it is about this process.
    pub(crate) fn is_of(&self, pid: u32) -> bool {
        self.try_number("pid") == Some(u64::from(pid))
    }

    /// A list that must be there, its entries as records of kind `key`.
    pub(crate) fn list(&self, key: &str) -> anyhow::Result<Vec<Record>> {
        let list = self.data[key]
            .as_array()
            .with_context(|| format!("{}: no list {key}: {}", self.kind, self.data))?;
        Ok(list
            .iter()
            .map(|data| Record {
                kind: key.to_owned(),
                data: data.clone(),
            })
            .collect())
    }
}

fn number(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn both_shapes_are_read() {
        let record = Record::parse(
            r#"{"type":"queue_created","data":{"pid":7,"id":"18446744073709551615"}}"#,
        )
        .unwrap();
        assert!(record.is_of(7));
        assert_eq!(record.number("id").unwrap(), u64::MAX);
        let flat =
            Record::parse(r#"{"type":"done","pid":7,"destroyed":[{"queue_id":1}]}"#).unwrap();
        assert_eq!(
            flat.list("destroyed").unwrap()[0]
                .number("queue_id")
                .unwrap(),
            1
        );
        assert!(Record::parse("{}").is_err());
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! Durations of the configuration: `500ms`, `2s`, `1m 30s`. A number without a unit is an error.

use std::time::Duration;

use serde::{Deserialize, Deserializer};

/// In nanoseconds; what does not fit lasts for ever.
pub(super) fn ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn parse<E: serde::de::Error>(text: &str) -> Result<u64, E> {
    humantime::parse_duration(text).map(ns).map_err(|why| {
        E::custom(format_args!(
            "{text:?} is no duration such as \"500ms\": {why}"
        ))
    })
}

pub(super) fn required<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    parse(&String::deserialize(deserializer)?)
}

/// One that is longer than nothing.
pub(super) fn positive<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    match required(deserializer)? {
        0 => Err(serde::de::Error::custom(
            "a duration above 0 is needed here",
        )),
        ns => Ok(ns),
    }
}

pub(super) fn optional<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<u64>, D::Error> {
    required(deserializer).map(Some)
}

pub(super) fn optional_positive<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<u64>, D::Error> {
    positive(deserializer).map(Some)
}

/// As the configuration would say it, cut to three digits that matter.
pub(super) fn show(ns: u64) -> String {
    let unit = match ns {
        0..1_000_000 => 1_000,
        1_000_000..1_000_000_000 => 100_000,
        _ => 10_000_000,
    };
    humantime::format_duration(Duration::from_nanos(ns / unit * unit)).to_string()
}
